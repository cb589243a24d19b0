# SPDX-License-Identifier: Apache-2.0
"""What can be configured about the way in: [[listener]], [tls], [limits].

Promises: a listener that this version cannot serve is refused here, with the reason, and not when mail comes.
Not here: who may relay ([relay], `filters/recipients.py`).
"""

from pathlib import Path
from typing import Annotated, Literal

from gateway.edge.place import parse_place
from gateway.infra.options import Duration, Network, Options, Size, check, option


def _address(value: str) -> str:
    parse_place(value)
    return value


def _role(value: str) -> str:
    if value != "mx":
        raise ValueError('"submission" is not supported yet; write "mx"')
    return value


def _balancers(value: list[Network]) -> list[Network]:
    if value:
        raise ValueError("the PROXY protocol is not supported yet; leave the list empty")
    return value


class ListenerOptions(Options):
    """[[listener]]"""

    address: Annotated[str, check(_address)] = option(doc='"host:port", "[::]:25", "unix:/path" or "systemd:NAME".')
    role: Annotated[Literal["mx", "submission"], check(_role)] = option("mx", doc='"mx" takes mail from other servers.')
    tls: Literal["none", "starttls", "implicit"] = option("none", doc="How a client gets to TLS here, if at all.")
    proxy_protocol: Annotated[list[Network], check(_balancers)] = option(
        [], doc="Networks of the balancers that must send a PROXY header (v1 or v2)."
    )
    greeting_delay: Duration = option("0s", doc="Wait before the banner; a client that talks first is refused with 554.")
    tarpit: Duration = option("0s", doc="Wait before each reply that says no.")


class TlsOptions(Options):
    """[tls]"""

    certificate: Path | None = option(None, doc="PEM file: our certificate, then those that lead to its root.")
    key: Path | None = option(None, doc="PEM file: the private key of the certificate.")


class LimitsOptions(Options):
    """[limits]; 0 = no limit, where a line does not say otherwise."""

    message_size: Size = option("50MiB", ge=0, doc="Octets of a message; larger ones get 552.")
    line_length: Size = option("64KiB", ge=0, doc="Octets of a line of message content, with its CRLF; longer ones get 500.")
    # The header section is kept in memory and read by every filter, so this limit cannot be switched off. Postfix
    # reads 100 KiB of it; large but honest ones (many ARC sets, many recipients) reach a few 100 KiB.
    header_size: Size = option("1MiB", ge=1024, le=16 << 20, doc="Octets of the header of a message, 1KiB to 16MiB.")
    # Honest mail has some hundred at most; and what a header costs to read goes by its fields more than by its octets.
    header_fields: int = option(10000, ge=0, doc="Fields of the header of a message; more get 552.")
    recipients: int = option(1000, ge=0, doc="Recipients of a message; 452 beyond. RFC 5321 asks for at least 100.")
    connections: int = option(10000, ge=0, doc="Connections at a time, in each worker.")
    connections_per_client: int = option(50, ge=0, doc="Of one IPv4 address or IPv6 /64, in each worker.")
    messages_per_connection: int = option(0, ge=0, doc="Messages that one connection may bring; then 421.")
    errors: int = option(20, ge=0, doc="Commands of a connection that may be answered with 5yz; then 421.")
    # Postfix: smtpd_junk_command_limit is 100; clients that keep a connection alive with NOOP need some room.
    commands: int = option(200, ge=0, doc="Commands in a row that bring no message (RCPT not counted); then 421.")
    command_timeout: Duration = option("5m", gt=0, doc="How long a client may take for a command, or to read a reply. Not 0.")
    # RFC 5321 §4.5.3.2.5: a client waits 3 minutes for each block of content to be taken.
    data_timeout: Duration = option("3m", gt=0, doc="In this time at least 1 KiB of content must come. Not 0.")
    transaction_timeout: Duration = option("30m", gt=0, doc="How long a client may take from MAIL to the final dot. Not 0.")
    handshake_timeout: Duration = option("30s", gt=0, doc="How long a TLS handshake may take. Not 0.")
