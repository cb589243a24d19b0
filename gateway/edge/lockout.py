# SPDX-License-Identifier: Apache-2.0
"""How often one may guess passwords.

The rule: whoever fails `failures` times within `period` is locked out for `time`. Counted are
  - a name from one network (an IPv4 address, an IPv6 /64): so nobody elsewhere can lock the owner of a name out. Who shares
    a network with him can, for `time` each time, and does no harm to him anywhere else;
  - a network, whatever the names: `SHARE` times as many failures, since many people may sit behind one address.
Tries while locked out are not looked at and do not count, so every lock ends by itself. A success forgets the failures of
that name from that network, and takes back its own try from the network's; the network's other failures stay, or an owner
of one password could guess those of all others.
Promises: a try counts before it is judged, so tries side by side are not free; names that do not exist count as those that
do; memory is bounded: when there are too many entries the oldest are forgotten. One for each worker.
Not here: the delay of each failure and the end of a session after some (`edge/login.py`).
"""

import hashlib
from collections import OrderedDict
from dataclasses import dataclass

from gateway.edge.admission import subscriber
from gateway.edge.options import SubmissionOptions
from gateway.mail.envelope import IP

SHARE = 5
ENTRIES = 20_000  # some 5 MB

_Key = tuple[bytes, IP | int]


@dataclass(slots=True)
class _Entry:
    since: float  # when its period began
    failures: int = 0
    until: float = 0.0  # it is locked until then


class Lockout:
    """The failures of late. Times are monotonic seconds, given by the caller."""

    def __init__(self, entries: int = ENTRIES) -> None:
        self._most = entries
        self._entries: OrderedDict[_Key, _Entry] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def enter(self, name: str, ip: IP, now: float, rule: SubmissionOptions) -> bool:
        """Count a try as a failure, in advance. False, and nothing is counted, if it must not be made."""
        if not rule.lockout_failures:
            return True
        named, network = _keys(name, ip)
        if self._locked(named, now) or self._locked(network, now):
            return False
        self._count(named, now, rule.lockout_failures, rule)
        self._count(network, now, rule.lockout_failures * SHARE, rule)
        return True

    def succeeded(self, name: str, ip: IP) -> None:
        """The try was right."""
        named, network = _keys(name, ip)
        self._entries.pop(named, None)
        self._take_back(network)

    def not_judged(self, name: str, ip: IP) -> None:
        """The try was neither right nor wrong: it was our fault."""
        for key in _keys(name, ip):
            self._take_back(key)

    def _locked(self, key: _Key, now: float) -> bool:
        entry = self._entries.get(key)
        return entry is not None and entry.until > now

    def _count(self, key: _Key, now: float, most: int, rule: SubmissionOptions) -> None:
        entry = self._entries.get(key)
        if entry is None or now - entry.since > rule.lockout_period or 0 < entry.until <= now:
            entry = self._entries[key] = _Entry(now)
        self._entries.move_to_end(key)
        entry.failures += 1
        if entry.failures >= most:
            entry.until = now + rule.lockout_time
        while len(self._entries) > self._most:
            self._entries.popitem(last=False)

    def _take_back(self, key: _Key) -> None:
        entry = self._entries.get(key)
        if entry is not None:
            entry.failures -= 1
            entry.until = 0.0  # if it was locked, then by this very try or one beside it
            if entry.failures <= 0:
                del self._entries[key]


def _keys(name: str, ip: IP) -> tuple[_Key, _Key]:
    """A name can be long: what is kept of it is a digest. Nobody's network is the empty name."""
    network = subscriber(ip)
    digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=16).digest()
    return (digest, network), (b"", network)
