# SPDX-License-Identifier: Apache-2.0
"""Which message is due next: the near end of the schedule in memory, the rest in the database's index.

All queued messages before the *horizon* are here (unless claimed), none behind it; when few are left, the next ones are
read. So a million queued messages cost the memory of `LIMIT` entries.

A message may have to wait for another moment than the one in the database (it could not be read, say). It is *kept*: here
wherever the horizon is, since no reading from the horizon on would find it.

Promises: nothing that is queued is forgotten: it is here, or it stands at or behind the horizon.
Not here: reading (`work.py` does it).
"""

import heapq
import math
from collections.abc import Sequence

from gateway.queue.rows import START, Place

LIMIT = 50_000
LOW = 1_000
NEVER: Place = (math.inf, 0)


class Ready:
    """`horizon` is the first place of the schedule that is not known here; `NEVER` if all is."""

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._heap: list[Place] = []
        self._due: dict[int, float] = {}  # what counts; entries of the heap that disagree are stale
        self._kept: set[int] = set()  # of them, those whose due is not the database's
        self.horizon: Place = START

    def __len__(self) -> int:
        return len(self._due)

    def push(self, due: float, n: int) -> bool:
        """A message waits; `due` is what the database says. False if it lies behind the horizon, to be found later."""
        if n in self._kept:
            self.discard(n)
        if (due, n) >= self.horizon:
            return False
        self._due[n] = due
        heapq.heappush(self._heap, (due, n))
        if self._known > self._limit:
            self._trim(self._limit // 2)
        elif len(self._heap) > 2 * len(self._due) + LOW:
            self._trim(self._known)
        return n in self._due

    def keep(self, due: float, n: int) -> None:
        """A message waits until `due`, whatever the database says."""
        self._due[n] = due
        self._kept.add(n)
        heapq.heappush(self._heap, (due, n))
        if len(self._kept) > self._limit:  # memory is bounded: read all of it again, as at the start
            self._heap.clear()
            self._due.clear()
            self._kept.clear()
            self.horizon = START

    def discard(self, n: int) -> None:
        """A message waits no more."""
        self._due.pop(n, None)
        self._kept.discard(n)

    def take(self, limit: int, now: float) -> list[int]:
        """Up to `limit` messages that are due, the longest due first. They are no longer here."""
        taken: list[int] = []
        while len(taken) < limit and (place := self._first()) is not None and place[0] <= now:
            heapq.heappop(self._heap)
            self.discard(place[1])
            taken.append(place[1])
        return taken

    def next_due(self) -> float | None:
        """When to look again; None if nothing waits."""
        first = min(self._first() or NEVER, self.horizon)
        return first[0] if first is not NEVER else None

    @property
    def low(self) -> bool:
        """Time to read on from the horizon."""
        return self.horizon is not NEVER and self._known < min(LOW, self._limit // 2)

    @property
    def room(self) -> int:
        """How many places to read."""
        return max(1, self._limit // 2)

    def extend(self, places: Sequence[Place], busy: set[int]) -> None:
        """The places from the horizon on, as read; fewer than `room` means that there are no more. `busy` ones are in work."""
        last = places[-1] if len(places) >= self.room else None
        self.horizon = NEVER if last is None else (last[0], last[1] + 1)
        for due, n in places:
            if n not in busy and n not in self._kept and self._due.get(n) != due:
                self._due[n] = due
                heapq.heappush(self._heap, (due, n))

    def _first(self) -> Place | None:
        heap = self._heap
        while heap and self._due.get(heap[0][1]) != heap[0][0]:
            heapq.heappop(heap)
        return heap[0] if heap else None

    @property
    def _known(self) -> int:
        """Messages that are here because they stand before the horizon."""
        return len(self._due) - len(self._kept)

    def _trim(self, count: int) -> None:
        """Forget stale entries and all but the kept and the first `count`; the horizon comes nearer if any are lost."""
        kept = [(self._due[n], n) for n in self._kept]
        places = sorted((due, n) for n, due in self._due.items() if n not in self._kept)
        if len(places) > count:
            self.horizon = places[count]
            places = places[:count]
        places = sorted(places + kept)
        self._due = {n: due for due, n in places}
        self._heap = places
