"""`portolan control` as a process of its own, and what its commands say of it. Every start after
the first is on the same address."""

import contextlib
import json
import os
import signal
import subprocess
import tempfile

import bootstraps
import kit


class Control:
    """`portolan control` over a folder of manifests; `options` are more of its options."""

    def __init__(self, folder, *options):
        self._folder = folder
        self._options = [str(option) for option in options]
        self._process = None
        self.xds = "127.0.0.1:0"
        self.admin = None

    def start(self):
        """Starts it and waits until it is ready."""
        output = tempfile.TemporaryFile("w+")
        self._process = subprocess.Popen(
            [
                os.environ[bootstraps.BINARY],
                "control",
                *("--manifests", str(self._folder)),
                *("--xds-listen", self.xds),
                *("--admin", "127.0.0.1:0"),
                *("--log", "warn"),
                *self._options,
            ],
            stdout=output,
        )

        def listening():
            kit.expect(self._process.poll() is None, f"it ended: {self._process.poll()}")
            output.seek(0)
            lines = [line.split() for line in output.read().splitlines() if line[-1:].isdigit()]
            found = {what: address for _, what, address in lines}
            return found if found.keys() >= {"xds", "admin"} else None

        found = kit.wait_until("the control plane listens", listening)
        output.close()
        self.xds, self.admin = found["xds"], found["admin"]

        def ready():
            with contextlib.suppress(OSError):
                return kit.get(self.admin, "/readyz")
            return None

        kit.wait_until("the control plane is ready", ready)

    def end(self, ending=signal.SIGKILL):
        """Ends it by a signal, and waits until it is gone."""
        if self._process is None:
            return
        self._process.send_signal(ending)
        try:
            self._process.wait(kit.DEADLINE_SECS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise kit.Failed(f"{ending.name} does not end it") from None

    def portolan(self):
        """Its admin port."""
        return kit.Portolan(self.admin)

    def ask(self, *command, code=0):
        """What a command of the binary says of it; fails unless it ends with this code."""
        line = [os.environ[bootstraps.BINARY], *map(str, command), "--admin", self.admin]
        ended = subprocess.run(
            line, capture_output=True, text=True, timeout=2 * kit.DEADLINE_SECS, check=False
        )
        said = ended.stdout + ended.stderr
        kit.expect(ended.returncode == code, f"{command}: {ended.returncode}: {said}")
        return said

    def listed(self, what):
        """The items of `portolan get`."""
        return json.loads(self.ask("get", what, "-o", "json"))["items"]


@contextlib.contextmanager
def running(folder, *options):
    """A started control plane; it is killed at the end."""
    control = Control(folder, *options)
    try:
        control.start()
        yield control
    finally:
        control.end()
