"""The names of a generated cluster, read from its manifest, and the questions asked about them.
Reads the form that examples/generate-cluster.rs writes, and no other YAML."""

import random
import re
from pathlib import Path

import wire

ZONE = "cluster.local"
TTL_SECS = 5
# What a message may hold that was asked for without EDNS (RFC 1035 §4.2.1).
PLAIN_OCTETS = 512

_PORTS = re.compile(r"\n  (?:  )?ports:\n((?:    .*\n|  - .*\n)+)")
_FIELD = re.compile(r"^\W*(name|port|protocol): (\S+)$", re.MULTILINE)


class Cluster:
    """`a` and `srv`: the data of each name, sets of texts as in `wire.Answer`."""

    def __init__(self, manifest):
        self.a, self.srv, self.namespaces, self.services = {}, {}, set(), []
        services, slices = [], {}
        # Items start at the margin; what is before the first is the list's own head.
        for item in re.split(r"^- ", Path(manifest).read_text(), flags=re.MULTILINE)[1:]:
            if "\n  kind: Service\n" in item:
                services.append(item)
            else:
                key = (_one(r"\n    namespace: (\S+)", item), _one(r"service-name: (\S+)", item))
                slices.setdefault(key, []).append(item)
        for item in services:
            name = _one(r"\n    name: (\S+)", item)
            namespace = _one(r"\n    namespace: (\S+)", item)
            self.namespaces.add(namespace)
            full = f"{name}.{namespace}.svc.{ZONE}"
            self.services.append(full)
            address = _one(r"\n    clusterIP: (\S+)", item)
            if address == "None":
                self._headless(full, slices.get((namespace, name), []))
                continue
            self.a[full] = {address}
            for port, number, protocol in _ports(item):
                self.srv[f"_{port}._{protocol}.{full}"] = {f"0 100 {number} {full}"}

    def _headless(self, full, slices):
        ports = {port for item in slices for port in _ports(item)}
        addresses = [a for item in slices for a in re.findall(r"\n    - (\d\S+)", item)]
        targets = {a.replace(".", "-") + "." + full: a for a in addresses}
        if not targets:
            return
        self.a[full] = set(addresses)
        self.a.update((target, {address}) for target, address in targets.items())
        # As CoreDNS does it: all have the same share of 100.
        weight = max(100 // len(targets), 1)
        for port, number, protocol in ports:
            records = {f"0 {weight} {number} {target}" for target in targets}
            self.srv[f"_{port}._{protocol}.{full}"] = records

    def expected(self, name, qtype):
        """What every server has to answer."""
        data = (self.a if qtype == "A" else self.srv).get(name)
        rcode = "NOERROR" if data else "NXDOMAIN"
        return wire.Answer(rcode, False, frozenset(data or ()))

    def mixes(self, edns):
        """Lists of (name, type) by mix, the same ones every time, and how many names of SRV were
        left out since their answer does not fit."""
        seeded = random.Random(1)
        limit = wire.EDNS_OCTETS if edns else PLAIN_OCTETS
        fits = [name for name, data in self.srv.items() if _octets(name, data, edns) <= limit]
        a = [(name, "A") for name in self.services if name in self.a]
        srv = [(name, "SRV") for name in fits]
        nxdomain = [(name, "A") for name in self._searched(seeded, len(a))]
        for questions in (a, srv, nxdomain):
            seeded.shuffle(questions)
        mixed = [
            seeded.choice(questions)
            for questions, share in ((a, 70), (srv, 10), (nxdomain, 20))
            for _ in range(len(a) * share // 100)
        ]
        seeded.shuffle(mixed)
        mixes = {"A": a, "SRV": srv, "NXDOMAIN": nxdomain, "mixed": mixed}
        return mixes, len(self.srv) - len(fits)

    def _searched(self, seeded, count):
        """Names of the world with the first domain of a pod's search path behind them."""
        namespaces = sorted(self.namespaces)
        for n in range(count):
            yield f"api.example-{n:05}.com.{seeded.choice(namespaces)}.svc.{ZONE}"


def _one(pattern, text):
    found = re.search(pattern, text)
    if not found:
        raise ValueError(f"no {pattern!r} in {text[:200]!r}")
    return found[1]


def _ports(item):
    """Name, number and protocol of each port."""
    block = _one(_PORTS, item)
    for entry in re.split(r"^ *- ", block, flags=re.MULTILINE)[1:]:
        fields = dict(_FIELD.findall(entry))
        yield fields["name"], fields["port"], fields["protocol"].lower()


def _octets(name, data, edns):
    """Largest size of an answer without its additional section; targets are not compressed
    (RFC 2782)."""
    records = sum(2 + 10 + 6 + len(record.split()[3]) + 2 for record in data)
    return 12 + len(name) + 2 + 4 + records + (11 if edns else 0)
