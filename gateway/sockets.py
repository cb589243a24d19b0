# SPDX-License-Identifier: Apache-2.0
"""The listening sockets of the daemon: bound here, or handed over by systemd.

Promises: all are bound before the first worker starts, or none is kept.
Fails with: `ConfigError` naming the listener that cannot be bound and why.
"""

import errno
import os
import socket

from gateway.config import NO_LISTENER, Config, ConfigError, Fault
from gateway.edge.place import bind
from gateway.infra import systemd

Listener = tuple[socket.socket, int]  # a bound socket and the number of its [[listener]]


def bind_listeners(config: Config, file: str) -> list[Listener]:
    """The sockets of each [[listener]]; systemd may have several for one name, such as IPv4 and IPv6."""
    if not config.listener:
        raise ConfigError([Fault(file, "listener", "", NO_LISTENER)])
    inherited = systemd.listen_sockets()
    sockets: list[Listener] = []
    faults: list[Fault] = []
    for at, listener in enumerate(config.listener):
        key, address = f"listener[{at}].address", listener.address
        if address.startswith("systemd:"):
            name = address.removeprefix("systemd:")
            found = inherited.get(name, [])
            sockets.extend((each, at) for each in found)
            if not found:
                faults.append(Fault(file, key, f'"{address}"', f"systemd passed no socket named {name!r}"))
            continue
        sockets.extend((each, at) for each in _attempt(address, faults, Fault(file, key, f'"{address}"', "")))
    if faults:
        for each, _ in sockets:
            each.close()
        raise ConfigError(faults)
    return sockets


def bind_admin(config: Config, file: str) -> socket.socket | None:
    """The socket of the admin address; None if it is switched off."""
    address = config.admin.address
    if not address:
        return None
    faults: list[Fault] = []
    bound = _attempt(address, faults, Fault(file, "admin.address", f'"{address}"', ""))
    if faults:
        raise ConfigError(faults)
    return bound[0]


def _attempt(address: str, faults: list[Fault], fault: Fault) -> list[socket.socket]:
    try:
        return [bind(address)]
    except OSError as err:
        reason = f"cannot be bound: {err.strerror or err}"
        if isinstance(err, PermissionError):
            reason += "; ports below 1024 need CAP_NET_BIND_SERVICE or systemd sockets"
        elif err.errno == errno.EADDRINUSE:
            reason += "; another process listens there, or another address of this file stands for it too"
        faults.append(Fault(fault.file, fault.key, fault.value, reason))
        return []


def inheritable(each: socket.socket) -> int:
    """The descriptor, so that a child process may take it over."""
    os.set_inheritable(each.fileno(), True)
    return each.fileno()
