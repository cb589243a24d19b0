# SPDX-License-Identifier: Apache-2.0
"""The log: one JSON object a line on a stream, usually stderr.

Promises: `emit` never waits for the stream: lines go to a bounded buffer that a small thread writes out; when the
reader is slower than we are, whole records are left out and counted, and a record says so later. One event is one
line: control characters, odd Unicode and lone surrogates are escaped, so nothing from outside can forge a second line
or reach a terminal as an escape sequence.
Not here: what a record says (`infra/records.py`).
"""

import json
import os
import re
import select
import threading
import time
from collections.abc import Callable
from typing import Any, Literal, TextIO

import orjson

from gateway.infra.options import Options, option
from gateway.infra.records import LEVELS, RECORDS, Record, record, timestamp
from gateway.mail.events import Connected, Disconnected, Event

BUFFER = 8 << 20  # octets that may wait for the stream: some 20,000 records
LINGER = 0.02  # seconds between two writes while events keep coming: one system call for many lines
CLOSE_PATIENCE = 2.0  # seconds that a stream which does not move may hold up the end of the process

# An escape in JSON text: a whole surrogate pair, a lone surrogate, or any other (so that "\\ud800" is left alone).
_ESCAPE = re.compile(r"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)")


class LogOptions(Options):
    """[log]"""

    level: Literal["debug", "info", "warning", "error"] = option(
        "info", doc="The least level that is written. Warnings are bounces and held mail; errors are trouble of ours."
    )
    connections: bool = option(False, doc="Write a record for each connection and for its end, too.")


def to_line(entry: Record, odd: Callable[[Any], Any] | None = None) -> str:
    """A record as one line of strict JSON in ASCII, without the newline. `odd` makes something of a value of another type.

    orjson takes 0.5 µs and json 7 µs, but only json escapes what is not ASCII, and DEL; and it takes lone surrogates.
    """
    try:
        quick = orjson.dumps(entry, odd)
    except TypeError:
        quick = b"\x7f"
    if quick.isascii() and b"\x7f" not in quick:
        return quick.decode("ascii")
    line = json.dumps(entry, check_circular=False, separators=(",", ":"), default=odd)
    if "\\ud" in line:  # strict readers refuse a lone surrogate
        line = _ESCAPE.sub(lambda found: r"\ufffd" if found[1] else found[0], line)
    return line


_last: tuple[Event | None, str] = (None, "")  # one tuple, so that threads see both parts or neither


def line_of(event: Event) -> str:
    """An event as its line in the log, without the newline. Never raises: one that cannot be told is told as such.

    The line of the last event is kept, since log and trace ask for the same one in turn.
    """
    global _last
    known, line = _last
    if known is not event:
        try:
            line = to_line(record(event))
        except Exception as err:  # noqa: BLE001 - the border to the log: no event may stop the mail
            line = to_line(_unloggable(event, err))
        _last = (event, line)
    return line


class JsonLog:
    """An EventSink that writes to `stream`. `close` it in the end, or the last lines may be missing."""

    def __init__(
        self, stream: TextIO, options: LogOptions | None = None, *, worker: int | None = None, buffer: int = BUFFER
    ) -> None:
        """`worker` is its number where there are several: every record says it."""
        options = options or LogOptions()
        self._end = "}" if worker is None else f',"worker":{worker}}}'
        self.dropped = 0  # records that were left out since the start
        self._limit = buffer
        self._wanted = _wanted(options)
        self._lock = threading.Lock()  # guards the four fields below; held for a few instructions only
        self._lines: list[str] = []
        self._waiting = 0  # octets taken in and not yet written
        self._unreported = 0
        self._thread: threading.Thread | None = None
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._output = _Output(stream)

    def emit(self, event: Event) -> None:
        """Take an event in. Costs some microseconds, never blocks, never raises."""
        if type(event) not in self._wanted:
            return
        line = line_of(event)[:-1] + self._end
        size = len(line) + 1  # with its newline
        with self._lock:
            if self._waiting + size > self._limit:
                self.dropped += 1
                self._unreported += 1
                return
            self._lines.append(line)
            self._waiting += size
            if self._thread is None:
                self._start()
        if not self._wake.is_set():
            self._wake.set()

    def close(self) -> None:
        """Write what is waiting and stop; gives up after two seconds on a stream that does not move."""
        self._closing.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(CLOSE_PATIENCE)

    def _start(self) -> None:
        # A daemon thread: a reader that never reads must not keep the process alive.
        self._thread = threading.Thread(target=self._write, name="log", daemon=True)
        self._thread.start()

    def _write(self) -> None:
        while True:
            self._wake.wait()
            self._wake.clear()
            last = self._closing.is_set()  # read before the flush: what came while it waited needs another one
            self._flush()
            if last:
                return
            self._closing.wait(LINGER)

    def _flush(self) -> None:
        with self._lock:
            lines, self._lines = self._lines, []
            unreported, self._unreported = self._unreported, 0
        size = sum(map(len, lines)) + len(lines)
        if unreported:
            lines.append(to_line(_dropped(unreported))[:-1] + self._end)
        written = self._output.write(("\n".join(lines) + "\n").encode("ascii")) if lines else True
        with self._lock:
            self._waiting -= size
            if not written:
                self.dropped += len(lines)


def _wanted(options: LogOptions) -> frozenset[type[Event]]:
    least = LEVELS[options.level]
    wanted = {kind for kind, (level, _, _) in RECORDS.items() if LEVELS[level] >= least}
    return frozenset(wanted | {Connected, Disconnected} if options.connections else wanted)


def _dropped(number: int) -> Record:
    return {"time": timestamp(time.time()), "level": "error", "event": "log_dropped", "records": number}


def _unloggable(event: Event, err: Exception) -> Record:
    return {
        "time": timestamp(time.time()),
        "level": "error",
        "event": "unloggable",
        "class": type(event).__name__,
        "detail": f"{type(err).__name__}: {err}",
    }


class _Output:
    """A stream as a place for octets. What has no descriptor (a stream in memory) is written to directly."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        try:
            self._descriptor: int | None = stream.fileno()
        except (OSError, AttributeError):  # io.UnsupportedOperation is an OSError
            self._descriptor = None

    def write(self, data: bytes) -> bool:
        """Write everything, however long the reader takes. False if the stream is broken."""
        try:
            if self._descriptor is None:
                self._stream.write(data.decode("ascii"))
                self._stream.flush()
            else:
                _write_all(self._descriptor, memoryview(data))
        except (OSError, ValueError):  # ValueError: the stream was closed under us
            return False
        return True


def _write_all(descriptor: int, left: memoryview) -> None:
    # As much as possible in one call: each call costs this thread a turn of the interpreter lock.
    while left:
        try:
            left = left[os.write(descriptor, left) :]
        except BlockingIOError:  # a shared terminal that another process has made non-blocking
            waiting = select.poll()
            waiting.register(descriptor, select.POLLOUT)
            waiting.poll()
