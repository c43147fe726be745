"""What the peers' scripts share: bounded waits, steady traffic, edits of manifests, Portolan's
admin pages. Standard library only."""

import collections
import contextlib
import http.client
import json
import os
import re
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

# How long a change may take to reach a peer. Generous: it bounds the run on a busy machine.
DEADLINE_SECS = 60
# How long one request may take: the first of a JVM on a busy machine takes seconds.
REQUEST_SECS = 15
# How often a condition is looked at.
LOOK_AGAIN_SECS = 0.02


class Failed(Exception):
    """An expectation that was not met; its text is the report."""


def say(text):
    """One line of the run's protocol."""
    print(text, flush=True)


def expect(condition, text):
    """Fails with the text unless the condition holds."""
    if not condition:
        raise Failed(text)


def wait_until(
    what, probe, state=lambda: "", deadline_secs=DEADLINE_SECS, every_secs=LOOK_AGAIN_SECS
):
    """The first true result of `probe`; when there is none in time, fails and tells the `state`."""
    end = time.monotonic() + deadline_secs
    while True:
        result = probe()
        if result:
            return result
        if time.monotonic() >= end:
            raise Failed(f"not within {deadline_secs} s: {what}. {state()}")
        time.sleep(every_secs)


def run(main):
    """Ends the process with 0, or with 1 and the reason."""
    try:
        main()
    except Failed as failure:
        print(f"FAILED: {failure}", file=sys.stderr, flush=True)
        sys.exit(1)


class Pump:
    """Calls `once`, which returns who answered, again and again on a thread of its own, for as
    long as the `with` block runs. Every failure is kept; there may be none."""

    # Answers that say who is in the game now. Of three endpoints picked at random one stays out of
    # so many answers once in 10^26.
    RECENT = 150

    def __init__(self, what, once):
        self._what = what
        self._once = once
        self._answers = collections.deque(maxlen=self.RECENT)
        self._count = 0
        self._failures = []
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._work, name=what, daemon=True)

    def _work(self):
        while not self._stopped.is_set():
            try:
                who = self._once()
            except Exception as error:  # Whatever it is, the peer's user would have seen it.
                self._failures.append(f"{type(error).__name__}: {error}")
                time.sleep(LOOK_AGAIN_SECS)
                continue
            self._answers.append(who)
            self._count += 1

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, kind, error, trace):
        self._stopped.set()
        self._thread.join(2 * REQUEST_SECS)
        if kind is None:
            self.unharmed()
            expect(not self._thread.is_alive(), f"{self._what}: a request does not end")

    def unharmed(self):
        """Fails if any request did; returns how many went through."""
        failures = self._failures
        expect(not failures, f"{self._what}: {len(failures)} failed, first: {failures[:3]}")
        return self._count

    def reaches(self, expected, deadline_secs=DEADLINE_SECS):
        """Waits until all of these answer and nobody else does, and checks that it stays so for as
        many answers again."""
        expected, started = set(expected), time.monotonic()

        def recent():
            return collections.Counter(list(self._answers))

        def state():
            return f"Recent answers: {dict(recent())}, failures: {self._failures[:3]}"

        def settled():
            self.unharmed()
            return sum(recent().values()) == self.RECENT and set(recent()) == expected

        wait_until(f"{self._what} reaches {sorted(expected)}", settled, state, deadline_secs)
        took_ms = (time.monotonic() - started) * 1000
        before = self._count
        again = lambda: self.unharmed() >= before + self.RECENT
        wait_until(f"{self._what} goes on", again, state)
        expect(set(recent()) == expected, f"{self._what} strays. {state()}")
        say(f"  {self._what}: {dict(sorted(recent().items()))} after {took_ms:.0f} ms")


def edit(path, change):
    """Replaces a manifest by what `change` makes of its text, atomically."""
    path = Path(path)
    before = path.read_text()
    after = change(before)
    expect(after != before, f"the edit of {path.name} changes nothing")
    write(path, after)


def write(path, text):
    """Puts a file in place atomically. Portolan passes over the name of the unfinished one."""
    path = Path(path)
    handle, unfinished = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".unfinished")
    with os.fdopen(handle, "w") as file:
        file.write(text)
    os.replace(unfinished, path)


def set_ready(path, endpoint, ready):
    """Sets the `ready` condition of the endpoint whose pod has this name."""
    set_conditions(path, endpoint, ready=ready)


def set_conditions(path, endpoint, **conditions):
    """Sets conditions, which the manifest has, of the endpoint whose pod has this name."""

    def change(text):
        items = re.split(r"(?=^ *- addresses:)", text, flags=re.MULTILINE)
        pod = re.compile(rf"targetRef: .*\bname: {endpoint}\b")
        mine = [i for i, item in enumerate(items) if pod.search(item)]
        expect(len(mine) == 1, f"{path}: {endpoint} stands in it {len(mine)} times")
        (at,) = mine
        for name, value in conditions.items():
            word = "true" if value else "false"
            found = rf"\b{name}: (true|false)"
            items[at], count = re.subn(found, f"{name}: {word}", items[at], count=1)
            expect(count, f"{path}: {endpoint} has no condition {name}")
        return "".join(items)

    edit(path, change)


def get(address, path):
    """A page of an admin port, as text; an `OSError` if it is not a 200."""
    with urllib.request.urlopen(f"http://{address}{path}", timeout=REQUEST_SECS) as response:
        return response.read().decode()


def get_json(address, path):
    """The same page of JSON."""
    return json.loads(get(address, path))


def split(address):
    """Host and port."""
    host, port = address.rsplit(":", 1)
    return host, int(port)


@contextlib.contextmanager
def http_client(address, host, path="/"):
    """A function that sends a request over a kept connection and returns the `x-endpoint` that
    answered; anything but a 200 is an error."""
    connection = http.client.HTTPConnection(*split(address), timeout=REQUEST_SECS)

    def once():
        connection.request("GET", path, headers={"Host": host})
        response = connection.getresponse()
        body = response.read()
        if response.status != 200:
            connection.close()
            raise Failed(f"{response.status} {response.reason}: {body[:200]!r}")
        return response.headers["x-endpoint"]

    try:
        yield once
    finally:
        connection.close()


def http_status(address, host):
    """The status that a request of this host gets, over a connection of its own."""
    connection = http.client.HTTPConnection(*split(address), timeout=REQUEST_SECS)
    with contextlib.closing(connection):
        connection.request("GET", "/", headers={"Host": host})
        return connection.getresponse().status


class Portolan:
    """The admin port of a running Portolan."""

    def __init__(self, admin):
        self.admin = admin

    def metric(self, name, **labels):
        """Sum of a metric's samples that have these labels; 0 if there are none."""
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        total = 0.0
        for line in get(self.admin, "/metrics").splitlines():
            sample = re.fullmatch(rf"{name}(?:\{{(.*)\}})? (\S+)", line)
            if sample and all(label in (sample[1] or "").split(",") for label in wanted):
                total += float(sample[2])
        return total

    def client(self, node):
        """What the server knows of the client with this node id; None if it is not connected."""
        clients = get_json(self.admin, "/debug/clients")
        return next((client for client in clients if client["node"] == node), None)

    def expect_content(self, node, resumed=False):
        """Fails unless the client took everything that was sent to it. One that `resumed` says
        what it holds from an earlier stream, and need not be sent anything."""

        def in_step():
            types = (self.client(node) or {"types": {}})["types"].values()
            # Before anything is sent of a type, both are empty.
            return types and all(t["sent"] and t["sent"] == t["acked"] for t in types)

        state = lambda: f"Client: {json.dumps(self.client(node))}"
        wait_until(f"{node} has acknowledged what it was sent", in_step, state)
        client = self.client(node)
        types = client["types"]
        refused = {kind: t["nacked"] for kind, t in types.items() if "nacked" in t}
        expect(not refused, f"{node} refused: {refused}")
        # A NACK that later content made good counts too.
        nacks = self.metric("portolan_xds_nacks_total")
        expect(nacks == 0, f"portolan_xds_nacks_total is {nacks:.0f}")
        acks = {kind: self.metric("portolan_xds_acks_total", type=kind) for kind in types}
        expect(resumed or all(acks.values()), f"acknowledged by type: {acks}")
        say(f"  {client['agent']!r} took all of {sorted(types)}, no NACK")
