#!/usr/bin/env python3
"""Starts an example: the gateway with the folder's tidegate.toml, its page, and its app.

    examples/start.py FOLDER [--dev] [APP...]

Each example's `run` calls this. It stands for what a deployment has: a service manager and a web server. The app
publishes to $TIDEGATE_URL; one named server.* has the page too, on $PORT, and else the folder is served as it is.
Prints what to open, and ends everything at Ctrl-C. The gateway is the program $TIDEGATE, or what cargo builds.
"""

import functools, http.server, os, pathlib, signal, socket, subprocess, sys, threading, time


class Pages(http.server.SimpleHTTPRequestHandler):
    """Files, without a line for each request."""

    def log_message(self, *_):
        pass


def reserve_port():
    """A port for who listens later: pages know it before that, and nobody takes it while a gateway is restarted."""
    reservation = socket.socket()
    reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reservation.bind(("127.0.0.1", 0))
    port = reservation.getsockname()[1]
    if sys.platform != "linux":  # Elsewhere nobody else could listen on it.
        reservation.close()
    return port, reservation


def wait_for(process, port):
    """Until something listens on `port`."""
    while process.poll() is None:
        with socket.socket() as attempt:
            if attempt.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    sys.exit(f"{process.args[0]} has ended with {process.returncode}")


def main(folder, *app):
    folder, has_server = pathlib.Path(folder).resolve(), any(word.startswith("server.") for word in app)
    (port, admin_port, page_port), _reserved = zip(*(reserve_port() for _ in range(3)))
    if not has_server:
        pages = http.server.ThreadingHTTPServer(("127.0.0.1", page_port), functools.partial(Pages, directory=folder))
        threading.Thread(target=pages.serve_forever, daemon=True).start()
    page, gateway = f"http://127.0.0.1:{page_port}", f"http://127.0.0.1:{port}"
    program = [os.path.abspath(os.environ["TIDEGATE"])] if "TIDEGATE" in os.environ else "cargo run -qr --".split()
    flags = ["--dev"] if app[:1] == ("--dev",) else []
    app = app[len(flags) :]
    flags += ["--config", "tidegate.toml", "--listen", f"127.0.0.1:{port}", "--admin", f"127.0.0.1:{admin_port}"]
    # A page of another origin may use a gateway that names it. In a deployment that is a line of the file, under
    # [http]: `origins = ["https://app.example"]`. Here the page has another port each time.
    settings = {"TIDEGATE_HTTP__ORIGINS": page, "TIDEGATE_LOG__LEVEL": "warn", "TIDEGATE_DRAIN": "2s"}
    running = {}

    def start(name, command, **settings):
        environment = {**os.environ, **settings}
        running[name] = subprocess.Popen(command, cwd=folder, env=environment, start_new_session=True)
        return running[name]

    try:
        wait_for(start("gateway", [*program, "serve", *flags], **settings), port)
        if app:
            process = start("app", app, TIDEGATE_URL=gateway, PORT=str(page_port))
            if has_server:
                wait_for(process, page_port)
        print(f"its metrics: http://127.0.0.1:{admin_port}/metrics")
        print(f"open {page}/?gateway={gateway}", flush=True)
        while True:
            print(f"the gateway is process {running['gateway'].pid}: end it, and it comes back", flush=True)
            pid, status = os.wait()
            name = next(name for name, process in running.items() if process.pid == pid)
            running[name].returncode = code = os.waitstatus_to_exitcode(status)
            if name == "app" or code > 0:
                sys.exit(f"the {name} has ended with {code}")
            wait_for(start("gateway", [*program, "serve", *flags], **settings), port)
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.wait()


for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda *_: sys.exit(0))
main(*sys.argv[1:])
