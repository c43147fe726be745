"""Portolan's proxy under a control plane that is not ours: Envoy's own go-control-plane, a snapshot
cache behind ADS (control/main.go).

Proves that
- the proxy takes listeners, routes, clusters and endpoints of it, refuses nothing, and serves HTTP;
- it follows a change of endpoints, one of routes, and a cluster that goes, without a failed request;
- while the control plane is gone (SIGKILL: no goodbye) and while it is back and says nothing yet,
  traffic goes on; the same snapshot again changes nothing, and what is new is followed;
- a control plane that counts its versions anew is followed as well.
"""

import contextlib
import http.client
import http.server
import json
import os
import queue
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

sys.dont_write_bytecode = True
import bootstraps
import kit

ROOT = Path(__file__).resolve().parents[2]
CONTROL = ROOT / "target" / "interop-control" / "control"
NODE = "interop-proxy"
# How long the control plane is away.
AWAY_SECS = 2


class Control:
    """The control plane as a process; every start after the first is at the same address."""

    def __init__(self):
        self._process = None
        self._lines = None
        self._seen = []
        self.address = "127.0.0.1:0"

    def start(self):
        """Starts it; it serves nothing yet."""
        self._lines = queue.Queue()
        self._process = subprocess.Popen(
            [str(CONTROL), "-address", self.address, "-node", NODE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        threading.Thread(
            target=read, args=(self._process.stdout, self._lines), daemon=True
        ).start()
        self.address = self.until("listening ").split()[1]

    def until(self, start):
        """Waits for a line that starts like this."""
        end = time.monotonic() + kit.DEADLINE_SECS
        while True:
            try:
                line = self._lines.get(timeout=max(0, end - time.monotonic()))
            except queue.Empty:
                raise kit.Failed(f"no line {start!r} after {self._seen[-10:]}") from None
            self._seen.append(line)
            if line.startswith(start):
                return line

    def set(self, version, **world):
        """Serves a snapshot."""
        self._process.stdin.write(json.dumps({"version": version, **world}) + "\n")
        self._process.stdin.flush()
        self.until(f"set {version}")

    def expect_content(self):
        """Fails if anything was refused."""
        while not self._lines.empty():
            self._seen.append(self._lines.get())
        refused = [line for line in self._seen if line.startswith("nack")]
        kit.expect(not refused, f"refused: {refused}")
        taken = {line.split()[2] for line in self._seen if line.startswith("ack")}
        kinds = {"Cluster", "ClusterLoadAssignment", "Listener", "RouteConfiguration"}
        kit.expect(taken == kinds, f"taken: {sorted(taken)}")

    def kill(self):
        """Ends it without a goodbye."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


def read(stream, lines):
    for line in stream:
        lines.put(line.rstrip("\n"))


@contextlib.contextmanager
def backend(name):
    """An HTTP endpoint that says who it is; yields its address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            self.send_response(200)
            self.send_header("x-endpoint", name)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


@contextlib.contextmanager
def proxy(xds):
    """`portolan proxy`, ended in the end."""
    command = [os.environ[bootstraps.BINARY], "proxy", "--xds", xds, "--admin", "127.0.0.1:0"]
    command += ["--log", "error", "--set", f"proxy.node_id={NODE}"]
    # What the developer has set must not decide it.
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PORTOLAN_")}
    process = subprocess.Popen(command, env=kept)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(kit.DEADLINE_SECS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def free():
    """An address that nobody listens at."""
    with contextlib.closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{taken.getsockname()[1]}"


def who(at, path):
    """Who answers, or the status."""
    try:
        with kit.http_client(at, "shop", path) as once:
            return once()
    except (kit.Failed, OSError, http.client.HTTPException) as error:
        return f"{error}"


def answers(at, path, expected):
    """Waits until this endpoint, or this status, answers."""
    state = lambda: f"It is {who(at, path)!r}"
    found = lambda: who(at, path).startswith(expected)
    kit.wait_until(f"{expected!r} answers {path}", found, state)


def main():
    with contextlib.ExitStack() as stack:
        a, b, c = (stack.enter_context(backend(name)) for name in "abc")
        at = free()
        control = Control()
        stack.callback(control.kill)
        control.start()
        stack.enter_context(proxy(control.address))
        both = {"web": [a], "other": [c]}
        routes = [["/other", "other"], ["/", "web"]]
        control.set("1", listener=at, clusters={"web": [a]}, routes=[["/", "web"]])
        answers(at, "/", "a")

        once = stack.enter_context(kit.http_client(at, "shop"))
        with kit.Pump("HTTP", once) as requests:
            requests.reaches("a")
            control.set("2", listener=at, clusters={"web": [a, b]}, routes=[["/", "web"]])
            requests.reaches("ab")
            control.set("3", listener=at, clusters={"web": [b]}, routes=[["/", "web"]])
            requests.reaches("b")
            control.set("4", listener=at, clusters=both, routes=routes)
            answers(at, "/other", "c")
            requests.reaches("a")
            control.set("5", listener=at, clusters={"web": [a]}, routes=[["/", "web"]])
            answers(at, "/other", "a")
            control.expect_content()
            kit.say("  endpoints and routes are followed")

            control.kill()
            before = requests.unharmed()
            time.sleep(AWAY_SECS)
            kit.expect(requests.unharmed() > before, "traffic stopped with the control plane")
            control.start()
            control.until("ask ")
            kit.say("  traffic goes on without the control plane, and it is asked again")
            time.sleep(AWAY_SECS)
            control.set("5", listener=at, clusters={"web": [a]}, routes=[["/", "web"]])
            requests.reaches("a")
            control.set("6", listener=at, clusters={"web": [b]}, routes=[["/", "web"]])
            requests.reaches("b")
            control.set("7", listener=at, clusters=both, routes=routes)
            answers(at, "/other", "c")
            requests.reaches("a")
            control.expect_content()
            kit.say("  what is new is followed after a restart")

            control.kill()
            control.start()
            control.set("1", listener=at, clusters={"web": [b]}, routes=[["/", "web"]])
            requests.reaches("b")
            answers(at, "/other", "b")
            control.expect_content()
            kit.say("  versions that are counted anew are followed")
        # Without a listener there is none.
        control.set("2", clusters={"web": [b]})
        kit.wait_until("the listener is closed", lambda: "refused" in who(at, "/"))


if __name__ == "__main__":
    kit.run(main)
