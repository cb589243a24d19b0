# SPDX-License-Identifier: Apache-2.0
"""XCLIENT: a proxy that we know says for whom it speaks (Postfix's XCLIENT_README).

    xclient-command = "XCLIENT" 1*( SP attribute-name "=" attribute-value )
    attribute-name  = "NAME" / "ADDR" / "PORT" / "PROTO" / "HELO" / "LOGIN" / "DESTADDR" / "DESTPORT"
    attribute-value = xtext; "[UNAVAILABLE]" or "[TEMPUNAVAIL]" where something is not known

ADDR begins another client: what was said of the one before is forgotten. A command without ADDR adds to what was said of
the present one, for a line has 512 octets only.

Promises: taken from peers in `xclient` of the listener only, by their own address and not by one that they or a PROXY
header gave; from then on the client is trusted for the address that was claimed and for nothing else, so the proxy's own
trust never passes to a stranger; the session is as at its beginning, with the caps and filters of the new client.
Fails with: `MailError` 501 (form), 550 5.7.0 (not allowed); `SessionOver` 421 if the new client has too many connections.
Deviates: HELO and PROTO are checked and then superseded by the EHLO that must follow. LOGIN makes a user of the client on
listeners for submission only; elsewhere it is read and dropped, for nobody logs in there. What was claimed before STARTTLS
gives no rights after it, since anybody could have said it (RFC 3207 §4.2).
"""

import re
from dataclasses import dataclass, replace
from ipaddress import ip_address

from gateway.edge.commands import parse_helo
from gateway.edge.lifecycle import Lifecycle
from gateway.edge.offers import NOTHING
from gateway.edge.over import SessionOver
from gateway.edge.verbs import State
from gateway.infra.options import among
from gateway.mail import reply
from gateway.mail.envelope import IP, Transaction
from gateway.mail.notify import NotifyError, decode_xtext
from gateway.mail.reply import MailError

ATTRIBUTES = ("NAME", "ADDR", "PORT", "PROTO", "HELO", "LOGIN", "DESTADDR", "DESTPORT")
NOBODY = ip_address("0.0.0.0")  # stands for a client whose address the proxy does not know: never trusted
VALUE_MAX = 255  # characters, decoded
_UNKNOWN = ("[UNAVAILABLE]", "[TEMPUNAVAIL]")
_NUMBER = re.compile(r"[0-9]{1,5}")


@dataclass(frozen=True, slots=True)
class Claim:
    """What a command says of the client; None where it says nothing, and nobody or nothing where that is not known."""

    ip: IP | None = None
    port: int | None = None
    name: str | None = None
    user: str | None = None


def parse_claim(argument: bytes) -> Claim:
    """The attributes of a command. Raises MailError 501."""
    values: dict[str, str] = {}
    for word in argument.split():
        name, equals, text = word.decode("ascii", "replace").partition("=")
        name = name.upper()
        if name not in ATTRIBUTES or name in values or not equals:
            raise MailError(reply.BAD_PARAMETER, f"XCLIENT {name[:VALUE_MAX]}")
        values[name] = _value(name, text)
    _check_words(values)
    _ip("DESTADDR", values.get("DESTADDR"))
    _port("DESTPORT", values.get("DESTPORT"))
    return Claim(_ip("ADDR", values.get("ADDR")), _port("PORT", values.get("PORT")), values.get("NAME"), values.get("LOGIN"))


class Impersonation(Lifecycle):
    """The command XCLIENT."""

    _proxy: IP | None = None  # who our peer really is, since it spoke for somebody else
    _knows_address = False  # it has said whose address that is

    def offers_xclient(self) -> bool:
        """True if this client may use it now."""
        return among(self._proxy or self.client.ip, self.options.xclient)

    async def xclient(self, argument: bytes) -> None:
        """Another client from here on; it is greeted as any other."""
        if not self.offers_xclient():
            raise MailError(reply.XCLIENT_DENIED)
        claim = parse_claim(argument)
        self.setup = self.desk.setup
        self._become(claim)
        self.tx, self.state, self.offers = None, State.START, NOTHING
        self.first = self.met = Transaction(client=self.client, id=self.desk.new_id(), started=self.desk.clock.now())
        await self.welcome()

    def disbelieve(self) -> None:
        """What the proxy said so far was said in clear: it stays in the log, and gives no rights."""
        if self._proxy is not None:
            self.client = replace(self.client, trusted=False, user="")
            self._knows_address = False  # or a command without ADDR would give the rights back

    def _become(self, claim: Claim) -> None:
        client, anew = self.client, claim.ip is not None
        ip = client.ip if claim.ip is None else claim.ip
        known = anew or self._knows_address
        trusted = known and ip != NOBODY and self.setup.settings.trusts(ip)
        if anew and not self.desk.admission.move(self.counted, ip, self.limits, trusted=trusted):
            raise SessionOver(reply.TOO_MANY_CONNECTIONS, "refused")
        if anew:
            self.counted = ip
        own_user = "" if anew or self._proxy is None else client.user  # what AUTH said, it said of the proxy
        user = own_user if claim.user is None or self.options.role != "submission" else claim.user
        self._proxy, self._knows_address = self._proxy or client.ip, known
        self.client = replace(
            client,
            ip=ip,
            port=claim.port if claim.port is not None else 0 if anew else client.port,
            name=claim.name if claim.name is not None else "" if anew else client.name,
            user=user,
            trusted=trusted,
            helo="",
            esmtp=False,
        )


def _value(name: str, text: str) -> str:
    """A value decoded; empty for what is not known."""
    try:
        value = decode_xtext(text)
    except NotifyError as err:
        raise MailError(reply.BAD_PARAMETER, f"XCLIENT {name}: {err}") from err
    if len(value) > VALUE_MAX:
        raise MailError(reply.BAD_PARAMETER, f"XCLIENT {name}: longer than {VALUE_MAX} characters")
    return "" if value.upper() in _UNKNOWN else value


def _check_words(values: dict[str, str]) -> None:
    for name in ("NAME", "HELO"):
        if text := values.get(name):
            try:
                parse_helo(text.encode("ascii"))
            except MailError as err:
                raise MailError(reply.BAD_PARAMETER, f"XCLIENT {name}: {err.detail}") from err
    if values.get("PROTO", "SMTP").upper() not in ("SMTP", "ESMTP"):
        raise MailError(reply.BAD_PARAMETER, "XCLIENT PROTO")


def _ip(name: str, text: str | None) -> IP | None:
    if not text:
        return None if text is None else NOBODY
    six = text[:5].upper() == "IPV6:"
    try:
        ip = ip_address(text[5:] if six else text)
    except ValueError as err:
        raise MailError(reply.BAD_PARAMETER, f"XCLIENT {name}: {err}") from err
    if six is not (ip.version == 6) or "%" in text:
        raise MailError(reply.BAD_PARAMETER, f"XCLIENT {name}: an IPv6 address has IPV6: before it, and no zone")
    return getattr(ip, "ipv4_mapped", None) or ip  # one client, one name


def _port(name: str, text: str | None) -> int | None:
    if not text:
        return None if text is None else 0
    if not _NUMBER.fullmatch(text) or int(text) > 65535:
        raise MailError(reply.BAD_PARAMETER, f"XCLIENT {name}")
    return int(text)
