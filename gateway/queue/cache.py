# SPDX-License-Identifier: Apache-2.0
"""New messages kept in memory until their first try, so that it need not read what was just written.

Promises: never more octets than allowed. Nothing is pushed out for a newcomer: the oldest are the next to be tried.
"""

from gateway.mail.message import FileBody
from gateway.queue.model import Queued

ENTRY_OCTETS = 1500  # of Python objects for a message; 640 were measured, and its header fields may have been parsed
ADDRESSEE_OCTETS = 400  # 290 were measured


class Cache:
    """By number of row."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._octets = 0
        self._items: dict[int, Queued] = {}

    def __contains__(self, n: int) -> bool:
        return n in self._items

    def add(self, item: Queued) -> bool:
        """True if it is kept; its `message` is set then."""
        octets = _octets(item)
        if self._octets + octets > self.limit:
            return False
        self._octets += octets
        self._items[item.n] = item
        return True

    def get(self, n: int) -> Queued | None:
        return self._items.get(n)

    def drop(self, n: int) -> None:
        """Forget it, if it is here."""
        if (item := self._items.pop(n, None)) is not None:
            self._octets -= _octets(item)


def _octets(item: Queued) -> int:
    inline = 0 if item.message is not None and isinstance(item.message.body, FileBody) else item.size
    return ENTRY_OCTETS + inline + ADDRESSEE_OCTETS * len(item.addressees)
