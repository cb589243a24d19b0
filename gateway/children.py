# SPDX-License-Identifier: Apache-2.0
"""Worker processes as the supervisor sees them: start, watch, replace, stop.

Promises: a worker that dies is replaced after a growing pause; one that gives no sign of life is killed and replaced;
a stopped one gets SIGTERM and the drain time, then SIGKILL, which loses nothing.
Not here: what runs in a worker (`worker.py`).
"""

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from gateway.infra.datadir import DataDirectory
from gateway.infra.metrics import merge
from gateway.ops.client import ControlClient, Unreachable
from gateway.sockets import inheritable
from gateway.worker import HEARTBEAT, VARIABLE, Assignment

HUNG_AFTER = 15 * HEARTBEAT  # a worker that gives no sign of life for so long is replaced
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0  # seconds before a dead worker is replaced
STOP_MARGIN = 10.0  # seconds after the drain time before SIGKILL

Report = Callable[[str, str], None]


class Child:
    """One worker's place. The process behind it may change; the place, its shard and its sockets do not."""

    def __init__(self, index: int, count: int, path: Path, listeners: list[socket.socket], directory: DataDirectory) -> None:
        self.index = index
        self.ready = asyncio.Event()
        self._count = count
        self._path = path
        self._listeners = listeners
        self._directory = directory
        self._process: asyncio.subprocess.Process | None = None
        self._seen = time.monotonic()
        self._stopping = False

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def alive(self) -> bool:
        """True if the worker has given a sign of life lately, or is being replaced."""
        return time.monotonic() - self._seen < HUNG_AFTER

    async def keep(self, report: Report) -> None:
        """Run the worker; replace it whenever it ends, until `stop`."""
        pause = FIRST_PAUSE
        while True:
            started = time.monotonic()
            status = await self._run(report)
            self.ready.clear()
            if self._stopping:
                return
            report("worker", f"worker {self.index} ended with status {status}; a new one starts in {pause:g} s")
            if time.monotonic() - started > LONGEST_PAUSE:
                pause = FIRST_PAUSE
            self._seen = time.monotonic() + pause
            await asyncio.sleep(pause)
            pause = min(LONGEST_PAUSE, pause * 2)

    async def _run(self, report: Report) -> int:
        ours, theirs = socket.socketpair()
        with ours:
            ours.setblocking(False)
            with theirs:
                self._process = await self._spawn(theirs)
            self._seen = time.monotonic()
            async with asyncio.TaskGroup() as tasks:
                listener = tasks.create_task(self._listen(ours), name=f"signs of life of worker {self.index}")
                hung = tasks.create_task(self._kill_if_hung(report), name=f"hang watch of worker {self.index}")
                try:
                    return await self._process.wait()
                finally:
                    listener.cancel()
                    hung.cancel()

    async def _spawn(self, link: socket.socket) -> asyncio.subprocess.Process:
        """Start by exec, not fork: the loop and its threads do not survive a fork."""
        # The lock's descriptor goes along: a data directory stays locked until the last worker has let go.
        descriptors = [link.fileno(), *inheritable(self._listeners), *self._directory.descriptors]
        assignment = Assignment(self.index, self._count, str(self._path), link.fileno(), inheritable(self._listeners))
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "gateway.worker",
            pass_fds=descriptors,
            env={**os.environ, VARIABLE: assignment.encode()},
        )

    async def _listen(self, link: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while await loop.sock_recv(link, 64):
            self._seen = time.monotonic()
            self.ready.set()

    async def _kill_if_hung(self, report: Report) -> None:
        while True:
            await asyncio.sleep(HUNG_AFTER / 2)
            if not self.alive() and self._process:
                report("worker", f"worker {self.index} gave no sign of life for {HUNG_AFTER:g} s and is killed")
                self._signal(signal.SIGKILL)

    def reload(self) -> None:
        self._signal(signal.SIGHUP)

    async def stop(self, drain: float) -> None:
        """SIGTERM, and SIGKILL if the worker does not end in time."""
        self._stopping = True
        process = self._process
        if process is None:
            return
        self._signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(drain + STOP_MARGIN):
                await process.wait()
        except TimeoutError:
            self._signal(signal.SIGKILL)
            await process.wait()

    def _signal(self, number: signal.Signals) -> None:
        if self._process and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):  # it ended between the check and the call
                self._process.send_signal(number)


async def merged_metrics(controls: Sequence[tuple[str, Path]]) -> bytes:
    """All workers' pages as one, with a `worker` label. A worker that does not answer is left out."""
    pages = await asyncio.gather(*(_page(path) for _, path in controls))
    return merge({name: page for (name, _), page in zip(controls, pages, strict=True) if page})


async def _page(path: Path) -> bytes:
    try:
        return await ControlClient(path).metrics()
    except Unreachable:
        return b""


def readiness(children: Sequence[Child]) -> list[str]:
    """Why the daemon is not ready; empty if it is."""
    return [f"worker {child.index} is not ready" for child in children if not child.ready.is_set()]
