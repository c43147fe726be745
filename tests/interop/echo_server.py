"""Servers of our Echo, in this process, that can be stopped and started again, and manifests that
make them the endpoints of a service."""

import concurrent.futures
import contextlib

import echo_stubs
import grpc
import kit

SERVICE = """\
apiVersion: v1
kind: Service
metadata:
  name: SERVICE
  namespace: shop
  annotations:
    # A call under way when a server stops is made again. One that reaches gRPC for Python as it
    # stops is CANCELLED.
    portolan.dev/retry-on: cancelled,unavailable
spec:
  trafficDistribution: PreferClose
  ports: [{name: grpc, port: 50051, appProtocol: grpc}]
"""
SLICE = """\
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: SERVICE-NAME
  namespace: shop
  labels: {kubernetes.io/service-name: SERVICE}
addressType: IPv4
ports: [{name: grpc, port: PORT}]
endpoints:
  - addresses: [ADDRESS]
    conditions: {ready: true}
    zone: ZONE
    targetRef: {kind: Pod, name: NAME, namespace: shop}
"""


class EchoServer:
    """An endpoint; between `stop` and `start` connections to its address are refused."""

    def __init__(self, name, ip, add):
        self.name = name
        self.ip = ip
        self.port = 0
        self._add = add
        self._server = None

    def start(self):
        """Listens, at the same address as before if there was one."""
        self._server = grpc.server(concurrent.futures.ThreadPoolExecutor(max_workers=4))
        self._add(self._server)
        self.port = self._server.add_insecure_port(f"{self.ip}:{self.port}")
        self._server.start()

    def stop(self):
        """Lets calls that are under way come to their end."""
        kit.expect(self._server.stop(kit.REQUEST_SECS).wait(kit.DEADLINE_SECS), "it ends")


@contextlib.contextmanager
def running(proto, name, ip):
    """A started server that answers as the endpoint `name`."""
    with echo_stubs.generated(proto) as (messages, services):

        class Echo(services.EchoServicer):
            def Say(self, request, context):
                return messages.SayReply(text=request.text, endpoint=name)

        server = EchoServer(name, ip, lambda on: services.add_EchoServicer_to_server(Echo(), on))
        server.start()
        try:
            yield server
        finally:
            server.stop()


def manifest(service, zones):
    """Manifests of a service that prefers endpoints close by, with a server in each zone."""
    text = SERVICE
    for zone, server in zones.items():
        mine = SLICE.replace("ADDRESS", server.ip).replace("PORT", str(server.port))
        text += mine.replace("NAME", server.name).replace("ZONE", zone)
    return text.replace("SERVICE", service)
