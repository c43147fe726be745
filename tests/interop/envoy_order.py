"""A real Envoy while services come, move and go: make before break, in the state of the
world or, with --delta, in the delta variant.

Proves that
- a name that is new is unknown (404) until it is answered (200), and one that goes is answered
  until it is unknown: no request meets a route whose cluster is not ready or is gone (503);
- a service that moves to another port, so that its routes lead to another cluster, is served all
  the while.
"""

import sys

sys.dont_write_bytecode = True
import envoy_process
import kit
import shop

ROUNDS = 10
HOST = "pier.shop"


def main():
    args = shop.arguments(__doc__, more=envoy_process.variant)
    file = args.dir / "pier.yaml"
    seen = {}
    with envoy_process.running(args.xds, *args.variant) as envoy:
        at = kit.wait_until("the http listener is bound", lambda: envoy.listener("http"))
        for _ in range(ROUNDS):
            kit.write(file, shop.pier(args.dir))
            count(seen, "coming", statuses_until(200, at))
            for port in (81, 80):
                kit.write(file, shop.pier(args.dir, port))
                count(seen, "moving", statuses_until(200, at, f"{HOST}:{port}", HOST))
            file.unlink()
            count(seen, "going", statuses_until(404, at))
            gone = lambda: "shop/pier:80" not in envoy.clusters()
            kit.wait_until("its cluster is gone", gone)
        kit.say(f"  statuses: {seen}")
        kit.expect(seen["coming"].keys() <= {404, 200}, "a new name met a cluster not ready")
        kit.expect(seen["moving"].keys() <= {200}, "a service that moved was not served")
        kit.expect(seen["going"].keys() <= {404, 200}, "a name that goes met a cluster gone")
        kit.Portolan(args.admin).expect_content(envoy_process.NODE)
        envoy.expect_content()


def statuses_until(wanted, at, watched=HOST, host=HOST):
    """Statuses that requests of `host` get, one after the other, until those of `watched` get the
    one wanted."""
    seen = []

    def reached():
        before = kit.http_status(at, watched)
        seen.append(kit.http_status(at, host))
        return before == wanted

    kit.wait_until(f"{watched} is {wanted}", reached, lambda: str(seen[-5:]), every_secs=0)
    return seen


def count(seen, what, statuses):
    """Adds them up."""
    counts = seen.setdefault(what, {})
    for status in statuses:
        counts[status] = counts.get(status, 0) + 1


if __name__ == "__main__":
    kit.run(main)
