"""The app: serves the page, and notifies users: a POST for each, retried until it is answered, with a key."""

import http.server, json, os, time, urllib.error, urllib.request, uuid


def notify(user, text, lose_answer):
    """Publishes to `user`. The key is the notification's own id: however often it is sent, it is published once."""
    note = {"id": str(uuid.uuid4()), "text": text}
    url = f"{os.environ['TIDEGATE_URL']}/channels/user.{user}"
    headers = {"Content-Type": "application/json", "Idempotency-Key": note["id"]}
    request = urllib.request.Request(url, json.dumps(note).encode(), headers)
    for attempt in range(1, 7):
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                if lose_answer and attempt == 1:
                    raise ConnectionError("it was published, and nobody told us")
                return {"attempts": attempt, **json.load(answer)}
        except urllib.error.HTTPError as error:
            if error.code not in (429, 503):  # Any other would fail again.
                raise
        except OSError:
            pass
        time.sleep(0.1 * 2**attempt)
    raise TimeoutError("the gateway is away")


class App(http.server.SimpleHTTPRequestHandler):
    """Files of this folder, and POST to notify someone."""

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        try:
            status, answer = 200, notify(asked["to"], asked["text"], asked["lose_answer"])
        except OSError as error:
            status, answer = 502, {"error": str(error)}
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    def log_message(self, *_):
        pass


http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), App).serve_forever()
