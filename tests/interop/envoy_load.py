"""Real Envoys, one with each variant of xDS, and gRPC for Python report their load (LRS).

Proves that
- `portolan get load` shows the requests of all of them, by service and zone, a few intervals after
  they began: as many as they made, and none of them failed.
"""

import argparse
import contextlib
import sys
import tempfile
import time
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
SETTINGS = ("xds.load_reports=on", "xds.load_report_interval_secs=1")
# Rates are of the client's last interval, and clients are not steady.
LEAST_SHARE, MOST_SHARE = 1 / 3, 3


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--proto", required=True, type=Path, help="root of our .proto files")
    return parser.parse_args()


def main():
    proto = arguments().proto
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.enter_context(harbour.running(folder))
        server = stack.enter_context(echo_server.running(proto, "ferry-1", "127.78.0.4"))
        kit.write(folder / "ferry.yaml", echo_server.manifest("ferry", {"zone-1": server}))
        settings = [word for setting in SETTINGS for word in ("--set", setting)]
        running = control_process.running(folder, "--http", "127.0.0.1:0", *settings)
        control = stack.enter_context(running)
        requests = [through_envoy(stack, control, options) for options in ([], ["--delta"])]
        calls = kit.Pump("Say", over_grpc(stack, control, proto))
        started = time.monotonic()
        with requests[0], requests[1], calls:
            both = {("harbour/pier:80", f"zone-{number}") for number in (1, 2)}
            reported(control, both, requests, started, reporters=2)
            reported(control, {("shop/ferry:50051", "zone-1")}, [calls], started, reporters=1)
        control.portolan().expect_content("interop-load-grpc")


def through_envoy(stack, control, options):
    """Requests through an Envoy of this variant that reports."""
    node = f"interop-load{''.join(options)}"
    running = envoy_process.running(control.xds, "--load-reports", *options, node=node)
    envoy = stack.enter_context(running)
    at = kit.wait_until("the http listener is bound", lambda: envoy.listener("http"))
    return kit.Pump(node, stack.enter_context(kit.http_client(at, harbour.HOST)))


def over_grpc(stack, control, proto):
    """A call by gRPC, which reports wherever clusters say so."""
    config = bootstraps.made("grpc", "--server", control.xds, "--node-id", "interop-load-grpc")
    running = grpc_process.running("python", "call", TARGET, proto, config)
    client = stack.enter_context(running)
    client.wait()
    return client.say


def reported(control, places, pumps, started, reporters):
    """Waits until these clusters and zones, and they alone of their cluster, show about the rate
    of the requests made."""
    clusters = {cluster for cluster, _ in places}
    rows = {}

    def made_per_sec():
        return sum(pump.unharmed() for pump in pumps) / (time.monotonic() - started)

    def shown():
        rows.clear()
        for row in control.listed("load"):
            if row["cluster"] in clusters:
                rows[row["cluster"], row["zone"]] = row
        if rows.keys() != places or any(row["reporters"] != reporters for row in rows.values()):
            return False
        rate = sum(row["requestsPerSec"] for row in rows.values())
        return LEAST_SHARE <= rate / made_per_sec() <= MOST_SHARE

    kit.wait_until(f"{sorted(places)} are reported", shown, lambda: str(rows), every_secs=0.2)
    failed = {place: row["errorPercent"] for place, row in rows.items() if row["errorPercent"]}
    kit.expect(not failed, f"errors are reported: {failed}")
    rate = sum(row["requestsPerSec"] for row in rows.values())
    kit.say(f"  {sorted(places)}: {rate:.0f}/s reported, {made_per_sec():.0f}/s made")


if __name__ == "__main__":
    kit.run(main)
