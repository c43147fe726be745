"""How each server is configured and started: with the cluster's names, as a caching forwarder, or
as the origin behind the forwarders."""

import contextlib
import socket
import time

import wire
from cluster import TTL_SECS, ZONE
from daemons import LeftOut, Server, logged

# Above Linux' ephemeral range, so that no client's socket is in the way.
PORTS = iter(range(61_000, 65_000))
# Loading 150,000 endpoints of YAML takes seconds, on a busy machine many.
READY_SECS = 180
SOA = f"ns.dns.{ZONE}. hostmaster.{ZONE}. 1 7200 1800 86400 {TTL_SECS}"
# What each forwarder's cache may hold, as near to each other as they can be told.
CACHE_BYTES = 64 << 20
# dnsmasq's is counted in names; this is the most it takes.
DNSMASQ_NAMES = 10_000


class Listening(Server):
    """A running one and where it answers."""

    def __init__(self, name, folder, process, port, log):
        super().__init__(name, process, log)
        self.folder, self.port = folder, port

    @property
    def pid(self):
        """Of the one process that answers."""
        return self.process.pid

    def wait_until_answers(self, question, expected):
        """Returns once it has the right answer; `LeftOut` if it ends or never has."""
        end, last = time.monotonic() + READY_SECS, None
        while time.monotonic() < end:
            self.leave_out_if_ended()
            with contextlib.suppress(OSError):
                last = wire.ask(self.port, *question)
                if last == expected:
                    return
            time.sleep(0.1)
        raise LeftOut(f"{question} is {last}, not {expected}, after {READY_SECS} s: {self.tail()}")


@contextlib.contextmanager
def running(name, folder, port, cores, command, env=()):
    """Runs it pinned to these cores; at the end it is gone."""
    with logged(command, folder, cores, env) as (process, log):
        yield Listening(name, folder, process, port, log)


def free_port():
    """A loopback port free for UDP and TCP."""
    for port in PORTS:
        with contextlib.ExitStack() as stack:
            try:
                for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
                    sock = stack.enter_context(socket.socket(socket.AF_INET, kind))
                    sock.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise LeftOut("no free port is left")


# With the cluster's names. Each takes (folder, port, workers, cluster, manifests, programs) and
# returns the command and what is added to the environment.


def portolan(folder, port, workers, cluster, manifests, programs):
    return _portolan(port, workers, manifests, programs), {}


def unbound(folder, port, workers, cluster, manifests, programs):
    lines = [f'    local-zone: "{ZONE}." static']
    # Without a TTL in the record unbound's would be an hour.
    data = [f"{ZONE}. {TTL_SECS} IN SOA {SOA}", f"{ZONE}. {TTL_SECS} IN NS ns.dns.{ZONE}."]
    data += [f"{name}. {TTL_SECS} IN {kind} {value}" for name, kind, value in _records(cluster)]
    lines += [f'    local-data: "{record}"' for record in data]
    return _unbound(folder, port, workers, lines), {}


def knot(folder, port, workers, cluster, manifests, programs):
    zone = [f"{ZONE}. SOA {SOA}", f"{ZONE}. NS ns.dns.{ZONE}.", f"ns.dns.{ZONE}. A 127.0.0.1"]
    zone += [f"{name}. {kind} {value}" for name, kind, value in _records(cluster)]
    return _knot(folder, port, workers, {ZONE: zone}, TTL_SECS), {}


def dnsmasq_no_srv(folder, port, workers, cluster, manifests, programs):
    return _dnsmasq(folder, port, _dnsmasq_hosts(folder, cluster)), {}


def dnsmasq(folder, port, workers, cluster, manifests, programs):
    lines = _dnsmasq_hosts(folder, cluster)
    for name, data in cluster.srv.items():
        for record in data:
            priority, weight, number, target = record.split()
            lines.append(f"srv-host={name},{target},{number},{priority},{weight}")
    return _dnsmasq(folder, port, lines), {}


def coredns(folder, port, workers, cluster, manifests, programs):
    zone = [f"$TTL {TTL_SECS}", f"{ZONE}. IN SOA {SOA}", f"{ZONE}. IN NS ns.dns.{ZONE}."]
    zone += [f"{name}. IN {kind} {value}" for name, kind, value in _records(cluster)]
    (folder / "zone").write_text("\n".join(zone) + "\n")
    return _coredns(folder, port, workers, f"file {folder}/zone {ZONE}")


# The same as caching forwarders: (folder, port, workers, origin's port, manifests, programs).


def portolan_forwarder(folder, port, workers, origin, manifests, programs):
    forward = ["--set", f"dns.forward=. 127.0.0.1:{origin}"]
    return _portolan(port, workers, manifests, programs) + forward, {}


def unbound_forwarder(folder, port, workers, origin, manifests, programs):
    lines = [
        # It answers names below test. itself unless told not to (RFC 6761 §6.2).
        '    local-zone: "test." nodefault',
        "    do-not-query-localhost: no",
        # As unbound advises: of its two caches the one of records twice that of messages.
        f"    msg-cache-size: {CACHE_BYTES // 3}",
        f"    rrset-cache-size: {CACHE_BYTES * 2 // 3}",
        "forward-zone:",
        '    name: "."',
        f"    forward-addr: 127.0.0.1@{origin}",
    ]
    return _unbound(folder, port, workers, lines), {}


def dnsmasq_forwarder(folder, port, workers, origin, manifests, programs):
    # Its default of 150 queries under way is near what dnsperf has outstanding.
    lines = [f"server=127.0.0.1#{origin}", f"cache-size={DNSMASQ_NAMES}", "dns-forward-max=1000"]
    return _dnsmasq(folder, port, lines), {}


def coredns_forwarder(folder, port, workers, origin, manifests, programs):
    return _coredns(folder, port, workers, f"forward . 127.0.0.1:{origin}\n    cache 3600")


def origin(folder, port, zones):
    """Knot with these zones, lines by name, behind the forwarders."""
    return _knot(folder, port, 1, zones, 3600)


CLUSTER = {
    "portolan": portolan,
    "unbound": unbound,
    "knot": knot,
    "dnsmasq": dnsmasq,
    "dnsmasq-no-srv": dnsmasq_no_srv,
    "coredns": coredns,
}
# Knot is authoritative only.
FORWARDERS = {
    "portolan": portolan_forwarder,
    "unbound": unbound_forwarder,
    "dnsmasq": dnsmasq_forwarder,
    "coredns": coredns_forwarder,
}
# The program of each, and what asks it for its version.
PROGRAMS = {
    "unbound": ("unbound", "-V"),
    "knot": ("knotd", "-V"),
    "dnsmasq": ("dnsmasq", "-v"),
    "dnsmasq-no-srv": ("dnsmasq", "-v"),
    "coredns": ("coredns", "-version"),
}
# Have one thread, whatever they are told.
SINGLE = {"dnsmasq", "dnsmasq-no-srv"}
# dnsmasq walks through all its SRV records for every question, whatever its type: beside it runs
# one that has none and is asked for none.
WITHOUT_SRV = {"dnsmasq-no-srv"}


def _records(cluster):
    for kind, names in (("A", cluster.a), ("SRV", cluster.srv)):
        for name, data in names.items():
            for value in data:
                yield name, kind, value + ("." if kind == "SRV" else "")


def _portolan(port, workers, manifests, programs):
    return [
        programs["portolan"],
        "dns",
        "--manifests",
        manifests,
        "--dns",
        f"127.0.0.1:{port}",
        "--admin",
        "127.0.0.1:0",
        "--set",
        f"dns.workers={workers}",
    ]


def _unbound(folder, port, workers, lines):
    config = [
        "server:",
        "    verbosity: 0",
        "    use-syslog: no",
        '    logfile: ""',
        "    do-daemonize: no",
        '    username: ""',
        '    chroot: ""',
        '    pidfile: ""',
        f'    directory: "{folder}"',
        f"    num-threads: {workers}",
        "    interface: 127.0.0.1",
        f"    port: {port}",
        "    do-ip6: no",
        # A socket of each thread's own, as the others have it.
        "    so-reuseport: yes",
        # None of the others validates.
        '    module-config: "iterator"',
        *lines,
        "remote-control:",
        "    control-enable: no",
    ]
    path = folder / "unbound.conf"
    path.write_text("\n".join(config) + "\n")
    return ["unbound", "-d", "-c", path]


def _knot(folder, port, workers, zones, ttl_secs):
    config = [
        "server:",
        f'  rundir: "{folder}"',
        f"  listen: 127.0.0.1@{port}",
        f"  udp-workers: {workers}",
        "  tcp-workers: 1",
        "  background-workers: 1",
        "log:",
        "  - target: stderr",
        "    any: warning",
        "database:",
        f'  storage: "{folder}"',
        "template:",
        "  - id: default",
        f'    storage: "{folder}"',
        '    file: "%s.zone"',
        "    zonefile-sync: -1",
        "    journal-content: none",
        "zone:",
    ]
    for name, lines in zones.items():
        config.append(f"  - domain: {name}")
        (folder / f"{name}.zone").write_text("\n".join([f"$TTL {ttl_secs}", *lines]) + "\n")
    path = folder / "knot.conf"
    path.write_text("\n".join(config) + "\n")
    return ["knotd", "-c", path]


def _dnsmasq_hosts(folder, cluster):
    # A hosts file, since host-record takes one address for a name.
    hosts = [f"{address} {name}" for name, data in cluster.a.items() for address in data]
    (folder / "hosts").write_text("\n".join(hosts) + "\n")
    return [f"local=/{ZONE}/", f"addn-hosts={folder}/hosts", f"local-ttl={TTL_SECS}"]


def _dnsmasq(folder, port, lines):
    config = [
        "keep-in-foreground",
        "log-facility=-",
        "pid-file=",
        "user=",
        "no-resolv",
        "no-hosts",
        "listen-address=127.0.0.1",
        "bind-interfaces",
        f"port={port}",
        *lines,
    ]
    path = folder / "dnsmasq.conf"
    path.write_text("\n".join(config) + "\n")
    return ["dnsmasq", f"--conf-file={path}"]


def _coredns(folder, port, workers, plugin):
    path = folder / "Corefile"
    path.write_text(f".:{port} {{\n    bind 127.0.0.1\n    {plugin}\n}}\n")
    return ["coredns", "-conf", path], {"GOMAXPROCS": str(workers)}
