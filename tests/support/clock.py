# SPDX-License-Identifier: Apache-2.0
"""A clock that stands still until a test moves it."""

import asyncio
import heapq
import itertools


class FakeClock:
    """`advance` moves both times and wakes sleepers in order; `jump` moves the wall time only."""

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self._now = now
        self._monotonic = 1000.0
        self._order = itertools.count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    def now(self) -> float:
        return self._now

    def monotonic(self) -> float:
        return self._monotonic

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        waiter = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._monotonic + seconds, next(self._order), waiter))
        await waiter

    @property
    def sleepers(self) -> int:
        """How many tasks are asleep now."""
        return sum(not waiter.done() for _, _, waiter in self._sleepers)

    def jump(self, seconds: float) -> None:
        """The wall clock is set; monotonic time does not notice."""
        self._now += seconds

    async def advance(self, seconds: float) -> None:
        """Let time pass; each sleeper wakes at its own moment and runs before the next one does."""
        end = self._monotonic + seconds
        while self._sleepers and self._sleepers[0][0] <= end:
            wake, _, waiter = heapq.heappop(self._sleepers)
            self._step(wake)
            if not waiter.done():
                waiter.set_result(None)
            for _ in range(5):  # let what woke up run as far as it can without time
                await asyncio.sleep(0)
        self._step(end)

    def _step(self, moment: float) -> None:
        self._now += moment - self._monotonic
        self._monotonic = moment
