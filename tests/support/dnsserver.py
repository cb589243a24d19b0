# SPDX-License-Identifier: Apache-2.0
"""A real authoritative DNS server on loopback, UDP and TCP on one port, whose every fault can be ordered.

    async with DnsServer() as dns:
        dns.add("dest.example", "MX", "10 mx1.dest.example", "20 mx2.dest.example")
        dns.add("dest.example", "TXT", "v=spf1 mx -all")           # plain text, or '"quoted" "strings"', or bytes
        dns.fail("slow.example", None, "TIMEOUT")
        options = DnsOptions(nameservers=[dns.address])

Promises: a name with any record but not of the asked type is NODATA, every other name NXDOMAIN, both with a SOA; a
record that cannot be parsed fails in `add`, not in the answer; `queries` holds each question in order of arrival.
"""

import asyncio
import socket
import struct
from types import TracebackType
from typing import Any, cast

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rdtypes.ANY.SPF
import dns.rdtypes.ANY.TXT
import dns.rrset

FAULTS = {
    "SERVFAIL",  # rcode 2
    "REFUSED",  # rcode 5
    "FORMERR",  # rcode 1
    "TIMEOUT",  # no answer at all
    "TRUNCATE",  # TC and nothing else over UDP; the whole answer over TCP
    "CUT",  # TC over UDP; over TCP the connection is closed without an answer
    "LOOP",  # two names that are CNAMEs of each other
    "SPOOF",  # answers with a wrong id and with a wrong question come first, then the right one
    "GARBAGE",  # octets that are no DNS message
    "HOLD",  # the answer waits for heal()
    "BADEDNS",  # FORMERR whenever the question has EDNS, as old servers do
}
_CHAIN_MAX = 20

Value = str | bytes


class DnsServer:
    """An `async with` block is its life; `stop()` and `start()` restart it on the same port."""

    def __init__(self, *, host: str = "127.0.0.1", follow_cname: bool = True, authentic: bool = False) -> None:
        """`follow_cname`: put the target's records behind a CNAME. `authentic`: set AD on answers if asked for."""
        self.host = host
        self.port = 0
        self.queries: list[tuple[str, str]] = []
        self.tcp_queries: list[tuple[str, str]] = []
        self.follow_cname = follow_cname
        self.authentic = authentic
        self.negative_ttl = 60
        self._zone: dict[str, dict[str, dns.rrset.RRset]] = {}
        self._faults: dict[tuple[str, str | None], str] = {}
        self._arrived = asyncio.Event()
        self._healed = asyncio.Event()
        self._tcp: asyncio.Server | None = None
        self._udp: asyncio.DatagramTransport | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def address(self) -> str:
        """ "127.0.0.1:PORT", as [dns] nameservers wants it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    # --- data

    def add(self, name: str, type: str, *values: Value, ttl: int = 300) -> None:
        """Add records of `type` (text as in a zone file; names in it without final dot) to `name`."""
        name, type = _key(name), type.upper()
        records = self._zone.setdefault(name, {})
        if type not in records:
            records[type] = dns.rrset.RRset(_name(name), dns.rdataclass.IN, dns.rdatatype.from_text(type))
        for value in values:
            records[type].add(_rdata(type, value), ttl)

    def remove(self, name: str, type: str | None = None) -> None:
        """Take away the records of `type`; without a type the whole name."""
        records = self._zone.get(_key(name), {})
        for each in [type.upper()] if type else list(records):
            records.pop(each, None)
        if not records:
            self._zone.pop(_key(name), None)

    def fail(self, name: str, type: str | None, how: str) -> None:
        """Let questions for `name` (and `type`; None: all types) fail in one of the ways of `FAULTS`."""
        if how not in FAULTS:
            raise ValueError(how)
        self._faults[_key(name), type.upper() if type else None] = how

    def heal(self, name: str) -> None:
        """End all faults of `name`; answers that were held back go out."""
        for key in [key for key in self._faults if key[0] == _key(name)]:
            del self._faults[key]
        healed, self._healed = self._healed, asyncio.Event()
        healed.set()

    async def wait_queries(self, count: int) -> None:
        """Return as soon as `count` questions have arrived since the server was made."""
        while len(self.queries) < count:
            self._arrived.clear()
            await self._arrived.wait()

    # --- life

    async def __aenter__(self) -> "DnsServer":
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen on the port of last time, or the first time on one that is free for both protocols."""
        loop = asyncio.get_running_loop()
        stream, datagram = _bind(self.host, self.port)
        self.port = stream.getsockname()[1]
        self._tcp = await asyncio.start_server(self._serve_tcp, sock=stream)
        self._udp, _ = await loop.create_datagram_endpoint(lambda: _Udp(self), sock=datagram)

    async def stop(self) -> None:
        if self._udp:
            self._udp.close()
        if self._tcp:
            self._tcp.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._tcp:
            await self._tcp.wait_closed()
        self._udp = self._tcp = None
        await asyncio.sleep(0)  # let the transports close their sockets

    # --- answers

    def received(self, wire: bytes, peer: Any, transport: asyncio.DatagramTransport) -> None:
        """One datagram came in."""
        self._own(asyncio.get_running_loop().create_task(self._answer_udp(wire, peer, transport)))

    def _own(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer_udp(self, wire: bytes, peer: Any, transport: asyncio.DatagramTransport) -> None:
        for answer in await self._answers(wire, tcp=False):
            if not transport.is_closing():
                transport.sendto(answer, peer)

    async def _serve_tcp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._own(task)
        try:
            while True:
                (length,) = struct.unpack("!H", await reader.readexactly(2))
                answers = await self._answers(await reader.readexactly(length), tcp=True)
                if not answers:
                    break
                for answer in answers:
                    writer.write(struct.pack("!H", len(answer)) + answer)
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def _answers(self, wire: bytes, *, tcp: bool) -> list[bytes]:
        """The messages that go back for one question."""
        query = dns.message.from_wire(wire)
        question = query.question[0]
        name, type = _key(question.name.to_text()), dns.rdatatype.to_text(question.rdtype)
        self.queries.append((name, type))
        if tcp:
            self.tcp_queries.append((name, type))
        self._arrived.set()
        fault = self._fault(name, type)
        while fault == "HOLD":
            await self._healed.wait()
            fault = self._fault(name, type)
        return self._with_fault(query, name, type, fault, tcp=tcp)

    def _fault(self, name: str, type: str) -> str:
        return self._faults.get((name, type)) or self._faults.get((name, None)) or ""

    def _with_fault(self, query: dns.message.Message, name: str, type: str, fault: str, *, tcp: bool) -> list[bytes]:
        response = dns.message.make_response(query, recursion_available=True)
        if fault == "TIMEOUT" or (fault == "CUT" and tcp):
            return []
        if fault == "GARBAGE":
            return [query.to_wire()[:2] + b"\xff" * 7]
        if fault == "BADEDNS":
            fault = "FORMERR" if query.edns >= 0 else ""
        if fault in ("SERVFAIL", "REFUSED", "FORMERR"):
            response.set_rcode(dns.rcode.from_text(fault))
        elif fault in ("TRUNCATE", "CUT") and not tcp:
            response.flags |= dns.flags.TC
        elif fault == "LOOP":
            self._add_loop(response, name)
        else:
            self._fill(response, name, type)
        if self.authentic and (query.flags & dns.flags.AD or query.ednsflags & dns.flags.DO):
            response.flags |= dns.flags.AD
        size = 65535 if tcp else (query.payload if query.edns >= 0 else 512)
        answer = response.to_wire(max_size=size, prefer_truncation=True)
        return [*self._forgeries(query), answer] if fault == "SPOOF" else [answer]

    def _fill(self, response: dns.message.Message, name: str, type: str) -> None:
        """Answer from the zone."""
        response.flags |= dns.flags.AA
        for _ in range(_CHAIN_MAX):
            records = self._zone.get(name)
            if records and type in records:
                response.answer.append(records[type])
                return
            if not records or "CNAME" not in records:
                break
            response.answer.append(records["CNAME"])
            name = _key(records["CNAME"][0].target.to_text())
            if not self.follow_cname:
                return
        else:
            return
        if not records:
            response.set_rcode(dns.rcode.NXDOMAIN)
        response.authority.append(self._soa(name))

    def _soa(self, name: str) -> dns.rrset.RRset:
        text = f"ns.invalid. root.invalid. 1 3600 600 86400 {self.negative_ttl}"
        return dns.rrset.from_text(_name(name), self.negative_ttl, "IN", "SOA", text)

    def _add_loop(self, response: dns.message.Message, name: str) -> None:
        other = name.removeprefix("loop.") if name.startswith("loop.") else f"loop.{name}"
        self._faults.setdefault((other, None), "LOOP")
        response.answer.append(dns.rrset.from_text(_name(name), 60, "IN", "CNAME", f"{other}."))

    def _forgeries(self, query: dns.message.Message) -> list[bytes]:
        """What somebody might send who guesses: a wrong id, a wrong question."""
        forged = dns.message.make_response(query)
        forged.set_rcode(dns.rcode.NXDOMAIN)
        forged.id = (query.id + 1) % 65536
        other = dns.message.make_response(query)
        other.question = [dns.rrset.RRset(_name("evil.example"), dns.rdataclass.IN, query.question[0].rdtype)]
        return [forged.to_wire(), other.to_wire()]


class _Udp(asyncio.DatagramProtocol):
    def __init__(self, server: DnsServer) -> None:
        self._server = server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)  # asyncio's own is no subclass of it

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self._server.received(data, addr, self._transport)


def _key(name: str) -> str:
    """One spelling for each name: lower case, no final dot, odd octets escaped."""
    return dns.name.from_text(name).to_text(omit_final_dot=True).lower()


def _name(name: str) -> dns.name.Name:
    return dns.name.from_text(name)


def _rdata(type: str, value: Value) -> dns.rdata.Rdata:
    if type in ("TXT", "SPF") and (isinstance(value, bytes) or not value.startswith('"')):
        octets = value if isinstance(value, bytes) else value.encode()
        strings = [octets[start : start + 255] for start in range(0, len(octets), 255)] or [b""]
        make = dns.rdtypes.ANY.TXT.TXT if type == "TXT" else dns.rdtypes.ANY.SPF.SPF
        return make(dns.rdataclass.IN, dns.rdatatype.from_text(type), strings)
    text = value.decode() if isinstance(value, bytes) else value
    return dns.rdata.from_text("IN", type, text, origin=dns.name.root, relativize=False)


def _bind(host: str, port: int) -> tuple[socket.socket, socket.socket]:
    """A TCP and a UDP socket on one port."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for attempt in range(20):
        stream, datagram = socket.socket(family, socket.SOCK_STREAM), socket.socket(family, socket.SOCK_DGRAM)
        stream.setblocking(False)
        datagram.setblocking(False)
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            stream.bind((host, port))
            datagram.bind((host, stream.getsockname()[1]))
        except OSError:
            stream.close()
            datagram.close()
            if port or attempt == 19:
                raise
        else:
            return stream, datagram
    raise AssertionError("unreachable")
