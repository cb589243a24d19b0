# SPDX-License-Identifier: Apache-2.0
"""From a next hop to the hosts to try, in order.

    find(hop): a literal or an address → itself · a route's host → its A and AAAA · a domain → MX, then A and AAAA

Promises: MX by preference, shuffled within equals; families alternate; at most `limit` addresses, none host takes them all;
hosts that are ourselves cut off all that are no better; MX data cannot lead to a forbidden network.
Fails with: `MailError`, 5yz where the domain is at fault for good, 4yz where the lookup (or our configuration) is.
RFCs: 5321 §5.1, 7505 (null MX), 8305 §4 (families in turn), 6052 §2.1 and 3056 §2 (IPv4 addresses within IPv6 ones).
Not here: connecting (`smtp_transport.py`), caching (`infra/dns.py`).
"""

import asyncio
import ipaddress
import random
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from itertools import chain, groupby, zip_longest

from gateway.infra.options import IPNetwork
from gateway.mail import reply
from gateway.mail.address import AddressError, literal_ip
from gateway.mail.hostport import split_host_port
from gateway.mail.job import NextHop
from gateway.mail.reply import MailError
from gateway.mail.value import value
from gateway.ports import MX, LookupFailed, Resolver

IP = IPv4Address | IPv6Address

MX_MAX = 20  # records looked at; a domain with more is read from the best on
_NAME = re.compile(r"(?=.{1,253}\Z)[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?(?:\.[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?)*")
_THIS_NETWORK = ipaddress.ip_network("0.0.0.0/8")  # RFC 1122 §3.2.1.3: this host
_NAT64 = ipaddress.ip_network("64:ff9b::/96")  # RFC 6052 §2.1
_LOOPBACK = (IPv4Address("127.0.0.1"), IPv6Address("::1"))


@value(frozen=True, slots=True)
class Host:
    """One address to connect to. `found` is True if MX data brought us here, and not a route.

    `sure`: nobody can have changed the name on the way to us: it comes from the configuration, or by DNSSEC.
    """

    name: str
    ip: IP
    port: int
    found: bool = True
    sure: bool = True

    def __str__(self) -> str:
        return f"{self.name}[{self.ip}]:{self.port}"


@dataclass(slots=True)
class _Search:
    """What a walk over MX hosts has seen so far."""

    addresses: list[tuple[str, list[IP]]] = field(default_factory=list)
    forbidden: str = ""
    unknown: str = ""  # a lookup that failed
    looped: str = ""  # the host that is ourselves
    sure: bool = False  # the MX data was authentic


class HostFinder:
    """`own` are the addresses on which we listen ourselves, at the port of `port`."""

    def __init__(
        self,
        resolver: Resolver,
        *,
        hostname: str,
        port: int,
        forbidden: Sequence[IPNetwork] = (),
        own: Collection[IP] = (),
        limit: int = 5,
        rng: random.Random | None = None,
    ) -> None:
        self._resolver = resolver
        self._hostname = hostname.lower()
        self._port = port
        self._forbidden = tuple(forbidden)
        self._own = frozenset(own)
        self._limit = limit
        self._rng = rng or random.Random()

    async def find(self, hop: NextHop) -> list[Host]:
        """Hosts of an "smtp" or "mx" hop, best first, at least one. Raises MailError."""
        if hop.kind == "smtp":
            return await self._of_route(hop.target)
        if hop.target.startswith("["):
            return self._of_literal(hop.target)
        return await self._of_domain(hop.target)

    # --- without MX

    async def _of_route(self, target: str) -> list[Host]:
        name, port = split_host_port(target, self._port)
        fixed = _as_ip(name.strip("[]"))
        if fixed:
            return [Host(name.strip("[]"), fixed, port, found=False)]
        if name == "localhost":  # RFC 6761 §6.3: never asked of the DNS
            return [Host(name, ip, port, found=False) for ip in _LOOPBACK]
        search = _Search()
        addresses = await self._addresses(name, search)
        if not addresses:  # the operator's mistake or an outage of ours: mail waits for the mend
            raise MailError(reply.DNS_FAILED, search.unknown or f"route host {name} has no address")
        return [Host(name, ip, port, found=False) for ip in addresses[: self._limit]]

    def _of_literal(self, literal: str) -> list[Host]:
        try:
            ip = _unmapped(literal_ip(literal))
        except AddressError as err:
            raise MailError(reply.NO_SUCH_DOMAIN, str(err)) from err
        if ip in self._own:
            raise MailError(reply.MX_LOOP, f"{ip} is our own address")
        if self._is_forbidden(ip):
            raise MailError(reply.FORBIDDEN_HOST, str(ip))
        return [Host(literal, ip, self._port)]

    # --- by MX

    async def _of_domain(self, domain: str) -> list[Host]:
        search = _Search()
        records = await self._records(domain, search)
        for _, group in groupby(records, key=lambda record: record.preference):
            if not await self._add_group([record.host for record in group], search):
                break
            if sum(len(addresses) for _, addresses in search.addresses) >= self._limit and len(search.addresses) > 1:
                break
        hosts = self._pick(search)
        if not hosts:
            raise _why_none(domain, search)
        return hosts

    async def _records(self, domain: str, search: _Search) -> list[MX]:
        """The MX records, best first, or the implicit one (RFC 5321 §5.1). Whether they are authentic is noted in `search`."""
        if not _NAME.fullmatch(domain):
            raise MailError(reply.NO_SUCH_DOMAIN, f"{domain!r} is not a host name")
        try:
            answer = await self._resolver.mx(domain)
        except LookupFailed as err:
            raise MailError(reply.DNS_FAILED, f"MX of {domain}: {err}") from err
        if answer.nxdomain:
            raise MailError(reply.NO_SUCH_DOMAIN, domain)
        search.sure = answer.authentic
        if not answer.records:
            return [MX(0, domain)]
        records = [record for record in answer.records if record.host]
        if not records:  # RFC 7505 §3: the one record with the root as its host
            raise MailError(reply.NULL_MX, domain)
        self._rng.shuffle(records)  # the sort is stable: equal preferences stay shuffled
        records.sort(key=lambda record: record.preference)
        return records[:MX_MAX]

    async def _add_group(self, names: list[str], search: _Search) -> bool:
        """Add hosts of equal preference. False if we are one of them: it and all that follow are no way (RFC 5321 §5.1)."""
        if self._hostname in names:
            search.looped = self._hostname
            return False
        found = list(zip(names, await asyncio.gather(*(self._addresses(name, search) for name in names)), strict=True))
        for name, addresses in found:
            if not self._own.isdisjoint(addresses):
                search.looped = name
                return False
        for name, addresses in found:
            allowed = [ip for ip in addresses if not self._is_forbidden(ip)]
            if allowed:
                search.addresses.append((name, allowed))
            elif addresses:
                search.forbidden = f"{name}[{addresses[0]}]"
        return True

    async def _addresses(self, name: str, search: _Search) -> list[IP]:
        """All addresses of a name, families in turn. A failed lookup is noted in `search`."""
        if not _NAME.fullmatch(name) or _as_ip(name):
            return []  # RFC 5321 §5.1: the data must be a domain name
        a, aaaa = await asyncio.gather(self._resolver.a(name), self._resolver.aaaa(name), return_exceptions=True)
        families: list[list[IP]] = []
        for answer in (aaaa, a):
            if isinstance(answer, LookupFailed):
                search.unknown = f"addresses of {name}: {answer}"
            elif isinstance(answer, BaseException):
                raise answer
            else:
                family: list[IP] = [_unmapped(ip) for ip in answer.records]
                self._rng.shuffle(family)
                families.append(family)
        return [ip for ip in chain.from_iterable(zip_longest(*families)) if ip is not None]

    def _is_forbidden(self, ip: IP) -> bool:
        """True for an address, or one with another one within it, that is never used or that the configuration excludes."""
        return any(_is_never_used(each) or any(each in network for network in self._forbidden) for each in (ip, *_within(ip)))

    def _pick(self, search: _Search) -> list[Host]:
        """At most `limit` addresses; a host with many leaves room for the hosts behind it."""
        found = search.addresses
        each = max(2, self._limit - len(found) + 1)
        hosts: dict[IP, Host] = {}
        for name, addresses in found:
            for ip in addresses[:each]:
                hosts.setdefault(ip, Host(name, ip, self._port, sure=search.sure))
        return list(hosts.values())[: self._limit]


def _why_none(domain: str, search: _Search) -> MailError:
    """The reason why a domain that exists has no host for us; what may mend itself goes first."""
    if search.unknown:
        return MailError(reply.DNS_FAILED, search.unknown)
    if search.looped:
        return MailError(reply.MX_LOOP, f"{search.looped} is this host")
    if search.forbidden:
        return MailError(reply.FORBIDDEN_HOST, search.forbidden)
    return MailError(reply.NO_USABLE_MX, f"no mail host of {domain} has an address")


def _as_ip(text: str) -> IP | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _is_never_used(ip: IP) -> bool:
    """True for what connects to this very machine, or to many, whatever the configuration says."""
    return ip.is_unspecified or ip.is_multicast or ip in _THIS_NETWORK


def _within(ip: IP) -> Iterator[IPv4Address]:
    """The IPv4 address that a translator or a tunnel on the way would send this one to."""
    if isinstance(ip, IPv4Address):
        return
    if ip.ipv4_mapped:
        yield ip.ipv4_mapped
    if ip.sixtofour:  # RFC 3056 §2: 2002:AABB:CCDD::/48
        yield ip.sixtofour
    if ip in _NAT64:
        yield IPv4Address(int(ip) & 0xFFFFFFFF)


def _unmapped(ip: IP) -> IP:
    """`::ffff:127.0.0.1` is 127.0.0.1, whatever family the record had."""
    mapped = ip.ipv4_mapped if isinstance(ip, IPv6Address) else None
    return mapped or ip
