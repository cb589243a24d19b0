# SPDX-License-Identifier: Apache-2.0
"""Sessions that are kept for the next message to the same hop.

Promises: busy and idle sessions together are at most `connections`, so long as no more than that are taken at once; one
that is dead, used up or idle for too long is never given out; the newest goes first, so that the surplus ages and is closed.
Not here: how many may be busy at one destination (`shaping.py`).
"""

import asyncio

from gateway.delivery.options import DeliveryOptions
from gateway.delivery.smtp_session import Session
from gateway.ports import Clock


class Pool:
    """Each `take` is followed by exactly one `give`, with the session that was used in the end, or None."""

    def __init__(self, options: DeliveryOptions, clock: Clock) -> None:
        self._options = options
        self._clock = clock
        self._by_hop: dict[str, list[Session]] = {}
        self._idle: dict[Session, tuple[str, float]] = {}  # hop and time of return; oldest first
        self._busy = 0
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    def __len__(self) -> int:
        """Idle sessions."""
        return len(self._idle)

    def take(self, hop: str) -> Session | None:
        """An idle session for that hop, or None: then there is room to open one."""
        self._busy += 1
        stack = self._by_hop.get(hop, ())
        while stack:
            session = stack[-1]
            self._drop(session)
            if session.usable:
                return session
        while self._idle and self._busy + len(self._idle) > self._options.connections:
            self._discard(next(iter(self._idle)))
        return None

    def give(self, hop: str, session: Session | None) -> None:
        """Back from use. It is kept if it can be used again."""
        self._busy -= 1
        if session is None:
            return
        if self._closed or session.used >= self._options.messages_per_connection or not session.usable:
            session.quit()
            return
        self._by_hop.setdefault(hop, []).append(session)
        self._idle[session] = (hop, self._clock.monotonic())
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._options.idle, self.expire)

    def expire(self) -> None:
        """Close what has been idle for too long, and come again when the next one will be."""
        self._timer = None
        now = self._clock.monotonic()
        while self._idle:
            session = next(iter(self._idle))
            left = self._idle[session][1] + self._options.idle - now
            if left > 0:
                self._timer = asyncio.get_running_loop().call_later(left, self.expire)
                return
            self._discard(session)

    def close(self) -> None:
        """Close the idle ones; busy ones are closed as they come back."""
        self._closed = True
        if self._timer:
            self._timer.cancel()
            self._timer = None
        for session in list(self._idle):
            self._discard(session)

    def _discard(self, session: Session) -> None:
        self._drop(session)
        session.quit()

    def _drop(self, session: Session) -> None:
        hop, _ = self._idle.pop(session)
        stack = self._by_hop[hop]
        stack.remove(session)
        if not stack:
            del self._by_hop[hop]
