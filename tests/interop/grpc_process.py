"""Programs that speak our Echo with gRPC's own libraries, one for each language. They take a word,
an address, and their bootstrap from GRPC_XDS_BOOTSTRAP. The first line that a program writes names
it (`peer`); it ends when its input does.

`call TARGET`: for each line it reads, `say` and how many milliseconds the call may take, it makes
one call and writes one line of JSON: who answered (`endpoint`, and the `text` it was told), or the
name of the status (`code`) and the `message`; or `lost` and why, for a call that the library gave no
outcome of although its deadline was over. `wait` is a call that waits for a ready channel.

`serve ADDRESS`: it answers calls under its address, once its listener has come."""

import contextlib
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import kit

HERE = Path(__file__).parent
BUILT = HERE.parent.parent / "target"
# What a server asks for by its address.
LISTENER = "grpc/server?xds.resource.listening_address=%s"


LANGUAGES = ("node", "go", "java", "python")


def command(language, word, address, proto):
    """How a language's program is started, and what its environment has to say."""
    said = [word, address]
    if language == "node":
        modules = {"NODE_PATH": str(BUILT / "interop-node/node_modules")}
        return ["node", HERE / "node/echo.js", *said, proto], modules
    if language == "go":
        return [BUILT / "interop-go/echo", *said], {}
    if language == "java":
        java = BUILT / "interop-java"
        # Threads that compile and collect are too many beside all else that runs here.
        options = ["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
        return ["java", *options, "-cp", f"{java}/classes:{java}/jars/*", "Echo", *said], {}
    return [sys.executable, HERE / "grpc_echo.py", *said, proto], {}


def bootstrap(xds, node, zone=None):
    """The bootstrap as a user would write it (gRFC A27, A36)."""
    server = {
        "server_uri": xds,
        "channel_creds": [{"type": "insecure"}],
        "server_features": ["xds_v3"],
    }
    # gRPC for Node.js refuses a node without a locality.
    locality = {"zone": zone} if zone else {}
    return json.dumps(
        {
            "xds_servers": [server],
            "node": {"id": node, "cluster": "interop", "locality": locality},
            "server_listener_resource_name_template": LISTENER,
        }
    )


class Refused(kit.Failed):
    """A call that ended with a status other than OK."""

    def __init__(self, code, message):
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


class Program:
    """A running program; one call at a time."""

    # Past the limit of a call, how long its outcome may take to be told.
    GRACE_SECS = 10
    # How many calls of a program may be lost.
    LOST_CALLS = 6

    def __init__(self, process):
        self._lost = 0
        self._process = process
        self._lines = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        # A JVM on a busy machine takes its time.
        self.name = self._next(kit.DEADLINE_SECS + self.GRACE_SECS)["peer"]

    def _read(self):
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def _next(self, limit_secs):
        try:
            line = self._lines.get(timeout=limit_secs)
        except queue.Empty:
            raise kit.Failed(f"{self._process.args[0]} said nothing for {limit_secs} s") from None
        kit.expect(line, f"{self._process.args[0]} ended: {self._process.poll()}")
        return json.loads(line)

    def _call(self, word, limit_secs):
        while True:
            self._process.stdin.write(f"{word} {limit_secs * 1000}\n")
            self._process.stdin.flush()
            told = self._next(limit_secs + self.GRACE_SECS)
            if "lost" not in told:
                break
            # Nobody but the library can be to blame, and what came of the call is not known.
            self._lost += 1
            kit.say(f"  a call of {self.name} was lost: {told['lost']}")
            kit.expect(self._lost <= self.LOST_CALLS, f"{self._lost} calls were lost")
        if "code" in told:
            raise Refused(told["code"], told["message"])
        kit.expect(told["text"] == "ahoy", f"the reply is {told}")
        return told["endpoint"]

    def say(self, limit_secs=kit.REQUEST_SECS):
        """One call; the endpoint that answered. A moment without an endpoint is to fail it."""
        return self._call("say", limit_secs)

    def wait(self):
        """The same, but the call waits for an endpoint as long as a change may take."""
        return self._call("wait", kit.DEADLINE_SECS)


@contextlib.contextmanager
def running(language, word, address, proto, config):
    """Starts a program with a bootstrap; at the end stops it and, if the test failed, shows what
    it had to say."""
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        file, log = folder / "bootstrap.json", folder / "log"
        file.write_text(config)
        line, more = command(language, word, address, str(proto))
        with log.open("wb") as errors:
            process = subprocess.Popen(
                [str(word) for word in line],
                env={**os.environ, **more, "GRPC_XDS_BOOTSTRAP": str(file)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        try:
            yield Program(process)
        except BaseException:
            kit.say(f"What {language} says:\n" + log.read_text(errors="replace")[-20_000:])
            raise
        finally:
            process.kill()
            process.wait()
