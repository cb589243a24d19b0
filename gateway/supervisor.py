# SPDX-License-Identifier: Apache-2.0
"""The daemon's outermost layer: lock, sockets, worker processes, signals, systemd.

With one worker the relay runs in this process. With more, no mail passes through it: it binds the listening sockets,
starts workers that inherit them, replaces one that dies or hangs, and serves the one admin address.
Promises: SIGTERM drains every worker and exits 0; SIGHUP reloads, or keeps the old configuration and says why;
systemd gets READY once all workers take mail, WATCHDOG only while all of them are alive.
Fails with: `ConfigError` for addresses and directories that cannot be used.
Not here: the relay (`app.py`), a worker process (`worker.py`, `children.py`).
"""

import asyncio
import socket
import sys
import time
from contextlib import closing
from pathlib import Path

from gateway.children import Child, Common, merged_metrics, readiness
from gateway.config import Config, ConfigError, Fault, approve
from gateway.infra import descriptors, systemd
from gateway.infra.datadir import DataDirectory, DataDirectoryInUse
from gateway.infra.http import Server
from gateway.infra.log import JsonLog
from gateway.infra.strays import catch_strays
from gateway.infra.tally import make_memory
from gateway.mail.events import Lifecycle, Trouble
from gateway.ops.api import public_app
from gateway.process import Signals, run_loop
from gateway.sockets import bind_admin, bind_listeners

LOCK_PATIENCE = 3.0  # seconds: a daemon that is about to end lets go in time
ORPHANS_PATIENCE = 20.0  # and so long if its supervisor is dead already: its workers notice, drain for a second, and end
# What only a restart changes; workers tell of the rest themselves.
FIXED = ("data_dir", "listener", "admin", "workers")


def run(path: Path) -> int:
    """Serve until a signal ends it. Returns the exit status. Raises ConfigError for a configuration that cannot be used."""
    text, config = approve(path)
    if why := descriptors.raise_limit():
        with closing(JsonLog(sys.stderr, config.log)) as log:
            log.emit(Trouble(time=time.time(), area="descriptors", detail=why))
    directory = _lock(config, path)
    try:
        listeners = bind_listeners(config, str(path))
        admin = bind_admin(config, str(path))
        if config.workers.number == 1:
            from gateway.single import serve  # the relay itself; with more workers it is not loaded here

            return run_loop(serve(config, path, listeners, admin))
        common = Common(config.workers.number, path, config, text, listeners, directory, make_memory(config.workers.number))
        return run_loop(Supervisor(common).run(admin))
    finally:
        directory.unlock()


def _lock(config: Config, path: Path) -> DataDirectory:
    """The data directory, locked for this daemon."""
    directory = DataDirectory(config.data_dir)
    started = time.monotonic()
    while True:
        try:
            directory.lock()
        except DataDirectoryInUse as err:
            if time.monotonic() >= started + (LOCK_PATIENCE if err.alive else ORPHANS_PATIENCE):
                raise ConfigError([Fault(str(path), "data_dir", f'"{config.data_dir}"', str(err))]) from err
            time.sleep(0.1)
        except OSError as err:
            raise ConfigError([Fault(str(path), "data_dir", f'"{config.data_dir}"', f"cannot be used: {err}")]) from err
        else:
            return directory


class Supervisor:
    """The parent of several workers."""

    def __init__(self, common: Common) -> None:
        self.common = common
        self.config = common.start
        self.log = JsonLog(sys.stderr, self.config.log)
        catch_strays(self.log)
        self.children = [Child(index, common) for index in range(common.count)]

    async def run(self, admin: socket.socket | None) -> int:
        """Start the workers, keep them running, stop them on a signal."""
        signals = Signals(self.reload, interrupt=True)
        self._say("started", f"{len(self.children)} workers")
        server = await self._serve_admin(admin) if admin else None
        async with asyncio.TaskGroup() as tasks:
            keepers = [tasks.create_task(child.keep(self._trouble), name=f"worker {child.index}") for child in self.children]
            ready = tasks.create_task(self._announce(), name="readiness")
            watchdog = tasks.create_task(systemd.watchdog(self._alive), name="watchdog")
            await signals.stop.wait()
            self._say("draining")
            systemd.notify("STOPPING=1\nSTATUS=Draining")
            await asyncio.gather(*(child.stop(self.config.workers.drain) for child in self.children))
            for task in (*keepers, ready, watchdog):
                task.cancel()
        if server:
            await server.close()
        self._say("stopped")
        self.log.close()
        return 0

    def reload(self) -> None:
        """Check the configuration here first, so that all workers take the new one or none does."""
        systemd.notify_reloading()
        try:
            self.common.approved, config = approve(self.common.path)
        except ConfigError as err:
            self._trouble("config", f"the old configuration stays: {err}".replace("\n", "; "))
        else:
            for key in FIXED:
                if getattr(self.config, key) != getattr(config, key):
                    self._trouble("config", f"{key}: a change needs a restart; the old value stays")
            for child in self.children:
                child.reload()
        systemd.notify("READY=1")

    async def _announce(self) -> None:
        await asyncio.gather(*(child.ready.wait() for child in self.children))
        self._say("ready")
        systemd.notify("READY=1\nSTATUS=Taking mail")

    def _alive(self) -> bool:
        return all(child.alive() for child in self.children)

    async def _serve_admin(self, admin: socket.socket) -> Server:
        controls = [(str(child.index), self.config.data_dir / "run" / f"worker-{child.index}.sock") for child in self.children]
        app = public_app(
            metrics=lambda: merged_metrics(controls),
            ready=lambda: readiness(self.children, controls),
            status=self._status,
        )
        server = Server(app)
        await server.start(admin)
        return server

    def _status(self) -> dict[str, object]:
        return {"workers": [{"index": child.index, "pid": child.pid, "ready": child.ready.is_set()} for child in self.children]}

    def _say(self, what: str, detail: str = "") -> None:
        self.log.emit(Lifecycle(time=time.time(), what=what, detail=detail))

    def _trouble(self, area: str, detail: str) -> None:
        self.log.emit(Trouble(time=time.time(), area=area, detail=detail))
