# SPDX-License-Identifier: Apache-2.0
"""A queued message and its recipients as the queue knows them.

Promises: while a message is claimed there is one `Queued` of it, and only the event loop changes it, after the commit.
Not here: its rows (`rows.py`), its octets (`content.py`).
"""

from dataclasses import dataclass, field
from enum import IntEnum

from gateway.mail.address import NULL_SENDER, Address
from gateway.mail.events import Fate
from gateway.mail.job import Due, Job, QueueId
from gateway.mail.message import Message


class State(IntEnum):
    """Of a recipient. The numbers are in the database: below 2 is open."""

    QUEUED = 0
    DEFERRED = 1
    DELIVERED = 2
    FAILED = 3

    @property
    def label(self) -> str:
        return self.name.lower()


_FATES = {State.DELIVERED: "delivered", State.FAILED: "bounced", State.QUEUED: "deleted", State.DEFERRED: "deleted"}


@dataclass(slots=True)
class Addressee:
    """One recipient: `attempts` made, `due` for the next, the last `reply` and the `hop` that gave it."""

    index: int
    address: Address
    due: float
    state: State = State.QUEUED
    attempts: int = 0
    reply: str = ""
    hop: str = ""
    notify: tuple[str, ...] = ()
    orcpt: str = ""

    @property
    def open(self) -> bool:
        return self.state < State.DELIVERED


@dataclass(slots=True, kw_only=True)
class Queued:
    """One message. `message` is set while its content is kept in memory."""

    n: int  # the number of its row
    id: QueueId
    sender: Address
    addressees: list[Addressee]
    created: float
    size: int
    eight_bit: bool = False
    smtputf8: bool = False
    filed: bool = False  # the body has a file
    binary: bool = False
    require_tls: bool = False
    ret: str = ""
    envid: str = ""
    held: bool = False
    reason: str = ""
    rule: str = ""
    symbols: tuple[str, ...] = field(default=())
    message: Message | None = None

    def open(self) -> list[Addressee]:
        return [each for each in self.addressees if each.open]

    def due(self) -> float | None:
        """When the earliest open recipient is due; None if all are settled."""
        return min((each.due for each in self.addressees if each.open), default=None)

    def job(self, addressees: list[Addressee]) -> Job:
        """The share of these recipients."""
        return Job(
            id=self.id,
            sender=self.sender,
            recipients=tuple(Due(each.index, each.address, each.attempts, each.notify, each.orcpt) for each in addressees),
            created=self.created,
            size=self.size,
            eight_bit=self.eight_bit,
            smtputf8=self.smtputf8,
            binary=self.binary,
            require_tls=self.require_tls,
            ret=self.ret,
            envid=self.envid,
        )

    def fates(self) -> tuple[Fate, ...]:
        """What became of each recipient; an open one was deleted."""
        return tuple(
            Fate(address=str(each.address), result=_FATES[each.state], attempts=each.attempts, reply=each.reply, hop=each.hop)
            for each in self.addressees
        )


def read_address(text: str) -> Address:
    """An address from its stored text. A domain has no "@", so the last one divides."""
    if not text:
        return NULL_SENDER
    local, at, domain = text.rpartition("@")
    return Address(local, domain) if at else Address(text, "")
