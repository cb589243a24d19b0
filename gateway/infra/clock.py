# SPDX-License-Identifier: Apache-2.0
"""The machine's clocks as a `ports.Clock`.

Promises: `now` is wall time and may jump; `monotonic` never goes back. Tests put their own clock in its place.
"""

import asyncio
import time


class SystemClock:
    """The one clock of a running daemon."""

    # The functions themselves: they are asked some thirty times a message, and a method around each is not for nothing.
    now = staticmethod(time.time)
    """Unix time in seconds."""
    monotonic = staticmethod(time.monotonic)
    """Seconds since some fixed moment."""

    async def sleep(self, seconds: float) -> None:
        """Wait; a negative time is none (a clock that jumped must not raise here)."""
        await asyncio.sleep(max(0.0, seconds))
