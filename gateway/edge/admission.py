# SPDX-License-Identifier: Apache-2.0
"""How many connections there may be: in all, and of one client; over all workers of the daemon.

One worker counts in a dictionary. Several share a tally (`infra/tally.py`): each writes what it has, and adds up what all
have. A connection is counted before it is judged, so two workers cannot both give away the last place.

Promises: what entered is counted until it leaves, whatever the limits are by then; a client is an IPv4 address or an
IPv6 /64, because that is what one subscriber gets; clients that may relay have no limit of their own; `room` is never
passed, however many the limits allow: it is what this process has descriptors for.
Not here: what one connection may do (`edge/session.py`).
"""

from gateway.edge.options import LimitsOptions
from gateway.infra.tally import Tally
from gateway.mail.envelope import IP


class Admission:
    """The counts of one Edge. `room` is for this process alone; 0 is as many as there are."""

    def __init__(self, tally: Tally | None = None, room: int = 0) -> None:
        self.room = room
        self._tally = tally
        self._total = 0
        self._clients: dict[IP | int, int] = {}

    def enter(self, ip: IP, limits: LimitsOptions, *, trusted: bool) -> bool:
        """Count one more connection; False, and nothing counted, if there are too many."""
        if self.room and self._total >= self.room:
            return False
        key = subscriber(ip)
        self._count(key)
        if self._too_many(key, limits, trusted=trusted):
            self.leave(ip)
            return False
        return True

    def leave(self, ip: IP) -> None:
        """One that entered is gone."""
        key = subscriber(ip)
        self._total -= 1
        left = self._clients[key] - 1
        if left:
            self._clients[key] = left
        else:
            del self._clients[key]  # the table holds present clients only
        if self._tally is not None:
            self._tally.leave(_name(key))

    def move(self, old: IP, new: IP, limits: LimitsOptions, *, trusted: bool) -> bool:
        """One that entered as `old` speaks for `new` from now on; False, and it stays what it was, if that one has too many."""
        self.leave(old)
        if self.enter(new, limits, trusted=trusted):
            return True
        self._count(subscriber(old))
        return False

    def _count(self, key: IP | int) -> None:
        self._total += 1
        self._clients[key] = self._clients.get(key, 0) + 1
        if self._tally is not None:
            self._tally.enter(_name(key))

    def _too_many(self, key: IP | int, limits: LimitsOptions, *, trusted: bool) -> bool:
        """Is what has just been counted one beyond a limit?"""
        tally, most, most_of_client = self._tally, limits.connections, limits.connections_per_client
        if most and (self._total if tally is None else tally.total) > most:
            return True
        if not most_of_client or trusted:
            return False
        own = self._clients[key]
        return own > most_of_client or (tally is not None and own + tally.elsewhere(_name(key)) > most_of_client)


def subscriber(ip: IP) -> IP | int:
    """What one subscriber gets, and so what a limit for each client counts: an IPv4 address, an IPv6 /64."""
    return ip if ip.version == 4 else int(ip) >> 64


def _name(key: IP | int) -> bytes:
    """A client's key as octets, the same in each worker."""
    return key.to_bytes(8, "big") if isinstance(key, int) else key.packed
