"""Makes sure that the peers are there, from Debian's packages, and starts no service."""

import debian

# dnsmasq-base is dnsmasq without its service.
PACKAGES = {
    "unbound": "unbound",
    "knotd": "knot",
    "dnsmasq": "dnsmasq-base",
    "dnsperf": "dnsperf",
    "taskset": "util-linux",
}
SERVICES = {"unbound": "unbound", "knot": "knot"}


def install(programs):
    """Installs those that are missing; ends the run if that cannot be done."""
    debian.install(programs, PACKAGES, SERVICES)
