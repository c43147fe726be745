"""Asks one question over DNS over QUIC (RFC 9250) with dnspython and prints the answer section."""

import sys

import dns.message
import dns.query
import dns.rcode

address, port, authority, name, rtype = sys.argv[1:]
query = dns.message.make_query(name, rtype, use_edns=0)
# RFC 9250 §4.2.1: the id is zero.
query.id = 0
answer = dns.query.quic(
    query, address, timeout=10, port=int(port), verify=authority, hostname="localhost"
)
assert answer.id == 0, answer
print(dns.rcode.to_text(answer.rcode()))
for rrset in answer.answer:
    for record in rrset:
        print(rrset.name, dns.rdatatype.to_text(rrset.rdtype), record)
