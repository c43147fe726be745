"""Our Echo with gRPC for Python, for tests/interop/grpc_clients.py: a client whose target, or a
server whose listener, comes over xDS. grpc_process.py says what stands in the lines.

    python grpc_echo.py call TARGET ROOT_OF_OUR_PROTO_FILES
    python grpc_echo.py serve ADDRESS ROOT_OF_OUR_PROTO_FILES
"""

import concurrent.futures
import json
import sys

sys.dont_write_bytecode = True
import echo_stubs
import grpc
import grpc.experimental


def main():
    word, at, proto = sys.argv[1:]
    with echo_stubs.generated(proto) as (messages, services):
        {"call": call, "serve": serve}[word](at, messages, services)


def call(target, messages, services):
    """A call for each line."""
    # As the control plane has it, and in the clear where that says nothing.
    clear = grpc.experimental.insecure_channel_credentials()
    credentials = grpc.xds_channel_credentials(clear) if target.startswith("xds:") else clear
    with grpc.secure_channel(target, credentials) as channel:
        echo = services.EchoStub(channel)
        tell(peer=f"grpcio {grpc.__version__}")
        for line in sys.stdin:
            word, limit_ms = line.split()
            request, timeout = messages.SayRequest(text="ahoy"), int(limit_ms) / 1000
            try:
                reply = echo.Say(request, timeout=timeout, wait_for_ready=word == "wait")
            except grpc.RpcError as error:
                tell(code=error.code().name, message=error.details())
            else:
                tell(text=reply.text, endpoint=reply.endpoint)


def serve(address, messages, services):
    """Serves until its input ends."""

    class Echo(services.EchoServicer):
        def Say(self, request, context):
            return messages.SayReply(text=request.text, endpoint=address)

    server = grpc.server(concurrent.futures.ThreadPoolExecutor(max_workers=4), xds=True)
    services.add_EchoServicer_to_server(Echo(), server)
    credentials = grpc.xds_server_credentials(grpc.insecure_server_credentials())
    server.add_secure_port(address, credentials)
    server.start()
    tell(peer=f"grpcio {grpc.__version__}")
    sys.stdin.read()
    server.stop(None).wait()


def tell(**line):
    """One line of JSON."""
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
