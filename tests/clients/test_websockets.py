"""The Python package `websockets`: publishing, commands, several channels, with and without compression."""

import json
import socket
import unittest

from websockets.exceptions import ConnectionClosed, InvalidStatus
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


if __name__ == "__main__":
    unittest.main()
