"""The network that a run has for itself: a namespace with nothing but loopback, and in it the congestion
control that was asked for, whatever the machine's is."""

import ctypes
import fcntl
import os
import socket
import struct
import sys
from pathlib import Path

# linux/sched.h, linux/sockios.h, linux/if.h
CLONE_NEWNET = 0x4000_0000
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1
IFREQ = struct.Struct("16sH22x")
CONGESTION = Path("/proc/sys/net/ipv4/tcp_congestion_control")


def enter(congestion):
    """Leaves the machine's network for one of the run's own, if it may: only root may, and not everywhere."""
    if ctypes.CDLL(None).unshare(CLONE_NEWNET) != 0:
        return
    with socket.socket() as any_socket:
        _, flags = IFREQ.unpack(fcntl.ioctl(any_socket, SIOCGIFFLAGS, IFREQ.pack(b"lo", 0)))
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, IFREQ.pack(b"lo", flags | IFF_UP))
    try:
        CONGESTION.write_text(congestion)
    except OSError as error:
        sys.exit(f"congestion control {congestion}: {error}")


def facts():
    """What the report says of it."""
    is_own = os.stat("/proc/self/ns/net").st_ino != os.stat(f"/proc/{os.getppid()}/ns/net").st_ino
    whose = "the run's own" if is_own else "the machine's"
    return f"{whose}, {CONGESTION.read_text().strip()}"
