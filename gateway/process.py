# SPDX-License-Identifier: Apache-2.0
"""What every process of the daemon has: an event loop and answers to signals.

Not here: what runs on the loop (`supervisor.py`, `worker.py`).
"""

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine
from typing import Any


def run_loop(main: Coroutine[Any, Any, int]) -> int:
    """Run on uvloop; on asyncio where that is missing or GATEWAY_LOOP=asyncio asks for it."""
    if os.environ.get("GATEWAY_LOOP") != "asyncio":
        try:
            import uvloop
        except ImportError:
            pass
        else:
            return uvloop.run(main)
    return asyncio.run(main)


class Signals:
    """SIGTERM and SIGINT set `stop`; SIGHUP calls `reload`. Installed on the running loop."""

    def __init__(self, reload: Callable[[], None], *, interrupt: bool) -> None:
        self.stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self.stop.set)
        loop.add_signal_handler(signal.SIGHUP, reload)
        # A Ctrl-C reaches the whole process group: the supervisor acts on it, its workers wait for SIGTERM.
        loop.add_signal_handler(signal.SIGINT, self.stop.set if interrupt else lambda: None)
