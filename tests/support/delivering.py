# SPDX-License-Identifier: Apache-2.0
"""Delivery as it runs, between a queue that is a list and a sink: what most tests of delivery stand on."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from gateway.delivery.build import transports
from gateway.delivery.options import DeliveryOptions, RouteOptions
from gateway.delivery.route import Router
from gateway.delivery.worker import Deliverer
from gateway.infra.clock import SystemClock
from gateway.mail.events import Trouble
from gateway.mail.job import Deferred, Delivered, Failed, Outcome
from gateway.ports import Clock
from tests.support.fakes import Events
from tests.support.fakework import FakeWork
from tests.support.resolver import MapResolver

HOSTNAME = "mx.example.test"


@dataclass(slots=True)
class Rig:
    """A running deliverer and what it stands on."""

    work: FakeWork
    deliverer: Deliverer
    events: Events
    task: "asyncio.Task[None]"
    parts: dict[str, Any]

    def tally(self) -> dict[str, int]:
        """How many recipients had which outcome."""
        kinds: dict[str, int] = {"delivered": 0, "deferred": 0, "bounced": 0}
        for outcome in self.work.outcomes.values():
            kinds[{Delivered: "delivered", Deferred: "deferred", Failed: "bounced"}[type(outcome)]] += 1
        return kinds

    def troubles(self, area: str = "delivery") -> list[str]:
        """Details of the Trouble events of an area and those below it."""
        return [event.detail for event in self.events.of(Trouble) if event.area.startswith(area)]

    def outcome(self) -> Outcome:
        """The only outcome."""
        (outcome,) = self.work.outcomes.values()
        return outcome


@asynccontextmanager
async def delivering(
    routes: Mapping[str, str],
    *,
    clock: Clock | None = None,
    resolver: Any = None,
    listening: Sequence[str] = (),
    **options: Any,
) -> AsyncIterator[Rig]:
    """A deliverer with routes from domains to targets, stopped at the end."""
    clock = clock or SystemClock()
    events, work = Events(), FakeWork()
    settings = DeliveryOptions(**options)
    parts = dict(
        transports(settings, resolver or MapResolver(), hostname=HOSTNAME, clock=clock, events=events, listening=listening)
    )
    router = Router([RouteOptions(domains=[domain], to=to) for domain, to in routes.items()], hostname=HOSTNAME)
    deliverer = Deliverer(work, router, parts, settings, clock=clock, events=events)
    task = asyncio.create_task(deliverer.run(), name="test deliverer")
    try:
        yield Rig(work, deliverer, events, task, parts)
    finally:
        await deliverer.stop(0)
        await asyncio.gather(task, return_exceptions=True)
