"""The plain API as Python sees it: the example of examples/python, health and reflection.

Proves that
- the example prints the endpoints of a service and each change of them, and ends with a clear word
  when it is asked for something that is no service;
- a watch tells of a service that comes and goes, and of a heartbeat when nothing changes;
- health answers SERVING for each service and for the whole, and reflection lists what is served and
  gives the descriptors of it.
"""

import queue
import subprocess
import sys
import threading
from pathlib import Path

sys.dont_write_bytecode = True
import kit
import shop

EXAMPLE = Path(__file__).resolve().parents[2] / "examples/python/watch_endpoints.py"
SERVICE = "portolan.v1.Endpoints"
ADS = "envoy.service.discovery.v3.AggregatedDiscoveryService"


class Example:
    """A running example, and the lines it prints."""

    def __init__(self, *args):
        command = [sys.executable, str(EXAMPLE), *args]
        self._process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self._lines = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        for line in self._process.stdout:
            self._lines.put(line.rstrip("\n"))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.kill()
        self._process.wait()

    def line(self):
        """The next line it prints."""
        try:
            return self._lines.get(timeout=kit.DEADLINE_SECS)
        except queue.Empty:
            raise kit.Failed(f"the example says nothing: {self._process.poll()}") from None

    def endpoints(self):
        """The pods of the next set it prints."""
        head = self.line()
        kit.expect(head.endswith(" endpoints"), f"the example says {head!r}")
        lines = [self.line() for _ in range(int(head.split()[-2]))]
        return {line.split()[1] for line in lines}


def main():
    args = shop.arguments(__doc__)
    follows_changes(args)
    once(args)
    comes_and_goes(args)
    health(args.xds)
    reflection(args.xds)


def follows_changes(args):
    greeter = args.dir / "greeter.yaml"
    with Example("greeter.shop:50051", "--control", args.xds) as example:
        kit.expect(example.endpoints() == shop.GREETER, "the first set is not all of greeter")
        kit.set_ready(greeter, "greeter-1", False)
        kit.expect(example.endpoints() == {"greeter-2"}, "greeter-1 is still there")
        kit.set_ready(greeter, "greeter-1", True)
        kit.expect(example.endpoints() == shop.GREETER, "greeter-1 is not back")
    kit.say("  the example follows an endpoint out and in")


def once(args):
    def said(service):
        command = [sys.executable, str(EXAMPLE), service, "--control", args.xds, "--once"]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=kit.DEADLINE_SECS, check=False
        )
        return done.returncode, (done.stdout + done.stderr).strip()

    code, text = said("web.shop")
    kit.expect(code == 0 and "3 endpoints" in text, f"web.shop: {code} {text}")
    for service, expected in [
        ("web.shop:81", "NOT_FOUND: shop/web has no port 81; it has 80 (http)"),
        ("web", "INVALID_ARGUMENT: service: \"web\" is not NAME.NAMESPACE"),
    ]:
        code, text = said(service)
        kit.expect(code == 1 and text.startswith(expected), f"{service}: {code} {text}")
    kit.say("  what is missing is said in words")


def comes_and_goes(args):
    pier = args.dir / "pier.yaml"
    with Example("pier.shop", "--control", args.xds) as example:
        line = example.line()
        kit.expect("no service shop/pier in generation" in line, f"the example says {line!r}")
        kit.write(pier, shop.pier(args.dir))
        kit.expect(example.endpoints() == shop.WEB, "pier does not have web's endpoints")
        pier.unlink()
        line = example.line()
        kit.expect("no service shop/pier in generation" in line, f"the example says {line!r}")
    kit.say("  a watch tells of a service that comes and goes")


def health(address):
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    with grpc.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for service in ("", SERVICE, ADS):
            request = health_pb2.HealthCheckRequest(service=service)
            answer = stub.Check(request, timeout=kit.REQUEST_SECS)
            serving = health_pb2.HealthCheckResponse.SERVING
            kit.expect(answer.status == serving, f"health of {service!r} is {answer}")
    kit.say("  health: SERVING")


def reflection(address):
    import grpc
    from google.protobuf.descriptor_pool import DescriptorPool
    from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
        ProtoReflectionDescriptorDatabase,
    )

    with grpc.insecure_channel(address) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        listed = set(database.get_services())
        expected = {SERVICE, "grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection"}
        kit.expect(expected <= listed, f"reflection lists {sorted(listed)}")
        service = DescriptorPool(database).FindServiceByName(SERVICE)
        methods = [method.name for method in service.methods]
        kit.expect(methods == ["Resolve", "Watch"], f"{SERVICE} has {methods}")
    kit.say(f"  reflection lists {sorted(listed)}")


if __name__ == "__main__":
    kit.run(main)
