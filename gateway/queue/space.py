# SPDX-License-Identifier: Apache-2.0
"""Is there room for more mail?

Looked at once a second at most, and again as soon as what was promised since could have used up what was left: a burst
cannot outrun the look. A message is promised its size twice, since it stands in the log and then in the database.

Three things must hold: `limit` octets are free on the disk or inside the database (mail that has gone leaves pages there that
the next one uses); enough of that is on the disk for the log; and the reserve stands (`reserve.py`).
While room is near its limit the queue looks by itself, so it takes mail again without being asked.

Promises: mail is refused before the disk is full, so that what is queued can still be settled (that needs room as well);
taken again only when a quarter more than the limit is free, so that the answer does not flap. Other processes use the same
disk: the look is at the file system, never at a count of our own.
Not here: what a full disk does to a commit (`store.py`).
"""

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path

from gateway.mail.units import format_size
from gateway.ports import Clock
from gateway.queue.disk import Disk
from gateway.queue.reserve import Reserve

PERIOD = 1.0  # seconds for which an answer holds
MIN_INODES = 1000
RELIEF = 1.25
AUTO, AUTO_SHARE = 256 << 20, 20  # octets, or this part of a small file system, which would else be too small for any mail
LOG_MAX, LOG_SHARE = 32 << 20, 64  # the log is copied into the database when it has grown to this, and may reach twice as much
RESERVE_MAX, RESERVE_SHARE = 8 << 20, 32  # as much as the log of a small disk can have become
COPIES, OVERHEAD = 2, 16 << 10  # of a message in the database: its octets twice, and pages of tables and indexes
NEAR = 2  # times the limit: from there on the queue keeps looking
COPY_SHARE, COPY_MAX = 3, 16 << 20  # the database is made small if what is left in it is this part of what is free, or less


class Space:
    """`limit` octets must be free in `directory`; 0 is no limit, None is one that fits the file system.

    `told` hears what is short, and "" when it no longer is; `tidy` asks the store for `inside` and a smaller database.
    The store's thread uses `log`, `tight`, `inside`, `copy_max` and `give_up` only.
    """

    def __init__(self, directory: Path, disk: Disk, clock: Clock, limit: int | None, *, reserve: Reserve, log: Path) -> None:
        """`log` is the file of the log, whose room is used again and again."""
        self.limit = limit
        self.short = ""  # what is short, for the log
        self.log = LOG_MAX  # octets
        self.tight = False  # near the limit, as far as the disk knows
        self.inside = 0  # octets of free pages in the database; known while it is tight
        self.copy_max = 0  # octets that may be copied to make the database smaller
        self.told: Callable[[str], None] = lambda _: None
        self.tidy: Callable[[], None] = lambda: None
        self._directory = directory
        self._disk = disk
        self._clock = clock
        self._reserve = reserve
        self._log = log
        self._until = float("-inf")
        self._promised = 0  # octets that will be written but may not have been yet
        self._left = 0.0  # octets that may be promised before it is time to look again
        self._tending: asyncio.Task[None] | None = None
        self._closed = False

    def open(self) -> None:
        """Blocking. Have the reserve, if there is room for it; raises nothing."""
        with contextlib.suppress(OSError):  # `check` finds out, and tells
            self._measure()
            self._mend()

    async def close(self) -> None:
        """Look no more; a queue that is closed needs no reserve."""
        self._closed = True
        if self._tending is not None:
            self._tending.cancel()
            await asyncio.gather(self._tending, return_exceptions=True)
        with contextlib.suppress(OSError):  # found by the next start
            await asyncio.to_thread(self._reserve.give_up)

    def check(self) -> bool:
        """True while there is not enough. Asks the file system once a second at most: some microseconds."""
        now = self._clock.monotonic()
        if now >= self._until:
            self._until = now + PERIOD
            short, self.short = self.short, self._look()
            if bool(short) is not bool(self.short):
                self.told(self.short)
            if (self.short or self.tight) and not self._closed and (self._tending is None or self._tending.done()):
                self._tending = asyncio.get_running_loop().create_task(self._tend())
        return bool(self.short)

    def look_again(self) -> None:
        """A write has failed: the answer is too old."""
        self._until = float("-inf")

    def promise(self, octets: int) -> None:
        """A message comes that needs so many octets; end it with `written`."""
        self._promised += octets
        self._left -= octets
        if self._left < 0:
            self.look_again()

    def written(self, octets: int) -> None:
        """What was promised is on the disk, or will not be."""
        self._promised -= octets

    def give_up(self) -> bool:
        """In the store's thread: an outcome finds no room. True if the reserve has made some. The next look will tell."""
        self.look_again()
        with contextlib.suppress(OSError):
            return self._reserve.give_up()
        return False

    # --- looking

    def _look(self) -> str:
        try:
            octets, inodes, limit = self._measure()
        except OSError as err:
            return f"cannot look at {self._directory}: {err}" if self.limit != 0 else ""
        if limit == 0:
            return ""
        factor = RELIEF if self.short else 1.0
        self._left = octets + self.inside - self._promised - limit * factor
        if self._left < 0:
            return f"{format_size(octets + self.inside)} free of the {format_size(limit)} that [queue] min_free wants"
        if octets + self._disk.file_size(self._log) < min(limit, self._reserve.octets) * factor:
            return f"{format_size(octets)} free on the disk, which is too little for the log of the queue"
        if inodes is not None and inodes < MIN_INODES * factor:
            return f"{inodes} inodes free"
        return "" if self._reserve.stands else "the reserve was used up and is not there again"

    def _measure(self) -> tuple[int, int | None, int]:
        """Free octets and inodes, and the limit. Asked each time: a file system can grow."""
        octets, inodes = self._disk.free(self._directory)
        whole = self._disk.size(self._directory)
        limit = min(AUTO, whole // AUTO_SHARE) if self.limit is None else self.limit
        self._reserve.octets = min(RESERVE_MAX, whole // RESERVE_SHARE) if limit else 0
        self.tight = octets < limit * NEAR
        if not self.tight:
            self.inside = 0
        self.log = min(LOG_MAX, whole // LOG_SHARE, self._reserve.octets // 2 if self.tight else LOG_MAX)
        # The reserve may be used for it: it comes back from the room that is won.
        self.copy_max = max(min(octets // COPY_SHARE, COPY_MAX), self._reserve.octets // 2)
        return octets, inodes, limit

    # --- mending

    def _mend(self) -> None:
        """Blocking. Have the reserve again when twice as much is free. Raises OSError."""
        if not self._reserve.octets:
            self._reserve.give_up()  # one that somebody else left
        elif not self._reserve.stands:
            octets, _ = self._disk.free(self._directory)
            if octets + self._reserve.held >= 2 * self._reserve.octets:
                self._reserve.make()

    async def _tend(self) -> None:
        """Look each second until there is room again."""
        while self.short or self.tight:
            await self._clock.sleep(PERIOD)
            with contextlib.suppress(OSError):  # no room after all; the look tells that it does not stand
                await asyncio.to_thread(self._mend)
            self.tidy()
            self.look_again()
            self.check()
