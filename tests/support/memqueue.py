# SPDX-License-Identifier: Apache-2.0
"""The queue without a disk: the twin that passes the same contract test as `queue/manager.py`.

For tests of other stages that need a real queue's behaviour. Nothing survives it; it is simple where the real one is fast.
"""

import asyncio
import itertools
from collections.abc import Mapping, Sequence

from gateway.mail import reply
from gateway.mail.envelope import BodyType, Envelope, Transaction
from gateway.mail.events import Accepted, Event, Held, Operated, Trouble
from gateway.mail.job import Delivered, Due, Failed, Job, Outcome, QueueId
from gateway.mail.listing import MessageView, Selector
from gateway.mail.message import Message
from gateway.mail.reply import MailError
from gateway.mail.verdict import Action, Verdict
from gateway.ports import Bouncer, Clock, EventSink
from gateway.queue.admin import HELD_BY_OPERATOR
from gateway.queue.intake import discarded, message_id
from gateway.queue.model import Addressee, Queued
from gateway.queue.options import QueueOptions
from gateway.queue.settlement import Moment, Ruling, apply, attempted, bounced, finished, kept_open, rule
from gateway.queue.steady import SteadyTime
from gateway.queue.views import message_view


class MemoryQueue:
    """`ports.Intake`, `ports.Work`, `ports.QueueAdmin` over a dict. `full` makes it refuse."""

    def __init__(self, options: QueueOptions, *, clock: Clock, events: EventSink, bouncer: Bouncer) -> None:
        self.full = False
        self._options = options
        self._clock = clock
        self._events = events
        self._bouncer = bouncer
        self._time = SteadyTime(clock, lambda seconds: None)
        self._items: dict[QueueId, Queued] = {}
        self._claims: dict[QueueId, tuple[Job, set[int], float]] = {}
        self._numbers = itertools.count(1)
        self._changed = asyncio.Event()

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    # --- Intake

    def pressure(self) -> bool:
        return self.full

    async def accept(self, tx: Transaction, verdict: Verdict) -> QueueId:
        if self.full:
            raise MailError(reply.NO_SPACE, "the test says so")
        assert tx.message is not None
        envelope = tx.envelope()
        now = self._clock.now()
        accepted = Accepted(
            time=now,
            id=tx.id,
            client=tx.client,
            envelope=envelope,
            size=tx.message.size,
            verdict=verdict,
            findings=tuple(tx.findings),
            message_id=message_id(tx.message),
            seconds=max(0.0, now - tx.started),
        )
        self._events.emit(accepted)
        if verdict.action is Action.DISCARD:
            self._events.emit(discarded(tx.id, envelope, tx.message, verdict, now))
        else:
            self._enter(tx.id, envelope, tx.message, verdict)
        return tx.id

    def _enter(self, queue_id: QueueId, envelope: Envelope, message: Message, verdict: Verdict) -> None:
        now = self._time.now()
        held = verdict.action is Action.HOLD
        self._items[queue_id] = Queued(
            n=next(self._numbers),
            id=queue_id,
            sender=envelope.sender,
            addressees=[
                Addressee(index, each.address, now, notify=each.notify, orcpt=each.orcpt)
                for index, each in enumerate(envelope.recipients)
            ],
            created=now,
            size=message.size,
            eight_bit=message.is_8bit,
            smtputf8=envelope.smtputf8,
            binary=envelope.body is BodyType.BINARY,
            require_tls=envelope.require_tls,
            ret=envelope.ret,
            envid=envelope.envid,
            held=held,
            reason=verdict.rule or "policy" if held else "",
            rule=verdict.rule,
            symbols=tuple(symbol.name for symbol in verdict.symbols),
            message=message,
        )
        if held:
            self._emit(Held, queue_id, reason=verdict.rule or "policy")
        self._changed.set()

    def _emit(self, kind: type[Event], queue_id: QueueId, **facts: object) -> None:
        self._events.emit(kind(time=self._clock.now(), id=queue_id, **facts))  # type: ignore[call-arg]

    # --- Work

    async def claim(self, limit: int) -> Sequence[Job]:
        while True:
            self._end_leases()
            now = self._time.now()
            waiting = [item for item in self._items.values() if not item.held and item.id not in self._claims]
            due = sorted((item.due() or now, item.n, item.id) for item in waiting)
            if jobs := [self._give_out(self._items[queue_id], now) for when, _, queue_id in due[:limit] if when <= now]:
                return jobs
            self._changed.clear()
            leases = [expires - self._clock.monotonic() for _, _, expires in self._claims.values()]
            await self._wait(min([when - now for when, _, _ in due[:1]] + leases, default=None))

    def _give_out(self, item: Queued, now: float) -> Job:
        job = item.job([each for each in item.open() if each.due <= now])
        expires = self._clock.monotonic() + self._options.lease
        self._claims[item.id] = (job, {due.index for due in job.recipients}, expires)
        return job

    async def _wait(self, seconds: float | None) -> None:
        changed = asyncio.ensure_future(self._changed.wait())
        alarm = [] if seconds is None else [asyncio.ensure_future(self._clock.sleep(seconds))]
        try:
            await asyncio.wait([changed, *alarm], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (changed, *alarm):
                task.cancel()

    def _end_leases(self) -> None:
        now = self._clock.monotonic()
        for queue_id, (_, _, expires) in list(self._claims.items()):
            if expires <= now:
                del self._claims[queue_id]
                self._events.emit(Trouble(time=self._clock.now(), area="queue", detail="lease ended", id=queue_id))

    async def load(self, job: Job) -> Message:
        message = self._items[job.id].message if job.id in self._claims else None
        if message is None:
            raise MailError(reply.CONTENT_LOST, "the job is not claimed")
        return message

    async def settle(self, job: Job, outcomes: Sequence[tuple[Due, Outcome]]) -> None:
        item = self._items.get(job.id)
        if item is None:
            return
        _, left, _ = self._claims.get(job.id, (job, set(), 0.0))
        moment = Moment(self._time.now(), self._options, 0.5)
        rulings = [rule(item, due, outcome, moment) for due, outcome in outcomes if due.index in left]
        left.difference_update(ruling.due.index for ruling in rulings)
        told = [(ruling.due, ruling.news) for ruling in rulings if ruling.news]
        notice = None
        if told:
            rulings, notice = self._tell(job, item, rulings, told)
        self._record(item, rulings, notice)
        if not left:
            self._claims.pop(job.id, None)
        self._changed.set()

    def _tell(
        self, job: Job, item: Queued, rulings: list[Ruling], told: list[tuple[Due, Failed | Delivered]]
    ) -> tuple[list[Ruling], QueueId | None]:
        assert item.message is not None
        try:
            submission = self._bouncer.compose(job, item.message, told, self._clock.now())
        except Exception as err:  # as the real one: nothing is lost  # noqa: BLE001
            fault = f"bounce not written: {err}"
            self._events.emit(Trouble(time=self._clock.now(), area="queue", detail=fault, id=item.id))
            kept = [kept_open(each, self._time.now()) for each in rulings]
            if any(isinstance(news, Failed) for _, news in told):
                item.held, item.reason = True, fault
                self._emit(Held, item.id, reason=fault)
            return kept, None
        if submission is None:
            return rulings, None
        self._enter(submission.id, submission.envelope, submission.message, submission.verdict)
        facts = {
            "client": None,
            "envelope": submission.envelope,
            "size": submission.message.size,
            "verdict": submission.verdict,
        }
        self._emit(Accepted, submission.id, **facts)
        return rulings, submission.id

    def _record(self, item: Queued, rulings: list[Ruling], notice: QueueId | None) -> None:
        apply(item, rulings)
        now = self._clock.now()
        for event in [*attempted(item, rulings, now), *bounced(item, rulings, notice, now)]:
            self._events.emit(event)
        if rulings and not item.open():
            self._remove(item)

    def _remove(self, item: Queued) -> None:
        del self._items[item.id]
        self._claims.pop(item.id, None)
        self._events.emit(finished(item, self._clock.now()))

    async def release(self, job: Job) -> None:
        self._claims.pop(job.id, None)
        self._changed.set()

    # --- QueueAdmin

    async def find(self, selector: Selector, limit: int) -> Sequence[MessageView]:
        return [message_view(item, 0) for item in self._items.values() if self._matches(item, selector)][:limit]

    def _matches(self, item: Queued, selector: Selector) -> bool:
        domain, recipient = selector.domain.lower(), selector.recipient.lower()
        recipients = [
            each
            for each in item.open()
            if domain in ("", each.address.ascii_domain) and recipient in ("", str(each.address).lower())
        ]
        replies = [item.reason, *(each.reply for each in item.open())]
        return (
            bool(recipients)
            and (not selector.ids or item.id in selector.ids)
            and selector.sender.lower() in ("", str(item.sender).lower())
            and item.created <= self._time.now() - selector.older
            and selector.state in ("", message_view(item, 0).state)
            and any(selector.reason.lower() in text.lower() for text in replies)
        )

    async def content(self, queue_id: QueueId) -> bytes | None:
        item = self._items.get(queue_id)
        return item.message.read() if item is not None and item.message is not None else None

    async def counts(self) -> Mapping[str, int]:
        counts = {"queued": 0, "deferred": 0, "held": 0}
        for item in self._items.values():
            for each in item.open():
                counts["held" if item.held else each.state.label] += 1
        return counts

    async def operate(self, command: str, selector: Selector, *, dry_run: bool) -> Sequence[QueueId]:
        fitting = [item for item in self._items.values() if self._matches(item, selector) and self._fits(command, item)]
        for item in [] if dry_run else fitting:
            await self._operate(command, item)
            self._emit(Operated, item.id, command=command)
        self._changed.set()
        return [item.id for item in fitting]

    def _fits(self, command: str, item: Queued) -> bool:
        if command in ("retry", "bounce", "delete") and item.id in self._claims:
            return False
        return command in ("bounce", "delete") or item.held is (command == "release")

    async def _operate(self, command: str, item: Queued) -> None:
        match command:
            case "hold":
                item.held, item.reason = True, HELD_BY_OPERATOR
            case "release" | "retry":
                item.held, item.reason = False, ""
                for each in item.open():
                    each.due = self._time.now()
            case "bounce":
                job = item.job(item.open())
                self._claims[item.id] = (job, {due.index for due in job.recipients}, 0.0)
                await self.settle(job, [(due, Failed(reply=reply.BOUNCED_BY_OPERATOR)) for due in job.recipients])
            case _:
                self._remove(item)
