# SPDX-License-Identifier: Apache-2.0
"""A client that attacks until it is told that it is enough, what the daemon's memory does meanwhile, and an innocent client.

    with Attack(flood) as attack:           # flood(attack) runs in a thread and calls attack.step() after each piece
        served = attack.serves(daemon)      # somebody is served between two steps of the attack; seconds that it took
    assert memory.growth() < ROOM

Promises: nothing here depends on speed: an attack ends when its own measure is full *and* the innocent client was served, so
that the order "attack, served, attack" is a fact of each run; only `PATIENCE` bounds a run that fails.
"""

import contextlib
import threading
import time
from collections.abc import Callable
from pathlib import Path

from tests.support.daemon import Daemon
from tests.support.world import Wire

PATIENCE = 60.0  # seconds; only a failing test takes so long
LETTER = (
    b"From: a@origin.example\r\nTo: box@dest.example\r\nDate: Sun, 22 Nov 2026 08:00:00 +0000\r\n"
    b"Message-ID: <innocent@origin.example>\r\nSubject: innocent\r\n\r\nx\r\n"
)


class Attack:
    """Something hostile in a thread of its own. What it raises, but for lost connections, is raised at the end."""

    def __init__(self, what: Callable[["Attack"], None]) -> None:
        self.steps = 0
        self.enough = threading.Event()  # the innocent client was served
        self._moved = threading.Condition()
        self._fault: BaseException | None = None
        self._what = what
        self._thread = threading.Thread(target=self._run, name="attack", daemon=True)

    def __enter__(self) -> "Attack":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.enough.set()
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive(), "the attack does not end"
        if self._fault is not None:
            raise self._fault

    def step(self) -> None:
        """The attack has come further."""
        with self._moved:
            self.steps += 1
            self._moved.notify_all()

    def serves(self, daemon: Daemon, source: str = "127.0.0.9") -> float:
        """Bring one message while the attack goes on, from before to after it. The seconds that it took."""
        self._next()
        began = time.monotonic()
        with Wire(daemon.smtp_port, source=source) as client:
            answer = client.message(LETTER)
        took = time.monotonic() - began
        assert answer.startswith(b"250 2.0.0 Ok: queued as "), answer
        self._next()
        self.enough.set()
        return took

    def _next(self) -> None:
        """Wait for the next step."""
        with self._moved:
            seen = self.steps
            moved = self._moved.wait_for(lambda: self.steps > seen or not self._thread.is_alive(), PATIENCE)
        assert moved, "the attack has come to a halt"
        assert self._thread.is_alive(), f"the attack is over: {self._fault!r}"

    def _run(self) -> None:
        try:
            self._what(self)
        except BaseException as err:  # noqa: BLE001 - handed to the test
            self._fault = err


class Memory:
    """The memory of a process, against what it was when it had done all kinds of work once."""

    def __init__(self, pid: int) -> None:
        self._folder = Path(f"/proc/{pid}")
        self.base = self._octets("VmRSS")

    def mark(self) -> None:
        """The peak is forgotten: what `growth` tells begins here (proc(5), clear_refs)."""
        (self._folder / "clear_refs").write_text("5")

    def growth(self) -> int:
        """Octets by which the peak since `mark` is above the base."""
        return self._octets("VmHWM") - self.base

    def _octets(self, name: str) -> int:
        lines = (self._folder / "status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith(f"{name}:")).split()[1]) << 10


def drain(wire: Wire) -> threading.Thread:
    """Read whatever comes, in a thread, until the end of the connection."""

    def read() -> None:
        with contextlib.suppress(OSError):
            while wire.socket.recv(1 << 16):
                pass

    thread = threading.Thread(target=read, name="drain", daemon=True)
    thread.start()
    return thread
