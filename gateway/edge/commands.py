# SPDX-License-Identifier: Apache-2.0
"""The arguments of EHLO, MAIL and RCPT as values.

Promises: what comes out obeys the grammar and holds no control character; parameters are taken only from a client
that said EHLO, and only those that were offered.
Fails with: `MailError` with the reply for the client.
RFCs: 5321 §4.1.1.1–3, 1870 §6 (SIZE), 6152 §3 (BODY), 6531 §3.4 (SMTPUTF8).
Not here: addresses as such (`mail/address.py`), whether we want the mail (`filters/`).
"""

from dataclasses import dataclass

from gateway.mail import reply
from gateway.mail.address import Address, AddressError, parse_domain, parse_parameters, parse_path
from gateway.mail.envelope import BodyType
from gateway.mail.reply import MailError, Reply


@dataclass(frozen=True, slots=True)
class MailCommand:
    """MAIL FROM with its parameters; `size` is None if the client declared none."""

    sender: Address
    size: int | None
    body: BodyType
    smtputf8: bool


def parse_helo(argument: bytes) -> str:
    """The name that a client gives itself: a domain or an address literal.

    Deviates: "_" is allowed, because many hosts inside companies have it in their names and RFC 5321 §4.1.4 wants no
    mail refused for a wrong name. UTF-8 is not: SMTPUTF8 has not been agreed on yet (RFC 6531 §3.7.1).
    """
    try:
        parse_domain(argument.replace(b"_", b"x"), utf8=False)
    except AddressError as err:
        raise MailError(reply.BAD_HELO, str(err)) from err
    return argument.decode("ascii")


def parse_mail(argument: bytes, *, esmtp: bool) -> MailCommand:
    """`FROM:<path> [parameters]`. A blank behind the colon is tolerated, as everyone does."""
    sender, rest = _path(argument, b"FROM:", reply.BAD_SENDER)
    if sender and not sender.domain:  # <postmaster> is a forward-path only
        raise MailError(reply.BAD_SENDER)
    parameters = _parameters(rest, esmtp=esmtp)
    command = MailCommand(
        sender,
        _size(parameters.pop("SIZE")) if "SIZE" in parameters else None,
        _body(parameters.pop("BODY")) if "BODY" in parameters else BodyType.SEVEN_BIT,
        _flag(parameters.pop("SMTPUTF8")) if "SMTPUTF8" in parameters else False,
    )
    if parameters:
        raise MailError(reply.UNKNOWN_PARAMETER, ", ".join(parameters))
    if sender.needs_smtputf8 and not command.smtputf8:
        raise MailError(reply.NEEDS_SMTPUTF8)
    return command


def parse_rcpt(argument: bytes, *, esmtp: bool, smtputf8: bool) -> Address:
    """`TO:<path>`; no parameter is known. `<postmaster>` is allowed without a domain (RFC 5321 §4.5.1)."""
    recipient, rest = _path(argument, b"TO:", reply.BAD_RECIPIENT)
    if not recipient:
        raise MailError(reply.BAD_RECIPIENT, "null recipient")
    if parameters := _parameters(rest, esmtp=esmtp):
        raise MailError(reply.UNKNOWN_PARAMETER, ", ".join(parameters))
    if recipient.needs_smtputf8 and not smtputf8:
        raise MailError(reply.NEEDS_SMTPUTF8)
    return recipient


def _path(argument: bytes, keyword: bytes, bad: Reply) -> tuple[Address, bytes]:
    """The path behind the keyword, and what follows it: nothing, or a blank and parameters."""
    if argument[: len(keyword)].upper() != keyword:
        raise MailError(reply.SYNTAX)
    try:
        address, rest = parse_path(argument[len(keyword) :].lstrip(b" "), utf8=True)
    except AddressError as err:
        raise MailError(bad, str(err)) from err
    if rest and not rest.startswith(b" "):
        raise MailError(bad, "something follows the path")
    return address, rest


def _parameters(rest: bytes, *, esmtp: bool) -> dict[str, str | None]:
    if not rest:
        return {}
    try:
        parameters = parse_parameters(rest)
    except AddressError as err:
        raise MailError(reply.BAD_PARAMETER, str(err)) from err
    if parameters and not esmtp:
        raise MailError(reply.UNKNOWN_PARAMETER, "no parameters after HELO")
    return parameters


def _size(value: str | None) -> int:
    """RFC 1870 §3: size-value = 1*20DIGIT."""
    if value is None or not (value.isascii() and value.isdigit()) or len(value) > 20:
        raise MailError(reply.BAD_PARAMETER, "SIZE")
    return int(value)


def _body(value: str | None) -> BodyType:
    try:
        return BodyType((value or "").upper())
    except ValueError as err:
        raise MailError(reply.BAD_PARAMETER, "BODY") from err


def _flag(value: str | None) -> bool:
    if value is not None:
        raise MailError(reply.BAD_PARAMETER, "SMTPUTF8 has no value")
    return True
