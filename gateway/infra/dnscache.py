# SPDX-License-Identifier: Apache-2.0
"""What the resolver remembers: answers by question, each until its time is over.

Promises: bounded in number and in octets, whatever the answers are; the least recently used goes first; a look costs
about a microsecond. It knows no clock: the caller says what time it is.
Not here: how long an answer lives (`infra/dns.py`).
"""

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

V = TypeVar("V")

# An entry costs memory beside its records: key, node, objects. Measured with tracemalloc: 500 to 700 octets.
OVERHEAD = 600
# What the average entry may weigh before octets, not the number of entries, is what limits the cache.
OCTETS_PER_ENTRY = 2048


@dataclass(slots=True)
class Entry(Generic[V]):
    """One answer. `expires` is in the monotonic seconds of the caller's clock."""

    value: V
    expires: float
    weight: int


class Cache(Generic[V]):
    """At most `size` entries (0: remember nothing), and at most `size` × 2 KiB of them."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._octets_max = size * OCTETS_PER_ENTRY
        self._octets = 0
        self._entries: OrderedDict[Hashable, Entry[V]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Hashable, now: float) -> Entry[V] | None:
        """The entry, if it is there and its time is not over."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if entry.expires <= now:
            self._drop(key)
            return None
        self._entries.move_to_end(key)
        return entry

    def put(self, key: Hashable, value: V, expires: float, octets: int) -> None:
        """Remember `value`, whose records weigh `octets`. Too heavy for the whole cache: not remembered."""
        self._drop(key)
        weight = octets + OVERHEAD
        if weight > self._octets_max:
            return
        self._entries[key] = Entry(value, expires, weight)
        self._octets += weight
        while len(self._entries) > self._size or self._octets > self._octets_max:
            self._drop(next(iter(self._entries)))

    def clear(self) -> None:
        self._entries.clear()
        self._octets = 0

    def _drop(self, key: Hashable) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._octets -= entry.weight
