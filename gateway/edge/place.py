# SPDX-License-Identifier: Apache-2.0
"""Addresses that we listen on: their form, and the sockets that listen there.

Promises: an IPv6 socket takes IPv6 only, so that "0.0.0.0:25" and "[::]:25" can stand side by side; the socket
file of a daemon that is gone is replaced, that of a living one is not.
Fails with: `ValueError` for the form, `OSError` for what the system refuses.
Not here: sockets that systemd passes (the assembly finds those by name), accepting connections (`edge/listener.py`).
"""

import contextlib
import ipaddress
import os
import socket
import stat
from dataclasses import dataclass
from pathlib import Path

from gateway.mail.hostport import split_host_port

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
        if not rest:
            raise ValueError(f"{address!r} names nothing; {_FORMS}")
        if scheme == "unix" and not rest.startswith("/"):
            raise ValueError(f'{address!r} is relative: write an absolute path, as in "unix:/run/gateway/smtp"')
        return Place(scheme, rest)
    try:
        host, port = split_host_port(address, lowest=0)
    except ValueError as err:
        raise ValueError(f"{err}; {_FORMS}") from err
    if not host.strip("[]"):
        raise ValueError(f"{address!r} has no host; {_FORMS}")
    return Place("tcp", host.strip("[]"), port)


def overlap(one: Place, other: Place) -> bool:
    """Can only one of them be bound? As far as that can be said without looking a name up."""
    if one.kind != other.kind or one.port != other.port or (one.kind == "tcp" and not one.port):
        return False
    if one.name == other.name:
        return True
    try:
        ip, another = ipaddress.ip_address(one.name), ipaddress.ip_address(other.name)
    except ValueError:  # a name, or no TCP
        return False
    return ip.version == another.version and (ip == another or ip.is_unspecified or another.is_unspecified)


def bind(address: str) -> socket.socket:
    """A stream socket that listens. A host name is looked up, which may block: call it at start-up.

    It listens from here on, not only when somebody accepts: of two sockets on one address that were bound with
    SO_REUSEADDR only `listen` refuses the second. Who connects meanwhile waits in the kernel for the banner.
    """
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
        sock.listen(BACKLOG)
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
        sock.listen(BACKLOG)
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
