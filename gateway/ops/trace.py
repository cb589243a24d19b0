# SPDX-License-Identifier: Apache-2.0
"""What is remembered about each message, for `gateway explain`: an EventSink that keeps, a TraceStore that finds.

Promises: for every message, accepted or refused, its events with the findings of all filters, then each attempt, bounce
and operator's command. The loop pays for an append, since the log has made the line already; a thread does the rest in
batches. Memory is bounded: when events come faster than they can be kept they are left out and counted (`dropped`).
`find` sees what is not written yet. Nothing is written while the disk has only room for mail.
Fails with: nothing; a disk that takes no trace costs the trace, not the mail.
Not here: the file (`ops/tracefile.py`), how much of the disk it may have (`ops/traceroom.py`), showing it (`ops/explain.py`).
"""

import asyncio
import json
import sqlite3
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gateway.infra.counting import NewFindings
from gateway.infra.log import line_of, to_line
from gateway.infra.options import Duration, Options, Size, option
from gateway.infra.records import finding_records
from gateway.mail.events import Accepted, Attempted, Bounced, Event, Finished, Held, Operated, Rejected, Trouble
from gateway.mail.job import QueueId
from gateway.mail.verdict import Finding
from gateway.ops.tracefile import TraceFile, assemble, find_in, log_of, put_aside, read
from gateway.ops.traceroom import Room
from gateway.ports import Clock

__all__ = ["TraceOptions", "TraceRecorder", "find_in"]

LINGER = 0.5  # seconds that events are gathered before they are written together; a reader asks for a write at once
BACKLOG = 30_000  # weight of the events that may wait: one each, and one for each of their recipients and findings
EVENTS_A_MESSAGE = 1000  # kept for one message; of a thousand recipients deferred for days the first thousand tries
BODY_MAX = 256 << 10  # octets of one entry
BATCH_MAX = 4 << 20  # octets that are written together
TIDY_PERIOD = 60.0  # seconds between two looks at age and size
TURN = 32  # events between two moments at which the thread offers the interpreter lock to the loop
FLUSH_PATIENCE = 10.0  # seconds

_KEPT = frozenset({Accepted, Rejected, Attempted, Bounced, Held, Finished, Operated, Trouble})


class TraceOptions(Options):
    """[trace]"""

    keep: Duration = option("7d", doc='How long the trace of a message is kept for `gateway explain`; "0s" keeps none.')
    max_size: Size = option(
        "1GiB",
        doc="Space for traces, a worker; the oldest go first. All together never get more than a tenth of the file system.",
        ge=1 << 20,
    )


class TraceRecorder:
    """Keeps the traces of one worker in the database at `path`. `close` writes what is waiting.

    `told` hears why traces are left out when that begins, and "" when it has ended; called by `emit`.
    """

    def __init__(self, path: Path, options: TraceOptions, clock: Clock) -> None:
        self.dropped = 0  # events that were left out since the start
        self.told: Callable[[str], None] = lambda _: None
        self._said = ""
        self._path = path
        self._options = options
        self._waiting: list[tuple[Event, str]] = []
        self._weight = 0
        self._lock = threading.Lock()  # guards the two above and the start of the thread; held for a few instructions
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._flushes: list[threading.Event] = []
        self._writer = _Writer(path, options, clock)
        self._thread: threading.Thread | None = None

    def emit(self, event: Event) -> None:
        """Take an event in, with its line of the log. Never blocks, never raises."""
        if type(event) not in _KEPT or not self._options.keep or (type(event) is Trouble and event.id is None):
            return
        weight = 1
        if isinstance(event, (Accepted, Rejected)):
            weight += len(event.envelope.recipients) + len(event.findings)
        line = line_of(event)
        with self._lock:
            if self._weight + weight > BACKLOG:
                self.dropped += 1
                return
            self._waiting.append((event, line))
            self._weight += weight
            if self._thread is None:
                self._start()
        if not self._wake.is_set():
            self._wake.set()
        short = self._writer.room.short
        if bool(short) is not bool(self._said):
            self._said = short
            self.told(short)

    async def find(self, queue_id: QueueId) -> Mapping[str, Any] | None:
        """The trace of a message, as {"id", "events"}; None if nothing is known."""
        return await asyncio.to_thread(self._find, queue_id)

    def close(self) -> None:
        """Write what is waiting and stop. Blocks for as long as that takes, at most ten seconds."""
        with self._lock:
            self._closing.set()
            self._wake.set()
        if self._thread is not None:
            self._thread.join(FLUSH_PATIENCE)

    def _find(self, queue_id: QueueId) -> Mapping[str, Any] | None:
        done = threading.Event()
        with self._lock:
            waits = self._thread is not None and not self._closing.is_set()
            if waits:
                self._flushes.append(done)
                self._wake.set()
        if waits:
            done.wait(FLUSH_PATIENCE)
        return assemble(queue_id, read(self._path, queue_id))

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="trace", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._closing.is_set():
            self._wake.wait()
            self._wake.clear()
            self._round()
            if not self._flushes:
                self._closing.wait(LINGER)
        self._round()
        self._writer.close()

    def _round(self) -> None:
        with self._lock:
            events, self._waiting, self._weight = self._waiting, [], 0
            flushes, self._flushes = self._flushes, []
        lost = self._writer.write(events)
        with self._lock:
            self.dropped += lost
        for done in flushes:
            done.set()


class _Writer:
    """The thread's side: events become rows. Its file is opened when the first event comes, and again after trouble."""

    def __init__(self, path: Path, options: TraceOptions, clock: Clock) -> None:
        self._path = path
        self._options = options
        self._clock = clock
        self.room = Room(path, options.max_size, clock)
        self._file: TraceFile | None = None
        self._new_findings = NewFindings()
        self._counts: OrderedDict[QueueId, int] = OrderedDict()
        self._tidied = float("-inf")

    def write(self, events: Sequence[tuple[Event, str]]) -> int:
        """Keep these events, given with their lines. Returns how many could not be kept."""
        if not self._has_room(0):
            return len(events)
        lost = octets = 0
        rows: list[tuple[QueueId, str]] = []
        for at, (event, line) in enumerate(events):
            row = self._row(event, line)
            if row:
                rows.append(row)
                octets += len(row[1])
            if octets > min(BATCH_MAX, log_of(self.room.most)):
                lost += self._keep(rows)
                rows, octets = [], 0
            if at % TURN == TURN - 1:
                time.sleep(0)
        return lost + self._keep(rows)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _keep(self, rows: Sequence[tuple[QueueId, str]]) -> int:
        """Write these rows, to a new file if ours is broken. Returns how many are lost."""
        if not self._has_room(sum(len(body) for _, body in rows)):
            return len(rows)
        for _ in range(2):
            try:
                if self._file is None:
                    self._file = TraceFile(self._path, self.room.most)
                if rows:
                    self._file.write(rows)
                self._tidy(self._file)
            except (sqlite3.OperationalError, OSError):  # no space, no permission: the next batch tries again
                break
            except sqlite3.DatabaseError:
                self.close()
                try:
                    put_aside(self._path)
                except OSError:
                    break
            else:
                return 0
        self.close()
        return len(rows)

    def _has_room(self, octets: int) -> bool:
        """False if mail needs what is left of the disk: the file is closed then, which gives the space of its log back."""
        if self.room.take(octets):
            return True
        self.close()
        return False

    def _tidy(self, file: TraceFile) -> None:
        file.shrink(self.room.most)
        now = self._clock.monotonic()
        if now - self._tidied >= TIDY_PERIOD:
            self._tidied = now
            file.remove_before(self._clock.now() - self._options.keep)
            file.empty_log()

    def _row(self, event: Any, line: str) -> tuple[QueueId, str] | None:
        queue_id: QueueId = event.id
        count = self._counts.pop(queue_id, 0) + 1
        self._counts[queue_id] = count
        if len(self._counts) > 2 * BACKLOG:
            self._counts.popitem(last=False)
        if count > EVENTS_A_MESSAGE and type(event) is not Finished:
            return None
        findings = self._new_findings.of(event) if isinstance(event, (Accepted, Rejected)) else ()
        return queue_id, _body(line, findings)


def _body(line: str, findings: Sequence[Finding]) -> str:
    """An entry as JSON, not longer than `BODY_MAX`: findings are given up first, then recipients."""
    if findings:  # both are JSON objects with keys of their own, and become one
        line = f"{line[:-1]},{to_line(finding_records(findings), str)[1:]}"
    if len(line) <= BODY_MAX:
        return line
    entry = json.loads(line)
    entry["findings"] = [finding | {"facts": {}, "lookups": []} for finding in entry.get("findings", [])][:100]
    for key in {"recipients", "dsn"} & entry.keys():
        entry[key] = entry[key][:100]
    entry["shortened"] = True
    return to_line(entry)
