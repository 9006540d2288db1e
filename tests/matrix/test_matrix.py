"""The matrix of clients, as far as they are Python's or commands: each of `clients.py` on each of its wires is asked the
same questions. What it was told, in a word, is its cell; `matrix.txt` has what that must be, `cargo xtask matrix` compares.

Each test has a gateway of its own, and ends it with all connections that are left.
"""

import base64
import http.client
import os
import pathlib
import queue
import random
import select
import signal
import socket
import threading
import time
import unittest

from clients import CLIENTS, WEBSOCKETS, Event
from gateway import PATIENCE, Gateway

CONFIG = pathlib.Path(__file__).with_name("tidegate.toml")
# Where cells go; for who wants to see tests alone, nowhere.
RESULTS = os.environ.get("MATRIX_RESULTS", os.devnull)

POLLS = ["poll", "long-poll"]
TOLD = {"sse": "event", "ndjson": "line", "envelope": "message", "json": "message", "poll": "field", "long-poll": "field"}

# `resume`: so many publications, at most so many of them under way, of so many bytes and more each.
COUNT, WINDOW, SIZE = 300, 20, 100
# Connections are cut after that many bytes of the gateway's, in the midst of something.
CUTS = [1501, 2503, 3507]

# `slow`: a publication that compresses as little as text can, and how much of it may go before an outbox must be full.
CHUNK = base64.b64encode(random.Random(4).randbytes(48 << 10)).decode()
OVERFLOW_MAX = 96 << 20
# What a poller, who has no outbox, is behind; and what comes after the overflow where the log is short: far more than the
# gateway may take, but where it disconnects, for then there are 5 s in which to read that.
BEHIND, MORE, MORE_DISCONNECTED = 4 << 20, 32 << 20, 4 << 20
# What a gateway may take beside what it keeps in its log: its outbox and buffers, and the allocator's slack.
MEMORY_SLACK = 24 << 20


def follow(open_once, address, path, wire, cursor, stopped):
    """All that a client is told, over its reconnects: each time with the last cursor. It waits after each as it would
    poll, or back off, though not as long."""
    taken = 0
    while not stopped.is_set():
        skip = taken
        for event in open_once(address, path, wire, cursor):
            if wire == "ws" and event.kind == "message":
                # Bare messages have no cursors: after a cut it begins again where it began, and counts.
                if skip:
                    skip -= 1
                    continue
                taken += 1
            elif event.cursor:
                cursor, taken, skip = event.cursor, 0, 0
            yield event
            if event.kind == "closed" and event.said == 204:
                return
        stopped.wait(0.02)


class Follower:
    """A client in a thread. It reads only when somebody takes; what was read and not taken is one event."""

    def __init__(self, open_once, address, path, wire, cursor):
        self.events, self.stopped, self.told = queue.Queue(1), threading.Event(), []
        self.args = (open_once, address, path, wire, cursor, self.stopped)
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        try:
            for event in follow(*self.args):
                self.events.put(event)
                if self.stopped.is_set():
                    break
            self.events.put(Event("closed", "for good"))
        except Exception as error:
            self.events.put(error)

    def take(self, kind):
        """The next event of that kind; the kinds and words of those before it are added to `told`, but for messages."""
        while True:
            event = self.events.get(timeout=3 * PATIENCE)
            if isinstance(event, Exception):
                raise event
            if event.kind == kind:
                return event
            if event.kind == "message" or event.said == "for good":
                raise AssertionError(f"{event} comes before a {kind}, after {self.told}")
            # A poll's answer ends as it should, and tells nothing by that.
            if (event.kind, event.said) != ("closed", 200):
                self.told.append(event)

    def texts(self, count):
        return [self.take("message").said for _ in range(count)]

    def stop(self):
        """After its gateway has gone: a reader ends with its connection."""
        self.stopped.set()
        while self.thread.is_alive():
            try:
                self.events.get(timeout=0.05)
            except queue.Empty:
                pass


class Proxy(threading.Thread):
    """Between clients and the gateway: it cuts the first connections that get more bytes than `cuts` has for them,
    with a reset, wherever that is."""

    def __init__(self, address, cuts):
        super().__init__(daemon=True)
        self.upstream, self.cuts = address.split(":"), list(cuts)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = "{}:{}".format(*self.listener.getsockname())
        self.start()

    def run(self):
        # The upstream's side of each connection: its client's side, and what it may still get.
        pairs, left = {}, {}
        while self.cuts is not None:
            for sock in select.select([self.listener, *pairs], [], [])[0]:
                if sock is self.listener:
                    client, _ = sock.accept()
                    upstream = socket.create_connection(self.upstream)
                    pairs |= {client: upstream, upstream: client}
                    left[upstream] = self.cuts[0] if self.cuts else None
                elif sock in pairs:
                    self.forward(sock, pairs, left)
        for sock in pairs:
            sock.close()

    def forward(self, sock, pairs, left):
        other, limit = pairs[sock], left.get(sock)
        try:
            data = sock.recv(16 << 10 if limit is None else min(limit, 16 << 10))
            other.sendall(data)
        except OSError:
            data = b""
        if limit is not None:
            left[sock] = limit - len(data)
        is_cut = limit is not None and left[sock] == 0
        if is_cut:
            self.cuts.pop(0)
            # Connections beside this one have the next one's limit, if there is one.
            left.update({it: self.cuts[0] if self.cuts else None for it in left})
        if is_cut or not data:
            for end in [sock, other]:
                del pairs[end]
                left.pop(end, None)
                if is_cut:
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                end.close()

    def stop(self):
        """Cuts all that is left."""
        self.cuts = None
        socket.create_connection(self.listener.getsockname()).close()
        self.join()
        self.listener.close()


class Cell:
    """One client on one wire, and its gateway."""

    def __init__(self, test, client, wire):
        self.test, self.wire = test, wire
        self.open_once = CLIENTS[client][0]
        self.gateway = Gateway(CONFIG)
        test.addCleanup(self.end)
        self.followers = []

    def follow(self, path, cursor="start", address=None):
        follower = Follower(self.open_once, address or self.gateway.address, path, self.wire, cursor)
        self.followers.append(follower)
        return follower

    def end(self):
        self.gateway.stop(signal.SIGKILL)
        for follower in self.followers:
            follower.stop()

    def subscribe(self):
        publish = self.gateway.publish
        follower = self.follow("all")
        cursors = [publish("all", '{"n":1}', content_type="application/json")["cursor"]]
        first = follower.take("message")
        # These are live, for it is there.
        cursors.append(publish("all", "Grüße\u2028🌊", Tidegate_Event="named")["cursor"])
        cursors.append(publish("all", b"\0\xff\n", content_type="image/png")["cursor"])
        cursors += self.gateway.publish_numbers("all", range(20))
        events = [first] + [follower.take("message") for _ in cursors[1:]]
        expect = ['{"n":1}', "Grüße\u2028🌊", "base64:AP8K", *map(str, range(20))]
        self.test.assertEqual([it.said for it in events], expect)
        if self.wire == "ws":
            return "one channel"
        if self.wire not in POLLS:
            self.test.assertEqual([it.cursor for it in events], cursors)
        several = self.follow("a,b,c")
        # One after another: between channels there is no order.
        for channel in ["a", "b", "a", "c", "b"]:
            publish(channel, f"to {channel}")
            event = several.take("message")
            self.test.assertEqual((event.channel, event.said), (channel, f"to {channel}"))
        return "channels"

    def resume(self):
        proxy = Proxy(self.gateway.address, CUTS)
        room, failures = threading.Semaphore(WINDOW), []

        def publish():
            try:
                with_connection(self.gateway, "resume", room)
            except Exception as error:
                failures.append(error)

        publisher = threading.Thread(target=publish, daemon=True)
        follower = self.follow("resume", address=proxy.address)
        publisher.start()
        seen = []
        for _ in range(COUNT):
            event = follower.take("message")
            seen.append(int(event.said.split()[0]))
            room.release()
        publisher.join(PATIENCE)
        self.test.assertEqual((seen, failures), (list(range(COUNT)), []))
        self.test.assertEqual(proxy.cuts, [], "it was not cut as often as it should have been")
        # A client may ask again by itself where it has no answer yet.
        if self.wire not in POLLS:
            self.test.assertEqual(len([it for it in follower.told if it.said == "cut"]), len(CUTS))
        self.gateway.publish("resume", "that is all")
        self.test.assertEqual(follower.texts(1), ["that is all"])
        follower.stopped.set()
        proxy.stop()
        return "counting" if self.wire == "ws" else "Last-Event-ID" if self.wire == "sse" else "since"

    def gap(self):
        stale = self.gateway.publish("short.gap", "of another epoch")["cursor"]
        self.gateway.stop(signal.SIGKILL)
        self.gateway.start()
        early, *_ = self.gateway.publish_numbers("short.gap", range(20))
        for cursor, reason in [(early, "expired"), (stale, "epoch")]:
            follower = self.follow("short.gap", cursor)
            if self.wire == "ws":
                closed = follower.take("closed")
                self.test.assertEqual(closed.said, 4010)
                told = "4010"
            else:
                gap = follower.take("gap").said
                self.test.assertEqual((gap["requested"], gap["reason"]), (cursor, reason))
                told = TOLD[self.wire]
            self.test.assertEqual(follower.texts(5), ["15", "16", "17", "18", "19"])
            self.test.assertEqual(follower.told, [])
        self.gateway.publish("short.gap", "20")
        self.test.assertEqual(follower.texts(1), ["20"])
        return told

    def end_(self):
        follower = self.follow("end")
        self.gateway.publish("end", "first")
        self.test.assertEqual(follower.texts(1), ["first"])
        self.gateway.publish("end", "last", Tidegate_End="true")
        self.test.assertEqual(follower.texts(1), ["last"])
        if self.wire == "ws":
            closed = follower.take("closed")
            self.test.assertEqual(closed.said, 1000)
            # The reason is the end's cursor: who comes back with it is told the end again.
            again = follower.take("closed")
            self.test.assertEqual((again.said, again.cursor), (1000, closed.cursor))
            return "1000"
        end = follower.take("end")
        self.test.assertEqual(end.channel, "end")
        if self.wire == "sse":
            self.test.assertEqual([follower.take("closed").said for _ in range(3)], [200, 204, "for good"])
            return "event, 204"
        if self.wire == "ndjson":
            self.test.assertEqual(follower.take("closed").said, 200)
        # Who asks for more is told the end again.
        if self.wire in [*POLLS, "ndjson"]:
            self.test.assertEqual(follower.take("end").channel, "end")
        return TOLD[self.wire]

    def restart(self):
        self.gateway.stop()
        start_to_restart(self.gateway)
        follower = self.follow("restart")
        [cursor] = self.gateway.publish_numbers("restart", [0])
        self.test.assertEqual(follower.texts(1), ["0"])
        self.test.assertEqual(self.gateway.stop(), 0)
        [cursor] = self.next_life(follower, cursor, 1)
        if self.wire in POLLS:
            # An answer is no farewell: it asks again, is refused a connection, and asks again.
            self.test.assertEqual({it.kind for it in follower.told} - {"closed"}, set())
            told = "asks again"
        else:
            told = self.told_of(follower, "unavailable", 1012)
        follower.told.clear()
        self.gateway.stop(signal.SIGKILL)
        self.next_life(follower, cursor, 2)
        self.test.assertEqual({it.kind for it in follower.told} - {"closed"}, set())
        return told

    def next_life(self, follower, cursor, number):
        """Starts the gateway again: what was after the cursor is lost, and told; what is new comes."""
        self.gateway.start()
        cursors = self.gateway.publish_numbers("restart", [number])
        if self.wire == "ws":
            # First the end of the connection that it had; where that was told, with its last cursor.
            while (closed := follower.take("closed")).said != 4010:
                self.test.assertIn(closed.cursor, [cursor, None])
                self.test.assertTrue(closed.cursor or closed.said == "cut", closed)
                follower.told.append(closed)
        else:
            gap = follower.take("gap").said
            self.test.assertEqual((gap["requested"], gap["reason"]), (cursor, "epoch"))
        self.test.assertEqual(follower.texts(1), [str(number)])
        return cursors

    def slow(self, policy):
        """Reads nothing until its outbox has overflowed, and then everything."""
        channel = f"slow.{policy}.x"
        follower = self.follow(channel)
        # Once it has taken this it is there, and stops to read.
        self.gateway.publish(channel, "-1")
        self.test.assertEqual(follower.texts(1), ["-1"])
        before, count = memory(self.gateway), 0
        # Where nobody can be told of what was dropped, the oldest are not.
        counted = "disconnect" if (self.wire, policy) == ("ws", "drop-oldest") else policy
        overflows = f'tidegate_outbox_overflows_total{{policy="{counted}"}}'
        def published():
            nonlocal count
            self.gateway.publish(channel, f"{count} {CHUNK}")
            count += 1
            return count * len(CHUNK)

        while published() < BEHIND if self.wire in POLLS else self.gateway.metric(overflows) == 0:
            self.test.assertLess(published(), OVERFLOW_MAX, "its outbox does not overflow")
        if policy == "drop-oldest":
            full = published()
            while published() < full + (MORE_DISCONNECTED if self.wire == "ws" else MORE):
                pass
        kept = 2 << 20 if policy == "drop-oldest" else count * len(CHUNK)
        self.test.assertLess(memory(self.gateway) - before, kept + MEMORY_SLACK)
        return follower, count

    def numbers(self, follower, count):
        """The numbers of messages until the last one; each of them whole."""
        seen = []
        while not seen or seen[-1] < count - 1:
            number, chunk = follower.take("message").said.split()
            self.test.assertEqual(len(chunk), len(CHUNK))
            seen.append(int(number))
        return seen

    def spill(self):
        follower, count = self.slow("spill")
        self.test.assertEqual(self.numbers(follower, count), list(range(count)))
        self.test.assertEqual([it.kind for it in follower.told if it.kind != "closed"], [])
        return "lost 0"

    def disconnect(self):
        follower, count = self.slow("disconnect")
        self.test.assertEqual(self.numbers(follower, count), list(range(count)))
        return f"{self.told_of(follower, 'slow_consumer', 1013)}, lost 0"

    def told_of(self, follower, code, close):
        """How the error that ended its connection was told: its close, and where there can be one a word before it."""
        errors = [it.said for it in follower.told if it.kind == "error"]
        if self.wire != "ws":
            self.test.assertEqual(errors[0]["code"], code)
            self.test.assertGreater(errors[0].get("retry_after", 1), 0)
        if self.wire in WEBSOCKETS:
            closes = [it.said for it in follower.told if it.kind == "closed"]
            self.test.assertEqual(closes[0], close)
        else:
            close = ""
        word = f"error {TOLD[self.wire]}" if self.wire != "ws" else ""
        return ", ".join(str(it) for it in [word, close] if it)

    def drop_oldest(self):
        follower, count = self.slow("drop-oldest")
        seen = self.numbers(follower, count)
        # What is missing was told, and nothing else is.
        self.test.assertEqual(seen, sorted(set(seen)))
        self.test.assertLess(len(seen), count)
        if self.wire == "ws":
            told = self.told_of(follower, "slow_consumer", 1013)
            self.test.assertEqual([it.said for it in follower.told[1:]], [4010])
            return f"{told}, 4010"
        gaps = [it.said for it in follower.told if it.kind == "gap"]
        self.test.assertEqual({it["reason"] for it in gaps}, {"slow"})
        return f"gap {TOLD[self.wire]}"


def with_connection(gateway, channel, room):
    """Publishes numbers over one connection, as there is room for them."""
    connection = http.client.HTTPConnection(gateway.address, timeout=PATIENCE)
    for number in range(COUNT):
        if not room.acquire(timeout=3 * PATIENCE):
            raise TimeoutError(f"nobody takes: {number} published")
        connection.request("POST", f"/channels/{channel}", f"{number} {CHUNK[number:number + SIZE]}")
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 200, answer.status
    connection.close()


def start_to_restart(gateway):
    """Starts it where nobody who takes a port of the system's choice can come between its end and its next start."""
    for _ in range(20):
        gateway.address = f"127.0.0.1:{random.randrange(12_000, 32_000)}"
        try:
            return gateway.start()
        except RuntimeError:
            continue
    raise RuntimeError("no port is free")


def memory(gateway):
    """The most that the process had, in bytes; 0 where the system does not tell."""
    try:
        status = pathlib.Path(f"/proc/{gateway.process.pid}/status").read_text()
    except FileNotFoundError:
        return 0
    return next(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmHWM"))


QUESTIONS = {
    "subscribe": Cell.subscribe,
    "resume": Cell.resume,
    "gap": Cell.gap,
    "end": Cell.end_,
    "restart": Cell.restart,
    "spill": Cell.spill,
    "disconnect": Cell.disconnect,
    "drop-oldest": Cell.drop_oldest,
}


class Matrix(unittest.TestCase):
    pass


def cell(client, wire, question, ask):
    def test(self):
        begun = time.monotonic()
        said = ask(Cell(self, client, wire))
        with open(RESULTS, "a") as results:
            results.write(f"{client}\t{wire}\t{question}\t{said}\t{time.monotonic() - begun:.1f}\n")

    return test


# A poll has no outbox that could be full: it reads the log.
for client, (_, wires) in CLIENTS.items():
    for wire in wires:
        for question, ask in QUESTIONS.items():
            if wire not in POLLS or question not in ["disconnect", "drop-oldest"]:
                setattr(Matrix, f"test {client} {wire} {question}", cell(client, wire, question, ask))


if __name__ == "__main__":
    unittest.main()
