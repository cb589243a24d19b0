# SPDX-License-Identifier: Apache-2.0
"""Which notices a sender wants: the values of RET, ENVID, NOTIFY and ORCPT, and the xtext that some of them are in.

    check_ret, check_envid, parse_notify, check_orcpt    what a client gave, checked
    wants                                                may (or must) a notice be sent about this?
    envelope_id, original_recipient, ascii_orcpt         what a notice or the next hop is told

Promises: a value is passed on octet for octet as it was given, its case too, so what it may hold is decided here: nothing
that is let through has a control character in it, neither as it stands nor decoded, so it can end no line and no field.
Fails with: `NotifyError`, whose text is for the log.
RFCs: 3461 §4 (parameters and xtext), 6533 §3 (addresses of the type "utf-8").
Not here: which client may use them (`edge/commands.py`), the notice itself (`mail/dsn.py`).
"""

import re
from collections.abc import Sequence


class NotifyError(ValueError):
    """The value is not what RFC 3461 allows."""


NEVER, SUCCESS, FAILURE, DELAY = "NEVER", "SUCCESS", "FAILURE", "DELAY"
FULL, HEADERS = "FULL", "HDRS"
ENVID_MAX = 100  # RFC 3461 §4.4: characters, in xtext
ORCPT_MAX = 500  # RFC 3461 §4.2: characters, the type included

# RFC 3461 §4: xtext = *( xchar / hexchar ); xchar is "!" to "~" without "+" and "="; hexchar = "+" and two digits, "A" to "F"
# in upper case. Lower case is refused: two spellings of one octet have hidden things from those who look for one.
_XTEXT = re.compile(r"(?:[!-*,-<>-~]|\+[0-9A-F]{2})++")
_HEXCHAR = re.compile(r"\+([0-9A-F]{2})")
# RFC 3461 §4.2: ORCPT = addr-type ";" xtext; addr-type = atom
_TYPED = re.compile(r"([A-Za-z0-9!#$%&'*+/?^_`{|}~-]+);(.+)", re.S)
# RFC 6533 §3: utf-8-addr-unitext = 1*( QUCHAR / EmbeddedUnicodeChar ); QUCHAR is xchar without "\", or not ASCII;
# EmbeddedUnicodeChar = "\x{" HEXPOINT "}", without zeros in front
_UNITEXT = re.compile(r"(?:[!-*,-<>-\[\]-~]|[^\x00-\x7f]|\\x\{[1-9A-F][0-9A-F]{1,5}\})++")
_EMBEDDED = re.compile(r"\\x\{([0-9A-F]+)\}")
_SPECIAL = frozenset(" +=\\")  # the ASCII that may, and must, be written so


# --- xtext


def decode_xtext(text: str) -> str:
    """The characters that `text` stands for: printable ASCII and blanks, nothing else. Raises NotifyError."""
    if not _XTEXT.fullmatch(text):
        raise NotifyError("not xtext")
    decoded = _HEXCHAR.sub(lambda found: chr(int(found[1], 16)), text)
    if not (decoded.isascii() and decoded.isprintable()):
        raise NotifyError("xtext that stands for a control character, or for one that is not ASCII")
    return decoded


def encode_xtext(text: str) -> str:
    """`text` as xtext. Raises NotifyError for what xtext cannot carry here."""
    if not (text and text.isascii() and text.isprintable()):
        raise NotifyError("only printable ASCII can be written as xtext")
    return "".join(c if c not in "+= " else f"+{ord(c):02X}" for c in text)


# --- what clients give


def check_ret(value: str | None) -> str:
    """RET=FULL or RET=HDRS, in any case; as it was given."""
    if value is None or _word(value) not in (FULL, HEADERS):
        raise NotifyError("RET is neither FULL nor HDRS")
    return value


def check_envid(value: str | None) -> str:
    """ENVID as it was given."""
    if value is None or len(value) > ENVID_MAX:
        raise NotifyError(f"ENVID without a value, or longer than {ENVID_MAX} characters")
    decode_xtext(value)
    return value


def parse_notify(value: str | None) -> tuple[str, ...]:
    """NOTIFY: "NEVER" alone, or some of the others, each once; the words as they were given."""
    words = tuple((value or "").split(","))
    known = [_word(word) for word in words]
    if known == [NEVER]:
        return words
    if not set(known) <= {SUCCESS, FAILURE, DELAY} or len(set(known)) < len(known):
        raise NotifyError("NOTIFY is neither NEVER nor a list of SUCCESS, FAILURE and DELAY")
    return words


def check_orcpt(value: str | None) -> str:
    """ORCPT as it was given. One that is not ASCII can only be of the type "utf-8"."""
    if value is None or len(value.encode()) > ORCPT_MAX:
        raise NotifyError(f"ORCPT without a value, or longer than {ORCPT_MAX} characters")
    _address_of(*_split(value))
    return value


# --- what follows from them


def wants(notify: Sequence[str], event: str) -> bool:
    """True if a notice about `event` is wanted: FAILURE also where nothing was said (RFC 3461 §4.1)."""
    if not notify:
        return event == FAILURE
    return any(_word(word) == event for word in notify)


def returns_header(ret: str) -> bool:
    """True if the sender wants no more than the header back (RFC 3461 §4.3)."""
    return _word(ret) == HEADERS


def envelope_id(envid: str) -> str:
    """For Original-Envelope-Id (RFC 3464 §2.2.1): the ENVID decoded. Raises NotifyError for what `check_envid` refuses."""
    return decode_xtext(envid)


def original_recipient(orcpt: str, *, utf8: bool) -> str:
    """For Original-Recipient (RFC 3464 §2.3.1): type and decoded address.

    What is not ASCII is written out with `utf8` only; without, it stays in the form of RFC 6533 §3 for 7-bit notices.
    Raises NotifyError for what `check_orcpt` refuses.
    """
    kind, text = _split(orcpt)
    address = _address_of(kind, text)
    if not address.isascii() and not utf8:
        return f"{kind}; {ascii_orcpt(text)}"
    return f"{kind}; {address}"


def ascii_orcpt(orcpt: str) -> str:
    """An ORCPT for who does not know SMTPUTF8: what is not ASCII embedded as `\\x{…}` (RFC 6533 §3)."""
    return orcpt if orcpt.isascii() else "".join(c if c.isascii() else f"\\x{{{ord(c):X}}}" for c in orcpt)


def _word(text: str) -> str:
    """In upper case, if it is ASCII: letters of other scripts become ASCII in upper case, and are another word all the same."""
    return text.upper() if text.isascii() else text


def _split(value: str) -> tuple[str, str]:
    """Type and encoded address."""
    found = _TYPED.fullmatch(value)
    if not found:
        raise NotifyError("ORCPT is not of the form type;address")
    return found[1], found[2]


def _address_of(kind: str, text: str) -> str:
    if kind.lower() != "utf-8":
        return decode_xtext(text)
    if not _UNITEXT.fullmatch(text):
        raise NotifyError("not an address as RFC 6533 writes it")
    address = _EMBEDDED.sub(lambda found: _embedded(int(found[1], 16)), text)
    if not address.isprintable():
        raise NotifyError("a control character in an address")
    return address


def _embedded(point: int) -> str:
    """RFC 6533 §3: outside of ASCII, or one of the characters that cannot stand there themselves."""
    if point > 0x10FFFF or (point < 0x80 and chr(point) not in _SPECIAL):
        raise NotifyError("an embedded character that needs no such form, or does not exist")
    return chr(point)  # a surrogate is not printable
