"""A real Envoy whose control plane is killed and comes back. Portolan runs as `portolan control`
alone, over a service whose backends are in this script, so that nothing else dies with it.

Proves that
- traffic goes on, without a failed request, while the control plane is gone (SIGKILL: no goodbye);
- when it is back, under the same address and with the same manifests, Envoy takes up where it was:
  nothing it had is dropped or built anew;
- a change made while it was away is made up for, and the next one is followed;
- it may also be told to stop (SIGTERM) with the same outcome.
"""

import argparse
import contextlib
import http.server
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

sys.dont_write_bytecode = True
import envoy_process
import kit

ALL = {"pier-1", "pier-2"}
SERVICE = """\
apiVersion: v1
kind: Service
metadata: {name: pier, namespace: harbour}
spec:
  ports: [{name: http, port: 80, appProtocol: http}]
"""
SLICE = """\
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: NAME
  namespace: harbour
  labels: {kubernetes.io/service-name: pier}
addressType: IPv4
ports: [{name: http, port: PORT}]
endpoints:
  - addresses: [ADDRESS]
    conditions: {ready: true}
    targetRef: {kind: Pod, name: NAME, namespace: harbour}
"""
# How Envoy words it that its control plane went away; it is to notice.
GONE = "gRPC config stream to portolan closed"


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--portolan", required=True, help="the binary")
    return parser.parse_args()


def main():
    portolan = arguments().portolan
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        manifest = folder / "pier.yaml"
        addresses = {
            name: stack.enter_context(backend(name, f"127.77.0.{number}"))
            for number, name in enumerate(sorted(ALL), start=1)
        }
        kit.write(manifest, SERVICE + "".join(slice_of(*item) for item in addresses.items()))
        control = Control(portolan, folder)
        stack.callback(control.end, signal.SIGKILL)
        control.start()
        envoy = stack.enter_context(envoy_process.running(control.xds))
        at = kit.wait_until("the http listener is bound", lambda: envoy.listener("http"))
        once = stack.enter_context(kit.http_client(at, "pier.harbour"))
        requests = stack.enter_context(kit.Pump("HTTP", once))
        requests.reaches(ALL)
        kit.Portolan(control.admin).expect_content(envoy_process.NODE)

        for ending in (signal.SIGKILL, signal.SIGTERM):
            outage(control, envoy, requests, ending, at)
            away_and_back(control, envoy, requests, manifest, ending)
        kit.say(f"  {requests.unharmed()} requests, none failed")
        envoy.expect_content(excused=GONE)


def outage(control, envoy, requests, ending, at):
    """The control plane goes and comes back; nothing has changed."""
    goes_away(control, envoy, ending)
    requests.reaches(ALL)
    before = built(envoy)
    control.start()
    comes_back(control, envoy)
    requests.reaches(ALL)
    kit.expect(built(envoy) == before, f"built anew: {before}, then {built(envoy)}")
    kit.expect(envoy.listener("http") == at, f"the listener moved to {envoy.listener('http')}")


def away_and_back(control, envoy, requests, manifest, ending):
    """An endpoint leaves while the control plane is away, and returns when it is back."""
    goes_away(control, envoy, ending)
    kit.set_ready(manifest, "pier-1", False)
    # Nobody tells Envoy: both still answer.
    requests.reaches(ALL)
    control.start()
    comes_back(control, envoy)
    requests.reaches({"pier-2"})
    kit.set_ready(manifest, "pier-1", True)
    requests.reaches(ALL)


def goes_away(control, envoy, ending):
    """The control plane ends, and Envoy has tried in vain to reach it."""
    control.end(ending)
    kit.wait_until("Envoy has noticed", lambda: not envoy.connected())
    failed = lambda: envoy.stats(r"^cluster\.portolan\.upstream_cx_connect_fail$").popitem()[1]
    enough = failed() + 3
    kit.wait_until("Envoy has tried to connect again", lambda: failed() >= enough)
    kit.say(f"  control plane ended by {ending.name}; Envoy failed to reach it {enough} times")


def comes_back(control, envoy):
    """Envoy finds the new control plane and takes what it says."""
    kit.wait_until("Envoy has connected again", envoy.connected)
    kit.Portolan(control.admin).expect_content(envoy_process.NODE)


def built(envoy):
    """Counters that rise when a listener or cluster is made, changed or dropped."""
    kinds = r"(cluster_manager\.cluster|listener_manager\.listener)_(added|modified|removed)$"
    return envoy.stats(kinds)


class Control:
    """`portolan control` over a folder; every start after the first is on the same address."""

    def __init__(self, portolan, folder):
        self._portolan = portolan
        self._folder = folder
        self._process = None
        self.xds = "127.0.0.1:0"
        self.admin = None

    def start(self):
        """Starts it and waits until it is ready."""
        output = tempfile.TemporaryFile("w+")
        self._process = subprocess.Popen(
            [
                self._portolan,
                "control",
                *("--manifests", str(self._folder)),
                *("--xds-listen", self.xds),
                *("--admin", "127.0.0.1:0"),
                *("--http", "127.0.0.1:0"),
                *("--log", "warn"),
            ],
            stdout=output,
        )

        def listening():
            kit.expect(self._process.poll() is None, f"it ended: {self._process.poll()}")
            output.seek(0)
            lines = [line.split() for line in output.read().splitlines() if line[-1:].isdigit()]
            found = {what: address for _, what, address in lines}
            return found if found.keys() >= {"xds", "admin"} else None

        found = kit.wait_until("the control plane listens", listening)
        output.close()
        self.xds, self.admin = found["xds"], found["admin"]

        def ready():
            with contextlib.suppress(OSError):
                return kit.get(self.admin, "/readyz")
            return None

        kit.wait_until("the control plane is ready", ready)

    def end(self, ending):
        """Ends it by a signal, and waits until it is gone."""
        if self._process is None:
            return
        self._process.send_signal(ending)
        try:
            self._process.wait(kit.DEADLINE_SECS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise kit.Failed(f"{ending.name} does not end it") from None


@contextlib.contextmanager
def backend(name, ip):
    """An HTTP server that says its name; its address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # Headers and end of headers leave as one segment.
        wbufsize = -1

        def do_GET(self):
            self.send_response(200)
            self.send_header("x-endpoint", name)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer((ip, 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield "{}:{}".format(*server.server_address)
        finally:
            server.shutdown()


def slice_of(name, address):
    """An EndpointSlice with one endpoint."""
    ip, port = kit.split(address)
    text = SLICE.replace("NAME", name).replace("ADDRESS", ip)
    return text.replace("PORT", str(port))


if __name__ == "__main__":
    kit.run(main)
