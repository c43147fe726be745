"""How each proxy is configured and started: the same backends behind the same kinds of listeners.
Each runs in the foreground, as a child that is ended by pid."""

import base64
import contextlib
import json
import os
import resource
import socket
import subprocess
import time

import install
from daemons import LeftOut, Server, logged

# Above Linux' ephemeral range, so that no client's socket is in the way.
BACKEND_PORT = 61_000
# Where each kind of backend is, counted from there (load/src/backend.rs).
HTTP1, HTTP2, GRPC, ECHO, SOURCE, SINK = range(6)
# What a proxy listens for: the kind of backend behind it, and whether HTTP is HTTP/2 in front.
LISTENERS = {
    "http1": (HTTP1, False),
    "http2-to-http1": (HTTP1, True),
    "http2": (HTTP2, True),
    "grpc": (GRPC, True),
    "echo": (ECHO, None),
    "source": (SOURCE, None),
    "sink": (SINK, None),
    "https": (HTTP1, False),
}
# Those that begin with TLS.
OVER_TLS = {"https"}
# The service of each kind of backend, which is also the name that requests ask for.
SERVICES = {HTTP1: "web", HTTP2: "h2", GRPC: "grpc", ECHO: "echo", SOURCE: "source", SINK: "sink"}
# Ports from here on, this many for each proxy.
FIRST_PORT, PORTS = 62_000, 20
ADMIN, DNS, XDS = 10, 11, 12
# Nobody's idle connection is closed while something is measured.
IDLE = "1h"
MANY = 1_000_000_000
# Of one proxy at once. A container's limit of open files may be 20,000, and so many do with it.
CONNECTIONS = 16_000
READY_SECS = 30
NAMES = ["portolan", "haproxy", "nginx", "envoy"]


def authority(listener):
    return f"{SERVICES[LISTENERS[listener][0]]}.bench"


def backend(kind):
    return BACKEND_PORT + kind


class Proxy(Server):
    """A running one and where it listens."""

    def __init__(self, name, process, ports, log):
        super().__init__(name, process, log)
        self.ports = ports

    def address(self, listener):
        return f"127.0.0.1:{self.ports[listener]}"

    def pids(self):
        """The process and its children, as nginx has them."""
        found = [self.process.pid]
        for pid in found:
            with contextlib.suppress(OSError):
                with open(f"/proc/{pid}/task/{pid}/children") as children:
                    found += map(int, children.read().split())
        return found

    def wait_until_listening(self):
        """Returns once every port takes connections; `LeftOut` if it ends or never does."""
        end = time.monotonic() + READY_SECS
        for port in self.ports.values():
            while True:
                self.leave_out_if_ended()
                with contextlib.suppress(OSError):
                    socket.create_connection(("127.0.0.1", port), timeout=1).close()
                    break
                if time.monotonic() > end:
                    raise LeftOut(f"port {port} is closed after {READY_SECS} s: {self.tail()}")
                time.sleep(0.05)


@contextlib.contextmanager
def running(name, folder, workers, cores, programs):
    """A proxy with so many workers, ready."""
    folder.mkdir(exist_ok=True)
    ports = _ports(name)
    command = MAKERS[name](folder, ports, workers, programs)
    if programs.get("realtime"):
        command = ["chrt", "--rr", 1, *command]
    with logged(command, folder, cores) as (process, log):
        proxy = Proxy(name, process, ports, log)
        proxy.wait_until_listening()
        yield proxy


def _ports(name):
    base = FIRST_PORT + NAMES.index(name) * PORTS
    ports = {listener: base + number for number, listener in enumerate(LISTENERS)}
    if name == "portolan":
        # One listener tells HTTP/1.1 and HTTP/2 apart and routes by name.
        plain = LISTENERS.keys() - OVER_TLS
        ports |= {k: base for k in plain if LISTENERS[k][1] is not None}
    return ports


def _open_files():
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def _portolan(folder, ports, workers, programs):
    manifests = folder / "manifests"
    manifests.mkdir(exist_ok=True)
    protocols = {HTTP1: "http", HTTP2: "kubernetes.io/h2c", GRPC: "grpc"}
    for kind, name in SERVICES.items():
        text = MANIFEST.format(
            name=name, port=backend(kind), protocol=protocols.get(kind, "tcp"), service_port=80
        )
        (manifests / f"{name}.yaml").write_text(text)
    (manifests / "gateway.yaml").write_text(_gateway(ports["https"], *certificate(folder)))
    base = FIRST_PORT
    command = [programs["portolan"], "run", "--manifests", manifests]
    command += ["--http", f"127.0.0.1:{ports['http1']}"]
    for listener, (kind, is_http2) in LISTENERS.items():
        if is_http2 is None:
            command += ["--tcp", f"127.0.0.1:{ports[listener]}=bench/{SERVICES[kind]}:80"]
    command += ["--admin", f"127.0.0.1:{base + ADMIN}", "--dns", f"127.0.0.1:{base + DNS}"]
    command += ["--xds-listen", f"127.0.0.1:{base + XDS}", "--log", "warn"]
    command += ["--set", f"proxy.workers={workers}", "--set", "dns.workers=1"]
    command += ["--set", "control.gateway_address=127.0.0.1"]
    return command + ["--set", f"proxy.max_connections={CONNECTIONS}"]


MANIFEST = """apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: bench}}
spec:
  ports:
    - {{name: main, port: {service_port}, targetPort: {port}, appProtocol: {protocol}}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: {name}-1
  namespace: bench
  labels: {{kubernetes.io/service-name: {name}}}
addressType: IPv4
ports:
  - {{name: main, port: {port}, protocol: TCP, appProtocol: {protocol}}}
endpoints:
  - addresses: [127.0.0.1]
    conditions: {{ready: true}}
"""


GATEWAY = """apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: bench, namespace: bench}}
spec:
  gatewayClassName: portolan
  listeners:
    - name: https
      port: {port}
      protocol: HTTPS
      tls: {{certificateRefs: [{{name: bench}}]}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: bench, namespace: bench}}
spec:
  parentRefs: [{{name: bench}}]
  rules: [{{backendRefs: [{{name: web, port: 80}}]}}]
---
apiVersion: v1
kind: Secret
metadata: {{name: bench, namespace: bench}}
type: kubernetes.io/tls
data: {{tls.crt: {certificate}, tls.key: {key}}}
"""


def _gateway(port, certificate, key):
    encoded = lambda path: base64.b64encode(path.read_bytes()).decode()
    return GATEWAY.format(port=port, certificate=encoded(certificate), key=encoded(key))


def certificate(folder):
    """A certificate with a key on P-256 and that key, for the run alone."""
    made, key = folder / "certificate.pem", folder / "key.pem"
    name = f"{SERVICES[HTTP1]}.bench"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-days", "2", "-subj", f"/CN={name}", "-keyout", key, "-out", made]
    command += ["-addext", f"subjectAltName=DNS:{name}"]
    subprocess.run(command, check=True, capture_output=True)
    return made, key


def _haproxy(folder, ports, workers, programs):
    made, key = certificate(folder)
    both = folder / "both.pem"
    both.write_bytes(made.read_bytes() + key.read_bytes())
    lines = [
        "global",
        f"  nbthread {workers}",
        f"  maxconn {CONNECTIONS}",
        # By its own reckoning, two files and more for each connection, that is too many; no
        # scenario has so many on both sides.
        f"  ulimit-n {_open_files()}",
        "  no strict-limits",
        "defaults",
        "  mode http",
        f"  timeout client {IDLE}",
        f"  timeout server {IDLE}",
        f"  timeout http-keep-alive {IDLE}",
        "  timeout connect 5s",
        "  option http-keep-alive",
        "  http-reuse always",
        f"  maxconn {CONNECTIONS}",
    ]
    for listener, (kind, is_http2) in LISTENERS.items():
        of_front = " proto h2" if is_http2 else ""
        of_server = " proto h2" if kind in (HTTP2, GRPC) else ""
        of_front += f" ssl crt {both}" if listener in OVER_TLS else ""
        lines += [f"listen {listener}", f"  bind 127.0.0.1:{ports[listener]}{of_front}"]
        if is_http2 is None:
            # Of splice-auto little comes on loopback.
            lines += ["  mode tcp", "  option splice-request", "  option splice-response"]
        else:
            # Large bodies stay in the kernel; small ones are none the worse for it.
            lines += ["  option splice-response"]
            scheme = "https" if listener in OVER_TLS else "http"
            lines += ["  option forwardfor"]
            lines += [f"  http-request set-header X-Forwarded-Proto {scheme}"]
        lines += [f"  server one 127.0.0.1:{backend(kind)}{of_server}"]
    path = folder / "haproxy.cfg"
    path.write_text("\n".join(lines) + "\n")
    return ["haproxy", "-db", "-f", path]


def _nginx(folder, ports, workers, programs):
    (folder / "temp").mkdir(exist_ok=True)
    made, key = certificate(folder)
    temps = [f"  {kind}_temp_path {folder}/temp;" for kind in TEMPS]
    http = [
        "  access_log off;",
        *temps,
        f"  keepalive_requests {MANY};",
        f"  keepalive_timeout {IDLE};",
        "  http2_max_concurrent_streams 1024;",
        "  proxy_http_version 1.1;",
        # A large body waits in memory and not in a file.
        "  proxy_max_temp_file_size 0;",
        f"  grpc_read_timeout {IDLE};",
        f"  grpc_send_timeout {IDLE};",
    ]
    stream = []
    for listener, (kind, is_http2) in LISTENERS.items():
        server = f"    server 127.0.0.1:{backend(kind)};"
        if is_http2 is None:
            stream += [f"  upstream {listener} {{", server, "  }"]
            listen = f"listen 127.0.0.1:{ports[listener]} reuseport;"
            stream += [f"  server {{ {listen} proxy_pass {listener}; }}"]
            continue
        keep = f"    keepalive 1024; keepalive_requests {MANY}; keepalive_timeout {IDLE};"
        http += [f"  upstream {listener} {{", server, keep, "  }"]
        http += ["  server {"]
        of_front = " http2" if is_http2 else ""
        if listener in OVER_TLS:
            of_front = " ssl"
            http += [f"    ssl_certificate {made};", f"    ssl_certificate_key {key};"]
            http += ["    ssl_protocols TLSv1.2 TLSv1.3;"]
        http += [f"    listen 127.0.0.1:{ports[listener]}{of_front} reuseport;", "    location / {"]
        # The only HTTP/2 that this nginx speaks to a backend is that of its gRPC module.
        how = "grpc" if kind in (HTTP2, GRPC) else "proxy"
        scheme = "grpc" if how == "grpc" else "http"
        http += [
            f"      {how}_pass {scheme}://{listener};",
            f"      {how}_set_header Host $host;",
            f"      {how}_set_header X-Forwarded-For $proxy_add_x_forwarded_for;",
            f"      {how}_set_header X-Forwarded-Proto $scheme;",
        ]
        if how == "proxy":
            http += ['      proxy_set_header Connection "";']
        http += ["    }", "  }"]
    lines = [
        f"load_module {install.STREAM_MODULE};",
        "daemon off;",
        "user root;" if os.geteuid() == 0 else "",
        f"worker_processes {workers};",
        f"worker_rlimit_nofile {_open_files()};",
        f"pid {folder}/nginx.pid;",
        "error_log stderr error;",
        f"events {{ worker_connections {CONNECTIONS}; }}",
        "http {",
        *http,
        "}",
        "stream {",
        *stream,
        "}",
    ]
    path = folder / "nginx.conf"
    path.write_text("\n".join(lines) + "\n")
    return ["nginx", "-p", folder, "-c", path]


TEMPS = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]


def _envoy(folder, ports, workers, programs):
    secured = _envoy_tls(*certificate(folder))
    listeners = []
    for listener, (_, is_http2) in LISTENERS.items():
        chain = {"filters": [_envoy_filter(listener, is_http2)]}
        chain |= secured if listener in OVER_TLS else {}
        address = _socket_address(ports[listener])
        listeners.append({"name": listener, "address": address, "filter_chains": [chain]})
    clusters = [_envoy_cluster(kind, name) for kind, name in SERVICES.items()]
    config = {"static_resources": {"listeners": listeners, "clusters": clusters}}
    path = folder / "envoy.json"
    path.write_text(json.dumps(config, indent=1))
    command = [programs["envoy"], "-c", path, "--concurrency", workers]
    return command + ["--disable-hot-restart", "--log-level", "error", "--use-dynamic-base-id"]


def _envoy_tls(certificate, key):
    pair = {"certificate_chain": {"filename": str(certificate)}}
    pair |= {"private_key": {"filename": str(key)}}
    kind = "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext"
    config = {"@type": f"type.googleapis.com/{kind}"}
    config |= {"common_tls_context": {"tls_certificates": [pair]}}
    return {"transport_socket": {"name": "tls", "typed_config": config}}


def _envoy_filter(listener, is_http2):
    cluster = SERVICES[LISTENERS[listener][0]]
    types = "type.googleapis.com/envoy.extensions.filters"
    if is_http2 is None:
        config = {
            "@type": f"{types}.network.tcp_proxy.v3.TcpProxy",
            "stat_prefix": listener,
            "cluster": cluster,
        }
        return {"name": "tcp", "typed_config": config}
    router = {
        "@type": f"{types}.http.router.v3.Router",
        # Headers that nobody else adds.
        "suppress_envoy_headers": True,
    }
    # Its own limit of 15 s would end long calls.
    route = {"match": {"prefix": "/"}, "route": {"cluster": cluster, "timeout": "0s"}}
    config = {
        "@type": f"{types}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": listener,
        "codec_type": "HTTP2" if is_http2 else "HTTP1",
        # Adds X-Forwarded-For, as all do here.
        "use_remote_address": True,
        "generate_request_id": False,
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "http_filters": [{"name": "router", "typed_config": router}],
        "common_http_protocol_options": {"idle_timeout": "3600s"},
    }
    return {"name": "http", "typed_config": config}


def _envoy_cluster(kind, name):
    endpoint = {"endpoint": {"address": _socket_address(backend(kind))}}
    limits = ["max_connections", "max_pending_requests", "max_requests", "max_retries"]
    cluster = {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "5s",
        "circuit_breakers": {"thresholds": [dict.fromkeys(limits, 1_000_000)]},
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
    }
    if kind in (HTTP2, GRPC):
        options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
        cluster["typed_extension_protocol_options"] = {
            options: {
                "@type": f"type.googleapis.com/{options}",
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        }
    return cluster


def _socket_address(port):
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


MAKERS = {"portolan": _portolan, "haproxy": _haproxy, "nginx": _nginx, "envoy": _envoy}
