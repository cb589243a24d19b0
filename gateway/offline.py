# SPDX-License-Identifier: Apache-2.0
"""The queue without a daemon: what the commands of an operator work on while none runs.

Promises: under the lock of the data directory, so that no daemon starts meanwhile; nothing is delivered.
Fails with: `DataDirectoryInUse`; what `QueueManager.open` raises.
Not here: the same commands to a running daemon (`ops/api.py`).
"""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from gateway.config import Config
from gateway.delivery.bounce import DsnBouncer
from gateway.infra.clock import SystemClock
from gateway.infra.datadir import DataDirectory
from gateway.infra.log import JsonLog
from gateway.ops.trace import TraceRecorder
from gateway.ports import EventSink, Fanout, QueueAdmin
from gateway.queue.manager import QueueManager, existing_shards


@asynccontextmanager
async def offline_queues(config: Config) -> AsyncIterator[list[QueueAdmin]]:
    """The shards themselves, under the lock of the data directory: for commands while no daemon runs.

    Where there are none, nothing is made: folders of root would be of no use to the daemon's user.
    Raises DataDirectoryInUse if a daemon has it; what `QueueManager.open` raises.
    """
    directory = DataDirectory(config.data_dir)
    try:
        shards = existing_shards(directory.queue) if any(directory.queue.iterdir()) else []  # raises if we may not look
    except FileNotFoundError:
        shards = []
    if not shards:
        yield []
        return
    directory.lock()
    clock = SystemClock()
    log = JsonLog(sys.stderr, config.log.model_copy(update={"level": "error"}))
    trace = TraceRecorder(config.data_dir / "trace" / "offline.sqlite", config.trace, clock)
    queues = [_offline_queue(config, shard, clock, Fanout([log, trace])) for shard in shards]
    try:
        for queue in queues:
            await queue.open()
        yield list(queues)
    finally:
        for queue in queues:
            await queue.close()
        trace.close()
        log.close()
        directory.unlock()


def _offline_queue(config: Config, shard: int, clock: SystemClock, events: EventSink) -> QueueManager:
    bouncer = DsnBouncer(config.hostname, returned_message=config.delivery.returned_message)
    return QueueManager(config.data_dir / "queue", shard, config.queue, clock=clock, events=events, bouncer=bouncer)
