# SPDX-License-Identifier: Apache-2.0
"""What libraries say through `logging` and `warnings` becomes events, so that the log has no line that is not JSON.

Promises: a record is one `Trouble` whose area is the logger's name; a traceback is told as its last line and place.
Not here: our own events, which never pass through `logging`.
"""

import logging
import time
import traceback

from gateway.mail.events import Trouble
from gateway.ports import EventSink

DETAIL_MAX = 1000  # characters; aiohttp quotes what a client sent


class Strays(logging.Handler):
    """Hands warnings and errors to `events`."""

    def __init__(self, events: EventSink) -> None:
        super().__init__(logging.WARNING)
        self._events = events

    def emit(self, record: logging.LogRecord) -> None:
        """Called by `logging`, in any thread."""
        try:
            detail = record.getMessage()
            if record.exc_info and record.exc_info[1] is not None:
                detail = f"{detail}: {_told(record.exc_info[1])}"
        except Exception as err:  # a record that cannot be formatted must not stop what wrote it  # noqa: BLE001
            detail = f"unreadable record: {err!r}"
        detail = " ".join(detail[:DETAIL_MAX].split())
        self._events.emit(Trouble(time=time.time(), area=record.name, detail=detail))


def catch_strays(events: EventSink) -> None:
    """From now on, for this process."""
    logging.captureWarnings(capture=True)
    root = logging.getLogger()
    root.handlers = [Strays(events)]
    root.setLevel(logging.WARNING)


def _told(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{where}"
