# SPDX-License-Identifier: Apache-2.0
"""The daemon with one worker: the relay in this very process.

Promises: as `supervisor.py` for signals and systemd.
Fails with: `ConfigError` if the queue cannot be opened.
"""

import asyncio
import socket
from pathlib import Path

from gateway.app import Place, QueueUnusable, Relay
from gateway.config import Config, ConfigError, Fault, approve
from gateway.infra import systemd
from gateway.infra.strays import catch_strays
from gateway.infra.tls import TlsFault
from gateway.process import Signals
from gateway.sockets import Listener


async def serve(config: Config, path: Path, listeners: list[Listener], admin: socket.socket | None) -> int:
    """Run until SIGTERM or SIGINT; then drain. Returns the exit status."""
    relay = Relay(config, Place(0, 1))
    catch_strays(relay.log)
    signals = Signals(lambda: reload_relay(relay, path), interrupt=True)
    try:
        await relay.start([(each, config.listener[number]) for each, number in listeners], admin)
    except QueueUnusable as err:
        raise ConfigError([Fault(str(path), "data_dir", f'"{config.data_dir}"', f"the queue cannot be opened: {err}")]) from err
    systemd.notify("READY=1\nSTATUS=Taking mail")
    async with asyncio.TaskGroup() as tasks:
        watchdog = tasks.create_task(systemd.watchdog(lambda: True), name="watchdog")
        await signals.stop.wait()
        systemd.notify("STOPPING=1\nSTATUS=Draining")
        await relay.stop()
        watchdog.cancel()
    return 0


def reload_relay(relay: Relay, path: Path) -> None:
    """Read the configuration again; a fault keeps the old one and is logged with its reasons."""
    systemd.notify_reloading()
    try:
        _, config = approve(path)
        relay.reload(config)
    except (ConfigError, TlsFault) as err:  # TlsFault: a certificate that went away since it was approved
        relay.trouble("config", f"the old configuration stays: {err}".replace("\n", "; "))
    systemd.notify("READY=1")
