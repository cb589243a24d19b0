# SPDX-License-Identifier: Apache-2.0
"""What systemd wants to hear and what it hands over: sd_notify(3), sd_watchdog_enabled(3), sd_listen_fds(3).

Promises: without systemd everything here does nothing; a notification that cannot be sent harms nobody (systemd sees
its absence); inherited sockets are taken once, close on exec, and are known by name.
Not here: when we are ready, or alive (`supervisor.py`).
"""

import asyncio
import os
import socket
import time
from collections.abc import Callable, MutableMapping

FIRST_DESCRIPTOR = 3  # sd_listen_fds(3): SD_LISTEN_FDS_START
MOST_DESCRIPTORS = 1024


def notify(state: str) -> bool:
    """Send `state` ("READY=1", "STOPPING=1", "STATUS=…", "WATCHDOG=1"; several on lines). False if nobody was told."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    target = "\0" + address[1:] if address[0] == "@" else address  # "@" stands for the abstract namespace
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as link:
            link.setblocking(False)  # a full socket must not hold up the mail
            link.sendto(state.encode("utf-8", "replace"), target)
    except OSError:
        return False
    return True


def notify_reloading() -> bool:
    """A reload begins; `notify("READY=1")` ends it. systemd wants the monotonic time with it (Type=notify-reload)."""
    return notify(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")


def watchdog_seconds() -> float:
    """The longest time that may lie between two "WATCHDOG=1"; 0.0 if systemd does not watch this process."""
    pid = os.environ.get("WATCHDOG_PID", "")
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    if pid and pid != str(os.getpid()):
        return 0.0
    return int(microseconds) / 1e6 if microseconds.isascii() and microseconds.isdigit() else 0.0


async def watchdog(alive: Callable[[], bool]) -> None:
    """Tell systemd that we live, twice in each watchdog interval, while `alive` says so; returns if nobody watches."""
    interval = watchdog_seconds()
    while interval:
        if alive():
            notify("WATCHDOG=1")
        await asyncio.sleep(interval / 2)


def listen_sockets(environ: MutableMapping[str, str] | None = None) -> dict[str, list[socket.socket]]:
    """The sockets that systemd has bound for us, by their FileDescriptorName=; empty if it has not.

    The variables are removed, so that a child process does not take the descriptors for its own.
    A descriptor that is not a socket is left out.
    """
    environ = os.environ if environ is None else environ
    pid = environ.pop("LISTEN_PID", "")
    count = environ.pop("LISTEN_FDS", "")
    names = environ.pop("LISTEN_FDNAMES", "").split(":")
    if pid != str(os.getpid()) or not (count.isascii() and count.isdigit()):
        return {}
    found: dict[str, list[socket.socket]] = {}
    for at in range(min(int(count), MOST_DESCRIPTORS)):
        descriptor = FIRST_DESCRIPTOR + at
        name = names[at] if at < len(names) and names[at] else "unknown"  # systemd's own word for no name
        try:
            os.set_inheritable(descriptor, False)
            inherited = socket.socket(fileno=descriptor)
        except OSError:
            continue
        inherited.setblocking(False)
        found.setdefault(name, []).append(inherited)
    return found
