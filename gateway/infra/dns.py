# SPDX-License-Identifier: Apache-2.0
"""The resolver: questions to the configured name servers, answers remembered.

A lookup goes: 1 cache, 2 join an equal question that is under way, 3 a place among those in flight, 4 the servers in
order of health, each with its own deadline, twice around, 5 follow a CNAME that the server did not, 6 remember.

Promises: "no such name" is an empty answer, everything else that is not an answer raises; a lookup ends within
`dns.lifetime`; equal questions at the same time are one; a caller that gives up harms no other; memory is bounded.
Fails with: `LookupFailed`. RFCs: 1035, 2308 (negative answers), 5452 (forgery), 6891, 9520 (failures are remembered).
Not here: messages (`infra/dnswire.py`), sockets (`infra/dnssocket.py`), the store (`infra/dnscache.py`).
"""

import asyncio
from contextvars import ContextVar
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Annotated, Any, Protocol

from gateway.infra import dnssocket, dnswire
from gateway.infra.clock import SystemClock
from gateway.infra.dnscache import Cache
from gateway.infra.dnsservers import ServerList, parse_server
from gateway.infra.dnswire import BadReply, Question, Reply
from gateway.infra.options import Duration, Options, check, option
from gateway.mail.verdict import Lookup
from gateway.ports import MX, Answer, Clock, LookupFailed


class Observer(Protocol):
    """Hears of each lookup: its type, how it ended, how long it took, and whether the cache answered."""

    def __call__(self, kind: str, status: str, seconds: float, *, cached: bool) -> None: ...


ROUNDS = 2  # how often the list of servers is gone through; a datagram may be lost
_RCODES = {dnswire.FORMERR: "formerr", dnswire.SERVFAIL: "servfail", dnswire.NOTIMP: "notimp", dnswire.REFUSED: "refused"}


def _server(text: str) -> str:
    parse_server(text)
    return text


class DnsOptions(Options):
    """[dns]"""

    nameservers: list[Annotated[str, check(_server)]] = option(
        [], doc='Name servers, tried in this order: "host:port" or "host", IP addresses. Default: those of /etc/resolv.conf.'
    )
    timeout: Duration = option("5s", gt=0, doc="How long one server may take for one question before the next one is asked.")
    lifetime: Duration = option("10s", gt=0, doc="How long a lookup may take in all; then it has failed, for now.")
    cache_size: int = option(20_000, ge=0, doc="Answers to remember, at 2 KiB each on average; 0 remembers nothing.")
    min_ttl: Duration = option("1s", doc="Remember each answer at least this long, also one with TTL 0.")
    max_ttl: Duration = option("1h", doc="Remember no answer longer than this.")
    max_negative_ttl: Duration = option(
        "5m", doc='Remember "no such name" and "no such record" no longer than this (RFC 2308 §5).'
    )
    servfail_ttl: Duration = option(
        "1s", doc="Remember that a question ended in SERVFAIL this long (RFC 9520 §3.2: at least 1s)."
    )
    in_flight: int = option(256, ge=1, le=4096, doc="Questions that may wait for an answer at a time; each has a socket.")
    retry_after: Duration = option("30s", doc="A name server that does not answer is asked last for this long.")
    edns_size: int = option(
        1232, ge=512, le=4096, doc="Largest UDP answer to ask for, in octets (RFC 9715 §3.1: not over 1400)."
    )
    trust_ad: bool = option(False, doc="Believe the AD bit (DNSSEC validated) also of name servers that are not on loopback.")


@dataclass(frozen=True, slots=True)
class _Outcome:
    """How a lookup ended. `detail` is set exactly if it failed."""

    status: str  # "ok", "nodata", "nxdomain"; or of a failure "servfail", "timeout", "network", "loop" …
    records: tuple[Any, ...] = ()
    authentic: bool = False
    expires: float = 0.0
    detail: str = ""


class _Fault(Exception):
    """One lookup cannot be answered."""

    def __init__(self, status: str, detail: str) -> None:
        super().__init__(detail)
        self.status = status


_recorder: ContextVar[list[Lookup] | None] = ContextVar("dns_lookups", default=None)


class _Recording:
    """What `record_lookups` gives. A class, because a generator would cost the filters of one message 15 µs."""

    __slots__ = ("_token",)

    def __enter__(self) -> list[Lookup]:
        lookups: list[Lookup] = []
        self._token = _recorder.set(lookups)
        return lookups

    def __exit__(self, *_: object) -> None:
        _recorder.reset(self._token)


def record_lookups() -> _Recording:
    """Collect every lookup made inside the block, cached ones too; tasks that are started in it share the list."""
    return _Recording()


def note_lookup(lookup: Lookup) -> None:
    """For a resolver that is not this one: add a lookup to what the surrounding `record_lookups` collects."""
    if (recorder := _recorder.get()) is not None:
        recorder.append(lookup)


class DnsResolver:
    """A `ports.Resolver`. Owns the tasks of its questions: `close()` ends them."""

    def __init__(self, options: DnsOptions, *, clock: Clock | None = None, observer: Observer | None = None) -> None:
        """`observer` hears of each lookup; it is quick and does not raise."""
        self._options = options
        self._clock: Clock = clock or SystemClock()
        self._observer = observer
        self._servers = ServerList(options.nameservers, options.retry_after)
        self._cache: Cache[_Outcome] = Cache(options.cache_size)
        self._flights: dict[tuple[str, str], asyncio.Task[_Outcome]] = {}
        self._places = asyncio.Semaphore(options.in_flight)
        self._closed = False

    async def mx(self, domain: str) -> Answer[MX]:
        return await self._lookup(domain, "MX")

    async def txt(self, name: str) -> Answer[bytes]:
        return await self._lookup(name, "TXT")

    async def a(self, name: str) -> Answer[IPv4Address]:
        return await self._lookup(name, "A")

    async def aaaa(self, name: str) -> Answer[IPv6Address]:
        return await self._lookup(name, "AAAA")

    async def ptr(self, ip: IPv4Address | IPv6Address) -> Answer[str]:
        return await self._lookup(ip.reverse_pointer, "PTR")

    def flush(self) -> None:
        """Forget all answers and all opinions about servers; read /etc/resolv.conf again if it is what counts."""
        self._cache.clear()
        self._servers = ServerList(self._options.nameservers, self._options.retry_after)

    async def close(self) -> None:
        """End all questions; whoever waits for one gets LookupFailed, and so does everyone who comes later."""
        self._closed = True
        flights = list(self._flights.values())
        for flight in flights:
            flight.cancel()
        await asyncio.gather(*flights, return_exceptions=True)

    # --- 1 cache, 2 single flight

    async def _lookup(self, name: str, type: str) -> Answer[Any]:
        key = (name.lower().removesuffix("."), type)
        now = self._clock.monotonic()
        entry = self._cache.get(key, now)
        if entry:
            outcome, seconds = entry.value, 0.0
        else:
            outcome = await self._fetch(key)
            ended = self._clock.monotonic()
            seconds, now = ended - now, ended
        if self._observer:
            self._observer(type, outcome.status, seconds, cached=entry is not None)
        note_lookup(Lookup(key[0], type, _texts(outcome.records), outcome.status, seconds, entry is not None))
        if outcome.detail:
            raise LookupFailed(outcome.detail)
        ttl = max(0, int(outcome.expires - now))
        return Answer(outcome.records, outcome.authentic, ttl, outcome.status == "nxdomain")

    async def _fetch(self, key: tuple[str, str]) -> _Outcome:
        """Wait for the one task that asks this question. It goes on if this caller is cancelled: others may wait."""
        flight = self._flights.get(key)
        if not flight:
            asked = dnswire.question(*key)
            if not asked:  # no such name can exist: not worth a question (RFC 7208 §4.3, §4.8)
                return _Outcome("nxdomain")
            if self._closed:
                return _Outcome("closed", detail="the resolver is closed")
            flight = asyncio.create_task(self._resolve(key, asked), name=f"dns {key[0]} {key[1]}")
            self._flights[key] = flight
        try:
            return await asyncio.shield(flight)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if flight.cancelled() and not (task and task.cancelling()):
                return _Outcome("closed", detail="the resolver was closed")
            raise

    # --- 3 places, 6 remember

    async def _resolve(self, key: tuple[str, str], asked: Question) -> _Outcome:
        """The whole of one question, as a task of its own. Does not raise: a failure is an outcome."""
        try:
            async with asyncio.timeout(self._options.lifetime), self._places:
                outcome, octets = await self._follow(asked)
        except TimeoutError:
            outcome, octets = (
                self._failed("timeout", f"{asked.name} {asked.type}: no answer within {self._options.lifetime:g}s"),
                0,
            )
        except _Fault as fault:
            outcome, octets = self._failed(fault.status, str(fault)), 0
        finally:
            del self._flights[key]
        if outcome.expires:
            self._cache.put(key, outcome, outcome.expires, octets)
        return outcome

    def _failed(self, status: str, detail: str) -> _Outcome:
        """SERVFAIL is remembered for a moment; what the network did is not, so that we recover as soon as it does."""
        keep = self._options.servfail_ttl if status == "servfail" else 0.0
        return _Outcome(status, expires=self._clock.monotonic() + keep if keep else 0.0, detail=detail)

    def _expiry(self, ttl: float | None, *, negative: bool) -> float:
        limit = self._options.max_negative_ttl if negative else self._options.max_ttl
        return self._clock.monotonic() + max(self._options.min_ttl, min(ttl or 0.0, limit))

    # --- 4 servers, 5 CNAMEs

    async def _follow(self, asked: Question) -> tuple[_Outcome, int]:
        """Ask, and ask for the target of a CNAME that the server has left to us."""
        first, seen, ttl, authentic = asked, {asked.name}, None, True
        while True:
            reply = await self._ask(asked)
            authentic = authentic and reply.authentic
            ttl = reply.ttl if ttl is None or reply.ttl is None else min(ttl, reply.ttl)
            if not reply.target:
                break
            if reply.target in seen or len(seen) > dnswire.CHAIN_MAX:
                raise _Fault("loop", f"{first.name} {first.type}: CNAME loop, or more than {dnswire.CHAIN_MAX} of them")
            seen.add(reply.target)
            target = dnswire.question(reply.target, asked.type)
            if not target:
                reply = Reply(dnswire.NXDOMAIN)
                break
            asked = target
        status = "ok" if reply.records else "nxdomain" if reply.rcode == dnswire.NXDOMAIN else "nodata"
        return _Outcome(status, reply.records, authentic, self._expiry(ttl, negative=status != "ok")), reply.octets

    async def _ask(self, asked: Question) -> Reply:
        """The first answer of any server. Raises _Fault with what the last one said."""
        fault = _Fault("network", f"{asked.name} {asked.type}: no name server")
        answered = set()
        for _ in range(ROUNDS):
            for server in self._servers.order(self._clock.monotonic()):
                if server in answered:  # it has said what it knows
                    continue
                try:
                    async with asyncio.timeout(self._options.timeout):
                        reply = await dnssocket.ask(server, asked, self._options.edns_size)
                except OSError as err:  # TimeoutError among them
                    self._servers.down(server, self._clock.monotonic())
                    status = "timeout" if isinstance(err, TimeoutError) else "network"
                    fault = _Fault(status, f"{asked.name} {asked.type}: {server.text}: {str(err) or 'no answer'}")
                    continue
                except BadReply as err:
                    fault = _Fault(err.status, f"{err} from {server.text}")
                    answered.add(server)
                    continue
                self._servers.up(server)
                if reply.rcode in (dnswire.NOERROR, dnswire.NXDOMAIN):
                    return reply if server.loopback or self._options.trust_ad else _unproven(reply)
                status = _RCODES.get(reply.rcode, f"rcode{reply.rcode}")
                fault = _Fault(status, f"{asked.name} {asked.type}: {status.upper()} from {server.text}")
                answered.add(server)
        raise fault


def _unproven(reply: Reply) -> Reply:
    """The AD bit is worth as much as the way to the server (RFC 6840 §5.8, RFC 4035 §4.9.3)."""
    return Reply(reply.rcode, reply.records, reply.ttl, reply.target, False, reply.octets) if reply.authentic else reply


def _texts(records: tuple[Any, ...]) -> tuple[str, ...]:
    """Records as people read them; always printable."""
    return tuple(_text(record) for record in records)


def _text(record: Any) -> str:
    if isinstance(record, bytes):
        return record.decode("ascii", "backslashreplace")
    return f"{record.preference} {record.host or '.'}" if isinstance(record, MX) else str(record)
