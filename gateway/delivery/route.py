# SPDX-License-Identifier: Apache-2.0
"""Which next hop a recipient's mail takes: the first matching route, or the MX of its domain.

Promises: domains are compared as lower-case A-labels (RFC 6531 §3.2); an address literal is matched only by itself and "*".
Not here: the hosts behind a next hop (`mx.py`), the form of targets (`options.py`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from gateway.delivery.options import RouteOptions
from gateway.mail.address import Address
from gateway.mail.job import NextHop

REMEMBERED = 10_000  # domains whose hop is kept; then the memory starts anew


class Router:
    """Routes in the order of the configuration. `hostname` stands for the domain of a bare `<postmaster>`."""

    def __init__(self, routes: Sequence[RouteOptions], *, hostname: str = "") -> None:
        self._rules = [(frozenset(route.domains), tuple(_suffixes(route)), route.hop) for route in routes]
        self._hostname = hostname
        self._known: dict[str, NextHop] = {}

    def route(self, address: Address) -> NextHop:
        """The next hop of one recipient; an address literal without a route is `mx:[192.0.2.1]`."""
        hop = self._known.get(address.domain)
        if hop is None:
            hop = self._find(address.ascii_domain or self._hostname)
            if len(self._known) >= REMEMBERED:
                self._known.clear()
            self._known[address.domain] = hop
        return hop

    def _find(self, domain: str) -> NextHop:
        for exact, suffixes, hop in self._rules:
            if domain in exact or "*" in exact or domain.endswith(suffixes):
                return replace(hop, target=domain) if hop.kind == "mx" and not hop.target else hop
        return NextHop(kind="mx", target=domain)


def shadowed(routes: Sequence[RouteOptions]) -> Iterator[tuple[int, str, int, str]]:
    """Patterns to which no mail comes, since an earlier route has it all: route and pattern, that route and its pattern."""
    earlier: list[tuple[int, str]] = []
    for at, route in enumerate(routes):
        for pattern in route.domains:
            by = next((each for each in earlier if _covers(each[1], pattern)), None)
            if by is not None:
                yield at, pattern, *by
        earlier += [(at, pattern) for pattern in route.domains]


def _covers(wide: str, pattern: str) -> bool:
    return wide in ("*", pattern) or (wide.startswith(".") and pattern.endswith(wide))


def all_take_binary(routes: Sequence[RouteOptions]) -> bool:
    """True if no recipient whatever can lead to a hop that might not take BINARYMIME: the routes catch everybody."""
    for route in routes:
        if not route.takes_binary:
            return False
        if "*" in route.domains:
            return True
    return False  # the rest goes by MX


def _suffixes(route: RouteOptions) -> list[str]:
    return [pattern for pattern in route.domains if pattern.startswith(".")]
