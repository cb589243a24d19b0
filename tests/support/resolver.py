# SPDX-License-Identifier: Apache-2.0
"""A `ports.Resolver` that answers from a dict: for tests of logic that needs DNS data and no sockets.

    resolver = MapResolver({"a.example": {"TXT": ["v=spf1 -all"], "MX": ["10 mx.a.example"]}, "slow.example": "TIMEOUT"})
    resolver.add("b.example", "A", "192.0.2.1");  resolver.fail("b.example", "AAAA", "SERVFAIL")

Promises: the same names and meanings as `DnsServer` (NODATA for a known name, CNAMEs followed, eight at most); each
question that was asked stands in `questions`, also the failed ones. TXT values may be text, bytes, or a list of strings.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from ipaddress import IPv4Address, IPv6Address
from typing import Any, TypeVar

from gateway.ports import MX, Answer, LookupFailed

T = TypeVar("T")
Zone = Mapping[str, Mapping[str, Iterable[Any]] | str]


class MapResolver:
    """`authentic` is put on every answer. `hold` (an Event), if set, keeps each answer back until it is set."""

    def __init__(self, zone: Zone | None = None, *, authentic: bool = False, ttl: int = 300) -> None:
        self.questions: list[tuple[str, str]] = []
        self.authentic = authentic
        self.ttl = ttl
        self.hold: asyncio.Event | None = None
        self._records: dict[str, dict[str, list[Any]]] = {}
        self._faults: dict[tuple[str, str | None], str] = {}
        for name, data in (zone or {}).items():
            if isinstance(data, str):
                self.fail(name, None, data)
                continue
            for type, values in data.items():
                if isinstance(values, str):
                    self._records.setdefault(_key(name), {})
                    self.fail(name, type, values)
                else:
                    self.add(name, type, *values)

    def add(self, name: str, type: str, *values: Any) -> None:
        """Add records; the text of MX is "10 host"."""
        self._records.setdefault(_key(name), {}).setdefault(type.upper(), []).extend(values)

    def remove(self, name: str, type: str | None = None) -> None:
        records = self._records.get(_key(name), {})
        for each in [type.upper()] if type else list(records):
            records.pop(each, None)
        if not records:
            self._records.pop(_key(name), None)

    def fail(self, name: str, type: str | None, how: str = "SERVFAIL") -> None:
        """Let questions for `name` raise LookupFailed."""
        self._faults[_key(name), type.upper() if type else None] = how

    def heal(self, name: str) -> None:
        for key in [key for key in self._faults if key[0] == _key(name)]:
            del self._faults[key]

    @property
    def count(self) -> int:
        """How many questions were asked."""
        return len(self.questions)

    async def mx(self, domain: str) -> Answer[MX]:
        return await self._ask(domain, "MX", _mx)

    async def txt(self, name: str) -> Answer[bytes]:
        return await self._ask(name, "TXT", _txt)

    async def a(self, name: str) -> Answer[IPv4Address]:
        return await self._ask(name, "A", IPv4Address)

    async def aaaa(self, name: str) -> Answer[IPv6Address]:
        return await self._ask(name, "AAAA", IPv6Address)

    async def ptr(self, ip: IPv4Address | IPv6Address) -> Answer[str]:
        return await self._ask(ip.reverse_pointer, "PTR", _key)

    async def _ask(self, name: str, type: str, convert: Callable[[Any], T]) -> Answer[T]:
        key = _key(name)
        self.questions.append((key, type))
        if self.hold:
            await self.hold.wait()
        for _ in range(9):
            if fault := self._faults.get((key, type)) or self._faults.get((key, None)):
                raise LookupFailed(f"{name} {type}: {fault}")
            records = self._records.get(key)
            if records is None:
                return Answer(authentic=self.authentic, ttl=self.ttl, nxdomain=True)
            if type in records or "CNAME" not in records:
                values = tuple(convert(value) for value in records.get(type, ()))
                return Answer(values, self.authentic, self.ttl)
            key = _key(records["CNAME"][0])
        raise LookupFailed(f"{name} {type}: CNAME loop")


def _key(name: str) -> str:
    return name.lower().rstrip(".")


def _mx(value: Any) -> MX:
    preference, _, host = value.partition(" ") if isinstance(value, str) else (value[0], "", value[1])
    return MX(int(preference), _key(host))


def _txt(value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    return "".join(value).encode("latin-1") if not isinstance(value, str) else value.encode("latin-1")
