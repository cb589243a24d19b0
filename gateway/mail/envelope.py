# SPDX-License-Identifier: Apache-2.0
"""A connection's facts, an envelope, and the transaction that grows between MAIL and end of data.

Promises: `Client` is replaced, never changed, so a new EHLO or TLS cannot leave an old fact behind; `Transaction`
lives for one mail: RSET, EHLO, STARTTLS and end of data replace the object, and no field needs a reset.
RFCs: 5321 §3.3 and §4.1.4.
Not here: the session that owns them (`edge/session.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from ipaddress import IPv4Address, IPv6Address

from gateway.mail.address import NULL_SENDER, Address
from gateway.mail.job import QueueId
from gateway.mail.message import Message
from gateway.mail.value import value
from gateway.mail.verdict import AuthResult, Finding

IP = IPv4Address | IPv6Address


class BodyType(str, Enum):
    """BODY= of MAIL (RFC 6152, RFC 3030). The client's word, not a fact about the octets."""

    SEVEN_BIT = "7BIT"
    EIGHT_BIT = "8BITMIME"
    BINARY = "BINARYMIME"


@value(frozen=True, slots=True, kw_only=True)
class Tls:
    """The TLS session of a connection: protocol such as "TLSv1.3", cipher name, its bits."""

    version: str
    cipher: str
    bits: int


@value(frozen=True, slots=True, kw_only=True)
class Client:
    """The other end of one connection. `helo` is empty until HELO or EHLO was accepted."""

    session: str  # id of the connection in the log
    ip: IP
    port: int
    listener: str  # the address that it connected to, as configured
    role: str  # of the listener
    connected: float  # Unix time
    helo: str = ""
    esmtp: bool = False  # it said EHLO
    tls: Tls | None = None
    trusted: bool = False  # its address is in relay.networks
    user: str = ""  # who it is, since AUTH; empty for nobody (RFC 4954)
    name: str = ""  # of its address in DNS, if a proxy told it (XCLIENT)

    @property
    def may_relay(self) -> bool:
        """True for a client of the house: it may send to anywhere."""
        return self.trusted or bool(self.user)


@value(frozen=True, slots=True)
class Recipient:
    """One forward-path of an envelope, and which notices its sender wants about it (RFC 3461 §4.1, §4.2)."""

    address: Address
    notify: tuple[str, ...] = ()  # "NEVER" alone, or some of "SUCCESS", "FAILURE", "DELAY"; empty: not said
    orcpt: str = ""  # "rfc822;xtext" as it was given


@value(frozen=True, slots=True, kw_only=True)
class Envelope:
    """What a message travels with. `sender` is `NULL_SENDER` for bounces."""

    sender: Address = NULL_SENDER
    recipients: tuple[Recipient, ...] = ()
    body: BodyType = BodyType.SEVEN_BIT
    smtputf8: bool = False
    ret: str = ""  # what a notice returns: "FULL" or "HDRS"; empty: not said (RFC 3461 §4.3)
    envid: str = ""  # the sender's own id of the envelope, in xtext as it was given (RFC 3461 §4.4)
    require_tls: bool = False  # never over a connection that is not under verified TLS (RFC 8689)


@dataclass(slots=True, kw_only=True)
class Transaction:
    """One mail while its session lasts. Filters read it; they add to `auth`, and the chain adds to `findings`."""

    client: Client
    id: QueueId
    started: float  # Unix time of MAIL (of connect for the phases before)
    sender: Address | None = None  # None before MAIL
    recipients: list[Recipient] = field(default_factory=list)
    candidate: Recipient | None = None  # the recipient that the RCPT phase is about
    body: BodyType = BodyType.SEVEN_BIT
    smtputf8: bool = False
    ret: str = ""
    envid: str = ""
    require_tls: bool = False
    declared_size: int | None = None  # SIZE= of MAIL (RFC 1870)
    message: Message | None = None  # set for the DATA phase, without our trace fields
    auth: list[AuthResult] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    def envelope(self) -> Envelope:
        return Envelope(
            sender=self.sender or NULL_SENDER,
            recipients=tuple(self.recipients),
            body=self.body,
            smtputf8=self.smtputf8,
            ret=self.ret,
            envid=self.envid,
            require_tls=self.require_tls,
        )

    def results(self, method: str) -> Sequence[AuthResult]:
        """The results of one method that other filters have found so far."""
        return [result for result in self.auth if result.method == method]
