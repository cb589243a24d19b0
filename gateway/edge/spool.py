# SPDX-License-Identifier: Apache-2.0
"""A file that a large body goes to while it arrives.

Promises: the loop never waits for the disk; a file that was removed stays removed, even if a write was still under way.
Fails with: `OSError` from `write` and `finish`.
Not here: fsync and the final name; the queue does that when it takes the file over.
"""

import contextlib
import io
import os
import threading
from asyncio import get_running_loop
from concurrent.futures import Executor
from pathlib import Path

from gateway.mail.message import FileBody


class SpoolFile:
    """Written in threads of `pool`, one write at a time."""

    def __init__(self, path: Path, pool: Executor) -> None:
        self._path = path
        self._pool = pool
        self._lock = threading.Lock()  # a cancelled write may still be running when `remove` begins
        self._file: io.FileIO | None = None
        self._size = 0
        self._gone = False

    async def write(self, data: bytes) -> None:
        """Append; the first write makes the file, which must not exist."""
        await get_running_loop().run_in_executor(self._pool, self._write, data)

    async def finish(self) -> FileBody:
        """Close the file, complete and ready to be taken over."""
        await get_running_loop().run_in_executor(self._pool, self._close)
        return FileBody(self._path, 0, self._size)

    async def remove(self) -> None:
        """Take the file away, if it is still here. Never raises OSError: what stays behind, the queue clears at start-up."""
        await get_running_loop().run_in_executor(self._pool, self._remove)

    def _write(self, data: bytes) -> None:
        with self._lock:
            if self._gone:
                return
            if self._file is None:
                self._file = io.FileIO(self._path, "xb", opener=_private)
            view = memoryview(data)
            while view:
                written = self._file.write(view) or 0
                self._size += written
                view = view[written:]

    def _close(self) -> None:
        with self._lock:
            if self._file is not None:
                self._file.close()

    def _remove(self) -> None:
        with self._lock, contextlib.suppress(OSError):
            self._gone = True
            if self._file is not None:
                with contextlib.suppress(OSError):
                    self._file.close()
                self._path.unlink(missing_ok=True)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
