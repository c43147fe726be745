"""gRPC's own xDS clients, one scenario for all languages: `xds:///` without any proxy, a language's
program (grpc_process.py) told what to do.

Proves that
- the target's listener, routes, cluster and endpoints are taken without a NACK;
- calls are spread over the ready endpoints of the service and reach nobody else;
- an endpoint that is not ready, and one that drains, gets no more calls, and no call fails; put
  back in, it gets its share again;
- with every endpoint gone calls fail at once; one that comes back is used;
- calls of a target that nobody knows fail; it is found once its service is there.

With --failover, too, that
- a client whose bootstrap names its zone calls the endpoints of that zone alone while they answer,
  others once they do not, and those of the zone again when they are back; no call fails (gRFC A56).

With --server, too, that
- a gRPC server gets its listener, and serves once it has it (gRFC A36).
"""

import contextlib
import socket
import sys
import threading
import time

sys.dont_write_bytecode = True
import echo_server
import echo_stubs
import grpc
import grpc_process
import kit
import shop

TARGET = "xds:///greeter.shop.svc.cluster.local:50051"
UNKNOWN = "xds:///pier.shop.svc.cluster.local:50051"
FERRY = "xds:///ferry.shop.svc.cluster.local:50051"
# Of a listener that it does not know a control plane says nothing; a client takes that for an answer
# after 15 s. Twice that is enough on a busy machine.
UNKNOWN_SECS = 30
# What is the clients' own affair.
# gRPC for Node.js notices that there is no such listener, and lets calls wait all the same.
UNKNOWN_CODE = {"node": "DEADLINE_EXCEEDED"}
# gRPC for Java goes on to call the endpoints it had when it is told that there are none.
KEEPS_THE_LAST = {"java"}


class Scenario:
    """What its steps need."""

    def __init__(self, args, stack):
        self.folder = args.dir
        self.proto = args.proto
        self.language = args.language
        self.portolan = kit.Portolan(args.admin)
        self._xds = args.xds
        self._stack = stack

    def node(self, what):
        """A node id of this run's own."""
        return f"interop-{self.language}-{what}"

    def client(self, target, what, zone=None):
        """Starts a client of the language, which ends when the scenario does."""
        return self._program("call", target, what, zone)

    def server(self, address, what):
        """Starts a server of the language, which ends when the scenario does."""
        return self._program("serve", address, what)

    def _program(self, word, address, what, zone=None):
        config = grpc_process.bootstrap(self._xds, self.node(what), zone)
        running = grpc_process.running(self.language, word, address, self.proto, config)
        return self.during(running)

    def during(self, context):
        """Enters a context for the rest of the scenario."""
        return self._stack.enter_context(context)


def main():
    args = shop.arguments(__doc__, more=arguments)
    with contextlib.ExitStack() as stack:
        scenario = Scenario(args, stack)
        unknown = Unknown(scenario)
        endpoints_are_followed(scenario)
        if args.failover:
            failover(scenario)
        if args.server:
            server(scenario)
        unknown.is_found(scenario)


def arguments(parser):
    parser.add_argument("--language", required=True, choices=grpc_process.LANGUAGES)
    parser.add_argument("--failover", action="store_true", help="between zones, too")
    parser.add_argument("--server", action="store_true", help="a gRPC server, too")


def endpoints_are_followed(scenario):
    """Out, drained, all of them gone, and in."""
    greeter = scenario.folder / "greeter.yaml"
    client = scenario.client(TARGET, "greeter")
    kit.say(f"gRPC: {client.name}")
    who = client.wait()
    kit.expect(who in shop.GREETER, f"the first call was answered by {who}")
    with kit.Pump("Say", client.say) as calls:
        calls.reaches(shop.GREETER)
        scenario.portolan.expect_content(scenario.node("greeter"))
        kit.set_ready(greeter, "greeter-1", False)
        calls.reaches({"greeter-2"})
        kit.set_ready(greeter, "greeter-1", True)
        calls.reaches(shop.GREETER)
        kit.set_conditions(greeter, "greeter-2", ready=False, serving=False, terminating=True)
        calls.reaches({"greeter-1"})
        kit.set_conditions(greeter, "greeter-2", ready=True, serving=True, terminating=False)
        calls.reaches(shop.GREETER)
    kit.say(f"  {calls.unharmed()} calls, none failed")

    all_gone(scenario, greeter, client)
    scenario.portolan.expect_content(scenario.node("greeter"))


def all_gone(scenario, greeter, client):
    """Not one endpoint, and then one again."""
    kit.set_ready(greeter, "greeter-1", False)
    kit.set_ready(greeter, "greeter-2", False)
    if scenario.language not in KEEPS_THE_LAST:
        refused = []
        gone = lambda: fails(client, refused)
        kit.wait_until("calls fail with every endpoint gone", gone)
        kit.expect(refused[0].code == "UNAVAILABLE", f"every endpoint gone: {refused[0]}")
        kit.say(f"  every endpoint gone: {refused[0]}")
    kit.set_ready(greeter, "greeter-2", True)
    client.wait()
    with kit.Pump("Say", client.say) as calls:
        calls.reaches({"greeter-2"})
        kit.set_ready(greeter, "greeter-1", True)
        calls.reaches(shop.GREETER)


def fails(client, refused):
    """Whether a call fails; the status is kept."""
    try:
        client.say()
    except grpc_process.Refused as status:
        refused.append(status)
        return True
    return False


class Unknown:
    """A call of a target that nobody knows, beside all else, for it takes a while to fail."""

    def __init__(self, scenario):
        self._client = scenario.client(UNKNOWN, "pier")
        self._status = None
        self._took_secs = 0
        self._thread = threading.Thread(target=self._call, daemon=True)
        self._thread.start()

    def _call(self):
        started = time.monotonic()
        try:
            self._status = f"was answered by {self._client.say(UNKNOWN_SECS)}"
        except kit.Failed as error:
            self._status = error
        self._took_secs = time.monotonic() - started

    def is_found(self, scenario):
        """It has failed as it should; then the service comes."""
        self._thread.join(UNKNOWN_SECS + kit.DEADLINE_SECS)
        status = self._status
        code = UNKNOWN_CODE.get(scenario.language, "UNAVAILABLE")
        as_known = isinstance(status, grpc_process.Refused) and status.code == code
        kit.expect(as_known, f"an unknown target: {status or 'no outcome'}")
        kit.say(f"  an unknown target fails after {self._took_secs:.1f} s: {status}")
        file = scenario.folder / "pier.yaml"
        kit.write(file, shop.renamed(scenario.folder, "greeter", "pier"))
        # Not one call that waits: begun before the service is there, it finds it in Node.js alone.
        refused = []
        found = lambda: not fails(self._client, refused)
        kit.wait_until("pier is found", found, lambda: str(refused[-3:]))
        with kit.Pump("Say to pier", self._client.say) as calls:
            calls.reaches(shop.GREETER)
        scenario.portolan.expect_content(scenario.node("pier"))


def failover(scenario):
    """Near endpoints first, the rest when those do not answer."""
    near = scenario.during(echo_server.running(scenario.proto, "near", "127.78.0.1"))
    far = scenario.during(echo_server.running(scenario.proto, "far", "127.78.0.2"))
    zones = {"zone-1": near, "zone-2": far}
    kit.write(scenario.folder / "ferry.yaml", echo_server.manifest("ferry", zones))
    first = scenario.client(FERRY, "zone-1", "zone-1")
    second = scenario.client(FERRY, "zone-2", "zone-2")
    for client in (first, second):
        client.wait()
    near_calls = kit.Pump("Say in zone-1", first.say)
    with near_calls as calls, kit.Pump("Say in zone-2", second.say) as others:
        calls.reaches({"near"})
        others.reaches({"far"})
        near.stop()
        calls.reaches({"far"})
        near.start()
        calls.reaches({"near"})
        others.reaches({"far"})
    kit.say(f"  {calls.unharmed() + others.unharmed()} calls, none failed")
    for zone in zones:
        scenario.portolan.expect_content(scenario.node(zone))


def server(scenario):
    """A server whose listener comes over xDS; its clients know nothing of that."""
    address = free_address()
    program = scenario.server(address, "server")
    # A client that calls too early takes its time to connect again.
    scenario.portolan.expect_content(scenario.node("server"))
    once = scenario.during(echo_stubs.client(scenario.proto, address, "greeter.shop"))
    known = lambda: f"Client: {scenario.portolan.client(scenario.node('server'))}"
    kit.wait_until(f"{program.name} serves", lambda: answers(once), known)
    with kit.Pump("Say to the server", once) as calls:
        calls.reaches({address})
    scenario.portolan.expect_content(scenario.node("server"))


def free_address():
    """An address of the loopback that nobody has now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return "{}:{}".format(*listener.getsockname())


def answers(once):
    """Whether a call is answered."""
    try:
        return once()
    except grpc.RpcError:
        return None


if __name__ == "__main__":
    kit.run(main)
