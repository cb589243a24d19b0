# SPDX-License-Identifier: Apache-2.0
"""One timer for all the deadlines of a session.

Promises: setting a deadline costs a comparison; the loop's timer is touched only when it would ring too late.
Nearly every deadline is moved long before it is due, so a timer for each would be made and cancelled for nothing.
"""

import asyncio
import math
from collections.abc import Callable


def _nothing() -> None:
    pass


class Watchdog:
    """Calls `bite` once when the deadline that was set last has passed."""

    __slots__ = ("_armed", "_bite", "_deadline", "_handle", "_loop")

    def __init__(self, loop: asyncio.AbstractEventLoop, bite: Callable[[], None]) -> None:
        self._loop = loop
        self._bite = bite
        self._deadline = math.inf
        self._armed = math.inf  # when the timer rings; inf if there is none
        self._handle: asyncio.TimerHandle | None = None

    def set(self, seconds: float) -> None:
        """The deadline is that many seconds away; the one before is forgotten."""
        self._deadline = deadline = self._loop.time() + seconds
        if deadline < self._armed:
            if self._handle is not None:
                self._handle.cancel()
            self._arm(deadline)

    def off(self) -> None:
        """No deadline."""
        self._deadline = math.inf

    def cancel(self) -> None:
        """No deadline, and no timer that keeps the session in memory."""
        self._deadline = self._armed = math.inf
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def dismiss(self) -> None:
        """For good: without the way back to its session both are freed at once, and not some thousand sessions later."""
        self.cancel()
        self._bite = _nothing

    def _arm(self, moment: float) -> None:
        self._armed = moment
        self._handle = self._loop.call_at(moment, self._ring)

    def _ring(self) -> None:
        self._handle, self._armed = None, math.inf
        if self._deadline == math.inf:
            return
        if self._deadline > self._loop.time():
            self._arm(self._deadline)
            return
        self._deadline = math.inf
        self._bite()
