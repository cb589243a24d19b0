# SPDX-License-Identifier: Apache-2.0
"""The data directory: its folders, and the lock that makes one daemon its owner.

    lock      flock; holds the owner's process id for the error text
    queue/    the queue's shards (`queue/manager.py`)
    run/      control sockets
    trace/    what `gateway explain` remembers

Promises: a lock file that a dead process left behind stops nobody (the kernel drops the lock with the process); the lock
belongs to the open file, so workers that inherited its descriptor keep it until the last of them has gone.
Fails with: `DataDirectoryInUse`; `OSError` if the directory cannot be made or written.
"""

import fcntl
import os
from pathlib import Path


class DataDirectoryInUse(Exception):
    """Another process works in the data directory; the text names the directory and the process."""

    def __init__(self, path: Path, pid: int | None) -> None:
        owner = f"process {pid}" if pid else "another process"
        super().__init__(f"{path} is in use by {owner}")
        self.path = path
        self.pid = pid

    @property
    def alive(self) -> bool:
        """False if the process that took the lock has ended: workers that it left behind will let go soon."""
        if self.pid is None:
            return True
        try:
            state = Path(f"/proc/{self.pid}/stat").read_bytes().rpartition(b")")[2].split()[0]
        except (OSError, IndexError):
            return False
        return state not in (b"Z", b"X")


class DataDirectory:
    """`lock` makes what is missing; before that nothing is touched."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.queue = path / "queue"
        self.run = path / "run"
        self.trace = path / "trace"
        self._descriptor: int | None = None

    @property
    def descriptors(self) -> tuple[int, ...]:
        """What a worker process must inherit to keep the lock; empty while it is not locked."""
        return () if self._descriptor is None else (self._descriptor,)

    def make(self) -> None:
        """The folders, for our eyes only."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        for folder in (self.queue, self.run, self.trace):
            folder.mkdir(mode=0o700, exist_ok=True)

    def lock(self) -> None:
        """Make the folders and become the owner. Raises DataDirectoryInUse at once if there is one."""
        if self._descriptor is not None:
            return
        self.make()
        descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        except BlockingIOError as err:
            pid = _pid(os.pread(descriptor, 32, 0))
            os.close(descriptor)
            raise DataDirectoryInUse(self.path, pid) from err
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor

    def unlock(self) -> None:
        """Let go of our share of the lock. The file stays: to remove it would let two owners lock two files."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _pid(text: bytes) -> int | None:
    word = text.strip()
    return int(word) if word.isdigit() else None
