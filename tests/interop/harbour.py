"""A service `pier` of the namespace `harbour`, whose HTTP backends are in this process."""

import contextlib
import http.server
import threading

import kit

ALL = {"pier-1", "pier-2"}
HOST = "pier.harbour"
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
    zone: ZONE
    targetRef: {kind: Pod, name: NAME, namespace: harbour}
"""


@contextlib.contextmanager
def running(folder, zones=("zone-1", "zone-2"), spec=""):
    """Starts the backends, `pier-1` in the first zone and so on, and writes the manifest; its path.
    `spec` is more of the service's."""
    with contextlib.ExitStack() as stack:
        text = SERVICE + spec
        for number, zone in enumerate(zones, start=1):
            name = f"pier-{number}"
            address = stack.enter_context(backend(name, f"127.77.0.{number}"))
            text += slice_of(name, address, zone)
        manifest = folder / "pier.yaml"
        kit.write(manifest, text)
        yield manifest


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


def slice_of(name, address, zone):
    """An EndpointSlice with one endpoint."""
    ip, port = kit.split(address)
    text = SLICE.replace("NAME", name).replace("ADDRESS", ip).replace("ZONE", zone)
    return text.replace("PORT", str(port))


def idle(count):
    """More services of the kind, that nobody calls: their one endpoint refuses connections."""
    text = ""
    for number in range(count):
        one = SERVICE + slice_of("idle", "127.77.1.1:1", "zone-1")
        name = f"quay-{number}"
        # The label of the slice, too, ends in this.
        one = one.replace("name: pier", f"name: {name}")
        text += "---\n" + one.replace("  name: idle\n", f"  name: {name}\n")
    return text
