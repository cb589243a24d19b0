# SPDX-License-Identifier: Apache-2.0
"""A queue on a disk that can fail, a clock that can be moved, and what they say."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.queue.manager import QueueManager
from gateway.queue.options import QueueOptions
from tests.support.clock import FakeClock
from tests.support.disk import FailingDisk
from tests.unit.queue.build import Events, SmallBouncer


class Rig:
    """Opens the same shard again and again, as restarts do."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.clock = FakeClock()
        self.events = Events()
        self.bouncer = SmallBouncer()
        self.disk = FailingDisk()
        self.options = QueueOptions(min_free=0)
        self.queue: QueueManager

    @property
    def path(self) -> Path:
        return self.directory / "0.sqlite"

    async def open(self, *, drain_only: bool = False) -> QueueManager:
        self.queue = QueueManager(
            self.directory,
            0,
            self.options,
            clock=self.clock,
            events=self.events,
            bouncer=self.bouncer,
            drain_only=drain_only,
            disk=self.disk,
        )
        await self.queue.open()
        return self.queue

    async def reopen(self) -> QueueManager:
        await self.queue.close()
        return await self.open()


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    rig = Rig(tmp_path / "queue")
    yield rig
    if hasattr(rig, "queue"):
        rig.disk.heal()
        await rig.queue.close()


@pytest.fixture
async def queue(rig: Rig) -> QueueManager:
    return await rig.open()
