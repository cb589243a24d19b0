# SPDX-License-Identifier: Apache-2.0
"""The maildir transport: final delivery into a directory, one file a recipient.

Promises: a file appears in `new/` whole and synced, or not at all; it is only for its owner (0600); the octets are those of
the message, CRLF line ends included, below `Return-Path` and `Delivered-To`; names are never used twice.
Fails with: a deferral; the disk's fault goes to the log, not to the sender.
RFCs: 5321 §4.4 (Return-Path at final delivery). Form: https://cr.yp.to/proto/maildir.html
Not here: who may be delivered to (`filters/recipients.py`).
"""

import asyncio
import contextlib
import itertools
import os
from collections.abc import Sequence
from pathlib import Path

from gateway.mail import reply
from gateway.mail.address import Address
from gateway.mail.events import Trouble
from gateway.mail.job import Deferred, Delivered, Job, NextHop, Outcome
from gateway.mail.message import Message
from gateway.ports import Clock, EventSink

FOLDERS = ("tmp", "new", "cur")


class MaildirTransport:
    """For hops of kind "maildir"; the target is the directory, which is made if it is missing."""

    def __init__(self, hostname: str, *, clock: Clock, events: EventSink) -> None:
        self._host = hostname.replace("/", "\\057").replace(":", "\\072")
        self._clock = clock
        self._events = events
        self._numbers = itertools.count(1)

    async def deliver(self, job: Job, message: Message, hop: NextHop) -> Sequence[Outcome]:
        """See `ports.Transport`. A cancellation waits for the thread and is swallowed: what was written is reported."""
        work = asyncio.ensure_future(asyncio.to_thread(self._deliver, job, message, hop))
        try:
            outcomes, faults = await asyncio.shield(work)
        except asyncio.CancelledError:
            outcomes, faults = await work
            if task := asyncio.current_task():
                task.uncancel()
        for fault in faults:
            self._events.emit(Trouble(time=self._clock.now(), area="delivery.maildir", detail=fault, id=job.id))
        return outcomes

    def _deliver(self, job: Job, message: Message, hop: NextHop) -> tuple[list[Outcome], list[str]]:
        """In a thread: the outcomes, and what the disk had to say."""
        outcomes: list[Outcome] = []
        faults: list[str] = []
        for due in job.recipients:
            started = self._clock.monotonic()
            try:
                self._write(Path(hop.target), job, message, due.address)
            except OSError as err:
                faults.append(str(err))
                outcomes.append(Deferred(reply=reply.MAILDIR_FAULT, hop=str(hop)))
            else:
                seconds = self._clock.monotonic() - started
                outcomes.append(Delivered(reply=reply.DELIVERED_LOCALLY, hop=str(hop), seconds=seconds, action="delivered"))
        return outcomes, faults

    def _write(self, directory: Path, job: Job, message: Message, recipient: Address) -> None:
        """One file: written in tmp/, synced, moved to new/, and the move synced too."""
        for folder in FOLDERS:
            (directory / folder).mkdir(mode=0o700, parents=True, exist_ok=True)
        name = self._name(job)
        draft = directory / "tmp" / name
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(f"Return-Path: <{job.sender}>\r\nDelivered-To: {recipient}\r\n".encode())
                for chunk in message.chunks():
                    file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
            draft.rename(directory / "new" / name)
        except BaseException:
            with contextlib.suppress(OSError):
                draft.unlink(missing_ok=True)
            raise
        _sync(directory / "new")

    def _name(self, job: Job) -> str:
        """Time, process and a number make it unique on this host; the queue id makes it findable."""
        seconds, fraction = divmod(self._clock.now(), 1)
        return f"{int(seconds)}.M{int(fraction * 1e6):06d}P{os.getpid()}Q{next(self._numbers)}_{job.id}.{self._host}"


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
