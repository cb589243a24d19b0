# SPDX-License-Identifier: Apache-2.0
"""Makers of what the queue's tests hand in, and a sink of events that can be asked."""

import asyncio
import itertools
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address
from typing import TypeVar

from gateway.mail.address import NULL_SENDER, Address
from gateway.mail.envelope import Client, Envelope, Recipient, Transaction
from gateway.mail.events import Event, Trouble
from gateway.mail.job import Delivered, Due, Failed, Job, QueueId, make_queue_id
from gateway.mail.message import Message
from gateway.ports import Submission

E = TypeVar("E", bound=Event)
_count = itertools.count(1)

CLIENT = Client(session="S1", ip=IPv4Address("192.0.2.1"), port=4711, listener="127.0.0.1:25", role="mx", connected=0.0)
SENDER = Address("sender", "source.example")
TRACE = b"Received: from client.example by mx.example\r\n"
HEADER = b"From: a@source.example\r\nMessage-ID: <one@source.example>\r\nSubject: hello\r\n"


def queue_id() -> QueueId:
    return make_queue_id(next(_count), 7)


def content(body: bytes = b"Hello\r\n") -> Message:
    return Message(TRACE, HEADER, b"\r\n" + body)


def transaction(
    *recipients: str,
    message: Message | None = None,
    sender: Address = SENDER,
    id: QueueId | None = None,
    smtputf8: bool = False,
) -> Transaction:
    addresses = [Address(*name.rsplit("@", 1)) for name in recipients or ("one@dest.example",)]
    return Transaction(
        client=CLIENT,
        id=id or queue_id(),
        started=0.0,
        sender=sender,
        recipients=[Recipient(address) for address in addresses],
        message=message or content(),
        smtputf8=smtputf8,
    )


async def until(met: Callable[[], object]) -> None:
    """Give threads and tasks turns until the condition holds."""
    while not met():  # noqa: ASYNC110  # what it waits for may happen in a thread
        await asyncio.sleep(0.001)


class Events(list[Event]):
    """An EventSink that remembers."""

    def emit(self, event: Event) -> None:
        self.append(event)

    def of(self, kind: type[E]) -> list[E]:
        return [event for event in self if isinstance(event, kind)]

    @property
    def troubles(self) -> list[str]:
        return [trouble.detail for trouble in self.of(Trouble)]


class SmallBouncer:
    """Writes a line to the sender, or nothing to the null sender; `broken` makes it fail."""

    def __init__(self) -> None:
        self.composed: list[tuple[Job, list[tuple[Due, Failed | Delivered]]]] = []
        self.broken = False
        self.body = b"\r\nsorry\r\n"

    def compose(
        self, job: Job, message: Message, told: Sequence[tuple[Due, Failed | Delivered]], now: float
    ) -> Submission | None:
        if self.broken:
            raise RuntimeError("no ink")
        self.composed.append((job, list(told)))
        if not job.sender:
            return None
        envelope = Envelope(sender=NULL_SENDER, recipients=(Recipient(job.sender),))
        return Submission(id=queue_id(), envelope=envelope, message=Message(b"", b"Subject: bounce\r\n", self.body))
