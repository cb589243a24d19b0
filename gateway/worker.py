# SPDX-License-Identifier: Apache-2.0
"""A worker process: one whole relay on sockets that its supervisor has bound.

`python -m gateway.worker` is started by `supervisor.py`, never by hand. The two speak over a socket pair: the worker
writes READY once, then ALIVE while its loop turns; when the supervisor's end closes, the worker drains and ends,
so no worker outlives its supervisor.
Promises: SIGTERM drains and exits 0; SIGHUP reads the configuration again and keeps the old one if the new one is bad.
Not here: what a relay is made of (`app.py`).
"""

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Coroutine
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gateway.app import Place, Relay
from gateway.config import Config, ConfigError, examine, load

VARIABLE = "GATEWAY_WORKER"
READY = b"R"
ALIVE = b"A"
HEARTBEAT = 2.0  # seconds between two signs of life


@dataclass(frozen=True, slots=True)
class Assignment:
    """What a worker is told: its place, the file to read, and the descriptors it inherits."""

    index: int
    count: int
    config: str
    link: int  # the socket pair
    listeners: list[int]  # one descriptor for each [[listener]], in their order

    def encode(self) -> str:
        return json.dumps(asdict(self))


def run_loop(main: Coroutine[Any, Any, int]) -> int:
    """Run on uvloop; on asyncio where that is missing or GATEWAY_LOOP=asyncio asks for it."""
    if os.environ.get("GATEWAY_LOOP") != "asyncio":
        try:
            import uvloop
        except ImportError:
            pass
        else:
            return uvloop.run(main)
    return asyncio.run(main)


class Signals:
    """SIGTERM and SIGINT set `stop`; SIGHUP calls `reload`. Installed on the running loop."""

    def __init__(self, reload: Callable[[], None], *, interrupt: bool) -> None:
        self.stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self.stop.set)
        loop.add_signal_handler(signal.SIGHUP, reload)
        # A Ctrl-C reaches the whole process group: the supervisor acts on it, its workers wait for SIGTERM.
        loop.add_signal_handler(signal.SIGINT, self.stop.set if interrupt else lambda: None)


def reload_relay(relay: Relay, path: Path) -> None:
    """Read the configuration again; a fault keeps the old one and is logged with its reasons."""
    try:
        config = load(path)
        if faults := examine(config, str(path)):
            raise ConfigError(faults)
    except ConfigError as err:
        relay.trouble("config", f"the old configuration stays: {err}".replace("\n", "; "))
        return
    relay.reload(config)


async def work(assignment: Assignment) -> int:
    """Serve until SIGTERM or until the supervisor is gone."""
    path = Path(assignment.config)
    config = load(path)
    link = socket.socket(fileno=assignment.link)
    link.setblocking(False)
    relay = Relay(config, Place(assignment.index, assignment.count))
    signals = Signals(lambda: reload_relay(relay, path), interrupt=False)
    await relay.start(list(zip(_adopt(assignment.listeners), config.listener, strict=True)), None)
    async with asyncio.TaskGroup() as tasks:
        life = tasks.create_task(_heartbeat(link), name="heartbeat")
        watch = tasks.create_task(_supervisor_gone(link, signals.stop), name="supervisor watch")
        await signals.stop.wait()
        watch.cancel()
        await relay.stop()
        life.cancel()
    link.close()
    return 0


def _adopt(descriptors: list[int]) -> list[socket.socket]:
    sockets = [socket.socket(fileno=descriptor) for descriptor in descriptors]
    for each in sockets:
        each.setblocking(False)
    return sockets


async def _heartbeat(link: socket.socket) -> None:
    sign = READY
    loop = asyncio.get_running_loop()
    while True:
        try:
            await loop.sock_sendall(link, sign)
        except OSError:
            return  # the supervisor is gone; the watch sees it too and ends us
        sign = ALIVE
        await asyncio.sleep(HEARTBEAT)


async def _supervisor_gone(link: socket.socket, stop: asyncio.Event) -> None:
    """The supervisor never writes: whatever wakes this read is its end."""
    with contextlib.suppress(OSError):  # a reset is an end too
        await asyncio.get_running_loop().sock_recv(link, 1)
    stop.set()


def main() -> None:
    """Entry point of `python -m gateway.worker`."""
    data = os.environ.pop(VARIABLE, "")
    if not data:
        sys.exit("gateway.worker is started by `gateway serve`")
    sys.exit(run_loop(work(Assignment(**json.loads(data)))))


def check_config_unchanged(old: Config, new: Config) -> list[str]:
    """Keys whose change needs a restart, and has been left alone by a reload."""
    fixed = ("data_dir", "listener", "admin", "workers")
    return [key for key in fixed if getattr(old, key) != getattr(new, key)]


if __name__ == "__main__":
    main()
