"""The gateway that the Python suites talk to: one process on loopback, which a test may end and start again.

The environment variable TIDEGATE names the program.
"""

import json
import os
import pathlib
import re
import signal
import subprocess
import tempfile
import threading
import urllib.request

PROGRAM = os.environ.get("TIDEGATE", "target/release/tidegate")
CONFIG = pathlib.Path(__file__).with_name("tidegate.toml")

# For each wait on the network, in seconds: far above what it takes, so that a failure ends.
PATIENCE = 20


class Gateway:
    """Starts at once. `address` is HOST:PORT and stays the same over restarts."""

    def __init__(self, config=CONFIG, args=("--dev",)):
        self.address = "127.0.0.1:0"
        self.config, self.args = config, args
        self.start()

    def start(self):
        args = [PROGRAM, "serve", *self.args, "--listen", self.address, "--config", str(self.config)]
        self.log = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(args, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        said = threading.Event()

        def read():
            for line in self.process.stderr:
                self.log.write(line)
                if found := re.search(r"listening on http://(\S+)", line):
                    self.address = found[1]
                    said.set()
            said.set()

        self.reader = threading.Thread(target=read)
        self.reader.start()
        if not said.wait(PATIENCE) or self.process.poll() is not None:
            self.log.seek(0)
            raise RuntimeError(f"the gateway did not start:\n{self.log.read()}")

    def stop(self, how=signal.SIGTERM):
        """Ends it: SIGTERM drains, SIGKILL is a crash. Returns its exit code."""
        self.process.send_signal(how)
        code = self.process.wait(PATIENCE)
        self.reader.join()
        self.process.stderr.close()
        self.log.close()
        return code

    def restart(self, how=signal.SIGTERM):
        self.stop(how)
        self.start()

    @property
    def url(self):
        return f"http://{self.address}"

    @property
    def ws(self):
        return f"ws://{self.address}"

    def publish(self, channel, data, **headers):
        """Publishes, and returns the answer's JSON. Keyword `Tidegate_End` is the header `Tidegate-End`."""
        body = data if isinstance(data, bytes) else data.encode()
        request = urllib.request.Request(f"{self.url}/channels/{channel}", body, method="POST")
        request.add_header("Content-Type", headers.pop("content_type", "text/plain"))
        for name, value in headers.items():
            request.add_header(name.replace("_", "-"), value)
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return json.load(answer)

    def metric(self, name):
        """A count of `/metrics`, with its labels; only with `--dev`."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=PATIENCE) as answer:
            lines = [line.rpartition(" ") for line in answer.read().decode().splitlines()]
        return next((int(value) for found, _, value in lines if found == name), 0)

    def publish_numbers(self, channel, numbers):
        """Publishes each number as a text, and returns their cursors."""
        return [self.publish(channel, str(number))["cursor"] for number in numbers]
