"""Real Envoys, one with each variant of xDS, and gRPC for Python as the control plane sees them:
`portolan get clients`, `portolan wait` and a resource that Envoy refuses.

Proves that
- `get clients` names each with its software, its variant and the generation it has;
- after an edit `wait` returns once all have it: each Envoy has the endpoints then, not later;
- a cluster put in by hand that Envoy cannot take (`portolan raw put`) is shown as refused, with
  Envoy's words, by those that were sent it alone, while traffic goes on and other changes, of
  clusters too, still arrive, and `wait` does not take it for having everything;
- it is shown no more once it is taken out.
"""

import argparse
import contextlib
import json
import re
import sys
import tempfile
from pathlib import Path

sys.dont_write_bytecode = True
import bootstraps
import control_process
import echo_server
import envoy_process
import grpc_process
import harbour
import kit

TARGET = "xds:///ferry.shop.svc.cluster.local:50051"
# Node and protocol of each.
ENVOYS = {"interop-sotw": "ads sotw", "interop-delta": "ads delta"}
GRPC = "interop-grpc"
CLUSTER = "harbour/pier:80"
# A Cluster named so (field 1), of type EDS (field 2), that does not say where its endpoints come
# from.
BAD = "bad"
BAD_CLUSTER = b"\x0a\x03bad\x10\x03"
WORDS = "cannot create an EDS cluster without an EDS config"


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--proto", required=True, type=Path, help="root of our .proto files")
    return parser.parse_args()


def main():
    proto = arguments().proto
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        manifest = stack.enter_context(harbour.running(folder))
        server = stack.enter_context(echo_server.running(proto, "ferry-1", "127.78.0.5"))
        kit.write(folder / "ferry.yaml", echo_server.manifest("ferry", {"zone-1": server}))
        options = ["--http", "127.0.0.1:0", "--set", "xds.raw_resources=on"]
        control = stack.enter_context(control_process.running(folder, *options))
        envoys = [started(stack, control, node) for node in ENVOYS]
        config = bootstraps.made("grpc", "--server", control.xds, "--node-id", GRPC)
        running = grpc_process.running("python", "call", TARGET, proto, config)
        client = stack.enter_context(running)
        client.wait()

        pumps = [kit.Pump(envoy.node, envoy.once) for envoy in envoys]
        pumps.append(kit.Pump("Say", client.say))
        for pump in pumps:
            stack.enter_context(pump)
        are_listed(control)
        for ready in (False, True):
            waited_for(control, envoys, manifest, ready)
        refused(control, envoys, manifest, folder)
        kit.say(f"  {sum(pump.unharmed() for pump in pumps)} requests and calls, none failed")


class Started:
    """A running Envoy, and one request through it."""

    def __init__(self, envoy, node, once):
        self.envoy = envoy
        self.node = node
        self.once = once


def started(stack, control, node):
    options = ["--delta"] if ENVOYS[node].endswith("delta") else []
    envoy = stack.enter_context(envoy_process.running(control.xds, *options, node=node))
    at = kit.wait_until("the http listener is bound", lambda: envoy.listener("http"))
    return Started(envoy, node, stack.enter_context(kit.http_client(at, harbour.HOST)))


def clients(control):
    """What is listed, by node."""
    return {row["node"]: row for row in control.listed("clients")}


def are_listed(control):
    """Each as it is."""
    found = {node: row["protocol"] for node, row in clients(control).items()}
    kit.expect(found == {**ENVOYS, GRPC: "ads sotw"}, f"clients: {found}")
    agents = {node: row["agent"] for node, row in clients(control).items()}
    for node, agent in agents.items():
        begin = "envoy 1." if node in ENVOYS else "gRPC C-core"
        kit.expect(agent.startswith(begin), f"{node} is {agent}")
    kit.say(f"  listed: {agents}")


def waited_for(control, envoys, manifest, ready):
    """An edit, `wait`, and at once a look at what the Envoys have."""
    before = generation(control)
    kit.set_ready(manifest, "pier-1", ready)
    newer = lambda: generation(control) > before
    kit.wait_until("the edit is published", newer)
    said = control.ask("wait", "--service", "harbour/pier", "--timeout", kit.DEADLINE_SECS)
    # The first look counts: whoever waited need not wait again.
    found = {e.node: len(e.envoy.endpoints(CLUSTER)) for e in envoys}
    expected = dict.fromkeys(ENVOYS, 2 if ready else 1)
    kit.expect(found == expected, f"wait said {said!r}, and endpoints by Envoy are {found}")
    behind = {n: r["generation"] for n, r in clients(control).items() if r["generation"] <= before}
    kit.expect(not behind, f"wait said {said!r}, and these are behind: {behind}")
    kit.say(f"  waited: {said.strip()}")


def generation(control):
    """The newest that was published: `wait` names it at once."""
    ended = control.ask("wait", "--timeout", kit.DEADLINE_SECS)
    return int(re.match(r"generation (\d+):", ended)[1])


def refusing(control):
    """Clients that refuse a cluster, with their words."""
    types = {node: row["types"].get("cds", {}) for node, row in clients(control).items()}
    return {node: cds["nacked"] for node, cds in types.items() if cds.get("refused")}


def refused(control, envoys, manifest, folder):
    """A cluster that Envoy cannot take comes, stays and goes."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(BAD_CLUSTER)
        file.flush()
        control.ask("raw", "put", "cds", BAD, file.name)
    state = lambda: json.dumps(control.listed("clients"))
    is_shown = lambda: refusing(control).keys() == ENVOYS.keys()
    kit.wait_until("both Envoys are shown to refuse it", is_shown, state)
    for node, words in refusing(control).items():
        kit.expect(WORDS in words and BAD in words, f"{node} says {words!r}")
        kit.say(f"  {node} refuses: {words}")

    kit.set_ready(manifest, "pier-2", False)
    kit.write(folder / "more.yaml", harbour.idle(1))
    for envoy in (e.envoy for e in envoys):
        fewer = lambda: len(envoy.endpoints(CLUSTER)) == 1
        kit.wait_until("fewer endpoints arrive", fewer)
        new = lambda: "harbour/quay-0:80" in envoy.clusters()
        kit.wait_until("a new cluster arrives", new)
        kit.expect(BAD not in envoy.clusters(), f"Envoy has {BAD}")
    kit.expect(is_shown(), f"it is shown no more: {state()}")
    said = control.ask("wait", "--timeout", 1, code=1)
    named = [node for node in (*ENVOYS, GRPC) if node in said]
    kit.expect(named == list(ENVOYS), f"wait names {named}: {said}")
    kit.say("  " + said.strip().replace("\n", "\n  "))
    nacks = control.portolan().metric("portolan_xds_nacks_total")

    control.ask("raw", "remove", "cds", BAD)
    kit.wait_until("nobody refuses anything", lambda: not refusing(control), state)
    control.ask("wait", "--timeout", kit.DEADLINE_SECS)
    after = control.portolan().metric("portolan_xds_nacks_total")
    kit.expect(after == nacks, f"NACKs went on: {nacks:.0f}, then {after:.0f}")


if __name__ == "__main__":
    kit.run(main)
