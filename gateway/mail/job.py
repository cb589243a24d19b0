# SPDX-License-Identifier: Apache-2.0
"""Work for delivery: queue ids, jobs, next hops, outcomes.

Promises: `Outcome` is closed: every recipient of an attempt is delivered, deferred or failed.
RFCs: 5321 §4.5.4.1 (state is per recipient), 3464 §2.3.3 (the actions).
Not here: when a recipient is due (`queue/schedule.py`), how one is delivered (`delivery/`).
"""

import re
from typing import NewType

from gateway.mail.address import Address
from gateway.mail.reply import Reply
from gateway.mail.value import value

QueueId = NewType("QueueId", str)

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # Crockford's base 32: no letter is taken for another
_PAIRS = [first + second for first in _ALPHABET for second in _ALPHABET]  # ten bits at a time: two ids a message are made
_ID = re.compile(r"[0-9A-HJKMNP-TV-Z]{16}")


def make_queue_id(microseconds: int, random_bits: int) -> QueueId:
    """An id of 16 letters that sorts by time: 11 for the microseconds since 1970, 5 for 25 random bits."""
    number = (microseconds & (1 << 55) - 1) << 25 | random_bits & (1 << 25) - 1
    return QueueId("".join([_PAIRS[number >> shift & 1023] for shift in range(70, -1, -10)]))


def parse_queue_id(text: str) -> QueueId | None:
    """The id in `text`, or None if it is not the form of one. Ids from outside pass here before anything else."""
    return QueueId(text) if _ID.fullmatch(text) else None


@value(frozen=True, slots=True)
class Due:
    """One recipient of a job. `index` is its place in the envelope, `attempts` the tries before this one."""

    index: int
    address: Address
    attempts: int = 0
    notify: tuple[str, ...] = ()  # as in `envelope.Recipient`
    orcpt: str = ""


@value(frozen=True, slots=True, kw_only=True)
class Job:
    """A claimed share of a queued message: the recipients that are due now. The content is loaded on demand."""

    id: QueueId
    sender: Address
    recipients: tuple[Due, ...]
    created: float  # Unix time
    size: int
    eight_bit: bool = False  # the content has octets above 127
    smtputf8: bool = False  # the transaction asked for SMTPUTF8
    binary: bool = False  # it came as BINARYMIME: line ends mean nothing in it (RFC 3030 §3)
    require_tls: bool = False  # never but under verified TLS (RFC 8689)
    ret: str = ""  # as in `envelope.Envelope`
    envid: str = ""


@value(frozen=True, slots=True, kw_only=True)
class NextHop:
    """Where a recipient's mail goes next: a route's target, or a domain to look up MX for.

    `kind` is the scheme of the route: "smtp", "maildir", "discard", "mx". `target` is "host:port", a path or a domain.
    """

    kind: str
    target: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.target}"


@value(frozen=True, slots=True, kw_only=True)
class _Outcome:
    """`reply` is the next hop's, or ours if it gave none; `hop` is who was asked: "mx.dest.example[192.0.2.1]:25"."""

    reply: Reply
    hop: str = ""
    remote: bool = False  # `reply` came from the next hop
    tls: str = ""  # such as "TLSv1.3"; empty for a clear connection
    seconds: float = 0.0  # what the attempt took


@value(frozen=True, slots=True, kw_only=True)
class Delivered(_Outcome):
    """The next hop has taken responsibility.

    `action` is what a sender who asked for it is told: "relayed", or "delivered" into a mailbox (RFC 3464 §2.3.3). It is
    empty where nobody is to be told by us: the next hop does that itself, or the mail was discarded.
    """

    action: str = "relayed"


@value(frozen=True, slots=True, kw_only=True)
class Deferred(_Outcome):
    """Not now. `ambiguous`: the connection was lost after the final dot, so the next try may make a duplicate.

    `counted` is False when nothing was tried because the host is known to be resting.
    """

    ambiguous: bool = False
    counted: bool = True


@value(frozen=True, slots=True, kw_only=True)
class Failed(_Outcome):
    """Never: the sender is told."""


Outcome = Delivered | Deferred | Failed
