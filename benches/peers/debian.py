"""Programs from Debian's packages: where they are, and how those that are missing get there without
a service being started."""

import contextlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

POLICY = Path("/usr/sbin/policy-rc.d")
SAVED = POLICY.with_suffix(".d.saved-by-portolan")


def path():
    """PATH with the folders of daemons, which a user's often lacks."""
    return os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])


def find(program):
    """Where a program is; `None` if nowhere."""
    return shutil.which(program, path=path())


def install(programs, packages, services, also=()):
    """Installs those that are missing, and `also`; ends the run if that cannot be done.

    `packages` has each program's package, `services` those packages that bring a service and its
    name."""
    missing = sorted({packages[p] for p in programs if not find(p)} | set(also))
    if not missing:
        return
    if os.geteuid() != 0 or not find("apt-get"):
        sys.exit(f"missing, and only root on Debian gets them from here: {' '.join(missing)}")
    print(f"installing {' '.join(missing)}", file=sys.stderr, flush=True)
    with _no_service_starts():
        _apt("update", "-qq")
        _apt("install", "-y", "-qq", "--no-install-recommends", *missing)
    _no_service_at_boot([services[p] for p in missing if p in services])
    still = [p for p in programs if not find(p)]
    if still:
        sys.exit(f"installed {' '.join(missing)}, and yet there is no {' '.join(still)}")


def _apt(*args):
    env = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(["apt-get", *args], env=env, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"apt-get {' '.join(args)}:\n{done.stdout}{done.stderr}")


@contextlib.contextmanager
def _no_service_starts():
    """Debian's maintainer scripts ask policy-rc.d before they start anything; 101 is no. One that
    was there before comes back."""
    if POLICY.exists():
        POLICY.rename(SAVED)
    try:
        POLICY.write_text("#!/bin/sh\nexit 101\n")
        POLICY.chmod(0o755)
        yield
    finally:
        POLICY.unlink(missing_ok=True)
        if SAVED.exists():
            SAVED.rename(POLICY)


def _no_service_at_boot(units):
    # Best effort: without systemd there is nothing that would start them either.
    if units and find("systemctl"):
        subprocess.run(["systemctl", "disable", "--quiet", *units], capture_output=True)
