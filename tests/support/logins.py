# SPDX-License-Identifier: Apache-2.0
"""Users whose passwords cost next to nothing to judge, and what they say to log in."""

from base64 import b64encode
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import argon2

from gateway.infra.clock import SystemClock
from gateway.infra.users import Users
from gateway.ports import Clock, EventSink
from tests.support.fakes import Events

_CHEAP = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)


@lru_cache
def cheap(password: str) -> str:
    """A hash that takes microseconds, which `gateway user list` calls old."""
    return _CHEAP.hash(password)


def line(name: str, password: str, addresses: Sequence[str]) -> str:
    """A line of a file of users."""
    return f"{name}:{cheap(password)}:{' '.join(addresses)}\n"


def write(path: Path, *users: str) -> None:
    """A file of users, each given as "name password address …"."""
    text = [line(name, password, addresses) for name, password, *addresses in (user.split() for user in users)]
    path.write_text("".join(text))


def made(path: Path, *users: str, clock: Clock | None = None, events: EventSink | None = None) -> Users:
    """The users of a file that is written first; without any there is no file."""
    if users:
        write(path, *users)
    return Users(path, clock or SystemClock(), events or Events())


def plain(name: str, password: str, acting: str = "") -> bytes:
    """The AUTH command of PLAIN."""
    return b"AUTH PLAIN " + b64encode(f"{acting}\0{name}\0{password}".encode()) + b"\r\n"
