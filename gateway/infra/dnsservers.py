# SPDX-License-Identifier: Apache-2.0
"""Which name server to ask first: the configured order, the sick ones last.

Promises: every server is tried in the end; one that did not answer is asked last for a while, then by one question
as a probe, and after an answer in its own place again.
Fails with: ValueError for what is no address of a name server.
Not here: asking (`infra/dnssocket.py`), the option (`infra/dns.py`).
"""

import ipaddress
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.mail.hostport import split_host_port

PORT = 53
RESOLV_CONF = Path("/etc/resolv.conf")
SERVERS_MAX = 8  # more in a list only make a dead network take longer


@dataclass(frozen=True, slots=True)
class Server:
    """The address of a name server. `text` is how it is written in logs."""

    text: str
    family: int
    address: tuple[Any, ...]
    loopback: bool


def parse_server(text: str) -> Server:
    """Read "192.0.2.1", "192.0.2.1:5353", "2001:db8::1", "[2001:db8::1]:5353" or "localhost:5353"; without a port: 53.

    Raises ValueError for anything else; a name server is not found by name.
    """
    try:
        host, port = (text, PORT) if text.count(":") > 1 and "[" not in text else split_host_port(text, PORT)
        host = "127.0.0.1" if host == "localhost" else host.strip("[]")
        loopback = ipaddress.ip_address(host.partition("%")[0]).is_loopback
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST)[0]
    except (ValueError, OSError) as err:
        raise ValueError(
            f'{text!r} is not a name server: write an IP address, with its port if that is not 53: "127.0.0.1:53"'
        ) from err
    return Server(text, family, address, loopback)


def system_servers(path: Path = RESOLV_CONF) -> list[Server]:
    """The `nameserver` lines of resolv.conf(5); as there, the local machine if there are none."""
    try:
        lines = path.read_text("ascii", "replace").splitlines()
    except OSError:
        lines = []
    servers = []
    for words in (line.split() for line in lines):
        if len(words) >= 2 and words[0] == "nameserver":
            try:
                servers.append(parse_server(words[1] if words[1].count(":") < 2 else f"[{words[1]}]"))
            except ValueError:
                continue  # the C library passes over it too
    return servers or [parse_server("127.0.0.1")]


class ServerList:
    """The servers and what we know of their health. Times are monotonic seconds."""

    def __init__(self, configured: Sequence[str], retry_after: float) -> None:
        """An empty list means the system's servers."""
        servers = [parse_server(text) for text in configured] or system_servers()
        self._servers = servers[:SERVERS_MAX]
        self._retry_after = retry_after
        self._sick_until: dict[Server, float] = {}

    def order(self, now: float) -> list[Server]:
        """Whom to ask, first to last. One whose time as sick is over comes in its own place for this caller only."""
        if not self._sick_until or len(self._servers) == 1:
            return self._servers
        healthy: list[Server] = []
        sick: list[Server] = []
        for server in self._servers:
            until = self._sick_until.get(server)
            if until is not None and until <= now:
                self._sick_until[server] = now + self._retry_after  # the others do not wait for our probe
                until = None
            (healthy if until is None else sick).append(server)
        return healthy + sick

    def down(self, server: Server, now: float) -> None:
        """It did not answer."""
        self._sick_until[server] = now + self._retry_after

    def up(self, server: Server) -> None:
        """It answered, whatever it said."""
        self._sick_until.pop(server, None)
