"""Prints the endpoints of a service and follows them: Portolan's plain API from Python.

With Portolan running (`cargo run --release -- demo`), from the root of the repository:

    python3 -m venv venv
    venv/bin/pip install grpcio grpcio-tools
    venv/bin/python examples/python/watch_endpoints.py web.shop:80

The stubs are made from proto/portolan/v1/endpoints.proto when the program starts; a program of your
own would rather make them once:

    python -m grpc_tools.protoc -Iproto --python_out=. --grpc_python_out=. \
        portolan/v1/endpoints.proto

While the control plane is away, the endpoints printed last stay in force, and it is asked again with
growing pauses.
"""

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

import grpc

PROTO = Path(__file__).resolve().parents[2] / "proto"
FILE = "portolan/v1/endpoints.proto"
# How often to hear from the control plane when nothing changes.
HEARTBEAT_SECS = 10
# Pauses before asking again.
PAUSE_FIRST_SECS, PAUSE_LIMIT_SECS = 0.1, 10
# What only the caller can put right.
REFUSALS = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.UNIMPLEMENTED,
)
# Probes of an idle connection, so that a control plane that is gone without a word is noticed.
CHANNEL_OPTIONS = [("grpc.keepalive_time_ms", 20_000), ("grpc.keepalive_timeout_ms", 10_000)]


def stubs():
    """The messages and services of the plain API."""
    from grpc_tools import protoc

    out = tempfile.mkdtemp(prefix="portolan-stubs-")
    code = protoc.main(
        ["protoc", f"-I{PROTO}", f"--python_out={out}", f"--grpc_python_out={out}", FILE]
    )
    if code != 0:
        sys.exit(f"protoc ended with {code}")
    sys.path.insert(0, out)
    from portolan.v1 import endpoints_pb2, endpoints_pb2_grpc

    return endpoints_pb2, endpoints_pb2_grpc


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("service", help="such as web.shop, web.shop.svc.cluster.local:80")
    parser.add_argument("--control", default="127.0.0.1:15010", help="address of the xDS server")
    parser.add_argument("--node", default="", help="Kubernetes node this client runs on")
    parser.add_argument("--zone", default="", help="zone this client runs in")
    parser.add_argument("--once", action="store_true", help="print them once")
    args = parser.parse_args()
    messages, services = stubs()
    client = messages.Client(id="watch_endpoints.py", node=args.node, zone=args.zone)
    with grpc.insecure_channel(args.control, options=CHANNEL_OPTIONS) as channel:
        endpoints = services.EndpointsStub(channel)
        if args.once:
            once(endpoints, messages.ResolveRequest(service=args.service, client=client))
        else:
            follow(endpoints, messages, args.service, client)


def once(endpoints, request):
    """Prints the endpoints as they are now."""
    try:
        response = endpoints.Resolve(request, timeout=5)
    except grpc.RpcError as error:
        sys.exit(f"{error.code().name}: {error.details()}")
    show(response.generation, {key(e.address): e for e in response.endpoints})


def follow(endpoints, messages, service, client):
    """Prints the endpoints whenever they change, without end."""
    request = messages.WatchRequest(
        service=service, client=client, heartbeat_secs=HEARTBEAT_SECS
    )
    pause, shown = PAUSE_FIRST_SECS, None
    while True:
        known = {}
        try:
            for response in endpoints.Watch(request):
                pause = PAUSE_FIRST_SECS
                apply(known, response)
                # A step that is too large for one response comes in several.
                if response.more or response.WhichOneof("kind") == "heartbeat":
                    continue
                if response.WhichOneof("kind") == "absent":
                    print(f"generation {response.generation}: {response.absent.message}", flush=True)
                elif known != shown:
                    show(response.generation, known)
                shown = dict(known)
            reason = "the stream ended"
        except grpc.RpcError as error:
            reason = f"{error.code().name}: {error.details()}"
            if shown is None and error.code() in REFUSALS:
                sys.exit(reason)
        print(f"no control plane ({reason}); what was known stays in force", flush=True)
        # Jittered, so that many clients do not come back together.
        time.sleep(pause * random.uniform(0.5, 1))
        pause = min(2 * pause, PAUSE_LIMIT_SECS)


def apply(known, response):
    """Brings a set up to date with one response of a watch."""
    kind = response.WhichOneof("kind")
    if kind in ("full", "absent"):
        known.clear()
    if kind == "full":
        known.update((key(e.address), e) for e in response.full.endpoints)
    elif kind == "delta":
        known.update((key(e.address), e) for e in response.delta.upserted)
        for gone in response.delta.removed:
            known.pop(key(gone), None)


def key(address):
    """An address as text."""
    ip = f"[{address.ip}]" if ":" in address.ip else address.ip
    return f"{ip}:{address.port}"


def show(generation, known):
    """One line per set, one line per endpoint."""
    print(f"generation {generation}: {len(known)} endpoints", flush=True)
    for address, endpoint in sorted(known.items()):
        about = [endpoint.pod, endpoint.node, endpoint.zone]
        print(f"  {address} {' '.join(filter(None, about))}".rstrip(), flush=True)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        pass
