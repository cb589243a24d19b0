# SPDX-License-Identifier: Apache-2.0
"""What the parts of a queue share: its store, its schedule, its claims, and how a message enters and leaves memory.

Promises: a message is in exactly one place of memory: `ready` (or behind its horizon), `busy` (claimed, or in an operator's
hands), or nowhere while it is held. All of it is changed on the event loop only, in the order of commits.
Not here: taking (`intake.py`), claiming (`work.py`), settling (`settle.py`), operators (`admin.py`).
"""

import asyncio
import random
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from gateway.mail.envelope import BodyType, Envelope
from gateway.mail.events import Event, Trouble
from gateway.mail.job import QueueId
from gateway.mail.message import FileBody, Message
from gateway.mail.verdict import Action, Verdict
from gateway.ports import Clock, EventSink
from gateway.queue.cache import Cache
from gateway.queue.content import Spool
from gateway.queue.disk import mail_error
from gateway.queue.model import Addressee, Queued, State
from gateway.queue.options import QueueOptions
from gateway.queue.ready import Ready
from gateway.queue.settlement import Moment
from gateway.queue.steady import SteadyTime
from gateway.queue.store import Store

CLOSE_PATIENCE = 2.0  # seconds that our own tasks have when the queue closes


@dataclass(slots=True, eq=False)
class Claim:
    """A job that is out: `open` are the recipients not yet settled, `pending` the settlements not yet durable.

    `unsaved`: the database does not know of an attempt, and when the message is due.
    """

    item: Queued
    open: set[int]
    expires: float  # monotonic
    pending: int = 0
    unsaved: bool = False


class Shard:
    """Made when the queue opens; `last` is the number of the newest row."""

    def __init__(self, options: QueueOptions, clock: Clock, events: EventSink, spool: Spool, store: Store) -> None:
        self.options = options
        self.clock = clock
        self.events = events
        self.spool = spool
        self.store = store
        self.time = SteadyTime(clock, self._jumped)
        self.ready = Ready()
        self.cache = Cache(options.memory)
        self.claims: dict[QueueId, Claim] = {}  # in the order of their leases
        self.lapsed: dict[QueueId, tuple[int, set[int]]] = {}  # whose leases ended: number, open recipients
        self.busy: set[int] = set()
        self.wake = asyncio.Event()
        self.last = 0
        self.pool = ThreadPoolExecutor(4, "queue-files")
        self.luck = random.random  # for the jitter
        self._tasks: set[asyncio.Task[None]] = set()

    # --- telling

    def emit(self, kind: Callable[..., Event], **facts: Any) -> None:
        self.events.emit(kind(time=self.clock.now(), **facts))

    def trouble(self, detail: str, queue_id: QueueId | None = None) -> None:
        self.emit(Trouble, area="queue", detail=detail, id=queue_id)

    def _jumped(self, seconds: float) -> None:
        self.trouble(f"the clock was set by {seconds:+.0f} s; the queue goes on at its own pace")

    def moment(self) -> Moment:
        """Now, for a judgement."""
        return Moment(self.time.now(), self.options, self.luck())

    # --- messages in memory

    def new(self, queue_id: QueueId, envelope: Envelope, message: Message, verdict: Verdict) -> Queued:
        """A message that is about to be stored: due now, unless the verdict holds it."""
        now = self.time.now()
        self.last += 1
        held = verdict.action is Action.HOLD
        return Queued(
            n=self.last,
            id=queue_id,
            sender=envelope.sender,
            addressees=[
                Addressee(index, each.address, now, notify=each.notify, orcpt=each.orcpt)
                for index, each in enumerate(envelope.recipients)
            ],
            created=now,
            size=message.size,
            eight_bit=message.is_8bit,  # of a file: already known
            smtputf8=envelope.smtputf8,
            binary=envelope.body is BodyType.BINARY,
            require_tls=envelope.require_tls,
            ret=envelope.ret,
            envid=envelope.envid,
            filed=isinstance(message.body, FileBody),
            held=held,
            reason=verdict.rule or "policy" if held else "",
            rule=verdict.rule,
            symbols=tuple(symbol.name for symbol in verdict.symbols),
        )

    def admit(self, item: Queued, message: Message) -> None:
        """A new message is durable."""
        due = item.due()
        if item.held or due is None or not self.ready.push(due, item.n):
            return
        item.message = message
        if not self.cache.add(item):
            item.message = None
        self.wake.set()

    def give_back(self, n: int, due: float | None) -> None:
        """A busy message waits again, until `due`, as in the database; None if it is held or gone."""
        self.busy.discard(n)
        if due is not None:
            self.ready.push(due, n)
            self.wake.set()  # behind the horizon too: the alarm may have to be set earlier

    def put_off(self, n: int, due: float) -> None:
        """A busy message waits until `due`, which is not what the database says: nobody could work on it."""
        self.busy.discard(n)
        self.ready.keep(due, n)
        self.wake.set()

    def renew(self, claim: Claim) -> None:
        """Its lease begins anew, as the youngest."""
        claim.expires = self.clock.monotonic() + self.options.lease
        self.claims[claim.item.id] = self.claims.pop(claim.item.id, claim)

    def end_claim(self, claim: Claim) -> None:
        """Nobody works on this job any more; what is still open of it waits."""
        item = claim.item
        self.claims.pop(item.id, None)
        if any(each.state is not State.QUEUED for each in item.addressees):
            self.cache.drop(item.n)  # it has had its first try
        due = None if item.held else item.due()
        if claim.unsaved and due is not None:
            self.put_off(item.n, due)
        else:
            self.give_back(item.n, due)

    def forget(self, item: Queued) -> None:
        """Its rows are gone: out of memory, and its file off the disk."""
        self.claims.pop(item.id, None)
        self.lapsed.pop(item.id, None)
        self.cache.drop(item.n)
        self.ready.discard(item.n)
        self.busy.discard(item.n)
        if item.filed:
            self.remove_file(item.id)

    def remove_file(self, queue_id: QueueId) -> None:
        """In the background; the next start removes what stays behind."""
        self.own(self._remove_file(queue_id))

    async def _remove_file(self, queue_id: QueueId) -> None:
        try:
            await asyncio.get_running_loop().run_in_executor(self.pool, self.spool.remove, queue_id)
        except OSError as err:
            self.trouble(f"content file stays behind: {err}", queue_id)

    async def keep_file(self, queue_id: QueueId, message: Message) -> Message:
        """The body in a durable file. Raises MailError; if the caller is cancelled the file is removed."""
        keeping = asyncio.get_running_loop().run_in_executor(self.pool, self.spool.keep, queue_id, message)
        try:
            return await asyncio.shield(keeping)
        except asyncio.CancelledError:
            keeping.add_done_callback(partial(self._not_wanted, queue_id))
            raise
        except OSError as err:
            raise mail_error(err, "content file") from err

    def _not_wanted(self, queue_id: QueueId, keeping: asyncio.Future[Message]) -> None:
        if not keeping.cancelled() and keeping.exception() is None:
            self.remove_file(queue_id)

    # --- tasks of ours

    def own(self, work: Coroutine[Any, Any, None]) -> None:
        """Run it as a task that `close` waits for."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def end_tasks(self) -> None:
        """Wait for our tasks; those that wait for something that may never come are cancelled."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=CLOSE_PATIENCE)
        tasks = set(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
