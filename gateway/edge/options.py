# SPDX-License-Identifier: Apache-2.0
"""What can be configured about the way in: [[listener]], [tls], [limits], [submission].

Promises: a listener that this version cannot serve is refused here, with the reason, and not when mail comes.
Not here: who may relay ([relay], `filters/recipients.py`).
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from gateway.edge.place import parse_place
from gateway.infra.options import AutoSize, Duration, LocalPath, Network, Options, Size, check, option
from gateway.infra.tls import server_context

if TYPE_CHECKING:
    from ssl import SSLContext


def _address(value: str) -> str:
    parse_place(value)
    return value


class ListenerOptions(Options):
    """[[listener]]"""

    address: Annotated[str, check(_address)] = option(doc='"host:port", "[::]:25", "unix:/path" or "systemd:NAME".')
    role: Literal["mx", "submission"] = option(
        "mx", doc='"mx" takes mail from other servers, "submission" from users who log in (RFC 6409).'
    )
    tls: Literal["none", "starttls", "implicit"] = option("none", doc="How a client gets to TLS here, if at all.")
    proxy_protocol: list[Network] = option([], doc="Networks of the balancers that must send a PROXY header (v1 or v2).")
    xclient: list[Network] = option([], doc="Networks of the proxies that may say for whom they speak, by XCLIENT.")
    greeting_delay: Duration = option("0s", doc="Wait before the banner; a client that talks first is refused with 554.")
    tarpit: Duration = option("0s", doc="Wait before each reply that says no.")


class CertificateOptions(Options):
    """[[tls.sni]]"""

    certificate: LocalPath = option(doc="PEM file: a certificate with its chain; the names are those of its subjectAltName.")
    key: LocalPath = option(doc="PEM file: its private key.")


class TlsOptions(Options):
    """[tls]"""

    certificate: LocalPath | None = option(None, doc="PEM file: our certificate, then those that lead to its root.")
    key: LocalPath | None = option(None, doc="PEM file: the private key of the certificate.")
    minimum: Literal["1.2", "1.3"] = option("1.2", doc="The oldest version of TLS that clients may use.")
    sni: list[CertificateOptions] = option(
        [], doc="More certificates, for clients that ask for one of their names; all others are shown the one above."
    )

    @property
    def pairs(self) -> list[tuple[Path, Path]]:
        """The further certificates with their keys."""
        return [(each.certificate, each.key) for each in self.sni]

    @property
    def certificates(self) -> list[Path]:
        """All that are in use."""
        return [self.certificate, *(each.certificate for each in self.sni)] if self.certificate else []

    def context(self) -> "SSLContext | None":
        """For our listeners; None without a certificate. Reads the files; raises TlsFault."""
        if self.certificate is None or self.key is None:
            return None
        return server_context(self.certificate, self.key, others=self.pairs, minimum=self.minimum)


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
    connections: int = option(10000, ge=0, doc="Connections at a time, over all workers; 421 beyond.")
    connections_per_client: int = option(50, ge=0, doc="Of one IPv4 address or IPv6 /64, over all workers; 421 beyond.")
    messages_per_connection: int = option(0, ge=0, doc="Messages that one connection may bring; then 421.")
    errors: int = option(20, ge=0, doc="Commands of a connection that may be answered with 5yz; then 421.")
    # Exim: smtp_max_unknown_commands is 3; some room is left for clients that try old verbs.
    unknown_commands: int = option(10, ge=0, doc="Commands of a connection that we do not know (500); then 421.")
    # Postfix: smtpd_junk_command_limit is 100; clients that keep a connection alive with NOOP need some room.
    commands: int = option(200, ge=0, doc="Commands in a row that bring no message (RCPT not counted); then 421.")
    command_timeout: Duration = option("5m", gt=0, doc="How long a client may take for a command, or to read a reply. Not 0.")
    # RFC 5321 §4.5.3.2.5: a client waits 3 minutes for each block of content to be taken.
    data_timeout: Duration = option("3m", gt=0, doc="In this time at least 1 KiB of content must come. Not 0.")
    transaction_timeout: Duration = option("30m", gt=0, doc="How long a client may take from MAIL to the final dot. Not 0.")
    # A balancer sends its header with the first packet; the time is for one that has to be sent again.
    proxy_timeout: Duration = option("5s", gt=0, doc="How long the PROXY header of a balancer may take. Not 0.")
    handshake_timeout: Duration = option("30s", gt=0, doc="How long a TLS handshake may take. Not 0.")
    memory: AutoSize = option(
        "auto",
        doc="What a worker may take; beyond, new clients get 421 and MAIL 452. "
        '"auto" is 60 % of what there is, shared by the workers.',
    )
    queued: int = option(
        0, ge=0, doc="Recipients that wait in a worker's queue from which on MAIL gets 452, until fewer than nine tenths wait."
    )


class SubmissionOptions(Options):
    """[submission]"""

    users: LocalPath = option("/etc/gateway/users", doc="File of those who may log in; `gateway user` writes it.")
    check_from: bool = option(False, doc="The addresses in From must belong to the user, too, and not the sender only.")
    failure_delay: Duration = option(
        "1s", ge=0, le=30, doc="Wait before a failed login is answered; doubled for each further one of a session. At most 30s."
    )
    # Some mail programs try a stored password five times in a row when it was changed elsewhere.
    lockout_failures: int = option(
        10, ge=0, doc="Failed logins of a name from one network (IPv4 address, IPv6 /64) that lock it out there; 0 = never."
    )
    lockout_period: Duration = option("10m", gt=0, doc="In which time so many must fail.")
    lockout_time: Duration = option("15m", gt=0, doc="How long the name, from that network, then gets 454.")
