"""curl as its users type it: every HTTP wire, publishing, resuming after a cut, and the errors."""

import json
import os
import signal
import subprocess
import tempfile
import unittest

from gateway import PATIENCE, Gateway


def curl(*args, stdin=None):
    """Runs curl to its end; returns what it printed."""
    done = subprocess.run(
        ["curl", "--silent", "--show-error", "--max-time", str(PATIENCE), *args],
        input=stdin, capture_output=True, check=True,
    )
    return done.stdout


def curl_json(*args, stdin=None):
    return json.loads(curl(*args, stdin=stdin))


def curl_head(*args):
    """Returns the status, the headers (names in lower case) and the body."""
    head, _, body = curl("--include", *args).partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    return int(status.split()[1]), {name.lower(): value for name, value in headers.items()}, body


class Stream:
    """A curl that goes on: `-N`, read line by line."""

    def __init__(self, *args):
        command = ["curl", "--silent", "--no-buffer", "--max-time", str(2 * PATIENCE), *args]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE)

    def line(self):
        return self.process.stdout.readline().decode().rstrip("\n")

    def json(self):
        """The next line of an NDJSON stream that is not empty."""
        while not (line := self.line()):
            if self.process.poll() is not None:
                raise EOFError("the stream ended")
        return json.loads(line)

    def event(self):
        """The next block of an SSE stream that is no comment alone, as a dict; data lines are joined."""
        fields = {}
        while True:
            line = self.process.stdout.readline().decode()
            if not line:
                raise EOFError(f"the stream ended after {fields}")
            line = line.rstrip("\n")
            if not line and fields:
                return fields
            if line and not line.startswith(":"):
                name, _, value = line.partition(":")
                value = value.removeprefix(" ")
                fields[name] = f"{fields[name]}\n{value}" if name in fields else value

    def cut(self):
        """Ends it in the middle, as a lost connection would."""
        self.process.kill()
        self.end()

    def end(self):
        """Waits for its end; returns curl's exit code."""
        code = self.process.wait(PATIENCE)
        self.process.stdout.close()
        return code


SSE = ("--header", "Accept: text/event-stream")
NDJSON = ("--header", "Accept: application/x-ndjson")


class Curl(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.gateway = Gateway()

    @classmethod
    def tearDownClass(cls):
        cls.gateway.stop()

    def at(self, path):
        return f"{self.gateway.url}/channels/{path}"

    def test_what_d_sends_is_json_if_it_is_a_whole_object_and_text_if_not(self):
        first = curl_json("--data", '{"price": 1.50}', self.at("forms"))
        self.assertEqual(first["channel"], "forms")
        self.assertIs(first["duplicate"], False)
        curl("--data", "price=1.50&x=%20", self.at("forms"))
        curl("--data", "7", self.at("forms"))
        curl("--data-binary", "@-", self.at("forms"), stdin=b"\xff\x00")
        messages = curl_json(self.at("forms"))["messages"]
        self.assertEqual([it["data"] for it in messages[:1]], [{"price": 1.5}])
        self.assertEqual([it["text"] for it in messages[1:3]], ["price=1.50&x=%20", "7"])
        self.assertEqual(messages[3]["base64"], "/wA=")
        self.assertEqual(messages[0]["cursor"], first["cursor"])

    def test_content_types_and_as_decide_the_kind(self):
        png = ("--header", "Content-Type: image/png")
        curl(*png, "--data-binary", "@-", self.at("kinds"), stdin=b"\x89PNG")
        curl("--json", '{"a": [1,\n2]}', self.at("kinds"))
        curl("--data", '{"a":1}', self.at("kinds?as=text"))
        messages = curl_json(self.at("kinds"))["messages"]
        self.assertEqual((messages[0]["base64"], messages[0]["type"]), ("iVBORw==", "image/png"))
        self.assertEqual(messages[1]["data"], {"a": [1, 2]})
        self.assertEqual(messages[2]["text"], '{"a":1}')
        status, _, body = curl_head("--json", '{"a":', self.at("kinds"))
        self.assertEqual((status, json.loads(body)["code"]), (400, "invalid_argument"))

    def test_a_key_publishes_once(self):
        key = ("--header", "Idempotency-Key: k1")
        first = curl_json(*key, "--data", "one", self.at("keys"))
        again = curl_json(*key, "--data", "one", self.at("keys"))
        self.assertEqual(again, {**first, "duplicate": True})
        status, _, _ = curl_head(*key, "--data", "two", self.at("keys"))
        self.assertEqual(status, 422)
        self.assertEqual(len(curl_json(self.at("keys"))["messages"]), 1)

    def test_an_sse_stream_that_was_cut_goes_on_after_its_last_id(self):
        stream = Stream(*SSE, self.at("sse"))
        opening = stream.event()
        self.assertIn("retry", opening)
        self.assertGreater(int(opening["retry"]), 500)
        cursor = opening.get("id") or stream.event()["id"]
        cursors = self.gateway.publish_numbers("sse", range(3))
        events = [stream.event() for _ in range(3)]
        self.assertEqual([it["data"] for it in events], ["0", "1", "2"])
        self.assertEqual([it["id"] for it in events], cursors)
        stream.cut()
        self.gateway.publish_numbers("sse", range(3, 6))
        for after, expect in [(cursors[2], "345"), (cursors[0], "12345"), (cursor, "012345")]:
            stream = Stream(*SSE, "--header", f"Last-Event-ID: {after}", self.at("sse?since=now"))
            seen = ""
            while len(seen) < len(expect):
                seen += stream.event().get("data", "")
            stream.cut()
            self.assertEqual(seen, expect)

    def test_lines_of_a_payload_become_lines_of_an_event(self):
        self.gateway.publish("lines", "a\nb\r\nc", Tidegate_Event="tick")
        stream = Stream(*SSE, self.at("lines?since=start"))
        while "data" not in (event := stream.event()):
            pass
        stream.cut()
        self.assertEqual((event["event"], event["data"]), ("tick", "a\nb\nc"))

    def test_an_ndjson_stream_that_was_cut_goes_on_on_any_other_wire(self):
        stream = Stream(*NDJSON, self.at("hop?since=start"))
        cursors = self.gateway.publish_numbers("hop", range(3))
        self.assertEqual([stream.json()["cursor"] for _ in range(3)], cursors)
        stream.cut()
        self.gateway.publish_numbers("hop", range(3, 5))
        polled = curl_json(self.at(f"hop?since={cursors[2]}"))
        self.assertEqual([it["text"] for it in polled["messages"]], ["3", "4"])
        stream = Stream(*SSE, self.at(f"hop?since={polled['cursor']}"))
        stream.event()
        self.gateway.publish_numbers("hop", [5])
        while "data" not in (event := stream.event()):
            pass
        stream.cut()
        self.assertEqual(event["data"], "5")

    def test_curl_tells_a_body_that_was_cut_from_one_that_ended(self):
        gateway = Gateway()
        url = f"{gateway.url}/channels"
        stream = Stream(*NDJSON, f"{url}/ending?since=start")
        gateway.publish("ending", "last", Tidegate_End="true")
        self.assertEqual(stream.json()["text"], "last")
        self.assertEqual(stream.json()["end"]["channel"], "ending")
        self.assertEqual(stream.end(), 0)

        stream = Stream(*NDJSON, f"{url}/draining?since=start")
        gateway.publish("draining", "one")
        self.assertEqual(stream.json()["text"], "one")
        self.assertEqual(gateway.stop(), 0)
        self.assertEqual(stream.json()["error"]["code"], "unavailable")
        self.assertEqual(stream.end(), 0)

        gateway.start()
        stream = Stream(*NDJSON, f"{url}/crashing?since=start")
        gateway.publish("crashing", "one")
        self.assertEqual(stream.json()["text"], "one")
        gateway.stop(signal.SIGKILL)
        self.assertNotEqual(stream.end(), 0)

    def test_a_gap_is_told_as_each_wire_tells_it(self):
        first, *_ = self.gateway.publish_numbers("small.curl", range(20))
        stream = Stream(*NDJSON, self.at(f"small.curl?since={first}"))
        gap = stream.json()["gap"]
        self.assertEqual((gap["channel"], gap["requested"], gap["reason"]), ("small.curl", first, "expired"))
        kept = [stream.json()["text"] for _ in range(5)]
        stream.cut()
        self.assertEqual(kept, ["15", "16", "17", "18", "19"])

        polled = curl_json(self.at(f"small.curl?since={first}"))
        self.assertEqual(polled["gaps"], [gap])
        self.assertEqual([it["text"] for it in polled["messages"]], kept)
        # Going on after the gap, as it says, has the same without a gap.
        again = curl_json(self.at(f"small.curl?since={gap['resumed']}"))
        self.assertEqual((again["gaps"], len(again["messages"])), ([], 5))

        stream = Stream(*SSE, self.at(f"small.curl?since={first}"))
        while "event" not in (event := stream.event()):
            pass
        self.assertEqual(event["event"], "tidegate-gap")
        self.assertEqual((json.loads(event["data"]), event["id"]), (gap, gap["resumed"]))
        self.assertEqual(stream.event()["data"], "15")
        stream.cut()

    def test_a_drop_is_a_gap_for_who_is_there_and_for_who_comes_back(self):
        cursor, *_ = self.gateway.publish_numbers("dropped", range(3))
        stream = Stream(*NDJSON, self.at("dropped?since=start"))
        self.assertEqual([stream.json()["text"] for _ in range(3)], ["0", "1", "2"])
        status, _, _ = curl_head("--request", "DELETE", self.at("dropped"))
        self.assertEqual(status, 204)
        self.assertEqual(stream.json()["gap"]["reason"], "dropped")
        self.gateway.publish_numbers("dropped", [3])
        self.assertEqual(stream.json()["text"], "3")
        stream.cut()
        polled = curl_json(self.at(f"dropped?since={cursor}"))
        self.assertEqual(len(polled["gaps"]), 1)
        self.assertEqual([it["text"] for it in polled["messages"]], ["3"])

    def test_an_end_is_told_replayed_and_final(self):
        before = self.gateway.publish("over", "one")["cursor"]
        last = curl_json("--header", "Tidegate-End: true", "--data", "two", self.at("over"))["cursor"]
        polled = curl_json(self.at(f"over?since={before}"))
        self.assertEqual([it["text"] for it in polled["messages"]], ["two"])
        self.assertEqual(polled["ended"], ["over"])
        self.assertEqual(curl_json(self.at(f"over?wait=20s&since={last}"))["ended"], ["over"])
        status, _, body = curl_head("--data", "three", self.at("over"))
        self.assertEqual((status, json.loads(body)["code"]), (409, "ended"))

        stream = Stream(*SSE, self.at(f"over?since={before}"))
        while "event" not in (event := stream.event()):
            pass
        self.assertEqual(event["event"], "tidegate-end")
        self.assertEqual(json.loads(event["data"])["channel"], "over")
        self.assertEqual(stream.end(), 0)
        status, _, _ = curl_head(*SSE, "--header", f"Last-Event-ID: {event['id']}", self.at("over"))
        self.assertEqual(status, 204)

    def test_a_long_poll_answers_with_what_comes_or_with_nothing_at_its_deadline(self):
        start = curl_json(self.at("long"))["cursor"]
        stream = Stream(self.at(f"long?wait=25s&since={start}"))
        self.gateway.publish("long", "now")
        answer = json.loads(stream.process.stdout.read())
        self.assertEqual(stream.end(), 0)
        self.assertEqual([it["text"] for it in answer["messages"]], ["now"])
        empty = curl_json(self.at(f"long?wait=250ms&since={answer['cursor']}"))
        self.assertEqual((empty["messages"], empty["gaps"], empty["ended"]), ([], [], []))

    def test_polls_page_and_validate(self):
        self.gateway.publish_numbers("pages", range(7))
        seen, url = [], self.at("pages?limit=3")
        for _ in range(3):
            status, headers, body = curl_head(url)
            self.assertEqual(status, 200)
            page = json.loads(body)
            seen += [it["text"] for it in page["messages"]]
            self.assertEqual(headers["tidegate-cursor"], page["cursor"])
            self.assertIn('rel="next"', headers["link"])
            self.assertIn(f"since={page['cursor']}", headers["link"])
            url = self.at(f"pages?limit=3&since={page['cursor']}")
        self.assertEqual(seen, [str(it) for it in range(7)])
        tag = headers["etag"]
        last = self.at("pages?last=1")
        _, headers, _ = curl_head(last)
        tag = headers["etag"]
        status, _, body = curl_head("--header", f"If-None-Match: {tag}", last)
        self.assertEqual((status, body), (304, b""))
        self.gateway.publish("pages", "7")
        status, _, _ = curl_head("--header", f"If-None-Match: {tag}", last)
        self.assertEqual(status, 200)
        back = curl_json(self.at(f"pages?limit=2&before={page['cursor']}"))
        self.assertEqual([it["text"] for it in back["messages"]], ["4", "5"])

    def test_several_channels_come_with_one_cursor(self):
        stream = Stream(*NDJSON, self.at("east,west?since=start"))
        self.gateway.publish("east", "e1")
        self.assertEqual(stream.json()["text"], "e1")
        self.gateway.publish("west", "w1")
        line = stream.json()
        self.assertEqual((line["channel"], line["text"]), ("west", "w1"))
        stream.cut()
        self.gateway.publish("east", "e2")
        polled = curl_json(self.at(f"east,west?since={line['resume']}"))
        self.assertEqual([it["text"] for it in polled["messages"]], ["e2"])

    def test_many_publications_are_published_in_one_request(self):
        lines = [{"channel": "m1", "text": "a"}, {"channel": "m2", "data": [1]}, {"channel": "m.."}]
        body = "".join(f"{json.dumps(line)}\n" for line in lines).encode()
        answer = curl("--data-binary", "@-", f"{self.gateway.url}/publish", stdin=body)
        first, second, third = [json.loads(line) for line in answer.splitlines()]
        self.assertEqual((first["index"], first["channel"]), (0, "m1"))
        self.assertEqual((second["index"], second["channel"]), (1, "m2"))
        self.assertEqual((third["index"], third["code"]), (2, "invalid_argument"))
        self.assertEqual(curl_json(self.at("m2"))["messages"][0]["data"], [1])
        ndjson = ("--header", "Content-Type: application/x-ndjson", "--data-binary", "@-")
        counts = curl_json(*ndjson, self.at("m3?quiet=1"), stdin=b'{"a":1}\n[2]\n')
        self.assertEqual((counts["published"], counts["failed"]), (2, 0))

    def test_errors_say_what_where_and_what_to_do(self):
        for path, status, code in [
            ("/channels/a..b", 400, "invalid_argument"),
            ("/channels/x?since=!", 400, "invalid_argument"),
            ("/channels/x?limit=1001", 400, "invalid_argument"),
            ("/nothing", 404, "not_found"),
            ("/channels/x?wire=ws", 426, "upgrade_required"),
        ]:
            answer, headers, body = curl_head(f"{self.gateway.url}{path}")
            problem = json.loads(body)
            self.assertEqual((path, answer, problem["code"]), (path, status, code))
            self.assertEqual(headers["content-type"], "application/problem+json")
            self.assertEqual((problem["status"], problem["type"]), (status, f"urn:tidegate:error:{code}"))
            self.assertTrue(problem["detail"])
        status, headers, _ = curl_head("--request", "PATCH", self.at("x"))
        self.assertEqual(status, 405)
        self.assertIn("GET", headers["allow"])
        status, _, _ = curl_head("--header", "Accept: image/png", self.at("x"))
        self.assertEqual(status, 406)
        with tempfile.NamedTemporaryFile() as file:
            os.truncate(file.name, (1 << 20) + 1)
            status, _, _ = curl_head("--header", "Expect:", "--data-binary", f"@{file.name}", self.at("x"))
        self.assertEqual(status, 413)

    def test_a_web_page_from_elsewhere_is_refused(self):
        for header in ["Origin: https://evil.example", "Host: evil.example"]:
            status, _, _ = curl_head("--header", header, self.at("x"))
            self.assertEqual((header, status), (header, 403))

    def test_a_head_request_has_the_headers_of_a_poll(self):
        status, headers, body = curl_head("--head", self.at("pages"))
        self.assertEqual((status, body), (200, b""))
        self.assertIn("tidegate-cursor", headers)

    def test_health_is_told(self):
        self.assertEqual(curl_head(f"{self.gateway.url}/healthz")[0], 200)
        self.assertEqual(curl_head(f"{self.gateway.url}/readyz")[0], 200)
        self.assertIn(b"tidegate_connections", curl(f"{self.gateway.url}/metrics"))


if __name__ == "__main__":
    unittest.main()
