# SPDX-License-Identifier: Apache-2.0
"""How many connections there may be: in all, and of one client.

Promises: what entered is counted until it leaves, whatever the limits are by then; a client is an IPv4 address or an
IPv6 /64, because that is what one subscriber gets; clients that may relay have no limit of their own.
Not here: what one connection may do (`edge/session.py`).
"""

from gateway.edge.options import LimitsOptions
from gateway.mail.envelope import IP


class Admission:
    """The counts of one Edge."""

    def __init__(self) -> None:
        self._total = 0
        self._clients: dict[IP | int, int] = {}

    def enter(self, ip: IP, limits: LimitsOptions, *, trusted: bool) -> bool:
        """Count one more connection; False, and nothing counted, if there are too many."""
        key = _client(ip)
        own = self._clients.get(key, 0)
        if limits.connections and self._total >= limits.connections:
            return False
        if limits.connections_per_client and own >= limits.connections_per_client and not trusted:
            return False
        self._total += 1
        self._clients[key] = own + 1
        return True

    def leave(self, ip: IP) -> None:
        """One that entered is gone."""
        key = _client(ip)
        self._total -= 1
        left = self._clients[key] - 1
        if left:
            self._clients[key] = left
        else:
            del self._clients[key]  # the table holds present clients only


def _client(ip: IP) -> IP | int:
    return ip if ip.version == 4 else int(ip) >> 64
