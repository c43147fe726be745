"""Real Envoys in two zones, one with each variant of xDS, and a service that prefers endpoints
close by (`trafficDistribution: PreferClose`).

Proves that
- each calls the endpoints of its own zone alone, the others have a lower priority;
- with none left in its zone it calls the other, and its own again once that is back; no request
  fails, and the Envoy of the other zone sees nothing of it.
"""

import contextlib
import sys
import tempfile
from pathlib import Path

sys.dont_write_bytecode = True
import control_process
import envoy_process
import harbour
import kit

# Zone, its endpoint, and what Envoy there is given.
NEAR = ("zone-1", "pier-1", [])
FAR = ("zone-2", "pier-2", ["--delta"])
CLUSTER = "harbour/pier:80"


def main():
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        spec = "  trafficDistribution: PreferClose\n"
        manifest = stack.enter_context(harbour.running(folder, spec=spec))
        running = control_process.running(folder, "--http", "127.0.0.1:0")
        control = stack.enter_context(running)
        near, far = (started(stack, control, *place) for place in (NEAR, FAR))
        with near[1] as requests, far[1] as others:
            requests.reaches({"pier-1"})
            others.reaches({"pier-2"})
            for envoy, _ in (near, far):
                kit.expect(envoy.priorities(CLUSTER) == [0, 1], f"{envoy.priorities(CLUSTER)}")
            kit.set_ready(manifest, "pier-1", False)
            requests.reaches({"pier-2"})
            others.reaches({"pier-2"})
            kit.set_ready(manifest, "pier-1", True)
            requests.reaches({"pier-1"})
            others.reaches({"pier-2"})
        kit.say(f"  {requests.unharmed() + others.unharmed()} requests, none failed")
        for (zone, _, _), (envoy, _) in zip((NEAR, FAR), (near, far)):
            control.portolan().expect_content(zone)
            envoy.expect_content()


def started(stack, control, zone, _, variant):
    """An Envoy in a zone, and the requests through it."""
    options = ["--zone", zone, *variant]
    running = envoy_process.running(control.xds, *options, node=zone)
    envoy = stack.enter_context(running)
    at = kit.wait_until("the http listener is bound", lambda: envoy.listener("http"))
    once = stack.enter_context(kit.http_client(at, harbour.HOST))
    return envoy, kit.Pump(f"HTTP in {zone}", once)


if __name__ == "__main__":
    kit.run(main)
