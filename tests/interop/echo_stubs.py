"""Stubs of portolan.demo.v1.Echo, made from our .proto file at run time."""

import contextlib
import sys
import tempfile

import kit

FILE = "portolan/demo/v1/echo.proto"


@contextlib.contextmanager
def generated(proto):
    """Messages and services of the file, given the root of our .proto files."""
    from grpc_tools import protoc

    with tempfile.TemporaryDirectory() as out:
        code = protoc.main(
            ["protoc", f"-I{proto}", f"--python_out={out}", f"--grpc_python_out={out}", FILE]
        )
        kit.expect(code == 0, f"protoc ended with {code}")
        sys.path.insert(0, out)
        from portolan.demo.v1 import echo_pb2, echo_pb2_grpc

        yield echo_pb2, echo_pb2_grpc
        sys.path.remove(out)


def say_once(echo, messages):
    """One call; the endpoint that answered. It does not wait for readiness: a moment without an
    endpoint is to fail it."""
    reply = echo.Say(messages.SayRequest(text="ahoy"), timeout=kit.REQUEST_SECS)
    kit.expect(reply.text == "ahoy", f"the reply is {reply}")
    return reply.endpoint


@contextlib.contextmanager
def client(proto, address, authority):
    """A function that makes one call through a proxy and returns who answered."""
    import grpc

    options = [("grpc.default_authority", authority)]
    with generated(proto) as (messages, services):
        with grpc.insecure_channel(address, options=options) as channel:
            echo = services.EchoStub(channel)
            yield lambda: say_once(echo, messages)
