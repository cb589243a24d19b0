# SPDX-License-Identifier: Apache-2.0
"""How much of the disk a trace may take: mail comes first.

Promises: nothing is written to a trace while the file system has less free than `MARGIN`, which is twice what the queue keeps
free of new mail if nobody says otherwise, so a full disk costs the traces first and the mail later; it goes on by itself when a
quarter more than that is free. All the traces beside each other take a tenth of the file system at most.
Looked at once a second, and again as soon as what was written since could have used up what was left.
Fails with: nothing; what cannot be looked at counts as room, and the write finds out.
Not here: what goes when a trace is too large (`ops/tracefile.py`).
"""

import os
from pathlib import Path

from gateway.mail.units import format_size
from gateway.ports import Clock

PERIOD = 1.0  # seconds for which a look holds
MARGIN, MARGIN_SHARE = 512 << 20, 10  # octets, or this part of a small file system
RELIEF = 1.25  # more must be free before traces are written again, so that it does not flap
SHARE = 10  # one part in so many of the file system is for traces, those of all workers together
COPIES = 2  # of a row on the disk until the log is copied into the file


class Room:
    """For the trace at `path`, which may take `max_size` octets. All calls come from one thread; any may read `short`."""

    def __init__(self, path: Path, max_size: int, clock: Clock) -> None:
        self.short = ""  # why nothing may be written
        self.most = max_size  # octets that the trace may take, its log included
        self._directory = path.parent
        self._max_size = max_size
        self._clock = clock
        self._until = float("-inf")
        self._left = 0.0  # octets that may be written before it is time to look again

    def take(self, octets: int) -> bool:
        """True if rows of so many octets may be written now. Asks the file system when it must: some microseconds."""
        now = self._clock.monotonic()
        if now >= self._until or (not self.short and self._left < COPIES * octets):
            self._until = now + PERIOD
            self._look(COPIES * octets)
        if self.short:
            return False
        self._left -= COPIES * octets
        return True

    def _look(self, wanted: int) -> None:
        try:
            free, whole = measure(self._directory)
        except OSError:
            self.short, self._left = "", float("inf")
            return
        self.most = min(self._max_size, whole // SHARE // max(1, self._files()))
        margin = min(MARGIN, whole // MARGIN_SHARE)
        self._left = free - margin * (RELIEF if self.short else 1.0)
        self.short = (
            f"{format_size(free)} free of the {format_size(margin)} that are left to the mail" if self._left < wanted else ""
        )

    def _files(self) -> int:
        """Traces that share the space: one a worker, those of former workers, and broken ones that were put aside."""
        return sum(path.name.endswith((".sqlite", ".broken")) for path in self._directory.glob("*.sqlite*"))


def measure(directory: Path) -> tuple[int, int]:
    """Octets that are free for us, and of the whole file system. Raises OSError."""
    try:
        state = os.statvfs(directory)
    except FileNotFoundError:  # the first event makes it
        state = os.statvfs(directory.parent)
    return state.f_bavail * state.f_frsize, state.f_blocks * state.f_frsize
