"""gRPC's own xDS client and the routes of a service: `xds:///` without any proxy, against a
`portolan control` of its own.

Proves that
- a GRPCRoute whose parent is the Service sends calls by method and metadata, and by weight;
- a call that no rule matches fails as UNAVAILABLE;
- an HTTPRoute of the Service does the same by the prefix of the path;
- a changed route takes effect, and with the route gone the service's own endpoints are called; no
  call fails meanwhile, and nothing is refused.
"""

import argparse
import collections
import contextlib
import os
import sys
import tempfile
from pathlib import Path

sys.dont_write_bytecode = True
import bootstraps
import control_process
import echo_server
import echo_stubs
import kit

NODE = "interop-grpc-routes"
TARGET = "xds:///NAME.shop.svc.cluster.local:50051"
# Enough that a share of one in four is told from one in two and from none.
CALLS = 800
ROUTE = """\
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {name: hail, namespace: shop}
spec:
  parentRefs: [{kind: Service, group: "", name: hail, port: 50051}]
  rules:
    - matches:
        - method: {service: portolan.demo.v1.Echo, method: Say}
          headers: [{name: x-tier, value: gold}]
      backendRefs: [{name: second, port: 50051}]
    - matches:
        - method: {service: portolan.demo.v1.Echo, method: Say}
      backendRefs:
        - {name: first, port: 50051, weight: 3}
        - {name: second, port: 50051, weight: 1}
"""
SIGNAL = """\
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: signal, namespace: shop}
spec:
  parentRefs: [{kind: Service, group: "", name: signal, port: 50051}]
  rules:
    - matches: [{path: {type: PathPrefix, value: /portolan.demo.v1.Echo}}]
      backendRefs: [{name: second, port: 50051}]
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--proto", required=True, type=Path, help="root of our .proto files")
    proto = parser.parse_args().proto
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for number, service in enumerate(("first", "second", "hail", "signal"), start=1):
            running = echo_server.running(proto, f"{service}-1", f"127.78.1.{number}")
            server = stack.enter_context(running)
            text = echo_server.manifest(service, {"zone-1": server})
            kit.write(folder / f"{service}.yaml", text)
        route = folder / "hail-route.yaml"
        kit.write(route, ROUTE)
        kit.write(folder / "signal-route.yaml", SIGNAL)
        control = stack.enter_context(control_process.running(folder))
        options = ["--server", control.xds, "--node-id", NODE]
        os.environ["GRPC_XDS_BOOTSTRAP_CONFIG"] = bootstraps.made("grpc", *options)
        import grpc

        messages, services = stack.enter_context(echo_stubs.generated(proto))

        def stub(service):
            channel = grpc.insecure_channel(TARGET.replace("NAME", service))
            return services.EchoStub(stack.enter_context(channel))

        hail, signal = stub("hail"), stub("signal")
        by_weight(hail, messages)
        answers = counted(hail, messages, (("x-tier", "gold"),))
        kit.expect(set(answers) == {"second-1"}, f"with the metadata: {answers}")
        kit.say("  a call goes by its metadata")
        unmatched(grpc, hail, messages)
        answers = counted(signal, messages)
        kit.expect(set(answers) == {"second-1"}, f"by the prefix: {answers}")
        kit.say("  an HTTPRoute of a service goes by the prefix of the path")

        once = lambda: echo_stubs.say_once(hail, messages)
        with kit.Pump("Say", once) as calls:
            calls.reaches({"first-1", "second-1"})
            kit.edit(route, lambda text: text.replace("weight: 1", "weight: 0"))
            calls.reaches({"first-1"})
            route.unlink()
            calls.reaches({"hail-1"})
            kit.write(route, ROUTE)
            calls.reaches({"first-1", "second-1"})
        kit.say(f"  {calls.unharmed()} calls, none failed")
        control.portolan().expect_content(NODE)


def counted(echo, messages, metadata=()):
    """Who answered some calls, and how many of them."""
    request = messages.SayRequest(text="ahoy")
    answers = (
        echo.Say(request, timeout=kit.DEADLINE_SECS, wait_for_ready=True, metadata=metadata)
        for _ in range(CALLS)
    )
    return collections.Counter(answer.endpoint for answer in answers)


def by_weight(echo, messages):
    """Three of four calls go to the first. Of 800 calls the share strays by more than 7 % once in
    200,000 runs (4.6 standard deviations)."""
    answers = counted(echo, messages)
    share = answers["first-1"] / CALLS
    kit.expect(set(answers) == {"first-1", "second-1"}, f"answered: {answers}")
    kit.expect(abs(share - 0.75) < 0.07, f"the first has {share:.3f} of the calls, not 0.75")
    kit.say(f"  by weight 3 to 1: {dict(sorted(answers.items()))}")


def unmatched(grpc, echo, messages):
    """A call of a method that no rule names."""
    try:
        request = messages.CountRequest(text="wave", count=1)
        replies = list(echo.Count(request, timeout=kit.REQUEST_SECS))
    except grpc.RpcError as error:
        kit.expect(error.code() == grpc.StatusCode.UNAVAILABLE, f"no rule matches: {error}")
        kit.say(f"  no rule matches: UNAVAILABLE, {error.details()!r}")
        return
    raise kit.Failed(f"no rule matches, and it is answered: {replies}")


if __name__ == "__main__":
    kit.run(main)
