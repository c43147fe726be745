"""A real Envoy whose control plane is killed and comes back, in the state of the world or, with
--delta, in the delta variant. Portolan runs as `portolan control` alone, over a service whose
backends are in this script, so that nothing else dies with it.

Proves that
- traffic goes on, without a failed request, while the control plane is gone (SIGKILL: no goodbye);
- when it is back, under the same address and with the same manifests, Envoy takes up where it was:
  nothing it had is dropped or built anew, every version is the same, and next to nothing is sent
  by delta, in the state of the world no listeners and clusters;
- a change made while it was away is made up for, and the next one is followed;
- without --delta, that it may also be told to stop (SIGTERM) with the same outcome.
"""

import argparse
import contextlib
import signal
import sys
import tempfile
from pathlib import Path

sys.dont_write_bytecode = True
import control_process
import envoy_process
import harbour
import kit

# How Envoy words it that its control plane went away; it is to notice.
GONE = "gRPC config stream to portolan closed"
# Services beside the one that is called, so that everything is much more than answers without it.
MORE_SERVICES = 50
# Of what Envoy was sent at first, the part that it may be sent when it resumes: an answer to each
# type's first request, and the frames of HTTP/2; in the state of the world its endpoints and routes,
# which a client may have dropped since.
RESUMED_SHARE = {"delta": 0.1, "sotw": 0.6}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    envoy_process.variant(parser)
    return parser.parse_args()


def main():
    variant = arguments().variant
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        manifest = stack.enter_context(harbour.running(folder))
        kit.write(folder / "more.yaml", harbour.idle(MORE_SERVICES))
        running = control_process.running(folder, "--http", "127.0.0.1:0")
        control = stack.enter_context(running)
        envoy = stack.enter_context(envoy_process.running(control.xds, *variant))
        at = kit.wait_until("the http listener is bound", lambda: envoy.listener("http"))
        once = stack.enter_context(kit.http_client(at, harbour.HOST))
        requests = stack.enter_context(kit.Pump("HTTP", once))
        requests.reaches(harbour.ALL)
        control.portolan().expect_content(envoy_process.NODE)
        first = envoy.received()

        # The variants end alike; one run of both endings is enough.
        for ending in (signal.SIGKILL,) if variant else (signal.SIGKILL, signal.SIGTERM):
            share = RESUMED_SHARE["delta" if variant else "sotw"]
            outage(control, envoy, requests, ending, at, first * share)
            away_and_back(control, envoy, requests, manifest, ending)
        kit.say(f"  {requests.unharmed()} requests, none failed")
        envoy.expect_content(excused=GONE)


def outage(control, envoy, requests, ending, at, most):
    """The control plane goes and comes back; nothing has changed."""
    goes_away(control, envoy, ending)
    requests.reaches(harbour.ALL)
    before, received = held(envoy), envoy.received()
    control.start()
    comes_back(control, envoy)
    requests.reaches(harbour.ALL)
    kit.expect(held(envoy) == before, f"built anew: {before}, then {held(envoy)}")
    kit.expect(envoy.listener("http") == at, f"the listener moved to {envoy.listener('http')}")
    received = envoy.received() - received
    little = received <= most
    kit.expect(little, f"Envoy was sent {received} octets though it had all, {most:.0f} are fine")
    sent = control.portolan().metric("portolan_xds_responses_total")
    kit.say(f"  nothing built anew; {sent:.0f} responses, {received} octets")


def away_and_back(control, envoy, requests, manifest, ending):
    """An endpoint leaves while the control plane is away, and returns when it is back."""
    goes_away(control, envoy, ending)
    kit.set_ready(manifest, "pier-1", False)
    # Nobody tells Envoy: both still answer.
    requests.reaches(harbour.ALL)
    control.start()
    comes_back(control, envoy)
    requests.reaches({"pier-2"})
    kit.set_ready(manifest, "pier-1", True)
    requests.reaches(harbour.ALL)


def goes_away(control, envoy, ending):
    """The control plane ends, and Envoy has tried in vain to reach it."""
    control.end(ending)
    kit.wait_until("Envoy has noticed", lambda: not envoy.connected())
    failed = lambda: envoy.stats(r"^cluster\.portolan\.upstream_cx_connect_fail$").popitem()[1]
    enough = failed() + 3
    kit.wait_until("Envoy has tried to connect again", lambda: failed() >= enough)
    kit.say(f"  control plane ended by {ending.name}; Envoy failed to reach it {enough} times")


def comes_back(control, envoy):
    """Envoy finds the new control plane and takes what it says."""
    kit.wait_until("Envoy has connected again", envoy.connected)
    control.portolan().expect_content(envoy_process.NODE, resumed=True)


def held(envoy):
    """Counters that rise when a listener or cluster is made, changed or dropped, what warms, and
    the version of all that it holds."""
    kinds = r"(cluster_manager\.cluster|listener_manager\.listener)_(added|modified|removed)$"
    warming = r"(warming_clusters|total_listeners_warming)$"
    return envoy.stats(f"{kinds}|{warming}"), envoy.versions()


if __name__ == "__main__":
    kit.run(main)
