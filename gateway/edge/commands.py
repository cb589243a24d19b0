# SPDX-License-Identifier: Apache-2.0
"""The arguments of EHLO, MAIL and RCPT as values.

Promises: what comes out obeys the grammar and holds no control character; parameters are taken only from a client
that said EHLO, and only those that were offered.
Fails with: `MailError` with the reply for the client.
RFCs: 5321 §4.1.1.1–3; the extension of each parameter beside it, in the two tables at the end.
Not here: addresses as such (`mail/address.py`), the values of DSN (`mail/notify.py`), whether we want the mail (`filters/`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from gateway.edge.offers import Offers
from gateway.mail import reply
from gateway.mail.address import Address, AddressError, parse_domain, parse_mailbox, parse_parameters, parse_path
from gateway.mail.envelope import BodyType, Recipient
from gateway.mail.notify import check_envid, check_orcpt, check_ret, decode_xtext, parse_notify
from gateway.mail.reply import MailError, Reply
from gateway.mail.value import value


@value(frozen=True, slots=True)
class MailCommand:
    """MAIL FROM with its parameters; `size` is None if the client declared none."""

    sender: Address
    size: int | None
    body: BodyType = BodyType.SEVEN_BIT
    smtputf8: bool = False
    ret: str = ""
    envid: str = ""
    require_tls: bool = False


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


def parse_mail(argument: bytes, offers: Offers) -> MailCommand:
    """`FROM:<path> [parameters]`. A blank behind the colon is tolerated, as everyone does."""
    sender, rest = _path(argument, b"FROM:", reply.BAD_SENDER)
    if sender and not sender.domain:  # <postmaster> is a forward-path only
        raise MailError(reply.BAD_SENDER)
    taken = _take(rest, _OF_MAIL, offers) if rest else {}
    taken.pop("login", None)  # RFC 4954 §5: who vouches for whom is nothing that we act on
    command = MailCommand(sender, taken.pop("size", None), **taken)
    if sender.needs_smtputf8 and not command.smtputf8:
        raise MailError(reply.NEEDS_SMTPUTF8)
    return command


def parse_rcpt(argument: bytes, offers: Offers, *, smtputf8: bool) -> Recipient:
    """`TO:<path> [parameters]`. `<postmaster>` is allowed without a domain (RFC 5321 §4.5.1)."""
    address, rest = _path(argument, b"TO:", reply.BAD_RECIPIENT)
    if not address:
        raise MailError(reply.BAD_RECIPIENT, "null recipient")
    recipient = Recipient(address, **_take(rest, _OF_RCPT, offers)) if rest else Recipient(address)
    if not smtputf8 and (address.needs_smtputf8 or not recipient.orcpt.isascii()):
        raise MailError(reply.NEEDS_SMTPUTF8)
    return recipient


def check_vrfy(argument: bytes) -> None:
    """A name or an address that is not ASCII wants the parameter SMTPUTF8 behind it (RFC 6531 §3.7.4.2)."""
    try:
        text = argument.decode("utf-8")
    except UnicodeDecodeError as err:
        raise MailError(reply.SYNTAX, "not valid UTF-8") from err
    if not text.isascii() and not argument.upper().endswith(b" SMTPUTF8"):
        raise MailError(reply.NEEDS_SMTPUTF8)


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


# --- parameters


def _take(rest: bytes, known: "Mapping[str, Parameter]", offers: Offers) -> dict[str, Any]:
    """The parameters in `rest` as fields, each read by its own rule.

    Raises MailError: 555 for one that was not offered (RFC 5321 §4.1.1.11), 501 for one that is given twice or is malformed.
    """
    try:
        parameters = parse_parameters(rest)
    except AddressError as err:
        raise MailError(reply.BAD_PARAMETER, str(err)) from err
    fields: dict[str, Any] = {}
    for keyword, text in parameters.items():
        parameter = known.get(keyword)
        if parameter is None or not (offers.esmtp and parameter.offered(offers)):
            raise MailError(reply.UNKNOWN_PARAMETER, keyword)
        try:
            fields[parameter.field] = parameter.read(text)
        except ValueError as err:  # NotifyError and AddressError too
            raise MailError(reply.BAD_PARAMETER, f"{keyword}: {err}") from err
    if fields.get("body") is BodyType.BINARY and not offers.binary:
        raise MailError(reply.BAD_PARAMETER, "BODY: BINARYMIME was not offered")
    return fields


def _size(text: str | None) -> int:
    """RFC 1870 §3: size-value = 1*20DIGIT."""
    if text is None or not (text.isascii() and text.isdigit()) or len(text) > 20:
        raise ValueError("not a number of at most 20 digits")
    return int(text)


def _body(text: str | None) -> BodyType:
    return BodyType(text.upper() if text and text.isascii() else "")


def _flag(text: str | None) -> bool:
    if text is not None:
        raise ValueError("has no value")
    return True


def _login(text: str | None) -> str:
    """RFC 4954 §5: AUTH= and `<>`, or a mailbox in xtext. For nobody but the log of a refusal."""
    if text == "<>":
        return text
    return str(parse_mailbox(decode_xtext(text or "").encode()))


def _always(offers: Offers) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Parameter:
    """Which field it fills, how its value is read (raises ValueError), and when it was offered."""

    field: str
    read: Callable[[str | None], Any]
    offered: Callable[[Offers], bool] = _always


_OF_MAIL = {
    "SIZE": Parameter("size", _size),  # RFC 1870 §3
    "BODY": Parameter("body", _body),  # RFC 6152 §2, RFC 3030 §3
    "SMTPUTF8": Parameter("smtputf8", _flag),  # RFC 6531 §3.4
    "RET": Parameter("ret", check_ret),  # RFC 3461 §4.3
    "ENVID": Parameter("envid", check_envid),  # RFC 3461 §4.4
    "REQUIRETLS": Parameter("require_tls", _flag, lambda offers: offers.require_tls),  # RFC 8689 §3
    "AUTH": Parameter("login", _login, lambda offers: bool(offers.auth)),  # RFC 4954 §5
}
_OF_RCPT = {
    "NOTIFY": Parameter("notify", parse_notify),  # RFC 3461 §4.1
    "ORCPT": Parameter("orcpt", check_orcpt),  # RFC 3461 §4.2
}
