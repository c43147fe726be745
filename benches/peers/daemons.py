"""Servers that are measured: each runs in the foreground, as a child that is ended by pid."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import debian

END_SECS = 10


class LeftOut(Exception):
    """A server that is not measured, and why."""


class Server:
    """A running one, whose output goes to a log."""

    def __init__(self, name, process, log):
        self.name, self.process, self.log = name, process, log

    def leave_out_if_ended(self):
        if self.process.poll() is not None:
            raise LeftOut(self._ended())

    def expect_alive(self):
        """Ends the run if the server has ended: what was measured then is not its work."""
        if self.process.poll() is not None:
            sys.exit(f"{self.name} {self._ended()}")

    def tail(self):
        """The last it said."""
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return " / ".join(lines[-3:])

    def _ended(self):
        return f"ended with {self.process.returncode}: {self.tail()}"


@contextlib.contextmanager
def child(command, folder, cores, env=(), **streams):
    """Runs it pinned to these cores; at the end it is gone."""
    command = ["taskset", "--cpu-list", cores, *map(str, command)]
    # taskset becomes the program, so the child's pid is the program's.
    process = subprocess.Popen(command, cwd=folder, env=environment() | dict(env), **streams)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(END_SECS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def logged(command, folder, cores, env=()):
    """As `child`, with its output in a file. The process and the file."""
    log = folder / "log"
    with log.open("wb") as output:
        streams = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": subprocess.STDOUT}
        with child(command, folder, cores, env, **streams) as process:
            yield process, log


def version(program, flag):
    """The first line of what a server says of itself."""
    done = subprocess.run([program, flag], env=environment(), capture_output=True, text=True)
    lines = (done.stdout + done.stderr).strip().splitlines()
    return lines[0].strip() if lines else ""


def cpu_model():
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((l.split(":", 1)[1].strip() for l in lines if l.startswith("model name")), "")


def environment():
    return os.environ | {"PATH": debian.path()}
