"""Bootstraps as `portolan bootstrap` prints them. tests/interop.rs says where the binary is."""

import os
import subprocess

BINARY = "INTEROP_PORTOLAN"


def made(kind, *options):
    """What a client of this kind (`grpc` or `envoy`) is given."""
    command = [os.environ[BINARY], "bootstrap", kind, *options]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
