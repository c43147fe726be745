"""A small DNS client (RFC 1035): one question over UDP, and of the answer what is compared: the
code, whether it was cut, and the A and SRV data. Everything else is passed over."""

import collections
import ipaddress
import random
import socket
import struct
import time

TYPES = {"A": 1, "SRV": 33}
RCODES = {0: "NOERROR", 2: "SERVFAIL", 3: "NXDOMAIN", 5: "REFUSED"}
# How long one try takes and how many there are: loopback loses nothing unless a server is busy.
TRY_SECS = 1.0
TRIES = 3
# The payload size of a query with EDNS (RFC 6891 §6.2.5).
EDNS_OCTETS = 1232

# `data` is a frozenset of texts: an address, or "priority weight port target".
Answer = collections.namedtuple("Answer", "rcode cut data")


def ask(port, name, qtype, edns=False):
    """The answer of the server on this loopback port; an `OSError` when there is none."""
    ident = random.getrandbits(16)
    query = _query(ident, name, TYPES[qtype], edns)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        # Connected, a closed port is told at once and nobody else can answer.
        sock.connect(("127.0.0.1", port))
        for _ in range(TRIES):
            sock.send(query)
            reply = _receive(sock, ident)
            if reply is not None:
                return _answer(reply, TYPES[qtype])
    raise TimeoutError(f"127.0.0.1:{port} does not answer {name} {qtype}")


def _receive(sock, ident):
    end = time.monotonic() + TRY_SECS
    while (left := end - time.monotonic()) > 0:
        sock.settimeout(left)
        try:
            reply = sock.recv(65_535)
        except TimeoutError:
            return None
        # What is not for this question is a late answer to an earlier try's.
        if len(reply) >= 12 and struct.unpack_from("!H", reply)[0] == ident:
            return reply
    return None


def _query(ident, name, qtype, edns):
    header = struct.pack("!6H", ident, 0x0100, 1, 0, 0, int(edns))
    labels = b"".join(bytes([len(l)]) + l for l in name.encode().split(b"."))
    opt = struct.pack("!BHHIH", 0, 41, EDNS_OCTETS, 0, 0) if edns else b""
    return header + labels + b"\0" + struct.pack("!2H", qtype, 1) + opt


def _answer(message, qtype):
    _, flags, questions, answers, _, _ = struct.unpack_from("!6H", message)
    at, data = 12, set()
    for _ in range(questions):
        _, at = _name(message, at)
        at += 4
    for _ in range(answers):
        _, at = _name(message, at)
        kind, _, _, length = struct.unpack_from("!2HIH", message, at)
        at += 10
        if kind == qtype:
            data.add(_data(message, at, kind))
        at += length
    rcode = flags & 15
    return Answer(RCODES.get(rcode, str(rcode)), bool(flags & 0x0200), frozenset(data))


def _data(message, at, kind):
    if kind == TYPES["A"]:
        return str(ipaddress.IPv4Address(message[at : at + 4]))
    numbers = struct.unpack_from("!3H", message, at)
    return "{} {} {} {}".format(*numbers, _name(message, at + 6)[0])


def _name(message, at):
    """The name at this place, and where what follows it starts (§4.1.4)."""
    labels, after = [], None
    while (length := message[at]) != 0:
        if length >= 0xC0:
            after = at + 2 if after is None else after
            at = struct.unpack_from("!H", message, at)[0] & 0x3FFF
            continue
        labels.append(message[at + 1 : at + 1 + length].decode().lower())
        at += 1 + length
    return ".".join(labels), at + 1 if after is None else after
