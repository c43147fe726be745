"""A real Envoy, configured by Portolan's ADS alone (wildcard LDS and CDS), in the state of the
world or, with --delta, in the delta variant.

Proves that
- it takes every listener, cluster, endpoint set and route of the shop: no NACK, no counter of
  refusals, no warning;
- HTTP, gRPC and TCP go through it to the ready endpoints and to no other;
- endpoints that leave and join are followed without a failed request, and a TCP connection to
  one that leaves goes on;
- a service that comes, changes its cluster and goes is followed, again without a failed request
  from its first answer on.
"""

import contextlib
import socket
import sys

sys.dont_write_bytecode = True
import echo_stubs
import envoy_process
import kit
import shop


def main():
    args = shop.arguments(__doc__, more=envoy_process.variant)
    portolan = kit.Portolan(args.admin)
    with envoy_process.running(args.xds, *args.variant) as envoy:
        at = kit.wait_until("the http listener is bound", lambda: envoy.listener("http"))
        name = "tcp-shop/db:5432"
        db = kit.wait_until("the TCP listener is bound", lambda: envoy.listener(name))
        portolan.expect_content(envoy_process.NODE)
        names_are_routed(at)
        nobody_else(envoy)
        tcp(db, args.dir / "db.yaml")
        with contextlib.ExitStack() as stack:
            web = stack.enter_context(kit.http_client(at, "web.shop"))
            say = stack.enter_context(echo_stubs.client(args.proto, at, "greeter.shop:50051"))
            requests = stack.enter_context(kit.Pump("HTTP", web))
            calls = stack.enter_context(kit.Pump("gRPC", say))
            endpoints_are_followed(args.dir, requests, calls)
            services_are_followed(args.dir, at, envoy)
            requests.reaches(shop.WEB)
            calls.reaches(shop.GREETER)
            count = requests.unharmed() + calls.unharmed()
        kit.say(f"  {count} requests and calls, none failed")
        portolan.expect_content(envoy_process.NODE)
        envoy.expect_content()


def names_are_routed(at):
    """Every form of the name a pod may use leads to the service, and no other name leads
    anywhere."""
    forms = ["web.shop", "web.shop.svc", "web.shop.svc.cluster.local"]
    for host in forms + [f"{form}:80" for form in forms]:
        with kit.http_client(at, host) as once:
            who = once()
        kit.expect(who in shop.WEB, f"{host} was answered by {who}")
    with kit.http_client(at, "admin.shop:9090") as once:
        who = once()
    kit.expect(who in {"admin-1", "admin-2", "admin-3"}, f"admin.shop:9090 leads to {who}")
    for host in ("nobody.shop", "db.shop", "web", "payments.shop"):
        status = kit.http_status(at, host)
        kit.expect(status == 404, f"{host}: {status} and not 404")
    kit.say("  HTTP: every form of a name is routed, other names are 404")


def nobody_else(envoy):
    """Each cluster holds the ready endpoints, each once."""
    counts = {
        "shop/web:80": 3,
        "shop/greeter:50051": 2,
        "shop/db:5432": 2,
        # admin-2 stands in two slices.
        "shop/admin:80": 3,
        "shop/admin:9090": 3,
        "shop/cache:6379": 2,
        "shop/orders:80": 2,
        "staging/web:80": 1,
    }
    found = {name: len(envoy.endpoints(name)) for name in counts}
    kit.expect(found == counts, f"endpoints by cluster: {found}")
    known = set(envoy.clusters()) - {"portolan"}
    kit.expect(known == set(counts), f"clusters: {sorted(known)}")
    addresses = {address.split(":")[0] for address in envoy.endpoints("shop/web:80")}
    kit.expect("127.10.0.14" not in addresses, f"web-4 is in {addresses}")
    kit.say(f"  Envoy holds {len(counts)} clusters with {sum(counts.values())} endpoints")


def tcp(at, manifest):
    """Lines go to the database and come back; new connections follow a change, an old one stays."""

    def connect():
        return socket.create_connection(kit.split(at), timeout=kit.REQUEST_SECS)

    def line(connection):
        connection.sendall(b"ahoy\n")
        answer = connection.makefile("rb").readline().decode()
        who, text = answer.strip().split(": ")
        kit.expect(text == "ahoy", f"the answer is {answer!r}")
        return who

    def once():
        with connect() as connection:
            return line(connection)

    with contextlib.ExitStack() as stack:
        lines = stack.enter_context(kit.Pump("TCP", once))
        lines.reaches(shop.DB)

        def kept():
            connection = connect()
            if line(connection) == "db-1":
                return stack.enter_context(connection)
            connection.close()
            return None

        connection = kit.wait_until("a connection to db-1", kept)
        kit.set_ready(manifest, "db-1", False)
        lines.reaches({"db-2"})
        kit.expect(line(connection) == "db-1", "the connection to db-1 goes on")
        kit.set_ready(manifest, "db-1", True)
        lines.reaches(shop.DB)
    kit.say(f"  {lines.unharmed()} TCP connections, none failed; an open one stayed")


def endpoints_are_followed(folder, requests, calls):
    """Out, in, and several at once."""
    web, greeter = folder / "web.yaml", folder / "greeter.yaml"
    requests.reaches(shop.WEB)
    calls.reaches(shop.GREETER)
    kit.set_ready(web, "web-1", False)
    kit.set_ready(greeter, "greeter-1", False)
    requests.reaches(shop.WEB - {"web-1"})
    calls.reaches({"greeter-2"})
    kit.set_ready(web, "web-4", True)
    requests.reaches({"web-2", "web-3", "web-4"})
    kit.set_ready(web, "web-4", False)
    kit.set_ready(web, "web-1", True)
    kit.set_ready(greeter, "greeter-1", True)
    requests.reaches(shop.WEB)
    calls.reaches(shop.GREETER)


def services_are_followed(folder, at, envoy):
    """A service comes, changes its cluster, and goes; traffic to it runs all the while it is
    there."""
    file, name = folder / "pier.yaml", "shop/pier:80"
    kit.expect(kit.http_status(at, "pier.shop") == 404, "there is no pier yet")
    kit.write(file, shop.pier(folder))
    kit.wait_until("pier is routed", lambda: kit.http_status(at, "pier.shop") == 200)
    with kit.http_client(at, "pier.shop") as once, kit.Pump("HTTP to pier", once) as requests:
        requests.reaches(shop.WEB)
        kit.write(file, shop.pier(folder, balancer="round_robin"))
        # A cluster that changes warms anew, and Envoy waits for its endpoints to be sent again.
        policies = lambda: envoy.policies(name)
        changed = lambda: policies() == ["envoy.load_balancing_policies.round_robin"]
        kit.wait_until("the cluster is in use as changed", changed, lambda: str(policies()))
        requests.reaches(shop.WEB)
    file.unlink()
    kit.wait_until("pier is gone", lambda: kit.http_status(at, "pier.shop") == 404)
    kit.wait_until("its cluster is gone", lambda: name not in envoy.clusters())
    kit.say(f"  pier came, changed and went; {requests.unharmed()} requests to it, none failed")


if __name__ == "__main__":
    kit.run(main)
