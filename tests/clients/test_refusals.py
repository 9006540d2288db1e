"""Every refusal, on every wire: Python's `http.client` and `websockets`, at gateways that are set up to refuse.

One table: a row is a refusal, a column a wire. Each answer is checked whole (status, headers, body, close code and
reason), and then compared in short with its cell. The matrix is printed at the end.
"""

import http.client
import json
import pathlib
import re
import signal
import socket
import tempfile
import unittest
from contextlib import closing
from dataclasses import dataclass, field

from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from gateway import PATIENCE, Gateway

# Channels are named after who may subscribe and who may publish there.
CONFIG = """
drain = "10s"
[http]
origins = ["https://app.example"]
body_timeout = "500ms"
[[channel]]
match = "slow.>"
subscribe = "anyone"
publish = "anyone"
log = { bytes = "64MiB" }
outbox = { messages = 10, bytes = "64MiB", policy = "disconnect" }
"""

# A rule that says nothing means a token.
for subscribing in ["anyone", "token", "nobody"]:
    for publishing in ["anyone", "token", "nobody"]:
        CONFIG += f'[[channel]]\nmatch = "{subscribing}.{publishing}.>"\n'
        CONFIG += "".join(f'{key} = "{who}"\n' for key, who in [("subscribe", subscribing), ("publish", publishing)] if who != "token")

STRICT = ("--admin", "off")
DEV = ("--dev",)

# The contract's table, as far as HTTP goes; 408 is of the configuration's `body_timeout`.
STATUSES = {
    "invalid_argument": [400, 405, 406, 408, 415, 422],
    "unauthenticated": [401],
    "permission_denied": [403],
    "not_found": [404],
    "ended": [409],
    "too_large": [413, 414, 431],
    "upgrade_required": [426],
    "rate_limited": [429],
    "unavailable": [503],
}
TEMPORARY = ["rate_limited", "unavailable"]
INSTANCE = re.compile(r"urn:uuid:[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
CURSOR = re.compile(r"[-0-9A-Z_][-0-9A-Z_a-z]{24}")

READING = ["poll", "long-poll", "sse", "ndjson"]
# Bare WebSockets, of a page and not; enveloped ones; and bare ones that publish only.
BARE = ["ws", "ws+origin"]
JSON = ["json", "json+origin"]
MUTE = ["mute", "mute+origin"]
# Commands on an enveloped WebSocket.
COMMANDS = ["subscribe", "publish"]
# "lines" is NDJSON to one channel, "other" a request of the row's own.
WIRES = [*READING, *BARE, *JSON, "POST", "lines", "/publish", *MUTE, *COMMANDS, "other"]
ACCEPT = {"sse": "text/event-stream", "ndjson": "application/x-ndjson"}


@dataclass
class Row:
    """A refusal. `cells` has what each wire must say, in short; `says` is a part of each detail."""

    name: str
    path: str
    cells: dict
    says: str = ""
    gateway: str = "strict"
    method: str = "GET"
    headers: dict = field(default_factory=dict)
    body: bytes = b"x"
    # What /publish has beside the channel.
    command: dict = field(default_factory=lambda: {"text": "x"})
    # What a WebSocket sends once it is open: a message, or raw frames.
    message: str | bytes | None = None
    frames: bytes = b""
    # Bytes of a body that are announced and never come.
    missing: int = 0


def cells(wires, told, **others):
    """The same on all these wires; where a browser reads the answer from a close, that is `close`."""
    close = others.pop("close", told)
    return {wire: close if wire.endswith("origin") else told for wire in wires} | others


def on(path, query):
    return f"{path}{'&' if '?' in path else '?'}{query}"


CHANNEL = "/channels/anyone.anyone.x"
GETS = [*READING, *BARE, *JSON]
POSTS = ["POST", "lines"]
ALL = [*GETS, *POSTS, *MUTE]
LONG = "x" * 9000
MIB = 1 << 20
NO_TOKEN, DENIED, INVALID = "401 unauthenticated", "403 permission_denied", "400 invalid_argument"
CLOSED_401, CLOSED_403 = "close 3000 unauthenticated", "close 3003 permission_denied"


def command(code, *wires):
    return {wire: f"error {code}" for wire in wires or COMMANDS}


def entry(status_and_code):
    """What /publish and the command `publish` are told of one entry."""
    return {"/publish": f"entry {status_and_code}"} | command(status_and_code.split()[1], "publish")


ROWS = [
    # Who may.
    Row("subscribing needs a token", "/channels/token.anyone.x", cells(GETS, NO_TOKEN, close=CLOSED_401) | command("unauthenticated", "subscribe"), "token.anyone.x"),
    Row("one of several needs a token", "/channels/anyone.anyone.x,token.anyone.x", cells([*READING, *JSON], NO_TOKEN, close=CLOSED_401), "token.anyone.x"),
    Row("one of several on a WebSocket", "/channels/anyone.anyone.x,token.anyone.x?envelope=1", cells(BARE, NO_TOKEN, close=CLOSED_401), "token.anyone.x"),
    Row("subscribing is nobody's", "/channels/nobody.anyone.x", cells(GETS, DENIED, close=CLOSED_403) | command("permission_denied", "subscribe"), "nobody.anyone.x"),
    Row("publishing needs a token", "/channels/anyone.token.x", cells([*POSTS, *MUTE], NO_TOKEN, close=CLOSED_401) | entry(NO_TOKEN), "anyone.token.x"),
    Row("publishing is nobody's", "/channels/anyone.nobody.x", cells([*POSTS, *MUTE], DENIED, close=CLOSED_403) | entry(DENIED), "anyone.nobody.x"),
    Row("a message needs a token", "/channels/anyone.token.x", cells(BARE, "close 3000 CURSOR"), message="x"),
    Row("a message is nobody's", "/channels/anyone.nobody.x", cells(BARE, "close 3003 CURSOR"), message="x"),
    Row("ending needs a token", on(CHANNEL, "end=1"), cells(POSTS, NO_TOKEN) | entry(NO_TOKEN), "end channel", command={"end": True}),
    Row("dropping needs a token", CHANNEL, {"other": NO_TOKEN}, "drop channel", method="DELETE"),
    Row("listing needs a token", "/channels", {"other": NO_TOKEN}, "list channels"),
    Row("presence needs a token", "/channels/token.anyone.x/presence", {"other": NO_TOKEN}, "token.anyone.x"),
    Row("a page from elsewhere", CHANNEL, cells([*ALL, "/publish", "other"], DENIED), "https://evil.example", headers={"Origin": "https://evil.example"}),
    Row("a page from elsewhere, --dev", CHANNEL, cells([*ALL, "/publish", "other"], DENIED), "https://app.example", gateway="dev", headers={"Origin": "https://app.example"}),
    Row("a name from elsewhere, --dev", CHANNEL, cells([*READING, "ws", "json", "POST", "lines", "/publish", "mute", "other"], DENIED), "evil.example", gateway="dev", headers={"Host": "evil.example"}),
    # What is not there.
    Row("no such route", "/nowhere", cells([*ALL, "other"], "404 not_found"), "/nowhere"),
    Row("presence is not on", "/channels/anyone.anyone.x/presence", {"other": "404 not_found"}, "presence"),
    # What can't be.
    Row("a cursor that is none", on(CHANNEL, "since=x"), cells(GETS, INVALID), "malformed"),
    Row("since and last", on(CHANNEL, "since=start&last=1"), cells(GETS, INVALID), "exclude"),
    Row("a name that is none", "/channels/a..b", cells(ALL, INVALID) | entry(INVALID) | command("invalid_argument"), "empty"),
    Row("a pattern for a name", "/channels/a.*", cells(ALL, INVALID) | entry(INVALID) | command("invalid_argument"), "pattern"),
    Row("a limit over 1,000", on(CHANNEL, "limit=1001"), cells([*READING, *BARE], INVALID), "1000"),
    Row("a wire that is none", on(CHANNEL, "wire=smtp"), cells(READING, INVALID), "ndjson"),
    Row("a body in a GET", CHANNEL, cells(READING, INVALID), "body", headers={"Content-Length": "1"}),
    Row("another method", CHANNEL, {"other": "405 invalid_argument"}, "PATCH", method="PATCH"),
    Row("another method of /publish", "/publish", {"other": "405 invalid_argument"}, "POST"),
    Row("another method of /connect", "/connect", {"POST": "405 invalid_argument", "lines": "405 invalid_argument"}, "GET"),
    Row("/connect without a subprotocol", "/connect", cells([*BARE, *MUTE], INVALID), "tidegate.v1.json"),
    Row("envelopes of envelopes", on(CHANNEL, "envelope=1"), cells(JSON, INVALID), "envelope=1"),
    Row("nothing that is accepted", CHANNEL, {"other": "406 invalid_argument"}, "text/event-stream", headers={"Accept": "image/png"}),
    Row("an event that is the gateway's", on(CHANNEL, "event=error"), cells(POSTS, INVALID) | entry(INVALID), "event", command={"text": "x", "event": "error"}),
    Row("JSON that is none", on(CHANNEL, "as=json"), {"POST": INVALID}, "JSON", body=b"{"),
    Row("lines that are no JSON", CHANNEL, {"lines": f"entry {INVALID}"}, "line 1", body=b"{\n"),
    Row("base64 that is none", CHANNEL, entry(INVALID), "base64", command={"base64": "*"}),
    Row("a key for all lines", on(CHANNEL, "key=k"), {"lines": INVALID}, "key"),
    Row("a form with files", CHANNEL, {"POST": "415 invalid_argument"}, "multipart", headers={"Content-Type": "multipart/form-data; boundary=x"}),
    Row("a body that is compressed", CHANNEL, cells([*POSTS, "/publish"], "415 invalid_argument"), "Content-Encoding", headers={"Content-Encoding": "gzip"}),
    Row("a key again, for something else", on(CHANNEL, "key=again"), {"POST": "422 invalid_argument"} | entry("422 invalid_argument"), "key", command={"text": "x", "key": "again"}),
    Row("a body that does not come", CHANNEL, {"POST": "408 invalid_argument", "lines": "entry 408 invalid_argument", "/publish": "entry 408 invalid_argument"}, "body_timeout", missing=9),
    Row("a WebSocket of another version", CHANNEL, cells([*BARE, *JSON, *MUTE], "426 upgrade_required"), "13", headers={"Sec-WebSocket-Version": "8"}),
    Row("wire=ws without an upgrade", on(CHANNEL, "wire=ws"), cells(READING, "426 upgrade_required"), "Upgrade"),
    Row("a text that is no UTF-8", CHANNEL, cells(BARE, "close 1007 CURSOR") | cells([*JSON, *MUTE], "close 1007"), frames=b"\x81\x81\0\0\0\0\xFF"),
    Row("a frame without a mask", CHANNEL, cells(BARE, "close 1002 CURSOR") | cells([*JSON, *MUTE], "close 1002"), frames=b"\x81\x01x"),
    Row("a message for several channels", "/channels/anyone.anyone.x,anyone.anyone.y?envelope=1", cells(BARE, "close 1003"), message="x"),
    Row("a message that is no command", CHANNEL, cells(JSON, "close 1007 EXPLAINED"), message="x"),
    Row("a binary command", CHANNEL, cells(JSON, "close 1003 EXPLAINED"), message=b"{}"),
    # What is too much.
    Row("a URL that is too long", on(CHANNEL, LONG), cells([*ALL, "other"], "414 too_large"), "8192"),
    Row("a head that is too long", CHANNEL, cells([*ALL, "/publish", "other"], "431 too_large"), "16384", headers={"A": LONG, "B": LONG}),
    Row("a body that is too large", CHANNEL, {"POST": "413 too_large"}, "max_body", body=b"x" * (MIB + 1)),
    Row("a line that is too large", CHANNEL, {"lines": "entry 413 too_large"}, body=b'"' + b"x" * MIB + b'"'),
    Row("an entry that is too large", CHANNEL, {"/publish": "entry 413 too_large"}, command={"text": "x" * MIB}),
    Row("a message that is too large", CHANNEL, cells(BARE, "close 1009 CURSOR") | cells([*JSON, *MUTE], "close 1009"), message="x" * (MIB + 1)),
    # What is over.
    Row("an ended channel", "/channels/ended", {"POST": "409 ended", "lines": "entry 409 ended"} | entry("409 ended") | cells(MUTE, "close 1000 ended"), "ended", gateway="dev", message="x"),
    Row("too many keys", on("/channels/keys", "key=one-more"), {"POST": "429 rate_limited"} | entry("429 rate_limited"), "key", gateway="keys", command={"text": "x", "key": "one-more"}),
    # Where too many are.
    Row("too many connections", CHANNEL, cells([*GETS, *POSTS, "/publish", *MUTE, "other"], "503 unavailable", close="close 1013 unavailable 1") | {"sse": "200 event unavailable"}, "max_connections", gateway="full"),
    # Who goes away.
    Row("draining", CHANNEL, cells([*GETS, *MUTE], "503 unavailable", close="close 1012 unavailable 1") | cells([*POSTS, "/publish"], "503 unavailable") | {"sse": "200 event unavailable", "poll": "200", "long-poll": "200"}, "shutting down", gateway="draining"),
    Row("draining, and readiness", "/readyz", {"other": "503 unavailable"}, "shutting down", gateway="draining"),
    Row("draining, and dropping", CHANNEL, {"other": "503 unavailable"}, "shutting down", gateway="draining", method="DELETE"),
]


def need(condition, what):
    if not condition:
        raise AssertionError(what)


def check_problem(status, headers, body, says, is_entry=False):
    """Checks a problem whole, and its headers; returns its code."""
    problem = json.loads(body)
    code = problem["code"]
    need(status in STATUSES[code], f"{status} is none of {code}'s: {problem}")
    need(problem["status"] == status and problem["type"] == f"urn:tidegate:error:{code}", problem)
    need(problem["title"] and says in problem["detail"], problem)
    need(INSTANCE.fullmatch(problem["instance"]), problem)
    need((code in TEMPORARY) == ("retry_after" in problem), problem)
    if is_entry:
        return code
    need(headers["Content-Type"] == "application/problem+json", headers.items())
    need(int(headers["Content-Length"]) == len(body), headers.items())
    is_426 = status == 426
    for name, value in [
        ("WWW-Authenticate", "Bearer" if status == 401 else None),
        ("Upgrade", "websocket" if is_426 else None),
        ("Sec-WebSocket-Version", "13" if is_426 else None),
    ]:
        need(headers[name] == value, (name, headers.items()))
    need(headers["Connection"] in (["Upgrade"] if is_426 else [None, "close"]), headers.items())
    need(("Allow" in headers) == (status == 405), headers.items())
    need(("Retry-After" in headers) == (code in TEMPORARY), headers.items())
    if code in TEMPORARY:
        need(int(headers["Retry-After"]) >= problem["retry_after"] > 0, headers.items())
    need("origin" in headers["Vary"].lower(), headers.items())
    return code


def check_event(headers, body, says):
    """Checks what an EventSource can read of a temporary refusal; returns its code."""
    need(headers["Content-Type"] == "text/event-stream", headers.items())
    need("no-cache" in headers["Cache-Control"] and int(headers["Retry-After"]) >= 1, headers.items())
    retry, event = body.decode().split("\n", 1) if body.startswith(b"retry:") else ("", body.decode())
    need(500 <= int(re.fullmatch(r"retry: ?(\d+)", retry)[1]) <= 5000, body)
    found = re.fullmatch(r"\n?event: ?tidegate-error\ndata: ?(.*)\n\n", event)
    need(found, body)
    error = json.loads(found[1])
    need(says in error["message"] and error["retry_after"] > 0, error)
    return error["code"]


def talk(gateway):
    return closing(http.client.HTTPConnection(gateway.address, timeout=PATIENCE))


def request(gateway, row, method, path, headers, body, sock=None):
    """Asks with `http.client`; what was answered, in short."""
    with talk(gateway) as connection:
        connection.sock = sock
        if row.missing:
            connection.putrequest(method, path)
            for name, value in headers.items():
                connection.putheader(name, value)
            connection.putheader("Content-Length", len(body) + row.missing)
            connection.endheaders(body)
        else:
            connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return told(answer.status, answer.headers, answer.read(), row)


def told(status, headers, body, row):
    content_type = headers["Content-Type"]
    if status == 200 and content_type == "text/event-stream":
        return f"200 event {check_event(headers, body, row.says)}"
    if status == 200 and content_type == "application/x-ndjson":
        last = json.loads(body.splitlines()[-1])
        return f"entry {last['status']} {check_problem(last['status'], headers, body.splitlines()[-1], row.says, True)}"
    if status == 200:
        return "200"
    return f"{status} {check_problem(status, headers, body, row.says)}"


def upgrade(gateway, row, path, origin, sock=None, subprotocols=None):
    """Asks with `websockets`; the status, or the close that comes once it is open and has sent the row's message."""
    headers = dict(row.headers)
    host, origin = headers.pop("Host", gateway.address), headers.pop("Origin", origin)
    sock = sock or socket.create_connection(gateway.address.split(":"), PATIENCE)
    options = dict(subprotocols=subprotocols, sock=sock, origin=origin, additional_headers=headers, compression=None, proxy=None)
    try:
        with connect(f"ws://{host}{path}", open_timeout=PATIENCE, close_timeout=PATIENCE, **options) as ws:
            try:
                if row.frames:
                    ws.socket.sendall(row.frames)
                if row.message is not None:
                    ws.send(row.message)
                while True:
                    ws.recv(timeout=PATIENCE)
            except ConnectionClosed as closed:
                return closed_with(closed)
    except InvalidStatus as refused:
        response, fields = refused.response, http.client.HTTPMessage()
        for name, value in response.headers.raw_items():
            fields[name] = value
        return told(response.status_code, fields, response.body, row)


def closed_with(closed):
    """The server's close, in short."""
    need(closed.rcvd, f"cut without a close: {closed}")
    code, reason = closed.rcvd.code, closed.rcvd.reason
    # A cursor, a code of the contract's and perhaps seconds, or words for a developer's eyes.
    shown = "CURSOR" if CURSOR.fullmatch(reason) else reason if re.fullmatch(r"([a-z_]+( \d+)?)?", reason) else "EXPLAINED"
    return f"close {code} {shown}".rstrip()


def origin_of(gateway):
    """Of a page that may use it: without --dev one of `origins`, with it one on loopback."""
    return "http://localhost:3000" if "--dev" in gateway.args else "https://app.example"


def channel_of(row):
    return row.path.removeprefix("/channels/").split("?")[0]


def run_command(gateway, row, name):
    """Runs a command on an enveloped connection, which stays open; the error, in short."""
    said = {"channel": channel_of(row), **(row.command if name == "publish" else {})}
    with connect(f"{gateway.ws}/connect", subprotocols=["tidegate.v1.json"], proxy=None, open_timeout=PATIENCE) as ws:
        need("welcome" in json.loads(ws.recv(timeout=PATIENCE)), "no welcome")
        ws.send(json.dumps({"id": 1, name: said}))
        reply = json.loads(ws.recv(timeout=PATIENCE))
        error = reply["error"]
        need(reply["id"] == 1 and row.says in error["message"], reply)
        need((error["code"] in TEMPORARY) == ("retry_after" in error), reply)
        ws.send('{"id":2,"ping":{}}')
        need(json.loads(ws.recv(timeout=PATIENCE)) == {"id": 2, "pong": {}}, "no pong")
        return f"error {error['code']}"


def ask(gateway, row, wire, sock=None):
    """Asks for what is refused, on one wire; what it is told, in short."""
    path, headers = row.path, dict(row.headers)
    if wire in [*BARE, *JSON, *MUTE]:
        kind, _, is_page = wire.partition("+")
        path = on(path, "subscribe=0") if kind == "mute" else path
        subprotocols = ["tidegate.v1.json"] if kind == "json" else None
        return upgrade(gateway, row, path, origin_of(gateway) if is_page else None, sock, subprotocols)
    if wire in COMMANDS:
        return run_command(gateway, row, wire)
    if wire == "other":
        return request(gateway, row, row.method, path, headers, None, sock)
    if wire in READING:
        if wire in ACCEPT:
            headers.setdefault("Accept", ACCEPT[wire])
        if wire == "long-poll":
            path = on(path, "wait=1s")
        return request(gateway, row, "GET", path, headers, b"x" if "Content-Length" in headers else None, sock)
    if wire == "/publish":
        body = json.dumps({"channel": channel_of(row), **row.command}).encode()
        return request(gateway, row, "POST", "/publish", headers, body[:-1] if row.missing else body, sock)
    if wire == "lines":
        headers["Content-Type"] = "application/x-ndjson"
    body = b"1" if wire == "lines" and row.body == b"x" else row.body
    return request(gateway, row, "POST", path, headers, body, sock)


class Refusals(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.folder, cls.matrix, cls.gateways = pathlib.Path(folder.name), {}, {}
        for name, args in [("strict", STRICT), ("dev", DEV)]:
            cls.gateways[name] = cls.start(args)
            cls.addClassCleanup(cls.gateways[name].stop)
        cls.gateways["strict"].publish("anyone.anyone.x?key=again", "something else")
        cls.gateways["dev"].publish("ended", "last", Tidegate_End="true")

    @classmethod
    def tearDownClass(cls):
        print(f"\n{table(cls.matrix)}", flush=True)

    @classmethod
    def start(cls, args, config=CONFIG):
        file = cls.folder / "tidegate.toml"
        file.write_text(config)
        return Gateway(file, args)

    def note(self, name, wire, found, expect):
        """Keeps what a wire was told, and compares it."""
        with self.subTest(name, wire=wire):
            self.matrix.setdefault(name, {})[wire] = found
            self.assertEqual(found, expect)

    def check(self, row, gateway, sockets=None):
        """Asks on every wire that the row has."""
        for wire, expect in row.cells.items():
            with self.subTest(row.name, wire=wire):
                self.note(row.name, wire, ask(gateway, row, wire, sockets.pop() if sockets else None), expect)

    def test_what_is_refused_is_told_as_each_wire_tells_it(self):
        for row in ROWS:
            if gateway := self.gateways.get(row.gateway):
                self.check(row, gateway)

    def test_while_draining_each_wire_says_so(self):
        rows = [row for row in ROWS if row.gateway == "draining"]
        # One worker: it has read what came before the last stream was opened.
        gateway = self.start((*DEV, "--workers", "1"))
        # Nothing is accepted any more once it drains. These have begun a request: an empty line may stand before it.
        sockets = [half_open(gateway) for row in rows for _ in row.cells]
        streams = [(wire, stream(gateway, "/channels/x", wire), last) for wire, last in LAST.items()]
        websockets = [(wire, open_websocket(gateway, "x", wire)) for wire in [*BARE, *JSON]]
        gateway.process.send_signal(signal.SIGTERM)
        name = "draining, in mid-stream"
        for wire, answer, last in streams:
            self.note(name, wire, last(answer), "error unavailable")
        for wire, ws in websockets:
            self.note(name, wire, close_of(ws), "close 1012 CURSOR" if wire in BARE else "error unavailable, close 1012 unavailable")
        for row in rows:
            self.check(row, gateway, sockets)
        self.assertEqual(gateway.process.wait(PATIENCE), 0)
        gateway.stop()

    def test_over_the_limit_of_connections_each_wire_says_so(self):
        gateway = self.start(DEV, "[http]\nmax_connections = 1\n")
        with stream(gateway, "/channels/x", "sse"):
            for row in ROWS:
                if row.gateway == "full":
                    self.check(row, gateway)
        gateway.stop()

    def test_keys_without_room_are_told_when_there_will_be(self):
        gateway = self.start(DEV)
        keys = "".join(f'{{"channel":"keys","key":"{it}","text":""}}\n' for it in range(1_000_000))
        with talk(gateway) as connection:
            connection.timeout = 10 * PATIENCE
            connection.request("POST", "/publish?quiet=1", keys.encode())
            counts = json.loads(connection.getresponse().read())
        self.assertEqual((counts["published"], counts["failed"]), (1_000_000, 0))
        for row in ROWS:
            if row.gateway == "keys":
                self.check(row, gateway)
        gateway.stop()

    def test_a_slow_reader_is_told(self):
        gateway = self.gateways["dev"]
        overflows = 'tidegate_outbox_overflows_total{policy="disconnect"}'
        name = "a slow reader"

        def overflow(channel):
            """Publishes until its one subscriber, who reads nothing, is to be disconnected."""
            before, payload = gateway.metric(overflows), b"x" * (MIB // 2)
            while gateway.metric(overflows) == before:
                gateway.publish(channel, payload)

        for wire, last in LAST.items():
            slow = stream(gateway, f"/channels/slow.{wire}", wire)
            overflow(f"slow.{wire}")
            self.note(name, wire, last(slow), "error slow_consumer")
        for wire in [*BARE, *JSON]:
            channel = f"slow.{wire.replace('+', '-')}"
            ws = open_websocket(gateway, channel, wire)
            overflow(channel)
            self.note(name, wire, close_of(ws), "close 1013 CURSOR" if wire in BARE else "error slow_consumer, close 1013 slow_consumer")

    def test_a_refusal_is_found_in_the_log_by_its_instance(self):
        gateway = self.start(STRICT)
        with talk(gateway) as connection:
            connection.request("GET", "/nowhere")
            instance = json.loads(connection.getresponse().read())["instance"]
        gateway.process.send_signal(signal.SIGTERM)
        gateway.reader.join()
        gateway.log.seek(0)
        logged = [json.loads(line) for line in gateway.log if instance in line]
        gateway.process.wait(PATIENCE)
        gateway.stop()
        self.assertEqual([(it["status"], it["code"]) for it in logged], [(404, "not_found")])

    def test_a_page_that_may_use_the_gateway_can_read_why_not(self):
        gateway = self.gateways["strict"]
        for path, status in [("/nowhere", 404), ("/channels/token.anyone.x", 401), ("/channels/a..b", 400)]:
            with talk(gateway) as connection:
                connection.request("GET", path, headers={"Origin": origin_of(gateway)})
                answer = connection.getresponse()
                found = (answer.status, answer.headers["Access-Control-Allow-Origin"])
                self.assertEqual(found, (status, origin_of(gateway)))
                self.assertIn("Retry-After", answer.headers["Access-Control-Expose-Headers"])


def half_open(gateway):
    sock = socket.create_connection(gateway.address.split(":"), PATIENCE)
    sock.sendall(b"\r\n")
    return sock


def stream(gateway, path, wire):
    """An accepted stream of which nothing but the head is read."""
    sock = socket.socket()
    sock.settimeout(PATIENCE)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 << 10)
    host, port = gateway.address.split(":")
    sock.connect((host, int(port)))
    connection = http.client.HTTPConnection(gateway.address)
    connection.sock = sock
    connection.request("GET", path, headers={"Accept": ACCEPT[wire]})
    answer = connection.getresponse()
    need(answer.status == 200, answer.status)
    return answer


def last_event(answer):
    """The error that an event stream ends with; that it is cut would be an `IncompleteRead`."""
    fields = dict(re.findall(rb"^(\w+): ?(.*)$", answer.read().rstrip().rsplit(b"\n\n", 1)[-1], re.M))
    need(fields[b"event"] == b"tidegate-error", fields)
    return f"error {json.loads(fields[b'data'])['code']}"


def last_line(answer):
    return f"error {json.loads(answer.read().splitlines()[-1])['error']['code']}"


LAST = {"sse": last_event, "ndjson": last_line}


def open_websocket(gateway, channel, wire):
    """A WebSocket of which little is read until somebody asks."""
    kind, _, is_page = wire.partition("+")
    subprotocols = ["tidegate.v1.json"] if kind == "json" else None
    origin = origin_of(gateway) if is_page else None
    url = f"{gateway.ws}/channels/{channel}"
    return connect(url, subprotocols=subprotocols, origin=origin, proxy=None, open_timeout=PATIENCE, max_queue=1, legacy=True)


def close_of(ws):
    """How it ends; with the error that an enveloped connection is told before that."""
    error = ""
    try:
        while True:
            message = ws.recv(timeout=PATIENCE)
            if ws.subprotocol and "error" in (said := json.loads(message)):
                error = f"error {said['error']['code']}, "
    except ConnectionClosed as closed:
        return error + closed_with(closed)


def table(matrix):
    """The matrix as text: of each refusal the status, close code (`c`), entry (`e`), event or error reply by
    which each wire is told."""
    def short(told):
        match told.split():
            case ["close", code, *_]:
                return f"c{code}"
            case ["entry", status, _]:
                return f"e{status}"
            case ["200", "event", _]:
                return "event"
            case ["bare", status]:
                return status
            case [first, *_]:
                return first
        return ""

    names = [row.name for row in ROWS]
    matrix = dict(sorted(matrix.items(), key=lambda it: names.index(it[0]) if it[0] in names else len(names)))
    rows = [["", *WIRES]] + [[name, *(short(told.get(wire, "")) for wire in WIRES)] for name, told in matrix.items()]
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


if __name__ == "__main__":
    unittest.main()
