# SPDX-License-Identifier: Apache-2.0
"""Addresses that we listen on: their form, and the sockets bound to them.

Promises: an IPv6 socket takes IPv6 only, so that "0.0.0.0:25" and "[::]:25" can stand side by side; the socket
file of a daemon that is gone is replaced, that of a living one is not.
Fails with: `ValueError` for the form, `OSError` for what the system refuses.
Not here: sockets that systemd passes (the assembly finds those by name).
"""

import contextlib
import os
import socket
import stat
from dataclasses import dataclass
from pathlib import Path

BACKLOG = 1024  # connections that the kernel keeps ready for us
_FORMS = 'write "host:port", "[::]:25", "unix:/path" or "systemd:NAME"'


@dataclass(frozen=True, slots=True)
class Place:
    """`kind` is "tcp", "unix" or "systemd"; `name` is the host, path or socket name."""

    kind: str
    name: str
    port: int = 0


def parse_place(address: str) -> Place:
    """Read the text of an address. Raises ValueError saying what may be written."""
    scheme, colon, rest = address.partition(":")
    if scheme in ("unix", "systemd") and colon:
        if not rest or (scheme == "unix" and not rest.startswith("/")):
            raise ValueError(f"{address!r} names nothing; {_FORMS}")
        return Place(scheme, rest)
    host, colon, port = address.rpartition(":")
    if not colon or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise ValueError(f"{address!r} has no port from 0 to 65535; {_FORMS}")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"{address!r}: an IPv6 address stands in brackets; {_FORMS}")
    if not host:
        raise ValueError(f"{address!r} has no host; {_FORMS}")
    return Place("tcp", host, int(port))


def bind(address: str) -> socket.socket:
    """A bound stream socket that does not listen yet. A host name is looked up, which may block: call it at start-up."""
    place = parse_place(address)
    if place.kind == "unix":
        return _bind_unix(Path(place.name))
    if place.kind == "systemd":
        raise ValueError(f"{address!r} is bound by systemd, not by us")
    family, kind, protocol, _, sockaddr = socket.getaddrinfo(place.name, place.port, type=socket.SOCK_STREAM)[0]
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(sockaddr)
    except OSError:
        sock.close()
        raise
    return sock


def _bind_unix(path: Path) -> socket.socket:
    _remove_dead(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.bind(str(path))
        os.chmod(path, 0o660)  # noqa: PTH101 - beside bind(), on the same text
    except OSError:
        sock.close()
        raise
    return sock


def _remove_dead(path: Path) -> None:
    """Take away a socket file that nobody listens on any more; anything else stays, and bind() will say so."""
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            try:
                probe.connect(str(path))
            except ConnectionRefusedError:
                path.unlink()
