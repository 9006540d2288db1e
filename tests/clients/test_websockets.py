"""The Python package `websockets`: subscribing, publishing, resuming, gaps and ends, with and without compression."""

import asyncio
import json
import signal
import socket
import unittest

from websockets.asyncio.client import connect as connect_async
from websockets.exceptions import ConnectionClosed, InvalidMessage, InvalidStatus
from websockets.sync.client import connect

from gateway import PATIENCE, Gateway


class Websockets(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.gateway = Gateway()

    @classmethod
    def tearDownClass(cls):
        cls.gateway.stop()

    def connect(self, path, gateway=None, **options):
        url = f"{(gateway or self.gateway).ws}/channels/{path}"
        return connect(url, proxy=None, open_timeout=PATIENCE, **options)

    def take(self, ws, count):
        return [ws.recv(timeout=PATIENCE) for _ in range(count)]

    def take_texts(self, ws, count):
        return [json.loads(it)["text"] for it in self.take(ws, count)]

    def close_of(self, ws):
        """The code and reason of the close that the server sends."""
        try:
            while True:
                ws.recv(timeout=PATIENCE)
        except ConnectionClosed as closed:
            return (closed.rcvd.code, closed.rcvd.reason) if closed.rcvd else (1006, "")

    def check_echo(self, channel, compression):
        long = "tide " * 20_000
        with self.connect(channel, compression=compression) as one, self.connect(channel, compression=compression) as two:
            agreed = [it.name for it in one.protocol.extensions]
            self.assertEqual(agreed, ["permessage-deflate"] if compression else [])
            for sent in ["text", '{"a": 1.50}', "", "Grüße 🌊", b"\x00\xff", b"", long]:
                one.send(sent)
                self.assertEqual(self.take(one, 1), [sent])
                self.assertEqual(self.take(two, 1), [sent])
            one.send(["frag", "ment", "ed"])
            self.assertEqual(self.take(two, 1), ["fragmented"])
            self.assertTrue(one.ping().wait(PATIENCE))

    def test_what_one_sends_reaches_all_as_it_is_compressed(self):
        self.check_echo("deflate", "deflate")

    def test_what_one_sends_reaches_all_as_it_is_uncompressed(self):
        self.check_echo("plain", None)

    def test_publishing_alone_and_not_hearing_oneself(self):
        with self.connect("q") as all, self.connect("q?echo=0") as quiet, self.connect("q?subscribe=0") as mute:
            quiet.send("from quiet")
            self.assertEqual(self.take(all, 1), ["from quiet"])
            mute.send("from mute")
            self.assertEqual(self.take(all, 1), ["from mute"])
            self.assertEqual(self.take(quiet, 1), ["from mute"])
            with self.assertRaises(TimeoutError):
                mute.recv(timeout=0)

    def test_a_connection_that_was_cut_goes_on_after_its_last_cursor(self):
        seen, cursor = [], "start"
        for cut in range(5):
            self.gateway.publish_numbers("cut", range(cut * 4, cut * 4 + 4))
            # Each connection takes three, so that it is cut with something still under way.
            ws = self.connect(f"cut?envelope=1&since={cursor}", legacy=True)
            for message in map(json.loads, self.take(ws, 3)):
                seen.append(int(message["text"]))
                cursor = message["cursor"]
            ws.socket.close()
        with self.connect(f"cut?envelope=1&since={cursor}") as ws:
            seen += [int(it) for it in self.take_texts(ws, 20 - len(seen))]
        self.assertEqual(seen, list(range(20)))

    def test_envelopes_subscribe_publish_resume_and_unsubscribe(self):
        def ask(ws, number, **command):
            """Sends a command, and returns its reply and what was pushed before that."""
            ws.send(json.dumps({"id": number, **command}))
            pushes = []
            while True:
                message = json.loads(ws.recv(timeout=PATIENCE))
                if message.get("id") == number:
                    return message, pushes
                pushes.append(message)

        def enveloped(path):
            url = f"{self.gateway.ws}{path}"
            return connect(url, proxy=None, open_timeout=PATIENCE, subprotocols=["tidegate.v1.json"])

        with enveloped("/connect") as ws:
            self.assertEqual(ws.subprotocol, "tidegate.v1.json")
            [welcome] = self.take(ws, 1)
            self.assertEqual(json.loads(welcome)["welcome"]["ping"], 25)
            for number, channel in enumerate(["env.a", "env.b"], 1):
                reply, pushes = ask(ws, number, subscribe={"channel": channel})
                self.assertEqual((reply["subscribed"]["channel"], pushes), (channel, []))
            reply, pushes = ask(ws, 3, publish={"channel": "env.a", "data": {"n": 1}, "event": "e"})
            first = reply["published"]["cursor"]
            pushes += [json.loads(it) for it in self.take(ws, 1 - len(pushes))]
            message = pushes[0]["message"]
            self.assertEqual((message["cursor"], message["event"], message["data"]), (first, "e", {"n": 1}))
            self.gateway.publish("env.b", "from outside")
            [message] = self.take(ws, 1)
            self.assertEqual(json.loads(message)["message"]["text"], "from outside")
            reply, _ = ask(ws, 4, unsubscribe={"channel": "env.b"})
            self.assertEqual(reply["unsubscribed"], {"channel": "env.b"})
            self.gateway.publish("env.b", "not for it")
            reply, pushes = ask(ws, 5, subscribe={"channel": "a.*"})
            self.assertEqual((reply["error"]["code"], pushes), ("invalid_argument", []))
        second = self.gateway.publish("env.a", "while away")["cursor"]
        with enveloped(f"/channels/env.a?since={first}") as ws:
            messages = [json.loads(it) for it in self.take(ws, 3)]
            self.assertEqual(messages[1], {"subscribed": {"channel": "env.a", "cursor": first}})
            self.assertEqual(messages[2]["message"]["cursor"], second)
            reply, _ = ask(ws, 1, history={"channel": "env.a", "last": 5})
            self.assertEqual([it["cursor"] for it in reply["history"]["messages"]], [first, second])
            ws.send("no object")
            self.assertEqual(self.close_of(ws), (1007, "a message is one JSON object"))

    def test_several_channels_resume_by_the_joined_cursor(self):
        with self.connect("n,s?envelope=1&since=start") as ws:
            # One after the other: between channels there is no order.
            messages = []
            for channel, text in [("n", "n1"), ("s", "s1")]:
                self.gateway.publish(channel, text)
                messages += map(json.loads, self.take(ws, 1))
                self.assertEqual((messages[-1]["channel"], messages[-1]["text"]), (channel, text))
        self.gateway.publish("n", "n2")
        with self.connect(f"n,s?envelope=1&since={messages[1]['resume']}") as ws:
            self.assertEqual(self.take_texts(ws, 1), ["n2"])
            ws.send("to which?")
            self.assertEqual(self.close_of(ws)[0], 1003)

    def test_a_gap_closes_a_bare_connection_and_its_reason_is_where_to_go_on(self):
        first, *_ = self.gateway.publish_numbers("small.ws", range(20))
        with self.connect(f"small.ws?since={first}") as ws:
            code, cursor = self.close_of(ws)
        self.assertEqual(code, 4010)
        with self.connect(f"small.ws?since={cursor}") as ws:
            self.assertEqual(self.take(ws, 5), ["15", "16", "17", "18", "19"])
        with self.connect(f"small.ws?envelope=1&since={first}") as ws:
            gap = json.loads(ws.recv(timeout=PATIENCE))["gap"]
            self.assertEqual(gap, {"channel": "small.ws", "requested": first, "resumed": cursor, "reason": "expired"})
            self.assertEqual(self.take_texts(ws, 5), ["15", "16", "17", "18", "19"])

    def test_an_end_closes_with_1000_after_what_came_before_it(self):
        with self.connect("fin") as bare, self.connect("fin?envelope=1") as envelope:
            last = self.gateway.publish("fin", "last", Tidegate_End="true")["cursor"]
            self.assertEqual(self.take(bare, 1), ["last"])
            code, reason = self.close_of(bare)
            self.assertEqual(code, 1000)
            message, end = map(json.loads, self.take(envelope, 2))
            self.assertEqual(message["cursor"], last)
            self.assertEqual(end, {"end": {"channel": "fin", "cursor": reason}})
        # Past the end it is told again.
        with self.connect(f"fin?since={reason}") as ws:
            self.assertEqual(self.close_of(ws)[0], 1000)

    def test_a_message_over_the_limit_and_text_that_is_none_close_with_their_codes(self):
        with self.connect("limits", compression=None) as ws:
            ws.send(b"x" * ((1 << 20) + 1))
            self.assertEqual(self.close_of(ws)[0], 1009)
        with self.connect("limits", compression=None) as ws:
            ws.send(b"\xff", text=True)
            self.assertEqual(self.close_of(ws)[0], 1007)

    def test_a_web_page_from_elsewhere_is_refused(self):
        host, port = self.gateway.address.split(":")
        for url, origin in [(self.gateway.ws, "https://evil.example"), ("ws://evil.example", None)]:
            # A name that leads here, as one that an attacker owns would.
            with socket.create_connection((host, int(port))) as sock:
                with self.assertRaises(InvalidStatus) as raised:
                    connect(f"{url}/channels/x", sock=sock, origin=origin, legacy=True)
            self.assertEqual(raised.exception.response.status_code, 403)
        with self.connect("x", origin="http://localhost:3000") as ws:
            self.assertTrue(ws.ping().wait(PATIENCE))

    def test_a_restart_is_1012_and_what_was_lost_with_the_log_is_a_gap(self):
        gateway = Gateway()
        with self.connect("r", gateway) as bare, self.connect("r?envelope=1", gateway) as envelope:
            cursor, = gateway.publish_numbers("r", [0])
            self.assertEqual(self.take(bare, 1), ["0"])
            self.assertEqual(self.take_texts(envelope, 1), ["0"])
            gateway.restart()
            code, reason = self.close_of(bare)
            self.assertEqual((code, reason), (1012, cursor))
            self.assertEqual(self.close_of(envelope)[0], 1012)
        gateway.publish_numbers("r", [1])
        with self.connect(f"r?envelope=1&since={cursor}", gateway) as ws:
            gap = json.loads(ws.recv(timeout=PATIENCE))["gap"]
            self.assertEqual((gap["requested"], gap["reason"]), (cursor, "epoch"))
            self.assertEqual(self.take_texts(ws, 1), ["1"])
        with self.connect(f"r?since={cursor}", gateway) as ws:
            self.assertEqual(self.close_of(ws), (4010, gap["resumed"]))
        gateway.stop()

    def test_a_client_that_reconnects_by_itself_goes_on_over_crashes(self):
        gateway = Gateway()

        async def follow():
            """Reconnects as the package does, with the last cursor, until the channel ends."""
            seen, cursor = [], "start"
            while True:
                try:
                    url = f"{gateway.ws}/channels/c?envelope=1&since={cursor}"
                    async with connect_async(url, proxy=None) as ws:
                        async for line in ws:
                            message = json.loads(line)
                            if "end" in message:
                                return seen
                            if "gap" in message:
                                seen.append("gap")
                                cursor = message["gap"]["resumed"]
                            else:
                                seen.append(message["text"])
                                cursor = message["cursor"]
                                arrived.set()
                # Cut, refused or reset while there is no gateway.
                except (ConnectionClosed, InvalidMessage, OSError):
                    await asyncio.sleep(0.05)

        async def main():
            follower = asyncio.create_task(follow())
            for life in range(3):
                if life:
                    await asyncio.to_thread(gateway.restart, signal.SIGKILL)
                arrived.clear()
                await asyncio.to_thread(gateway.publish, "c", f"life {life}")
                await asyncio.wait_for(arrived.wait(), PATIENCE)
            await asyncio.to_thread(gateway.publish, "c", "", Tidegate_End="true")
            return await asyncio.wait_for(follower, PATIENCE)

        arrived = asyncio.Event()
        self.assertEqual(asyncio.run(main()), ["life 0", "gap", "life 1", "gap", "life 2"])
        gateway.stop()


if __name__ == "__main__":
    unittest.main()
