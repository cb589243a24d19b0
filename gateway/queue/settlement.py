# SPDX-License-Identifier: Apache-2.0
"""What an outcome makes of a recipient, and what is said about it. Pure.

Promises: a deferred recipient gets a next try or, when its message has expired, fails with the last reply kept in the text.
RFCs: 5321 §4.5.4.1 (give-up), 3463 §3.5 (X.4.7 delivery time expired).
Not here: making it durable (`settle.py`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gateway.mail import reply
from gateway.mail.events import Attempted, Bounced, Event, Finished
from gateway.mail.job import Deferred, Delivered, Due, Failed, Outcome, QueueId
from gateway.mail.notify import FAILURE, SUCCESS, wants
from gateway.queue.model import Queued, State
from gateway.queue.options import QueueOptions
from gateway.queue.rows import Change
from gateway.queue.schedule import next_due, soon

REPLY_MAX = 1000  # characters of a reply that are kept


@dataclass(frozen=True, slots=True)
class Ruling:
    """`outcome` is delivery's word; `failed` is set if the sender must be told: refused, or expired."""

    due: Due
    outcome: Outcome
    change: Change
    failed: Failed | None = None

    @property
    def news(self) -> Failed | Delivered | None:
        """What the sender wants to be told (RFC 3461 §4.1): of a failure unless he said no, of a success if he said so."""
        if self.failed is not None:
            return self.failed if wants(self.due.notify, FAILURE) else None
        if not isinstance(self.outcome, Delivered) or not self.due.notify:
            return None
        return self.outcome if self.outcome.action and wants(self.due.notify, SUCCESS) else None

    @property
    def final(self) -> bool:
        return self.change.state >= State.DELIVERED


@dataclass(frozen=True, slots=True)
class Moment:
    """When, under which rules, and with which luck (0 … 1) an outcome is judged."""

    now: float
    options: QueueOptions
    random: float


def rule(item: Queued, due: Due, outcome: Outcome, moment: Moment) -> Ruling:
    """One recipient after one attempt. An attempt that did not take place is not counted."""
    attempts = item.addressees[due.index].attempts + 1
    if isinstance(outcome, Delivered):
        return Ruling(due, outcome, _change(due, State.DELIVERED, attempts, moment.now, outcome))
    if isinstance(outcome, Failed):
        return Ruling(due, outcome, _change(due, State.FAILED, attempts, moment.now, outcome), outcome)
    if outcome.counted:
        again = next_due(moment.now, attempts, item.created, moment.options, moment.random)
    else:
        attempts -= 1
        again = soon(moment.now, item.created, moment.options, moment.random)
    if again is None:
        expired = _expired(outcome)
        return Ruling(due, outcome, _change(due, State.FAILED, attempts, moment.now, expired), expired)
    return Ruling(due, outcome, _change(due, State.DEFERRED, attempts, again, outcome))


def _expired(outcome: Deferred) -> Failed:
    """Given up because of time. The reply is ours; the last one of the next hop stands in its text."""
    told = reply.EXPIRED.but(f"{reply.EXPIRED.text}; last reply: {outcome.reply}")
    return Failed(reply=told, hop=outcome.hop, tls=outcome.tls, seconds=outcome.seconds)


def _change(due: Due, state: State, attempts: int, again: float, outcome: Outcome) -> Change:
    return Change(due.index, state, attempts, again, str(outcome.reply)[:REPLY_MAX], outcome.hop)


def kept_open(ruling: Ruling, again: float) -> Ruling:
    """The same attempt, but a failure that cannot be told to anybody yet: the recipient stays."""
    if ruling.failed is None or ruling.news is None:
        return ruling
    return Ruling(ruling.due, ruling.outcome, _change(ruling.due, State.DEFERRED, ruling.change.attempts, again, ruling.failed))


def apply(item: Queued, rulings: Sequence[Ruling]) -> None:
    """The changes, now that they are durable."""
    for ruling in rulings:
        each, change = item.addressees[ruling.due.index], ruling.change
        each.state, each.attempts, each.due = change.state, change.attempts, change.due
        each.reply, each.hop = change.reply, change.hop


def attempted(item: Queued, rulings: Sequence[Ruling], now: float) -> Iterator[Event]:
    """One event for each attempt."""
    for ruling in rulings:
        again = None if ruling.final else ruling.change.due
        yield Attempted(time=now, id=item.id, sender=item.sender, recipient=ruling.due, outcome=ruling.outcome, due=again)


def bounced(item: Queued, rulings: Sequence[Ruling], notice: QueueId | None, now: float) -> Iterator[Event]:
    """One event for each recipient that failed; `notice` is the bounce that tells the sender."""
    for ruling in rulings:
        if ruling.failed is not None:
            unwanted = ruling.news is None
            yield Bounced(
                time=now,
                id=item.id,
                sender=item.sender,
                recipient=ruling.due.address,
                reply=ruling.failed.reply,
                notice=None if unwanted else notice,
                why_not="not wanted" if unwanted else "" if notice else "null sender" if not item.sender else "automatic mail",
            )


def finished(item: Queued, now: float) -> Finished:
    """The disposition of a message whose last recipient is settled."""
    return Finished(
        time=now,
        id=item.id,
        sender=item.sender,
        fates=item.fates(),
        size=item.size,
        accepted=item.created,
        rule=item.rule,
        symbols=item.symbols,
    )
