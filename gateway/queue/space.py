# SPDX-License-Identifier: Apache-2.0
"""Is there room for more mail?

Promises: mail is refused before the disk is full, so that what is queued can still be settled (that needs room as well);
taken again only when a quarter more than the limit is free, so that the answer does not flap.
Not here: what a full disk does to a commit (`disk.py`).
"""

from pathlib import Path

from gateway.mail.units import format_size
from gateway.ports import Clock
from gateway.queue.disk import Disk

PERIOD = 1.0  # seconds for which an answer holds
MIN_INODES = 1000
RELIEF = 1.25
AUTO, AUTO_SHARE = 256 << 20, 20  # octets, or this part of a small file system, which would else be too small for any mail


class Space:
    """`limit` octets must be free in `directory`; 0 is no limit, None is one that fits the file system."""

    def __init__(self, directory: Path, disk: Disk, clock: Clock, limit: int | None) -> None:
        self.limit = limit
        self.short = ""  # what is short, for the log
        self._directory = directory
        self._disk = disk
        self._clock = clock
        self._until = float("-inf")

    def check(self) -> bool:
        """True while there is not enough. Asks the file system once a second at most: some microseconds."""
        now = self._clock.monotonic()
        if now >= self._until:
            self._until = now + PERIOD
            self.short = self._look()
        return bool(self.short)

    def look_again(self) -> None:
        """A write has failed: the answer is too old."""
        self._until = float("-inf")

    def _look(self) -> str:
        if self.limit == 0:
            return ""
        try:
            octets, inodes = self._disk.free(self._directory)
            # Asked each time: a file system can grow.
            limit = min(AUTO, self._disk.size(self._directory) // AUTO_SHARE) if self.limit is None else self.limit
        except OSError as err:
            return f"cannot look at {self._directory}: {err}"
        factor = RELIEF if self.short else 1.0
        if octets < limit * factor:
            return f"{format_size(octets)} free of the {format_size(limit)} that [queue] min_free wants"
        if inodes is not None and inodes < MIN_INODES * factor:
            return f"{inodes} inodes free"
        return ""
