"""A real Envoy whose way to the control plane is TLS with certificates of both sides, and whose
listeners have certificates by SDS; gRPC over the same TLS. With --delta Envoy speaks delta.

Proves that
- Envoy and gRPC reach a control plane that asks for certificates (`xds.client_certificates`), given
  what `portolan bootstrap` prints; a client that has none is turned away;
- a listener with `tls` serves HTTP/1.1 and HTTP/2 with its certificate;
- a certificate that is replaced on disk is what new connections get, without a failed request, and
  an open connection goes on;
- a listener with `client_ca` takes a client with a certificate and refuses one without.
"""

import argparse
import contextlib
import http.client
import socket
import ssl
import subprocess
import sys
import tempfile
from pathlib import Path

sys.dont_write_bytecode = True
import bootstraps
import certificates
import control_process
import echo_server
import envoy_process
import grpc_process
import harbour
import kit

CONFIG = """\
[xds]
certificate = "control"
client_certificates = "required"

[[certificates]]
name = "control"
chain = "FOLDER/control.crt"
key = "FOLDER/control.key"
trusted_ca = "FOLDER/mesh.pem"

[[certificates]]
name = "web"
chain = "FOLDER/web.crt"
key = "FOLDER/web.key"
trusted_ca = "FOLDER/visitors.pem"

[[listeners]]
name = "https"
address = "127.0.0.1:0"
protocol = "http"
tls = "web"

[[listeners]]
name = "mutual"
address = "127.0.0.1:0"
protocol = "http"
tls = "web"
client_ca = true
"""
TARGET = "xds:///ferry.shop.svc.cluster.local:50051"
GRPC_NODE = "interop-tls-grpc"


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--proto", required=True, type=Path, help="root of our .proto files")
    envoy_process.variant(parser)
    return parser.parse_args()


def main():
    args = arguments()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        manifests, secrets = folder / "manifests", folder / "secrets"
        manifests.mkdir()
        secrets.mkdir()
        # One authority for each purpose: none is taken for another.
        mesh, public, visitors = (
            certificates.Authority(secrets, name) for name in ("mesh", "public", "visitors")
        )
        mesh.issue("control")
        public.issue("web")
        config = folder / "config.toml"
        config.write_text(CONFIG.replace("FOLDER", str(secrets)))
        stack.enter_context(harbour.running(manifests))
        running = control_process.running(manifests, "--config", config)
        control = stack.enter_context(running)
        strangers_are_turned_away(control, mesh)

        chain, key = mesh.issue("client")
        tls = ["--tls-ca", mesh.file, "--tls-cert", chain, "--tls-key", key]
        grpc_calls(args.proto, manifests, control, tls)
        running = envoy_process.running(control.xds, *args.variant, *tls)
        envoy = stack.enter_context(running)
        names = ("https", "mutual")
        https, mutual = (
            kit.wait_until(f"{name} is bound", lambda: envoy.listener(name)) for name in names
        )
        control.portolan().expect_content(envoy_process.NODE)
        both_versions(https, public)
        replaced(https, public, secrets / "web.crt")
        clients_are_asked(mutual, public, mesh, visitors)
        control.portolan().expect_content(envoy_process.NODE)
        envoy.expect_content()


def strangers_are_turned_away(control, mesh):
    """Neither without TLS nor without a certificate is there a word of xDS."""
    failed = lambda: control.portolan().metric("portolan_xds_handshakes_failed_total")
    before = failed()
    context = ssl.create_default_context(cafile=mesh.file)
    context.set_alpn_protocols(["h2"])
    kit.expect(refused(control.xds, context), "a client without a certificate is let in")
    # In TLS 1.3 a client has done its part before it hears that.
    kit.wait_until("it is counted", lambda: failed() > before)
    kit.say("  the control plane turns a client without a certificate away")


def refused(address, context):
    """Whether a TLS connection ends before the server says anything on it."""
    with socket.create_connection(kit.split(address), timeout=kit.REQUEST_SECS) as plain:
        try:
            with context.wrap_socket(plain, server_hostname="127.0.0.1") as connection:
                return connection.recv(1) == b""
        except ssl.SSLError as error:
            kit.say(f"  {error.reason}")
            return True
        except ConnectionError:
            return True


def grpc_calls(proto, manifests, control, tls):
    """A client of gRPC's over the same TLS."""
    with echo_server.running(proto, "ferry-1", "127.78.0.3") as server:
        kit.write(manifests / "ferry.yaml", echo_server.manifest("ferry", {"zone-1": server}))
        options = ["--server", control.xds, "--node-id", GRPC_NODE, *map(str, tls)]
        config = bootstraps.made("grpc", *options)
        with grpc_process.running("python", "call", TARGET, proto, config) as client:
            client.wait()
            with kit.Pump("Say", client.say) as calls:
                calls.reaches({"ferry-1"})
            control.portolan().expect_content(GRPC_NODE)
        (manifests / "ferry.yaml").unlink()


def curl(address, *options, code=0):
    """What curl says of a page; fails unless it ends with this code."""
    line = ["curl", "--silent", "--show-error", "--noproxy", "*", *map(str, options)]
    line += ["--header", f"Host: {harbour.HOST}", f"https://{address}/"]
    ended = subprocess.run(line, capture_output=True, text=True, timeout=kit.DEADLINE_SECS)
    said = ended.stdout + ended.stderr
    kit.expect(ended.returncode == code, f"curl ended with {ended.returncode}: {said}")
    return said


def both_versions(https, public):
    """HTTP/1.1 and HTTP/2 by ALPN, with a certificate that a client can check."""
    told = ["--output", "/dev/null", "--write-out", "%{http_version} %{http_code}"]
    for option, expected in (("--http1.1", "1.1 200"), ("--http2", "2 200")):
        said = curl(https, "--cacert", public.file, option, *told)
        kit.expect(said == expected, f"curl {option} says {said!r}")
        kit.say(f"  HTTP/{said} over TLS")


def replaced(https, public, chain):
    """Another certificate on disk."""
    context = ssl.create_default_context(cafile=public.file)

    def serial():
        """The serial number of the certificate of a new connection, over which a request goes."""
        with contextlib.closing(connection(https, context)) as new:
            request(new)
            return certificates.serial_of(new.sock.getpeercert(binary_form=True))

    with contextlib.closing(connection(https, context)) as kept:
        open_one = kit.Pump("an open connection", lambda: request(kept))
        with kit.Pump("new connections", serial) as new, open_one:
            before = certificates.serial(chain)
            new.reaches({before})
            port = kept.sock.getsockname()
            public.issue("web")
            after = certificates.serial(chain)
            kit.expect(before != after, "the certificate is another")
            new.reaches({after})
            # A connection that Envoy had closed would have been made anew.
            kit.expect(kept.sock.getsockname() == port, "the open connection is still the same")
        count = new.unharmed() + open_one.unharmed()
    kit.say(f"  the certificate was replaced; {count} requests, none failed")


def connection(address, context):
    """A connection that is made with the first request."""
    host, port = kit.split(address)
    made = http.client.HTTPSConnection(host, port, context=context, timeout=kit.REQUEST_SECS)
    made.connect()
    return made


def request(made):
    """One request; the endpoint that answered."""
    made.request("GET", "/", headers={"Host": harbour.HOST})
    response = made.getresponse()
    response.read()
    kit.expect(response.status == 200, f"the answer is {response.status}")
    return response.headers["x-endpoint"]


def clients_are_asked(mutual, public, mesh, visitors):
    """With a certificate of the right authority, with none, and with one of another authority."""
    ca = ["--cacert", public.file]
    chain, key = visitors.issue("visitor")
    told = ["--output", "/dev/null", "--write-out", "%{http_code}"]
    said = curl(mutual, *ca, "--cert", chain, "--key", key, *told)
    kit.expect(said == "200", f"with a certificate: {said}")
    context = ssl.create_default_context(cafile=public.file)
    kit.expect(refused(mutual, context), "a client without a certificate is let in")
    context.load_cert_chain(*mesh.issue("client"))
    kit.expect(refused(mutual, context), "a client of another authority is let in")
    kit.say("  client_ca: a client with a certificate is served, others are refused")


if __name__ == "__main__":
    kit.run(main)
