# SPDX-License-Identifier: Apache-2.0
"""How commands reach the queue and the traces: through the running daemon, or by opening the files when none runs.

Promises: the files of the queue are opened only under the lock of the data directory, so never beside a daemon.
Fails with: `click.ClickException` (exit status 1) whose text says what to do.
Not here: the commands (`queue.py`, `explain.py`).
"""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import click

from gateway.cli.output import complain
from gateway.config import Config
from gateway.mail.job import QueueId
from gateway.mail.reply import MailError
from gateway.ports import QueueAdmin

T = TypeVar("T")


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run the asynchronous part of a command; what the daemon or the queue refuses becomes a plain message."""
    from gateway.ops.client import Refused, Unreachable  # brings aiohttp: only when it is needed

    try:
        return asyncio.run(work)
    except (Refused, MailError) as err:
        raise click.ClickException(str(err)) from err
    except Unreachable as err:
        raise click.ClickException(f"the daemon went away: {err}") from err
    except PermissionError as err:
        raise click.ClickException(f"{err}; run this as root or as the user of the daemon") from err


@asynccontextmanager
async def open_queues(config: Config) -> AsyncIterator[Sequence[QueueAdmin]]:
    """The queue of each worker of the running daemon; the shards themselves when none runs."""
    from gateway.ops.client import ControlClient, sockets_in

    clients = [ControlClient(path) for path in sockets_in(config.data_dir)]
    answers = await asyncio.gather(*(client.alive() for client in clients))
    living = [client for client, alive in zip(clients, answers, strict=True) if alive]
    if not living:
        async with _offline(config) as queues:
            yield queues
        return
    for client in set(clients) - set(living):
        complain(f"warning: {client.path.name} does not answer; its messages are left out")
    yield living


@asynccontextmanager
async def _offline(config: Config) -> AsyncIterator[Sequence[QueueAdmin]]:
    from gateway.infra.datadir import DataDirectoryInUse
    from gateway.offline import offline_queues
    from gateway.queue.disk import DatabaseError
    from gateway.queue.manager import NewerSchema

    try:
        async with offline_queues(config) as queues:
            if not (queues or config.data_dir.exists()):
                complain(f"{config.data_dir}: no such directory, so there is no queue")
            yield queues
    except DataDirectoryInUse as err:
        raise click.ClickException(f"{err}, but no worker answers on its control socket") from err
    except NewerSchema as err:
        raise click.ClickException(f"{err}; use the command of the program that wrote the queue") from err
    except PermissionError:
        raise  # `run` says what to do
    except (DatabaseError, OSError) as err:
        raise click.ClickException(f"the queue in {config.data_dir} cannot be used: {err}") from err


async def find_trace(config: Config, queue_id: QueueId) -> Mapping[str, Any] | None:
    """All that is remembered about a message, by the running workers and in the files of those before them."""
    from gateway.ops.client import ControlClient, Unreachable, sockets_in
    from gateway.ops.tracefile import assemble, find_in

    # Asking a worker makes it write what it still holds; the files then have everything, of former workers too.
    told: list[Mapping[str, Any]] = []
    for path in sockets_in(config.data_dir):
        try:
            trace = await ControlClient(path).trace.find(queue_id)
        except Unreachable:
            continue
        told.extend(trace["events"] if trace else ())
    filed = await asyncio.to_thread(find_in, config.data_dir / "trace", queue_id)
    if filed is not None and len(filed["events"]) >= len(told):
        return filed
    return assemble(queue_id, told)
