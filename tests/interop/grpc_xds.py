"""gRPC's own xDS client against Portolan's xDS server: `xds:///` without any proxy.

Proves that
- the target's listener, routes, cluster and endpoints are taken without a NACK;
- calls are spread over the ready endpoints of the service and reach nobody else;
- unary, server-streaming and bidirectional calls work;
- an endpoint that is taken out gets no more calls, with no call failing meanwhile and with a
  stream that was on it running to its end; put back in, it gets its share again;
- with every endpoint gone calls fail at once and do not hang; one that comes back is used.
"""

import contextlib
import os
import sys

sys.dont_write_bytecode = True
import bootstraps
import echo_stubs
import kit
import shop

NODE = "interop-grpc"
TARGET = "greeter.shop.svc.cluster.local:50051"


def main():
    args = shop.arguments(__doc__)
    options = ["--server", args.xds, "--node-id", NODE]
    os.environ["GRPC_XDS_BOOTSTRAP_CONFIG"] = bootstraps.made("grpc", *options)
    import grpc

    kit.say(f"gRPC {grpc.__version__}")
    portolan = kit.Portolan(args.admin)
    greeter = args.dir / "greeter.yaml"
    with contextlib.ExitStack() as stack:
        messages, services = stack.enter_context(echo_stubs.generated(args.proto))
        channel = stack.enter_context(grpc.insecure_channel(f"xds:///{TARGET}"))
        echo = services.EchoStub(channel)
        once = lambda: echo_stubs.say_once(echo, messages)

        streams_work(echo, messages)
        with kit.Pump("Say", once) as calls:
            calls.reaches(shop.GREETER)
            portolan.expect_content(NODE)

            stream = stream_on("greeter-1", echo, messages)
            kit.set_ready(greeter, "greeter-1", False)
            calls.reaches({"greeter-2"})
            rest = [reply.endpoint for reply in stream]
            kit.expect(set(rest) == {"greeter-1"}, f"the stream went on as {rest}")
            kit.say(f"  a stream on greeter-1 ran to its end ({len(rest)} replies)")

            kit.set_ready(greeter, "greeter-1", True)
            calls.reaches(shop.GREETER)
        kit.say(f"  {calls.unharmed()} calls, none failed")

        kit.set_ready(greeter, "greeter-1", False)
        kit.set_ready(greeter, "greeter-2", False)
        fails_as("all endpoints gone", grpc, once)
        kit.set_ready(greeter, "greeter-2", True)
        request = messages.SayRequest(text="ahoy")
        reply = echo.Say(request, timeout=kit.DEADLINE_SECS, wait_for_ready=True)
        kit.expect(reply.endpoint == "greeter-2", f"the reply is {reply}")
        kit.say("  an endpoint that came back is used")
        portolan.expect_content(NODE)


def streams_work(echo, messages):
    """Server streaming and both ways, each to its end."""
    # The first call of the channel: resolving is part of what is waited for.
    count = messages.CountRequest(text="wave", count=5)
    replies = list(echo.Count(count, timeout=kit.DEADLINE_SECS, wait_for_ready=True))
    texts = [reply.text for reply in replies]
    kit.expect(texts == [f"wave {n}" for n in range(1, 6)], f"Count answered {texts}")
    who = {reply.endpoint for reply in replies}
    kit.expect(who <= shop.GREETER, f"Count was answered by {who}")
    requests = [messages.SayRequest(text=text) for text in ("fore", "aft")]
    texts = [reply.text for reply in echo.Chat(iter(requests), timeout=kit.REQUEST_SECS)]
    kit.expect(texts == ["fore", "aft"], f"Chat answered {texts}")
    kit.say("  Count and Chat: streams complete")


def stream_on(endpoint, echo, messages):
    """A stream of a few seconds that this endpoint answers, its first reply read."""
    request = messages.CountRequest(text="wave", count=10, interval_ms=300)
    found = []

    def begin():
        stream = echo.Count(request, timeout=kit.DEADLINE_SECS)
        if next(stream).endpoint == endpoint:
            found.append(stream)
        else:
            stream.cancel()
        return found

    kit.wait_until(f"a stream on {endpoint}", begin)
    return found[0]


def fails_as(what, grpc, once):
    """Waits until calls fail, and checks that it is with UNAVAILABLE, not by their deadline."""
    errors = []

    def failing():
        try:
            once()
        except grpc.RpcError as error:
            errors.append(error)
        return errors

    kit.wait_until(f"calls fail with {what}", failing)
    kit.expect(errors[0].code() == grpc.StatusCode.UNAVAILABLE, f"{what}: {errors[0]}")
    kit.say(f"  {what}: UNAVAILABLE, {errors[0].details()!r}")


if __name__ == "__main__":
    kit.run(main)
