# SPDX-License-Identifier: Apache-2.0
"""DNS messages: a question to octets, octets to an answer. The only file that knows dnspython.

Promises: only a message that repeats our id and our question is taken for an answer; whatever the octets are, decoding
gives a `Reply` or raises `BadReply`. Pure: no sockets, no clock.
Fails with: `BadReply`.
RFCs: 1035 §4, 2308 §2 and §5 (negative answers), 6891 §6.1 (EDNS), 6840 §5.7 (AD in a question).
Not here: whom to ask, how often (`infra/dns.py`), sockets (`infra/dnssocket.py`).
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset

from gateway.ports import MX

TYPES = {"A": 1, "PTR": 12, "MX": 15, "TXT": 16, "AAAA": 28}
CHAIN_MAX = 8  # CNAMEs in a row; RFC 1034 §3.6.2 gives no number, resolvers take 8 to 16
NAME_MAX = 255  # octets on the wire, RFC 1035 §3.1
LABEL_MAX = 63  # RFC 1035 §2.3.4

NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED = range(6)

_HEADER = struct.Struct("!HHHHHH")
_FLAGS = 0x0120  # RD, and AD: "tell me whether you have validated it" (RFC 6840 §5.7) without the weight of DO
_QR, _TC, _OPCODE, _RCODE = 0x8000, 0x0200, 0x7800, 0x000F


class BadReply(Exception):
    """Octets that answer our question but are of no use. `status` says in a word why not."""

    def __init__(self, detail: str, status: str = "malformed") -> None:
        super().__init__(detail)
        self.status = status


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked: `wire` is the question section (RFC 1035 §4.1.2)."""

    name: str
    type: str
    wire: bytes


@dataclass(frozen=True, slots=True)
class Reply:
    """One server's answer, not yet anybody's truth.

    `target` is where a CNAME leads if the message itself does not tell what is there. `ttl` is None where
    nothing says how long the answer may be kept (a negative answer without SOA, RFC 2308 §5).
    """

    rcode: int
    records: tuple[Any, ...] = ()
    ttl: int | None = None
    target: str = ""
    authentic: bool = False
    octets: int = 0


def question(name: str, type: str) -> Question | None:
    """The question for a name without final dot; None if no DNS message can ask for it.

    A label may hold any ASCII octet (SPF macros make names with blanks); it has 1 to 63 of them.
    """
    try:
        labels = name.encode("ascii").split(b".")
    except UnicodeEncodeError:
        return None
    if not all(0 < len(label) <= LABEL_MAX for label in labels):
        return None
    wire = b"".join(bytes((len(label),)) + label for label in labels) + b"\0"
    return Question(name, type, wire + struct.pack("!HH", TYPES[type], 1)) if len(wire) <= NAME_MAX else None


def encode(asked: Question, ident: int, edns_size: int) -> bytes:
    """The message that asks. `edns_size` 0 leaves EDNS out, for servers that do not know it."""
    header = _HEADER.pack(ident, _FLAGS, 1, 0, 0, 1 if edns_size else 0)
    # RFC 6891 §6.1.2: root name, type 41, our payload size as class, no flags, no options
    return header + asked.wire + (struct.pack("!BHHIH", 0, 41, edns_size, 0, 0) if edns_size else b"")


def answers(data: bytes, ident: int, asked: Question) -> bool:
    """Does this message answer that question? What does not is somebody else's, or forged (RFC 5452 §9.1)."""
    if len(data) < _HEADER.size:
        return False
    found, flags, questions, *_ = _HEADER.unpack_from(data)
    if found != ident or not flags & _QR or flags & _OPCODE:
        return False
    if questions == 0:  # a server that could not even read the question
        return flags & _RCODE in (FORMERR, SERVFAIL, NOTIMP, REFUSED)
    end = _HEADER.size + len(asked.wire)
    return questions == 1 and data[_HEADER.size : end].lower() == asked.wire.lower()


def truncated(data: bytes) -> bool:
    """True if the rest of this message must be fetched over TCP."""
    return bool(data[2] & _TC >> 8)


def decode(data: bytes, asked: Question) -> Reply:
    """Read a message for which `answers` is true. Raises BadReply."""
    rcode = data[3] & _RCODE
    if rcode not in (NOERROR, NXDOMAIN):
        return Reply(rcode)
    try:
        message = dns.message.from_wire(data, ignore_trailing=True)
        rcode = int(message.rcode())  # with the upper bits, which EDNS carries
        return _read(message, asked, len(data)) if rcode in (NOERROR, NXDOMAIN) else Reply(rcode)
    # dnspython's readers of rdata raise more than its own class on hostile octets
    except (dns.exception.DNSException, ValueError, IndexError, struct.error, AttributeError) as err:
        raise BadReply(f"{asked.name} {asked.type}: unreadable answer: {err or type(err).__name__}") from err


def _read(message: dns.message.Message, asked: Question, octets: int) -> Reply:
    """Follow the CNAMEs inside one message to the records, or to where it stops."""
    sets = {(rrset.name, rrset.rdtype): rrset for rrset in message.answer}
    ttl, type = None, dns.rdatatype.RdataType(TYPES[asked.type])
    authentic = bool(message.flags & dns.flags.AD)
    here = start = message.question[0].name if message.question else dns.name.root
    for _ in range(CHAIN_MAX + 1):
        if found := sets.get((here, type)):
            convert = _CONVERT[asked.type]
            records = tuple(convert(rdata) for rdata in found)
            return Reply(NOERROR, records, _least(ttl, found.ttl), authentic=authentic, octets=octets)
        alias = sets.get((here, dns.rdatatype.CNAME))
        if not alias:
            break
        here, ttl = alias[0].target, _least(ttl, alias.ttl)
    else:
        raise BadReply(f"{asked.name} {asked.type}: CNAME loop", "loop")
    rcode = int(message.rcode())
    negative = _negative_ttl(message)
    if here != start and rcode == NOERROR and negative is None:
        return Reply(rcode, ttl=ttl, target=_host(here), authentic=authentic, octets=octets)
    ttl = None if negative is None else _least(ttl, negative)
    return Reply(rcode, ttl=ttl, authentic=authentic, octets=octets)


def _negative_ttl(message: dns.message.Message) -> int | None:
    """RFC 2308 §5: the lesser of the SOA's own TTL and its MINIMUM field."""
    for rrset in message.authority:
        if rrset.rdtype == dns.rdatatype.SOA:
            return int(min(rrset.ttl, rrset[0].minimum))
    return None


def _least(one: int | None, other: int) -> int:
    return other if one is None else min(one, other)


def _host(name: dns.name.Name) -> str:
    """Lower case, no final dot; the root is empty. Octets that are no plain text come out escaped."""
    return name.to_text(omit_final_dot=True).lower() if name != dns.name.root else ""


_CONVERT: dict[str, Callable[[Any], Any]] = {
    "A": lambda rdata: IPv4Address(rdata.address),
    "AAAA": lambda rdata: IPv6Address(rdata.address),
    "MX": lambda rdata: MX(rdata.preference, _host(rdata.exchange)),
    "PTR": lambda rdata: _host(rdata.target),
    "TXT": lambda rdata: b"".join(rdata.strings),
}
