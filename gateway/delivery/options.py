# SPDX-License-Identifier: Apache-2.0
"""Options of delivery: [delivery] and [[route]], and the targets that a route may name.

Promises: a target that was read here can be used; its fault is told with the part that is wrong.
RFCs: 5321 §4.5.3.2 (timeouts), §4.5.3.1.8 (100 recipients), §5.1 (at least two addresses).
Not here: matching (`route.py`), connecting (`smtp.py`).
"""

import ipaddress
import re
from pathlib import PurePosixPath
from typing import Annotated, Literal

from gateway.infra.options import Duration, Network, Options, Size, check, option
from gateway.mail.address import AddressError, parse_domain, to_ascii
from gateway.mail.hostport import split_host_port
from gateway.mail.job import NextHop

SMTP_PORT = 25
PRIVATE = ["127.0.0.0/8", "::1/128", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "fe80::/10", "fc00::/7"]

_LATER = frozenset({"smtps", "lmtp", "https"})
_KNOWN = "smtp://host:port, maildir:/path, discard:, mx:"


def parse_target(text: str) -> NextHop:
    """The next hop that a route's `to` names. Raises ValueError with what is wrong.

    "smtp://host", "smtp://host:port", "smtp://192.0.2.1", "smtp://[2001:db8::1]:2525": no MX lookup, port 25 by default.
    "maildir:/path", "discard:". "mx:" is the recipient's own domain, "mx:other.example" the MX of another one.
    """
    scheme, colon, rest = text.partition(":")
    if not colon:
        raise ValueError(f"has no scheme; write one of {_KNOWN}")
    scheme = scheme.lower()
    if scheme in _LATER:
        raise ValueError(f"{scheme}: is not supported yet; write one of {_KNOWN}")
    parse = _PARSERS.get(scheme)
    if parse is None:
        raise ValueError(f"unknown scheme {scheme!r}; write one of {_KNOWN}")
    return NextHop(kind=scheme, target=parse(rest))


def _smtp(rest: str) -> str:
    if not rest.startswith("//"):
        raise ValueError("write two slashes, as in smtp://host:port")
    place = rest[2:].removesuffix("/")
    if "/" in place or "?" in place or "#" in place:
        raise ValueError("nothing may follow host:port")
    if "@" in place:
        raise ValueError("a user name is not supported")
    host, port = split_host_port(place, SMTP_PORT)
    return f"{_host(host)}:{port}"


def _host(host: str) -> str:
    if not host:
        raise ValueError("the host is missing")
    if host.startswith("["):
        try:
            return f"[{ipaddress.IPv6Address(host[1:-1])}]"
        except ValueError as err:
            raise ValueError(f"{host} is not an IPv6 address") from err
    try:
        name = to_ascii(parse_domain(host.encode()))
    except AddressError as err:
        raise ValueError(f"host {host!r}: {err}") from err
    if re.fullmatch(r"[0-9.]+", name):
        try:
            return str(ipaddress.IPv4Address(name))
        except ValueError as err:
            raise ValueError(f"{host} is not an IPv4 address") from err
    return name


def _maildir(rest: str) -> str:
    path = PurePosixPath(rest.removeprefix("//") if rest.startswith("///") else rest)
    if not path.is_absolute() or (rest.startswith("//") and not rest.startswith("///")):
        raise ValueError("write an absolute path, as in maildir:/var/mail/archive")
    if ".." in path.parts or "\0" in rest:
        raise ValueError('the path must not contain ".."')
    return str(path)


def _discard(rest: str) -> str:
    if rest:
        raise ValueError("nothing may follow discard:")
    return ""


def _mx(rest: str) -> str:
    if not rest:
        return ""
    try:
        return to_ascii(parse_domain(rest.encode()))
    except AddressError as err:
        raise ValueError(f"{rest!r}: {err}; write mx: or mx:domain") from err


_PARSERS = {"smtp": _smtp, "maildir": _maildir, "discard": _discard, "mx": _mx}


def _checked_target(text: str) -> str:
    parse_target(text)
    return text


def _pattern(text: str) -> str:
    """A domain pattern in lower-case A-labels."""
    if text == "*":
        return text
    if text.startswith("*."):
        raise ValueError(f"write {text[1:]!r} for all names below a domain")
    name = text.removeprefix(".")
    try:
        return ("." if text.startswith(".") else "") + to_ascii(parse_domain(name.encode()))
    except AddressError as err:
        raise ValueError(f'{text!r}: {err}; write a domain, ".domain" for all below it, or "*"') from err


class RouteOptions(Options):
    """[[route]]"""

    domains: list[Annotated[str, check(_pattern)]] = option(
        doc='Recipient domains: "dest.example" itself, ".dest.example" all names below it, "*" every domain.', min_length=1
    )
    to: Annotated[str, check(_checked_target)] = option(
        doc="smtp://host:port, maildir:/path, discard:, or mx: for the usual MX lookup (mx:other.example: of that domain)."
    )

    binary: bool = option(
        False, doc='The SMTP host takes BINARYMIME (RFC 3030). If all routes down to that of "*" do, we offer it to clients.'
    )

    @property
    def hop(self) -> NextHop:
        """Where it leads."""
        return parse_target(self.to)

    @property
    def takes_binary(self) -> bool:
        """True if content whose line ends mean nothing may go there."""
        return self.hop.kind in ("maildir", "discard") or (self.binary and self.hop.kind == "smtp")


class DeliveryOptions(Options):
    """[delivery]"""

    port: int = option(SMTP_PORT, doc="Port of hosts that were found by MX.", ge=1, le=65535)
    forbidden_networks: list[Network] = option(
        PRIVATE, doc="Addresses to which MX data may not send us; routes may. Keeps others from aiming us at our inside."
    )
    tls: Literal["opportunistic", "none"] = option(
        "opportunistic", doc="opportunistic: STARTTLS where it is offered, in clear where it fails. none: never."
    )
    connections: int = option(
        200, doc="Connections to other hosts at the same time, all destinations together.", ge=1, le=20000
    )
    concurrency: int = option(
        20, doc="Connections to one destination at the same time; a new one starts with 5.", ge=1, le=1000
    )
    backlog: int = option(1000, doc="Jobs taken from the queue at the same time, waiting or running.", ge=1, le=100000)
    messages_per_connection: int = option(100, doc="Messages over one connection before a new one is made.", ge=1)
    recipients_per_transaction: int = option(
        100, doc="Recipients in one transaction; every server must take 100 (RFC 5321 §4.5.3.1.8).", ge=1, le=10000
    )
    addresses_per_attempt: int = option(5, doc="Addresses tried in one attempt; RFC 5321 §5.1 wants at least two.", ge=1, le=50)
    connect_budget: Duration = option("2m", doc="After this long no further address is tried in one attempt.")
    attempt_timeout: Duration = option(
        "45m", doc="For one attempt as a whole, whatever the host does. queue.lease must be at least 15m longer."
    )
    idle: Duration = option("10s", doc="How long a connection is kept open for the next message.")
    connect_timeout: Duration = option("30s", doc="To establish a connection.")
    tls_timeout: Duration = option("30s", doc="For STARTTLS and the handshake.")
    greeting_timeout: Duration = option("5m", doc="For the 220 greeting (RFC 5321 §4.5.3.2.1).")
    ehlo_timeout: Duration = option("5m", doc="For the reply to EHLO, HELO or RSET; as long as for MAIL.")
    mail_timeout: Duration = option("5m", doc="For the reply to MAIL (RFC 5321 §4.5.3.2.2).")
    rcpt_timeout: Duration = option("5m", doc="For the reply to RCPT (RFC 5321 §4.5.3.2.3).")
    data_timeout: Duration = option("2m", doc="For the reply to DATA (RFC 5321 §4.5.3.2.4).")
    block_timeout: Duration = option("3m", doc="To send a block of content (RFC 5321 §4.5.3.2.5).")
    dot_timeout: Duration = option("10m", doc="For the reply to the final dot (RFC 5321 §4.5.3.2.6).")
    returned_message: Size = option("50KiB", doc="A bounce returns the whole message up to this size, its header beyond.")
