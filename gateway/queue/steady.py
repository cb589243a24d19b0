# SPDX-License-Identifier: Apache-2.0
"""The queue's own time: wall time that does not jump.

It follows the wall clock while that moves like the monotonic one. When the wall clock is set (by more than `JUMP`), it
goes on at monotonic pace instead, so a day forward expires nothing, a day back delays nothing, and no wait is negative.
It joins the wall clock again when that comes back, or at the next start of the process.

Promises: never runs backwards by more than `JUMP`; a jump is told once.
Not here: stamps of an earlier process that had a wrong clock (`recovery.py` mends them).
"""

from collections.abc import Callable

from gateway.ports import Clock

JUMP = 60.0  # seconds; a clock that is slewed, or a leap second, moves by far less between two looks


class SteadyTime:
    """`told` hears the size of a jump in seconds."""

    def __init__(self, clock: Clock, told: Callable[[float], None]) -> None:
        self._clock = clock
        self._told = told
        self._time = clock.now()
        self._looked = clock.monotonic()
        self._astray = False

    def now(self) -> float:
        """Unix time in seconds."""
        wall, monotonic = self._clock.now(), self._clock.monotonic()
        expected = self._time + (monotonic - self._looked)
        self._looked = monotonic
        astray = abs(wall - expected) > JUMP
        if astray and not self._astray:
            self._told(wall - expected)
        self._astray = astray
        self._time = expected if astray else wall
        return self._time
