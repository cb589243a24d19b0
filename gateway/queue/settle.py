# SPDX-License-Identifier: Apache-2.0
"""Recording what became of recipients.

1 judge each outcome, 2 have the notice written if the sender is to be told, 3 commit changes and bounce together (and take the
message away if it is done), 4 tell everybody, 5 let what is still open wait.

Promises: an outcome is never given up while the process lives: a delivered message that is not recorded would be delivered
again. If a commit fails it is tried again, with pauses, whoever was cancelled. A failure that cannot be told to the sender
(the bounce cannot be written) holds the message instead of losing it. A deferral that a full disk does not take is kept in
memory only: nobody need wait for it, since all that a restart forgets is the wait.
RFCs: 5321 §4.2.5 (notice about some recipients), §4.5.5 (no notice about a notice).
Not here: the judgement (`settlement.py`), the text of a bounce (`delivery/bounce.py`).
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from gateway.mail import reply
from gateway.mail.events import Accepted, Held
from gateway.mail.job import Due, Failed, Job, Outcome
from gateway.mail.message import Message
from gateway.mail.reply import MailError
from gateway.ports import Bouncer, Submission
from gateway.queue import rows
from gateway.queue.disk import Connection
from gateway.queue.flight import Request
from gateway.queue.model import Queued
from gateway.queue.settlement import Ruling, apply, attempted, bounced, finished, kept_open, rule
from gateway.queue.shard import Claim, Shard
from gateway.queue.work import Claims

FIRST_PAUSE, LAST_PAUSE = 1.0, 60.0  # seconds between tries to record an outcome
FULL_PAUSE = 2.0  # the longest if the disk is only full: there may be room at any moment
DEFERRAL_OCTETS = 16 << 10  # of log: the pages of a message and a recipient somewhere in the tables and their indexes


@dataclass(slots=True, eq=False)
class Settlement:
    """What is to be recorded, and how often that has failed."""

    job: Job
    claim: Claim
    rulings: list[Ruling]
    done: asyncio.Future[None]
    notice: tuple[Queued, Message, Submission] | None = None
    hold: str = ""
    failures: int = 0

    @property
    def whole(self) -> bool:
        """It settles every recipient that the message has."""
        return len(self.rulings) == len(self.claim.item.addressees) and all(ruling.final for ruling in self.rulings)

    @property
    def waits(self) -> bool:
        """It says only that its recipients are to be tried again."""
        return not self.hold and self.notice is None and not any(ruling.final for ruling in self.rulings)

    def run(self, connection: Connection) -> rows.Settled:
        """The operation. It may have been committed by a try that seemed to fail, so it may not assume that it is new."""
        item = self.claim.item
        if self.notice is not None:
            bounce, message, _ = self.notice
            if self.failures:
                rows.remove(connection, bounce.n)
            rows.add(connection, bounce, message)
        if self.hold:
            rows.hold(connection, [item.n], self.hold)
        if self.whole:
            rows.remove(connection, item.n)
            return rows.Settled(None)
        return rows.settle(connection, item.n, [ruling.change for ruling in self.rulings])


class Settling:
    """Settlements of one shard."""

    def __init__(self, shard: Shard, claims: Claims, bouncer: Bouncer) -> None:
        self._shard = shard
        self._claims = claims
        self._bouncer = bouncer

    async def settle(self, job: Job, outcomes: Sequence[tuple[Due, Outcome]]) -> None:
        """See `ports.Work`. Outcomes of recipients that are not open in the job are dropped: they are settled already."""
        claim = self._shard.claims.get(job.id) or await self._claim_again(job)
        if claim is not None:
            await self.begin(claim, job, outcomes)

    def begin(self, claim: Claim, job: Job, outcomes: Sequence[tuple[Due, Outcome]]) -> asyncio.Future[None]:
        """The part that nobody can cancel. The future is done when the outcomes are durable."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        moment = self._shard.moment()
        rulings = [rule(claim.item, due, outcome, moment) for due, outcome in outcomes if due.index in claim.open]
        if not rulings:
            done.set_result(None)
            return done
        settlement = Settlement(job, claim, rulings, done)
        claim.open.difference_update(ruling.due.index for ruling in rulings)
        claim.pending += 1
        self._shard.renew(claim)
        if any(ruling.news for ruling in rulings):
            self._shard.own(self._with_notice(settlement))
        else:
            self._submit(settlement)
        return done

    async def _claim_again(self, job: Job) -> Claim | None:
        """The lease has ended, but the work was done all the same. None if the job was settled or released long ago."""
        shard = self._shard
        n, left = shard.lapsed.pop(job.id, (0, set()))
        if not left or n in shard.busy:
            return None
        shard.ready.discard(n)
        shard.busy.add(n)
        try:
            items = await shard.store.run(partial(rows.read, numbers=[n]), writes=False)
        except BaseException:  # cancelled or unreadable: nobody works on it
            shard.put_off(n, shard.time.now())
            raise
        if not items:
            shard.busy.discard(n)
            return None
        claim = shard.claims[job.id] = Claim(items[0], left, 0.0)
        return claim

    # --- 2 the bounce

    async def _with_notice(self, settlement: Settlement) -> None:
        """Have the bounce written and stored beside the outcome."""
        shard, claim = self._shard, settlement.claim
        told = [(ruling.due, ruling.news) for ruling in settlement.rulings if ruling.news]
        try:
            message = await self._claims.content(claim.item)
            submission = self._bouncer.compose(settlement.job, message, told, shard.clock.now())
            if submission is not None:
                settlement.notice = await self._enter(submission)
        except asyncio.CancelledError:
            _give_up(settlement, MailError(reply.QUEUE_WRITE, "the queue is closed"))
            raise
        except Exception as err:  # a fault of any kind must neither lose the failure nor try the recipient again  # noqa: BLE001
            fault, now = f"bounce not written: {err}", shard.time.now()
            if any(isinstance(news, Failed) for _, news in told):  # good news alone may get lost
                settlement.hold = fault
            settlement.rulings = [kept_open(each, now) for each in settlement.rulings]
            shard.trouble(fault, claim.item.id)
        self._submit(settlement)

    async def _enter(self, submission: Submission) -> tuple[Queued, Message, Submission]:
        """The bounce as a message of the queue, a large body in its file."""
        shard, message = self._shard, submission.message
        pause = FIRST_PAUSE
        while shard.spool.wants_file(message):
            try:
                message = await shard.keep_file(submission.id, message)
                break
            except MailError as err:
                shard.trouble(f"bounce not stored, trying again: {err.detail}", submission.id)
                await shard.clock.sleep(pause)
                pause = min(2 * pause, LAST_PAUSE)
        item = shard.new(submission.id, submission.envelope, message, submission.verdict)
        shard.busy.add(item.n)  # a commit that failed may have been made: a reading must not find it before we know of it
        return item, message, submission

    # --- 3 the commit

    def _submit(self, settlement: Settlement) -> None:
        item = settlement.claim.item
        self._shard.store.submit(
            Request(
                settlement.run,
                partial(self._recorded, settlement),
                partial(self._not_recorded, settlement),
                # A message that was never out of memory was written a moment ago: its pages are in the cache.
                quick=settlement.whole and item.n in self._shard.cache,
                octets=(settlement.notice[0].size if settlement.notice else 0) + (0 if settlement.whole else DEFERRAL_OCTETS),
                insists=True,
            )
        )

    def _not_recorded(self, settlement: Settlement, err: MailError) -> None:
        if err.reply is reply.NO_SPACE and settlement.waits:
            self._keep_in_memory(settlement)
            return
        if not settlement.failures:
            self._claims.unrecorded += 1
        settlement.failures += 1
        if settlement.failures == 1 or err.reply is not reply.NO_SPACE:  # for a full disk there are many, and often
            self._shard.trouble(f"outcome not recorded, trying again: {err.detail}", settlement.claim.item.id)
        self._shard.own(self._again(settlement, err))

    async def _again(self, settlement: Settlement, err: MailError) -> None:
        longest = FULL_PAUSE if err.reply is reply.NO_SPACE else LAST_PAUSE
        pause = min(FIRST_PAUSE * 2 ** min(settlement.failures - 1, 10), longest)
        try:
            await self._shard.clock.sleep(pause)
        except asyncio.CancelledError:
            _give_up(settlement, err)
            raise
        self._submit(settlement)

    def _keep_in_memory(self, settlement: Settlement) -> None:
        """Let a message wait although its row says that it is due. The store has told of the full disk."""
        shard, claim = self._shard, settlement.claim
        claim.unsaved = True
        self._applied(settlement)
        if not claim.open and not claim.pending:
            shard.end_claim(claim)
        if not settlement.done.done():
            settlement.done.set_result(None)

    # --- 4 and 5

    def _applied(self, settlement: Settlement) -> None:
        """The outcome holds, in memory as well; everybody hears of the attempts."""
        shard, item = self._shard, settlement.claim.item
        if settlement.failures:
            self._claims.unrecorded -= 1
            shard.wake.set()
        apply(item, settlement.rulings)
        settlement.claim.pending -= 1
        for event in attempted(item, settlement.rulings, shard.clock.now()):
            shard.events.emit(event)

    def _recorded(self, settlement: Settlement, settled: rows.Settled) -> None:
        shard, claim, rulings = self._shard, settlement.claim, settlement.rulings
        item, now = claim.item, shard.clock.now()
        self._applied(settlement)
        if settlement.notice is not None:
            self._entered(*settlement.notice)
        if settlement.hold:
            item.held, item.reason = True, settlement.hold
            shard.emit(Held, id=item.id, reason=settlement.hold)
        for event in bounced(item, rulings, settlement.notice[0].id if settlement.notice else None, now):
            shard.events.emit(event)
        if settled.due is None:
            shard.events.emit(finished(item, now))
            shard.forget(item)
        elif not claim.open and not claim.pending:
            shard.end_claim(claim)
        if not settlement.done.done():
            settlement.done.set_result(None)

    def _entered(self, item: Queued, message: Message, submission: Submission) -> None:
        self._shard.busy.discard(item.n)
        self._shard.admit(item, message)
        self._shard.emit(
            Accepted, id=item.id, client=None, envelope=submission.envelope, size=item.size, verdict=submission.verdict
        )
        if item.held:
            self._shard.emit(Held, id=item.id, reason=item.reason)


def _give_up(settlement: Settlement, err: MailError) -> None:
    """The queue closes with this unrecorded: the message stays queued and may be sent again."""
    if not settlement.done.done():
        settlement.done.set_exception(err)
