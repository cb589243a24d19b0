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
from dataclasses import dataclass
from pathlib import Path

from gateway.config import Config
from gateway.infra.datadir import DataDirectory
from gateway.infra.metrics import merge
from gateway.infra.tally import Tally
from gateway.link import HEARTBEAT, READY, VARIABLE, Assignment, send_frame
from gateway.ops.client import ControlClient, Refused, Unreachable
from gateway.sockets import Listener, inheritable

HUNG_AFTER = 15 * HEARTBEAT  # a worker that gives no sign of life for so long is replaced
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0  # seconds before a dead worker is replaced
STOP_MARGIN = 40.0  # seconds after the drain time before SIGKILL: settling, closing the queue and the traces

Report = Callable[[str, str], None]


@dataclass(slots=True)
class Common:
    """What all workers of a daemon share. `approved` is the text of the configuration that a new worker starts with."""

    count: int
    path: Path
    start: Config  # as it was at the start of the daemon
    approved: bytes
    listeners: list[Listener]
    directory: DataDirectory
    memory: int  # descriptor of the tally

    def forget(self, index: int) -> None:
        """A worker is no more, so its connections are none."""
        tally = Tally(self.memory, self.count, index)
        tally.clear(index)
        tally.close()


class Child:
    """One worker's place. The process behind it may change; the place, its shard and its sockets do not."""

    def __init__(self, index: int, common: Common) -> None:
        self.index = index
        self.ready = asyncio.Event()
        self._common = common
        self._news = asyncio.Event()  # there is a configuration that the worker has not been told
        self._process: asyncio.subprocess.Process | None = None
        self._seen = time.monotonic()
        self._stopping = asyncio.Event()

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
            try:
                ended = f"ended with status {await self._run(report)}"
            except OSError as err:  # no process, descriptor or memory to be had: that passes
                ended = f"could not be started: {err}"
            self.ready.clear()
            if self._stopping.is_set():
                return
            report("worker", f"worker {self.index} {ended}; a new one starts in {pause:g} s")
            if time.monotonic() - started > LONGEST_PAUSE:
                pause = FIRST_PAUSE
            self._seen = time.monotonic() + pause
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._stopping.wait()
            if self._stopping.is_set():
                return
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
                speaker = tasks.create_task(self._speak(ours), name=f"words to worker {self.index}")
                hung = tasks.create_task(self._kill_if_hung(report), name=f"hang watch of worker {self.index}")
                try:
                    return await self._process.wait()
                finally:
                    self._common.forget(self.index)
                    for task in (listener, speaker, hung):
                        task.cancel()

    async def _spawn(self, link: socket.socket) -> asyncio.subprocess.Process:
        """Start by exec, not fork: the loop and its threads do not survive a fork."""
        common = self._common
        listeners = [(inheritable(each), number) for each, number in common.listeners]
        assignment = Assignment(
            index=self.index,
            count=common.count,
            config=str(common.path),
            data_dir=str(common.start.data_dir),
            link=link.fileno(),
            tally=common.memory,
            listeners=listeners,
            options=[options.model_dump(mode="json") for options in common.start.listener],
        )
        # The lock's descriptor goes along: a data directory stays locked until the last worker has let go.
        descriptors = [
            link.fileno(),
            common.memory,
            *(descriptor for descriptor, _ in listeners),
            *common.directory.descriptors,
        ]
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "gateway.worker",
            pass_fds=descriptors,
            env={**os.environ, VARIABLE: assignment.encode()},
        )

    async def _listen(self, link: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(ConnectionResetError):  # it was killed
            while signs := await loop.sock_recv(link, 64):
                self._seen = time.monotonic()
                if READY in signs:
                    self.ready.set()

    async def _speak(self, link: socket.socket) -> None:
        """Say the approved configuration, and each later one."""
        self._news.set()
        while True:
            await self._news.wait()
            self._news.clear()
            with contextlib.suppress(OSError):  # it ended; the next one is told
                await send_frame(link, self._common.approved)

    async def _kill_if_hung(self, report: Report) -> None:
        while True:
            await asyncio.sleep(HUNG_AFTER / 2)
            if not self.alive() and self._process:
                report("worker", f"worker {self.index} gave no sign of life for {HUNG_AFTER:g} s and is killed")
                self._signal(signal.SIGKILL)

    def reload(self) -> None:
        """There is a newly approved configuration."""
        self._news.set()

    async def stop(self, drain: float) -> None:
        """SIGTERM, and SIGKILL if the worker does not end in time."""
        self._stopping.set()
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


async def readiness(children: Sequence[Child], controls: Sequence[tuple[str, Path]]) -> list[str]:
    """Why the daemon is not ready; empty if every worker is there and takes mail (a full disk is a reason not to)."""
    missing = [f"worker {child.index} is not ready" for child in children if not child.ready.is_set()]
    told = await asyncio.gather(*(_unready(name, path) for name, path in controls)) if not missing else []
    return missing + [reason for reasons in told for reason in reasons]


async def _unready(name: str, path: Path) -> list[str]:
    try:
        return [f"worker {name}: {reason}" for reason in await ControlClient(path).unready()]
    except (Unreachable, Refused):
        return [f"worker {name} does not answer"]
