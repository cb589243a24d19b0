# SPDX-License-Identifier: Apache-2.0
"""Counts of things by key, kept by several processes together: how many are there now, over all of them?

The counts lie in memory that all workers share (a memfd, inherited by its descriptor). Each worker has a row that it
alone writes, and reads those of all: no lock, no call into the kernel. A row is the number of all things and a sketch: for
each key two cells, found by a hash under a secret that is new at each start, so nobody can choose whom he shares cells with.

    head   | 16 octets of secret, padding to a page
    row 0  | total, padding | cells of the first hash | cells of the second hash
    row 1  | …

Promises: `enter` and `leave` cost some microseconds; a count may be too high where two keys share both their cells, never
too low; the row of a worker that died is cleared by whoever notices (`clear`), and nothing is left by a daemon that ends.
Memory: 260 KiB a worker at most, and only pages that were written.
Fails with: `OSError` where the memory cannot be had.
Not here: what is counted and what follows from it (`edge/admission.py`); counts that fade with time, which need another table.
"""

import contextlib
import mmap
import os
from hashlib import blake2b

PAGE = 4096
SECRET = 16  # octets
CELLS = 1 << 15  # for each of the two hashes: with 10,000 keys there, a new one finds an empty cell in nine of ten cases
WORD = 4  # octets of a cell
ROW = PAGE + 2 * CELLS * WORD
FIRST, SECOND = PAGE // WORD, PAGE // WORD + CELLS  # where the cells of a hash begin within a row, in words

Cells = tuple[int, int]


def make_memory(rows: int) -> int:
    """Shared memory for so many workers, with everything at zero: a descriptor that they must inherit."""
    descriptor = os.memfd_create("gateway-tally")
    try:
        os.ftruncate(descriptor, PAGE + rows * ROW)
        os.pwrite(descriptor, os.urandom(SECRET), 0)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


class Tally:
    """The counts, as the worker `row` of `rows` sees and changes them. `descriptor` may be closed afterwards."""

    def __init__(self, descriptor: int, rows: int, row: int) -> None:
        self._map = mmap.mmap(descriptor, PAGE + rows * ROW)
        self._secret = self._map[:SECRET]
        self._words = memoryview(self._map).cast("I")
        self._bases = [(PAGE + at * ROW) // WORD for at in range(rows)]
        self._own = self._bases[row]
        self._others = [base for base in self._bases if base != self._own]

    def enter(self, key: bytes) -> None:
        """One more with that key, in this process."""
        self._change(key, 1)

    def leave(self, key: bytes) -> None:
        """One less. It must have entered in this process."""
        self._change(key, -1)

    @property
    def total(self) -> int:
        """All things that are there, in all processes."""
        words = self._words
        return sum(words[base] for base in self._bases)

    def elsewhere(self, key: bytes) -> int:
        """How many with that key the other processes have, at most; our own are known exactly by whoever entered them."""
        words, (first, second) = self._words, self._cells(key)
        by_first = sum(words[base + first] for base in self._others)
        return min(by_first, sum(words[base + second] for base in self._others)) if by_first else 0

    def clear(self, row: int) -> None:
        """Forget what a worker counted that is no more. Nobody may write that row meanwhile."""
        start = self._bases[row] * WORD
        self._map[start : start + ROW] = bytes(ROW)

    def close(self) -> None:
        """Let go of the memory; it is gone with the last process that has it."""
        self._words.release()
        with contextlib.suppress(BufferError):  # somebody looks at it still; then it goes with the process
            self._map.close()

    def _change(self, key: bytes, by: int) -> None:
        words, own, (first, second) = self._words, self._own, self._cells(key)
        words[own] += by
        words[own + first] += by
        words[own + second] += by

    def _cells(self, key: bytes) -> Cells:
        digest = int.from_bytes(blake2b(key, digest_size=8, key=self._secret).digest(), "little")
        return FIRST + digest % CELLS, SECOND + (digest >> 32) % CELLS
