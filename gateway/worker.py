# SPDX-License-Identifier: Apache-2.0
"""A worker process: one whole relay on sockets that its supervisor has bound.

`python -m gateway.worker` is started by the supervisor (`children.py`), never by hand.
Promises: runs on the configuration that the supervisor has approved, not on what lies on disk; SIGTERM drains and exits 0;
when the supervisor is gone it drains quickly and ends, so no worker outlives its supervisor.
Fails with: exit status 2 if its shard of the queue cannot be opened, or a certificate not be read any more.
Not here: what a relay is made of (`app.py`), what the two say to each other (`link.py`).
"""

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from contextlib import closing
from pathlib import Path

from gateway.app import Place, QueueUnusable, Relay
from gateway.config import Config, ConfigError, parse
from gateway.edge.options import ListenerOptions
from gateway.infra.log import JsonLog
from gateway.infra.strays import catch_strays
from gateway.infra.tally import Tally
from gateway.infra.tls import TlsFault
from gateway.link import ALIVE, HEARTBEAT, READY, STARTING, VARIABLE, Assignment, receive_frame
from gateway.mail.events import Trouble
from gateway.process import Signals, run_loop

UNUSABLE = 2
# Without a supervisor a worker keeps the data directory locked and a new daemon waits for it (`supervisor.py`), so it is
# quick: what it cuts off here has no 250 yet, or is in the queue still.
ORPHAN_DRAIN = 1.0  # seconds


class Worker:
    """One process's side of the link."""

    def __init__(self, assignment: Assignment) -> None:
        self._assignment = assignment
        self._link = socket.socket(fileno=assignment.link)
        self._link.setblocking(False)
        self._ready = asyncio.Event()
        self._orphaned = False

    async def run(self) -> int:
        """Serve until SIGTERM or until the supervisor is gone."""
        # SIGHUP is for the supervisor; a stray one must not end us.
        signals = Signals(lambda: None, interrupt=False)
        text = await receive_frame(self._link)
        if text is None:
            return 0
        config = self._configured(text)
        start = self._assignment
        try:
            relay = Relay(config, Place(start.index, start.count), tally=Tally(start.tally, start.count, start.index))
        except TlsFault as err:  # a certificate that went away since it was approved; the supervisor tries again
            with closing(JsonLog(sys.stderr, config.log, worker=start.index)) as log:
                log.emit(Trouble(time=time.time(), area="config", detail=str(err)))
            self._link.close()
            return UNUSABLE
        catch_strays(relay.log)
        async with asyncio.TaskGroup() as tasks:
            life = tasks.create_task(self._heartbeat(), name="heartbeat")
            try:
                return await self._serve(relay, config, signals, tasks)
            finally:
                life.cancel()
                self._link.close()

    async def _serve(self, relay: Relay, config: Config, signals: Signals, tasks: asyncio.TaskGroup) -> int:
        listeners = [(_adopt(descriptor), config.listener[number]) for descriptor, number in self._assignment.listeners]
        try:
            await relay.start(listeners, None)
        except QueueUnusable as err:
            relay.trouble("queue", str(err))
            relay.log.close()
            return UNUSABLE
        self._ready.set()
        hearing = tasks.create_task(self._hear(relay, signals.stop), name="supervisor's words")
        await signals.stop.wait()
        hearing.cancel()
        await relay.stop(ORPHAN_DRAIN if self._orphaned else None)
        return 0

    def _configured(self, text: bytes) -> Config:
        """A configuration, with what cannot change while we run as it was at the start of the daemon."""
        start = self._assignment
        options = [ListenerOptions.model_validate(each) for each in start.options]
        return parse(text, start.config).model_copy(update={"data_dir": Path(start.data_dir), "listener": options})

    async def _hear(self, relay: Relay, stop: asyncio.Event) -> None:
        """Take over what the supervisor approves, until it is gone."""
        while (text := await receive_frame(self._link)) is not None:
            try:
                relay.reload(self._configured(text))
            except (ConfigError, TlsFault) as err:  # a certificate that went away since it was approved
                relay.trouble("config", f"the old configuration stays: {err}".replace("\n", "; "))
        self._orphaned = True
        stop.set()

    async def _heartbeat(self) -> None:
        """A sign of life now and then, also while the queue is still being opened."""
        loop = asyncio.get_running_loop()
        with contextlib.suppress(OSError):  # the supervisor is gone: `_hear` notices and ends us
            while not self._ready.is_set():
                await loop.sock_sendall(self._link, STARTING)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(HEARTBEAT):
                        await self._ready.wait()
            await loop.sock_sendall(self._link, READY)
            while True:
                await asyncio.sleep(HEARTBEAT)
                await loop.sock_sendall(self._link, ALIVE)


def _adopt(descriptor: int) -> socket.socket:
    adopted = socket.socket(fileno=descriptor)
    adopted.setblocking(False)
    return adopted


def main() -> None:
    """Entry point of `python -m gateway.worker`."""
    data = os.environ.pop(VARIABLE, "")
    if not data:
        sys.exit("gateway.worker is started by `gateway serve`")
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    sys.exit(run_loop(Worker(Assignment.decode(data)).run()))


if __name__ == "__main__":
    main()
