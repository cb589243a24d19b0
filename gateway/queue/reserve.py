# SPDX-License-Identifier: Apache-2.0
"""Room that is kept for outcomes: a file of real blocks, `<shard>.reserve`, given up when the disk is full.

Delivered mail makes room only when its delivery was recorded, and to record it takes some room. Free space alone cannot be
that room: bodies that are just being received, other workers and other programs use it up to the last octet.

Promises: after `make` the blocks are ours; after `give_up` they are free. The file holds nothing.
Fails with: `OSError`.
Not here: when it is needed and made again (`space.py`, `store.py`).
"""

import threading
from pathlib import Path

from gateway.queue.disk import Disk


class Reserve:
    """Blocking; usable from any thread. `octets` is how large it shall be; 0 is none, which always stands."""

    def __init__(self, path: Path, disk: Disk) -> None:
        self.octets = 0
        self._made = False
        self._path = path
        self._disk = disk
        self._lock = threading.Lock()

    @property
    def stands(self) -> bool:
        return self._made or self.octets == 0

    @property
    def held(self) -> int:
        """Octets of the file that is there, if only because a process was killed."""
        return self._disk.file_size(self._path)

    def make(self) -> None:
        """Have the blocks; what a killed process left is used. Raises OSError if there is no room, and leaves nothing."""
        with self._lock:
            if not self.stands:
                self._disk.allocate(self._path, self.octets)
                self._made = True

    def give_up(self) -> bool:
        """Free the blocks. False if there were none."""
        with self._lock:
            self._made = False
            there = self.held > 0
            if there:
                self._disk.remove(self._path)
            return there
