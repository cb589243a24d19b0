# SPDX-License-Identifier: Apache-2.0
"""What the store carries: one operation, and those that share a transaction; and what it knows of the disk's room.

Not here: carrying it (`store.py`).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from gateway.mail import reply
from gateway.mail.reply import MailError
from gateway.queue.disk import Connection

T = TypeVar("T")
Operation = Callable[[Connection], T]


@dataclass(slots=True, eq=False)
class Request:
    """One operation. `octets` is what it writes, about; `error` is set if it failed alone.

    One that `insists` may use the reserve when the disk is full, and is tried again then.
    """

    run: Operation[Any]
    then: Callable[[Any], None]
    failed: Callable[[MailError], None]
    quick: bool = False
    writes: bool = True
    octets: int = 0
    insists: bool = False
    result: Any = None
    error: MailError | None = None

    @property
    def stuck(self) -> bool:
        """It found no room, but must not be refused for that."""
        return self.error is not None and self.error.reply is reply.NO_SPACE and (self.insists or not self.writes)


@dataclass(slots=True, eq=False)
class Flight:
    """`requests` stand in the order in which they run; the first `begun` of them ran on the loop."""

    requests: list[Request]
    writes: bool
    begun: int = 0
    spoiled: bool = False  # an operation failed
    suspect: bool = False  # the disk failed under one: the connection is not to be trusted
    faults: list[str] = field(default_factory=list)


class Room(Protocol):
    """What the writer's thread asks of `space.py`, which says what they mean."""

    log: int
    tight: bool
    inside: int
    copy_max: int

    def give_up(self) -> bool: ...


@dataclass(slots=True)
class Plenty:
    """A disk that is never full."""

    log: int = 32 << 20
    tight: bool = False
    inside: int = 0
    copy_max: int = 0

    def give_up(self) -> bool:
        return False
