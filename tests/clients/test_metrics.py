"""`/metrics`, read by those who will: promtool (the environment variable PROMTOOL names it), and the parsers of the Python
package `prometheus_client`, in each of the two formats."""

import json
import os
import subprocess
import unittest
import urllib.request

from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_plain
from websockets.sync.client import connect

from gateway import PATIENCE, Gateway

OPENMETRICS = "application/openmetrics-text; version=1.0.0"
PARSERS = {OPENMETRICS: parse_openmetrics, "text/plain": parse_plain}
# Of the contract, and what Prometheus must take each for.
TYPES = {
    "tidegate_connections": "gauge",
    "tidegate_disconnects": "counter",
    "tidegate_gaps": "counter",
    "tidegate_publications": "counter",
    "tidegate_publish_to_write_seconds": "histogram",
}


class Metrics(unittest.TestCase):
    def setUp(self):
        self.gateway = Gateway()
        self.addCleanup(self.gateway.stop)
        self.count()

    def get(self, path, **headers):
        request = urllib.request.Request(f"{self.gateway.url}{path}", headers=headers)
        return urllib.request.urlopen(request, timeout=PATIENCE)

    def count(self):
        """Has something of most kinds: wires, a gap, a refusal, deliveries that are timed."""
        first, *_ = self.gateway.publish_numbers("small.m", range(20))
        self.get("/channels/small.m?wait=1s&since=start").close()
        gap = json.load(self.get(f"/channels/small.m?since={first}"))["gaps"][0]
        self.assertEqual(gap["reason"], "expired")
        with self.assertRaises(urllib.error.HTTPError) as refused:
            self.get("/nowhere")
        refused.exception.close()
        with self.get("/channels/small.m", Accept="text/event-stream") as sse, connect(f"{self.gateway.ws}/channels/small.m") as ws:
            self.gateway.publish("small.m", "timed")
            self.assertEqual(ws.recv(timeout=PATIENCE), "timed")
            while b"data: timed\n" != sse.readline():
                pass

    def page(self, accept):
        with self.get("/metrics", Accept=accept) as answer:
            self.assertTrue(answer.headers["Content-Type"].startswith(accept), answer.headers["Content-Type"])
            return answer.read().decode()

    def test_promtool_finds_nothing_to_complain_of(self):
        command = [os.environ["PROMTOOL"], "check", "metrics"]
        for text, code in [(self.page("text/plain"), 0), ("tidegate_nothing 1\n", 3)]:
            checked = subprocess.run(command, input=text, capture_output=True, text=True, timeout=PATIENCE)
            self.assertEqual((checked.returncode, bool(checked.stdout + checked.stderr)), (code, code > 0), checked)

    def test_both_formats_are_read_as_the_same(self):
        found = []
        for accept, parse in PARSERS.items():
            families = list(parse(self.page(accept)))
            types = {family.name: family.type for family in families}
            self.assertLessEqual(TYPES.items(), types.items())
            self.assertNotIn("unknown", types.values())
            for family in families:
                self.assertTrue(family.documentation, family)
            # A number that counts requests is another on the second page.
            found.append({(it.name, *sorted(it.labels.items())) for family in families for it in family.samples})
        self.assertEqual(*found)
        samples = {(it.name, it.labels.get("reason")): it.value for family in families for it in family.samples}
        self.assertEqual(samples["tidegate_gaps_total", "expired"], 1)
        self.assertEqual(samples["tidegate_publications_total", None], 21)
        self.assertEqual(samples["tidegate_publish_to_write_seconds_count", None], 2)


if __name__ == "__main__":
    unittest.main()
