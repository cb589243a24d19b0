# SPDX-License-Identifier: Apache-2.0
"""The sample messages of the development mode, and the small DNS world in which they are judged.

Promises: every name is below `.example`, which nobody owns (RFC 2606 §3); no packet leaves the machine.
"""

from dataclasses import dataclass
from email.utils import formatdate
from ipaddress import IPv4Address, IPv6Address

from gateway.auth.dkim_sign import SigningKey, sign
from gateway.infra.dns import note_lookup
from gateway.mail.verdict import Lookup
from gateway.ports import MX, Answer

GTUBE = "XJS*C4JDBQADN1.NSBN3*2IDNEN*GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X"


@dataclass(frozen=True, slots=True)
class Sample:
    """One message to send: `about` says in a few words what is special about it."""

    name: str
    about: str
    sender: str
    recipient: str
    content: bytes


def _message(sender: str, subject: str, text: str, now: float) -> bytes:
    lines = [
        f"From: <{sender}>",
        "To: <you@dest.example>",
        f"Subject: {subject}",
        f"Date: {formatdate(now)}",
        f"Message-ID: <{subject.lower().replace(' ', '-')}.{now:.0f}@{sender.partition('@')[2]}>",
        "",
        text,
        "",
    ]
    return "\r\n".join(lines).encode()


def samples(key: SigningKey, now: float) -> list[Sample]:
    """The four that everyone wants to see."""
    you = "you@dest.example"
    signed = _message("ann@signed.example", "A signed message", "Nobody has changed this.", now)
    return [
        Sample("clean", "nothing special", "bob@clean.example", you, _message("bob@clean.example", "Hello", "Good day.", now)),
        Sample("signed", "DKIM, Ed25519", "ann@signed.example", you, sign(signed, key) + signed),
        Sample("spoofed", "SPF says no", "ceo@bank.example", you, _message("ceo@bank.example", "Urgent", "Pay now.", now)),
        Sample("spam", "holds GTUBE", "eve@clean.example", you, _message("eve@clean.example", "Buy", GTUBE, now)),
    ]


class SampleResolver:
    """A `ports.Resolver` that knows a few names and denies all others: development needs no DNS."""

    def __init__(self, key: SigningKey) -> None:
        self._txt: dict[str, bytes] = {
            "clean.example": b"v=spf1 ip4:127.0.0.0/8 -all",
            "signed.example": b"v=spf1 ip4:127.0.0.0/8 -all",
            "bank.example": b"v=spf1 ip4:192.0.2.1 -all",
            key.record_name: key.record,
        }

    async def txt(self, name: str) -> Answer[bytes]:
        record = self._txt.get(name.rstrip(".").lower())
        note_lookup(Lookup(name, "TXT", (record.decode(),) if record else (), "ok" if record else "nxdomain"))
        return Answer((record,)) if record else Answer(nxdomain=True)

    async def mx(self, domain: str) -> Answer[MX]:
        return Answer(nxdomain=True)

    async def a(self, name: str) -> Answer[IPv4Address]:
        return Answer(nxdomain=True)

    async def aaaa(self, name: str) -> Answer[IPv6Address]:
        return Answer(nxdomain=True)

    async def ptr(self, ip: IPv4Address | IPv6Address) -> Answer[str]:
        return Answer(nxdomain=True)
