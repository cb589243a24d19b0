# SPDX-License-Identifier: Apache-2.0
"""Assembly: a configuration becomes a running relay. Only here, and in the two beside it, concrete classes are named.

Promises: started in the order queue, delivery, control, edge, so that mail is taken only when it can be kept; stopped
in the opposite order. `reload` replaces policy, limits, certificates and routes; what is under way keeps what it began with.
Not here: processes, sockets, signals (`supervisor.py`, `worker.py`); judgement (`judge.py`) and commands (`offline.py`)
without a daemon.
"""

import asyncio
import contextlib
import gc
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

from gateway.config import Config
from gateway.delivery.bounce import DsnBouncer
from gateway.delivery.build import transports
from gateway.delivery.route import Router, all_take_binary
from gateway.delivery.worker import Deliverer
from gateway.edge.admission import Admission
from gateway.edge.listener import Edge, EdgeSettings
from gateway.edge.options import ListenerOptions, TlsOptions
from gateway.edge.shedding import Marks
from gateway.filters.builtin import build
from gateway.filters.chain import Chain
from gateway.filters.recipients import RelayRule
from gateway.infra import descriptors, memory
from gateway.infra.certificates import survey
from gateway.infra.clock import SystemClock
from gateway.infra.dns import DnsResolver
from gateway.infra.http import Server
from gateway.infra.log import JsonLog
from gateway.infra.metrics import Metrics
from gateway.infra.tally import Tally
from gateway.infra.users import Users
from gateway.mail.events import Lifecycle, Trouble
from gateway.mail.reply import MailError
from gateway.ops.api import control_app, public_app
from gateway.ops.trace import TraceRecorder
from gateway.ports import EventSink, Fanout, Resolver, Transport
from gateway.queue.disk import DatabaseError
from gateway.queue.manager import NewerSchema, QueueManager, existing_shards

GAUGE_PERIOD = 5.0  # seconds between two readings of the queue's depth
RESTART_ONLY = ("data_dir", "listener", "admin", "workers", "dns", "log", "trace")
# CPython's default makes a full collection after some thousand new objects; a message makes hundreds, none of them cyclic.
GC_THRESHOLDS = (50_000, 20, 50)


class QueueUnusable(Exception):
    """The queue cannot be opened: a newer program wrote it, or the disk does not work. The text says which."""


@dataclass(frozen=True, slots=True)
class Place:
    """Which of how many workers this is; it owns the shard of its index and adopts those of workers that are no more."""

    index: int
    count: int

    def shards(self, existing: Sequence[int]) -> list[int]:
        """Our own shard first, then orphans, shared out over the workers."""
        orphans = [shard for shard in existing if shard >= self.count and shard % self.count == self.index]
        return [self.index, *orphans]


class Relay:
    """One whole relay in one process. `resolver`, `stream` and `sinks` are for the development mode.

    `tally` counts connections together with the other workers of the daemon, if there are any.
    Raises TlsFault for a certificate that cannot be used.
    """

    def __init__(
        self,
        config: Config,
        place: Place,
        *,
        resolver: Resolver | None = None,
        stream: TextIO | None = None,
        sinks: Sequence[EventSink] = (),
        tally: Tally | None = None,
    ) -> None:
        self.config = config
        self.place = place
        self.clock = SystemClock()
        self.metrics = Metrics()
        self.log = JsonLog(stream or sys.stderr, config.log, worker=place.index if place.count > 1 else None)
        self.trace = TraceRecorder(config.data_dir / "trace" / f"{place.index}.sqlite", config.trace, self.clock)
        self.events = Fanout([self.metrics, self.log, self.trace, *sinks])
        self.trace.told = self._told_of_trace
        self._own_resolver = (
            DnsResolver(config.dns, clock=self.clock, observer=self.metrics.lookup) if resolver is None else None
        )
        self.resolver: Resolver = resolver or self._own_resolver  # type: ignore[assignment]  # one of them is there
        self._bouncer = _bouncer(config)
        self.queues = self._make_queues()
        self.deliverers = self._make_deliverers()
        self.users = Users(config.submission.users, self.clock, self.events)
        settings, policy = self._settings(config), self._policy(config)
        self._admission = Admission(tally, descriptors.spare(config.delivery.connections))
        self.edge = Edge(settings, policy, self.queues[0], self.clock, self.events, admission=self._admission)
        self._servers: list[Server] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._ready = False

    # --- assembly

    def _make_queues(self) -> list[QueueManager]:
        directory = self.config.data_dir / "queue"
        return [
            QueueManager(
                directory,
                shard,
                self.config.queue,
                clock=self.clock,
                events=self.events,
                bouncer=self._bouncer,
                drain_only=shard != self.place.index,
            )
            for shard in self.place.shards(existing_shards(directory))
        ]

    def _make_deliverers(self) -> list[Deliverer]:
        """One for each shard, with connections of its own."""
        return [
            Deliverer(
                queue,
                _router(self.config),
                self._make_transports(self.config),
                self.config.delivery,
                clock=self.clock,
                events=self.events,
            )
            for queue in self.queues
        ]

    def _make_transports(self, config: Config) -> dict[str, Transport]:
        return transports(
            config.delivery,
            self.resolver,
            hostname=config.hostname,
            clock=self.clock,
            events=self.events,
            listening=[listener.address for listener in config.listener],
        )

    def _policy(self, config: Config) -> Chain:
        bound = build(config.filters, config.relay, config.limits.message_size, self.resolver)
        return Chain(bound, config.filters, self.clock, self.events, ours=RelayRule(config.relay).is_our_postmaster)

    def _settings(self, config: Config) -> EdgeSettings:
        return EdgeSettings(
            hostname=config.hostname,
            limits=config.limits,
            trusted=config.relay.networks,
            tls_context=config.tls.context(),
            marks=_marks(config),
            binary=all_take_binary(config.route),
            spool_directory=self.queues[0].spool_directory,
            shard=self.place.index,
            users=self.users,
            submission=config.submission,
        )

    # --- life

    async def start(self, listeners: Sequence[tuple[socket.socket, ListenerOptions]], admin: socket.socket | None) -> None:
        """Open the queue, begin to deliver, answer on the control socket (and `admin`), and take mail.

        Raises QueueUnusable before anything else has begun.
        """
        self.say("started", f"worker {self.place.index} of {self.place.count}, process {os.getpid()}")
        try:
            for queue in self.queues:
                await queue.open()
        except (NewerSchema, DatabaseError, OSError) as err:
            raise QueueUnusable(str(err)) from err
        self._tell_of_certificates(self.config.tls)
        for number, deliverer in enumerate(self.deliverers):
            self._own(asyncio.create_task(deliverer.run(), name=f"deliverer {number}"))
        self._own(asyncio.create_task(self._measure(), name="queue gauges"))
        await self._serve_control(admin)
        await self._read_users()
        for sock, options in listeners:
            await self.edge.serve(sock, options)
        gc.collect()
        gc.freeze()  # what is there now stays: the collector need not look at it again
        gc.set_threshold(*GC_THRESHOLDS)
        self._ready = True
        self.say("ready")

    async def _serve_control(self, admin: socket.socket | None) -> None:
        watched: dict[str, Any] = {"metrics": self._page, "ready": self._not_ready, "status": self._status}
        control = Server(control_app(self.queues, self.trace, **watched, on_fault=self._api_fault))
        await control.start_unix(self.config.data_dir / "run" / f"worker-{self.place.index}.sock")
        self._servers.append(control)
        if admin is not None:
            public = Server(public_app(**watched, on_fault=self._api_fault))
            await public.start(admin)
            self._servers.append(public)

    def reload(self, config: Config) -> None:
        """Take over what can change while mail flows; say what needs a restart.

        Raises TlsFault, and nothing has changed, if a certificate cannot be used any more.
        """
        settings = self._settings(config)
        for key in RESTART_ONLY:
            if getattr(config, key) != getattr(self.config, key):
                self.trouble("config", f"{key}: a change needs a restart; the old value stays")
        self.users.reload(config.submission.users)
        self._own(asyncio.create_task(self._read_users(), name="users"))
        self._admission.room = descriptors.spare(config.delivery.connections)
        self.edge.reload(settings, self._policy(config))
        self._tell_of_certificates(config.tls)
        for queue in self.queues:
            queue.reload(config.queue)
        self._bouncer.reload(config.hostname, config.delivery.returned_message)
        router = _router(config)
        for deliverer in self.deliverers:
            fresh = deliverer.reload(router, self._make_transports(config), config.delivery)
            self._own(asyncio.create_task(fresh, name="reload of a deliverer"))
        kept = {key: getattr(self.config, key) for key in RESTART_ONLY}
        self.config = config.model_copy(update=kept)
        self.say("reloaded")

    async def stop(self, seconds: float | None = None) -> None:
        """Take no more mail, finish what runs within so long (`workers.drain` if not said), settle, close."""
        self._ready = False
        self.say("draining")
        patience = self.config.workers.drain if seconds is None else seconds
        deadline = self.clock.monotonic() + patience
        await self.edge.drain(patience)
        left = max(1.0, deadline - self.clock.monotonic())
        await asyncio.gather(*(deliverer.stop(left) for deliverer in self.deliverers))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for server in self._servers:
            await server.close()
        for queue in self.queues:
            await queue.close()
        if self._own_resolver:
            await self._own_resolver.close()
        self.users.close()
        self.say("stopped")
        await asyncio.to_thread(self.trace.close)
        await asyncio.to_thread(self.log.close)

    async def _read_users(self) -> None:
        """So that a bad line is told now, and not when its user wants to log in."""
        if any(listener.role == "submission" for listener in self.config.listener):
            await self.users.refresh()

    def _own(self, task: asyncio.Task[None]) -> None:
        """Keep a task until it ends; one that ends by a fault is told of."""
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (fault := task.exception()):
            self.trouble("relay", f"{task.get_name()} ended: {fault!r}")

    # --- what is told

    def say(self, what: str, detail: str = "") -> None:
        """A step in the daemon's life, for the log."""
        self.events.emit(Lifecycle(time=self.clock.now(), what=what, detail=detail))

    def trouble(self, area: str, detail: str) -> None:
        """Something of ours went wrong."""
        self.events.emit(Trouble(time=self.clock.now(), area=area, detail=detail))

    def _tell_of_certificates(self, tls: TlsOptions) -> None:
        """When they end, for the gauge; and for the log if that is soon."""
        ends, complaints = survey(tls.certificates, self.clock.now())
        for complaint in complaints:
            self.trouble("tls", complaint)
        self.metrics.set_certificates(ends)

    def _told_of_trace(self, why: str) -> None:
        if why:
            self.trouble("trace", f"no traces are kept: {why}")
        else:
            self.say("trace", "traces are kept again")

    def _api_fault(self, detail: str) -> None:
        self.trouble("api", detail)

    async def _page(self) -> bytes:
        with contextlib.suppress(MailError):  # the disk does not answer; the counters are wanted more than ever
            await self._read_queue()
        return self.metrics.render()

    def _not_ready(self) -> list[str]:
        if not self._ready:
            return ["starting or stopping"]
        return self.edge.shedding.reasons()

    def _status(self) -> Mapping[str, Any]:
        return {"worker": self.place.index, "workers": self.place.count, "pid": os.getpid(), "sessions": self.edge.sessions}

    async def _measure(self) -> None:
        """Keep the gauges of the queue's depth fresh between scrapes."""
        while True:
            await self.clock.sleep(GAUGE_PERIOD)
            try:
                await self._read_queue()
            except MailError as err:
                self.trouble("relay", f"the depth of the queue cannot be read: {err.detail}")
            if self.edge.shedding.states()["memory"]:
                await asyncio.to_thread(memory.trim)

    async def _read_queue(self) -> None:
        depth: dict[str, int] = {}
        work: dict[str, int] = {}
        for queue in self.queues:
            for state, count in (await queue.counts()).items():
                depth[state] = depth.get(state, 0) + count
            for kind, count in queue.work().items():
                work[kind] = work.get(kind, 0) + count
        self.metrics.set_queue(depth)
        self.edge.feel(depth.get("queued", 0) + depth.get("deferred", 0))
        shedding = self.edge.shedding
        self.metrics.set_shedding(shedding.states(), shedding.refused)
        self.metrics.set_store(work)
        self.metrics.set_trace(self.trace.dropped)


def _marks(config: Config) -> Marks:
    """Where this worker begins to shed load."""
    limit = config.limits.memory
    return Marks(memory.share(config.workers.number) if limit is None else limit, config.limits.queued)


def _router(config: Config) -> Router:
    return Router(config.route, hostname=config.hostname)


def _bouncer(config: Config) -> DsnBouncer:
    return DsnBouncer(config.hostname, returned_message=config.delivery.returned_message)
