# SPDX-License-Identifier: Apache-2.0
"""The deliverer: what becomes of a queued message, step by step.

    1 claim              take due jobs from the queue, no more at once than `backlog`      _claim
    2 route              group a job's recipients by next hop: each group is a share       _route
    3 TLS policy         which TLS the hop must have                                       smtp_session.py
    4 connect or reuse   a session to the hop                                              smtp.py, pool.py
    5 send               one attempt; an outcome a recipient                               _send
    6 settle             record the outcomes, durably, before anything else is tried       _settle
    7 bounce             the notice about failed recipients, in the same commit            bounce.py, asked by the queue

Promises: a claimed job is settled or released, whatever happens; a fault of ours defers, and is told as Trouble; a slow or
dead destination holds its own lanes only; tasks are one a lane, not one a message.
Stopping: nothing new is begun; what runs may end within the limit; then what has not sent its final dot is released, and
what has is settled as ambiguous.
RFCs: 5321 §4.5.4.1. Not here: how many lanes, and what a dead site means (`shaping.py`).
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol, runtime_checkable

from gateway.delivery.options import DeliveryOptions
from gateway.delivery.route import Router
from gateway.delivery.shaping import Shaping, Share, Site, Ticket
from gateway.mail import reply
from gateway.mail.events import Trouble
from gateway.mail.job import Deferred, Due, Job, NextHop, Outcome, QueueId
from gateway.mail.reply import MailError, Reply
from gateway.ports import Clock, EventSink, Transport, Work

TURN = 50  # shares that a lane does before it makes room, if other sites wait for a lane
TOGETHER = 100  # shares that are settled at once when they share a fate
FAULT_PAUSE = 1.0  # seconds after the queue failed us
RELIEF = 1.0  # seconds between two looks for stuck sites while there is no room
SWEEP = 30.0  # seconds between two looks for shares that wait for too long
GRACE = 10.0  # seconds for the last settlements of a stop


@runtime_checkable
class Closable(Protocol):
    """A transport that holds connections."""

    async def close(self) -> None: ...


class Deliverer:
    """Runs from `run()` until `stop()`. `transports` are by kind of hop."""

    def __init__(
        self,
        work: Work,
        router: Router,
        transports: Mapping[str, Transport],
        options: DeliveryOptions,
        *,
        clock: Clock,
        events: EventSink,
    ) -> None:
        self._work = work
        self._router = router
        self._transports = transports
        self._options = options
        self._clock = clock
        self._events = events
        self._shaping = Shaping(options.concurrency, clock)
        self._in_flight = 0
        self._lanes: set[asyncio.Task[None]] = set()
        self._attempting: set[asyncio.Task[None]] = set()  # lanes that may be cancelled: they settle nothing now
        self._hungry: deque[Site] = deque()  # sites for which there was no lane left
        self._room = asyncio.Event()
        self._own: list[asyncio.Task[None]] = []  # the tasks beside the lanes
        self._stopping = False
        self._stopped = asyncio.Event()

    @property
    def in_flight(self) -> int:
        """Claimed jobs."""
        return self._in_flight

    async def run(self) -> None:
        """Deliver until `stop` is called. A cancellation stops at once."""
        if not self._stopping:
            self._own.append(asyncio.create_task(self._claims(), name="delivery claims"))
            self._own.append(asyncio.create_task(self._sweep(), name="delivery sweep"))
        try:
            await self._stopped.wait()
        except asyncio.CancelledError:
            await self.stop(0)
            raise

    async def reload(self, router: Router, transports: Mapping[str, Transport], options: DeliveryOptions | None = None) -> None:
        """Other routes, transports and limits for what comes from now on; sessions of the old transports end with their use."""
        old, self._transports = self._transports, transports
        self._router = router
        if options is not None:
            self._options = options
            self._shaping.concurrency = options.concurrency
        await _close(old)

    async def stop(self, seconds: float) -> None:
        """Begin nothing more, give running attempts that long, and give back what is not done."""
        if self._stopping:
            await self._stopped.wait()
            return
        self._stopping = True
        for task in self._own:
            task.cancel()
        if self._own:
            await asyncio.wait(self._own)
        for site in self._shaping:
            while site.waiting:
                await self._give_back(site.waiting.popleft())
        if self._lanes and seconds > 0:
            await asyncio.wait(self._lanes, timeout=seconds)
        for lane in list(self._attempting):
            lane.cancel()
        if self._lanes:
            await asyncio.wait(self._lanes, timeout=GRACE)
        for lane in list(self._lanes):
            lane.cancel()
        if self._lanes:
            await asyncio.wait(self._lanes)
        await _close(self._transports)
        self._stopped.set()

    # --- 1 claim

    async def _claims(self) -> None:
        """Claim for as long as we run."""
        while True:
            await self._wait_for_room()
            try:
                jobs = await self._claim(self._options.backlog - self._in_flight)
            except Exception as err:  # noqa: BLE001 - task border: without it one fault of the queue would end all delivery
                self._trouble(f"claim: {type(err).__name__}: {err}")
                await self._clock.sleep(FAULT_PAUSE)
                continue
            for job in jobs:
                self._begin(job)

    async def _claim(self, limit: int) -> Sequence[Job]:
        """Due jobs. Those that come just as we are stopped are given back."""
        claim = asyncio.ensure_future(self._work.claim(limit))
        try:
            return await asyncio.shield(claim)
        except asyncio.CancelledError:
            claim.cancel()
            try:
                for job in await claim:
                    await self._release(job)
            except asyncio.CancelledError:
                pass  # the usual end of it; ours is raised below
            except Exception as err:  # noqa: BLE001 - task border: a fault of the claim must not take the place of the cancellation
                self._trouble(f"claim: {type(err).__name__}: {err}")
            raise

    async def _wait_for_room(self) -> None:
        """Return when a quarter of the backlog is free. Stuck sites are made to give up what they hold of it."""
        if self._in_flight < self._options.backlog:
            return
        enough = max(1, self._options.backlog * 3 // 4)
        while self._in_flight > enough or self._in_flight >= self._options.backlog:
            for site in self._shaping.stuck():
                await self._share_fate(site, _not_tried(site))
            self._room.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RELIEF):
                    await self._room.wait()

    # --- 2 route

    def _begin(self, job: Job) -> None:
        """Hand a claimed job to the sites of its recipients."""
        ticket = Ticket(job, 0)
        self._in_flight += 1
        try:
            shares = self._route(job, ticket)
        except Exception as err:  # noqa: BLE001 - task border: one odd job must not end the claims of all others
            self._trouble(f"route: {type(err).__name__}: {err}", job.id)
            shares = [Share(job, NextHop(kind="", target=""), ticket, self._clock.monotonic())]
        ticket.shares = len(shares)
        for share in shares:
            site = self._shaping.site(share.hop)
            self._shaping.add(share, site)
            self._start_lanes(site)

    def _route(self, job: Job, ticket: Ticket) -> list[Share]:
        now = self._clock.monotonic()
        if len(job.recipients) == 1:
            return [Share(job, self._router.route(job.recipients[0].address), ticket, now)]
        groups: dict[NextHop, list[Due]] = {}
        for due in job.recipients:
            groups.setdefault(self._router.route(due.address), []).append(due)
        if len(groups) == 1:
            return [Share(job, hop, ticket, now) for hop in groups]
        return [Share(replace(job, recipients=tuple(dues)), hop, ticket, now) for hop, dues in groups.items()]

    # --- lanes

    def _start_lanes(self, site: Site) -> None:
        while site.wants_lane and not self._stopping:
            if len(self._lanes) >= self._options.connections:
                if site not in self._hungry:
                    self._hungry.append(site)
                return
            site.active += 1
            lane = asyncio.create_task(self._lane(site), name="delivery lane")
            self._lanes.add(lane)
            lane.add_done_callback(self._lanes.discard)
            if site.active >= len(site.waiting):
                return  # a lane for each that waits is enough

    async def _lane(self, site: Site) -> None:
        """Work through a site's shares, one after another."""
        done = 0
        try:
            while site.waiting and site.active <= site.limit and not (self._hungry and done >= TURN):
                await self._attempt(site, site.waiting.popleft())
                done += 1
        finally:
            site.active -= 1
            self._lanes.discard(asyncio.current_task())
            while self._hungry and len(self._lanes) < self._options.connections:
                self._start_lanes(self._hungry.popleft())
            self._start_lanes(site)

    async def _attempt(self, site: Site, share: Share) -> None:
        """Steps 3 to 7 for one share. A cancellation while nothing can be known to have been sent gives it back."""
        resting = self._shaping.resting(site)
        if resting is not None:
            await self._settle(share, [resting] * len(share.job.recipients))
            return
        started = self._clock.monotonic()
        try:
            outcomes = await self._send(share)
        except asyncio.CancelledError:
            await self._give_back(share)
            raise
        advice = self._shaping.report(site, share, started, outcomes)
        if advice.again and not self._stopping:
            site.waiting.appendleft(replace(share, again=share.again + 1))
            return
        self._start_lanes(site)  # a success may have won the site another one
        await self._settle(share, outcomes)
        if advice.fate is not None:
            await self._share_fate(site, advice.fate)

    # --- 3 to 5 send

    async def _send(self, share: Share) -> Sequence[Outcome]:
        """One attempt; never raises but for a cancellation."""
        task = asyncio.current_task()
        assert task is not None
        self._attempting.add(task)
        try:
            message = await self._work.load(share.job)
            transport = self._transports.get(share.hop.kind)
            if transport is None:
                raise MailError(reply.INTERNAL, f"no transport for {share.hop}")
            async with asyncio.timeout(self._options.attempt_timeout):
                outcomes = await transport.deliver(share.job, message, share.hop)
            if len(outcomes) != len(share.job.recipients):
                raise MailError(reply.INTERNAL, f"{len(outcomes)} outcomes for {len(share.job.recipients)} recipients")
        except TimeoutError:
            return [Deferred(reply=reply.HOST_TIMEOUT, hop=str(share.hop))] * len(share.job.recipients)
        except MailError as err:
            return self._deferred(share, err.reply, str(err))
        except Exception as err:  # noqa: BLE001 - task border: whatever a transport does, the message is kept and the lane goes on
            return self._deferred(share, reply.INTERNAL, f"{share.hop}: {type(err).__name__}: {err}")
        finally:
            self._attempting.discard(task)
        return outcomes

    def _deferred(self, share: Share, given: Reply, detail: str) -> list[Outcome]:
        self._trouble(detail, share.job.id)
        return [Deferred(reply=given, hop=str(share.hop))] * len(share.job.recipients)

    # --- 6 settle

    async def _settle(self, share: Share, outcomes: Sequence[Outcome]) -> None:
        """Record outcomes; a fault of the queue is waited out, for what was delivered must not be delivered again."""
        pairs = list(zip(share.job.recipients, outcomes, strict=True))
        while True:
            try:
                await self._work.settle(share.ticket.job, pairs)
                break
            except asyncio.CancelledError:  # it may be recorded or not: `release` knows
                await self._give_back(share)
                raise
            except Exception as err:  # noqa: BLE001 - task border: see above
                self._trouble(f"settle: {type(err).__name__}: {err}", share.job.id)
                if self._stopping:
                    share.ticket.unfinished = True
                    break
                await self._clock.sleep(FAULT_PAUSE)
        await self._close_share(share.ticket)

    async def _share_fate(self, site: Site, fate: Deferred) -> None:
        """Give all that wait at a site the same outcome; together, so that they share commits."""
        while site.waiting:
            some = [site.waiting.popleft() for _ in range(min(TOGETHER, len(site.waiting)))]
            await asyncio.gather(*(self._settle(share, [fate] * len(share.job.recipients)) for share in some))

    async def _sweep(self) -> None:
        """Defer what has waited for too long, every now and then."""
        while True:
            await self._clock.sleep(SWEEP)
            for site in self._shaping.overdue():
                await self._share_fate(site, _not_tried(site))

    async def _give_back(self, share: Share) -> None:
        """This share was not tried."""
        share.ticket.unfinished = True
        await self._close_share(share.ticket)

    async def _close_share(self, ticket: Ticket) -> None:
        """One share less; with the last one the job leaves our hands."""
        ticket.shares -= 1
        if ticket.shares:
            return
        self._in_flight -= 1
        self._room.set()
        if ticket.unfinished:
            await self._release(ticket.job)

    async def _release(self, job: Job) -> None:
        try:
            await self._work.release(job)
        except Exception as err:  # noqa: BLE001 - task border: a job that cannot be given back comes back at the next start
            self._trouble(f"release: {type(err).__name__}: {err}", job.id)

    def _trouble(self, detail: str, queue_id: QueueId | None = None) -> None:
        self._events.emit(Trouble(time=self._clock.now(), area="delivery", detail=detail, id=queue_id))


def _not_tried(site: Site) -> Deferred:
    return Deferred(reply=reply.HOST_RESTING, hop=str(site.hop), counted=False)


async def _close(transports: Mapping[str, Transport]) -> None:
    for transport in {id(transport): transport for transport in transports.values()}.values():
        if isinstance(transport, Closable):
            await transport.close()
