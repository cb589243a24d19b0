# SPDX-License-Identifier: Apache-2.0
"""Addresses and the arguments of MAIL and RCPT: parse, compare, convert.

Promises: what parses is what the grammar allows, nothing more; the local part is kept octet for octet;
every pattern is anchored, bounded and linear; nothing here contains a control character afterwards.
Fails with: `AddressError` (its text is for the log), `NeedsSmtputf8` where only the extension is missing.
RFCs: 5321 §4.1.2 and §4.5.3.1, 6531 §3.3 (UTF-8), 5890 (A-labels).
Not here: which addresses we take (`filters/recipients.py`).
"""

import ipaddress
import re
import unicodedata
from functools import lru_cache

import idna

from gateway.mail.value import value


class AddressError(ValueError):
    """The text is not an address (or parameter list) by the grammar."""


class NeedsSmtputf8(AddressError):
    """The address would be right if the client had asked for SMTPUTF8."""


LOCAL_PART_MAX = 64  # RFC 5321 §4.5.3.1.1
DOMAIN_MAX = 255  # RFC 5321 §4.5.3.1.2
PATH_MAX = 256  # RFC 5321 §4.5.3.1.3, with the angle brackets
LABEL_MAX = 63  # RFC 1035 §2.3.4

# RFC 5321 §4.1.2, RFC 6531 §3.3 (octets of UTF-8 stand for UTF8-non-ascii):
#   Dot-string    = Atom *("." Atom)
#   Quoted-string = DQUOTE *( qtextSMTP / "\" %d32-126 ) DQUOTE
#   sub-domain    = Let-dig [Ldh-str]
#   A-d-l         = "@" Domain *( "," "@" Domain ) ":"
_ATOM = rb"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\x80-\xff-]++"
_LOCAL = rb"(?:" + _ATOM + rb"(?:\." + _ATOM + rb")*+|\"(?:[ !#-\[\]-~\x80-\xff]|\\[ -~])*+\")"
_LABEL = rb"[A-Za-z0-9\x80-\xff](?:[A-Za-z0-9\x80-\xff-]*[A-Za-z0-9\x80-\xff])?"
_DOMAIN = rb"(?:" + _LABEL + rb"(?:\." + _LABEL + rb")*+)"
_LITERAL = rb"\[[0-9A-Za-z:.]{1,80}\]"
_MAILBOX = rb"(" + _LOCAL + rb")@(" + _DOMAIN + rb"|" + _LITERAL + rb")"
_ROUTE = rb"(?:@" + _DOMAIN + rb"(?:,@" + _DOMAIN + rb")*+:)?"
_PATH = re.compile(rb"<" + _ROUTE + _MAILBOX + rb">")
_BARE_MAILBOX = re.compile(_MAILBOX)
_DOMAIN_ONLY = re.compile(_DOMAIN + rb"|" + _LITERAL)
_POSTMASTER = re.compile(rb"<(postmaster)>", re.I)
_CONFUSABLE = frozenset({"LATIN", "GREEK", "CYRILLIC"})
_LDH = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?")
_IPV4 = re.compile(r"([0-9]{1,3})\.([0-9]{1,3})\.([0-9]{1,3})\.([0-9]{1,3})")
# RFC 5321 §4.1.2: esmtp-keyword ["=" esmtp-value]; RFC 6531 §3.3 adds UTF-8 to the value
_PARAMETER = re.compile(rb"([A-Za-z0-9][A-Za-z0-9-]{0,63})(?:=([!-<>-~\x80-\xff]{1,1000}))?")


@value(frozen=True, slots=True)
class Address:
    """A mailbox, or the null sender (both parts empty). `local` keeps its quotes and its case.

    `domain` is the text that was given; use `ascii_domain` wherever names are compared or looked up.
    """

    local: str
    domain: str

    def __str__(self) -> str:
        return f"{self.local}@{self.domain}" if self.domain else self.local

    def __bool__(self) -> bool:
        """False for the null sender."""
        return bool(self.local or self.domain)

    @property
    def ascii_domain(self) -> str:
        """The domain in lower-case A-labels (RFC 6531 §3.2)."""
        return to_ascii(self.domain)

    @property
    def plain_local(self) -> str:
        """The local part without quotes and quoting backslashes: two spellings of one mailbox compare equal."""
        if not self.local.startswith('"'):
            return self.local
        return re.sub(r"\\(.)", r"\1", self.local[1:-1])

    @property
    def needs_smtputf8(self) -> bool:
        return not (self.local.isascii() and self.domain.isascii())

    @property
    def is_literal(self) -> bool:
        return self.domain.startswith("[")

    @property
    def is_postmaster(self) -> bool:
        return self.plain_local.lower() == "postmaster"


NULL_SENDER = Address("", "")


@lru_cache(maxsize=4096)
def to_ascii(domain: str) -> str:
    """Lower-case A-labels of a domain; an address literal is returned in lower case.

    Raises AddressError for a label that IDNA does not allow.
    """
    if domain.isascii() and "xn--" not in domain.lower():
        return domain.lower()
    try:
        mapped = domain.lower() if domain.isascii() else idna.uts46_remap(domain)
        # the mapping can make dots and other ASCII out of one character, so each label is looked at only now
        return ".".join(_a_label(label) for label in mapped.split("."))
    except (idna.IDNAError, UnicodeError) as err:
        raise AddressError(f"bad internationalised domain: {err}") from err


def _a_label(label: str) -> str:
    if label.isascii() and not label.startswith("xn--"):
        if not _LDH.fullmatch(label):
            raise AddressError("bad internationalised domain: not a label after mapping")
        return label
    return idna.alabel(label).decode("ascii").lower()


def mixes_scripts(domain: str) -> bool:
    """True if a label of the domain mixes letters of Latin, Greek and Cyrillic, which are taken for each other.

    A-labels are looked at as what they stand for. Nobody registers such a name but to deceive (UTS 39 §5.1).
    """
    if domain.isascii() and "xn--" not in domain.lower():
        return False
    return any(len(_scripts(label)) > 1 for label in domain.split("."))


def _scripts(label: str) -> frozenset[str]:
    if label.lower().startswith("xn--"):
        try:
            label = idna.ulabel(label)
        except (idna.IDNAError, UnicodeError):
            return frozenset()
    names = (unicodedata.name(letter, "").partition(" ")[0] for letter in label if letter.isalpha())
    return _CONFUSABLE.intersection(names)


def parse_path(raw: bytes, *, utf8: bool) -> tuple[Address, bytes]:
    """The path at the start of `raw` and what follows it.

    Source routes are read and dropped (RFC 5321 §3.3, Appendix C). `<>` gives `NULL_SENDER`, `<postmaster>` an
    Address without domain; whether these may stand here is for the caller to say.
    """
    if raw.startswith(b"<>"):
        return NULL_SENDER, raw[2:]
    if found := _POSTMASTER.match(raw):
        return Address(found[1].decode(), ""), raw[found.end() :]
    found = _PATH.match(raw)
    if not found:
        raise AddressError("not a path of the form <local@domain>")
    if found.end() > PATH_MAX:
        raise AddressError(f"path longer than {PATH_MAX} octets")
    return _address(found[1], found[2], utf8=utf8), raw[found.end() :]


def parse_mailbox(raw: bytes, *, utf8: bool = True) -> Address:
    """An address without angle brackets, as in a configuration file or on a command line."""
    found = _BARE_MAILBOX.fullmatch(raw)
    if not found:
        raise AddressError("not an address of the form local@domain")
    return _address(found[1], found[2], utf8=utf8)


def parse_domain(raw: bytes, *, utf8: bool = True) -> str:
    """A domain name or address literal, checked (as in the argument of EHLO)."""
    if not _DOMAIN_ONLY.fullmatch(raw):
        raise AddressError("not a domain name")
    return _domain(_text(raw, utf8=utf8))


def _address(local: bytes, domain: bytes, *, utf8: bool) -> Address:
    address = _mailbox(local, domain)
    if not utf8 and address.needs_smtputf8:
        raise NeedsSmtputf8("address is not ASCII")
    return address


@lru_cache(maxsize=4096)  # the same few people write and are written to all day
def _mailbox(local: bytes, domain: bytes) -> Address:
    if len(local) > LOCAL_PART_MAX:
        raise AddressError(f"local part longer than {LOCAL_PART_MAX} octets")
    domain_text = _domain(_text(domain, utf8=True))
    return Address(_text(local, utf8=True), domain_text)


def _text(raw: bytes, *, utf8: bool) -> str:
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as err:
        raise AddressError("not valid UTF-8") from err
    if text.isascii():
        return text
    if not utf8:
        raise NeedsSmtputf8("not ASCII")
    if not all(c.isprintable() for c in text):  # C1 controls, line separators, bidi overrides
        raise AddressError("control character in UTF-8")
    return text


def _domain(domain: str) -> str:
    if domain.startswith("["):
        literal_ip(domain)
        return domain
    # an A-label is never shorter than its U-label, so the first look spares IDNA the long ones
    if len(domain) > DOMAIN_MAX or len(ascii_domain := to_ascii(domain)) > DOMAIN_MAX:
        raise AddressError(f"domain longer than {DOMAIN_MAX} octets")
    if any(len(label) > LABEL_MAX for label in ascii_domain.split(".")):
        raise AddressError(f"label longer than {LABEL_MAX} octets")
    return domain


def literal_ip(domain: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """The address in `[192.0.2.1]` or `[IPv6:2001:db8::1]` (RFC 5321 §4.1.3)."""
    inner = domain[1:-1]
    return _ipv6(inner[5:]) if inner[:5].lower() == "ipv6:" else _ipv4(inner)


def _ipv4(text: str) -> ipaddress.IPv4Address:
    """RFC 5321 §4.1.3: Snum = 1*3DIGIT, so zeros may stand before a number; it is decimal all the same."""
    found = _IPV4.fullmatch(text)
    if not found or any(int(part) > 255 for part in found.groups()):
        raise AddressError("bad address literal")
    return ipaddress.IPv4Address(".".join(str(int(part)) for part in found.groups()))


def _ipv6(text: str) -> ipaddress.IPv6Address:
    """RFC 5321 §4.1.3: "::" stands for two groups of zeros at least, so six others may be there; an IPv4 end counts as two."""
    head, colon, end = text.rpartition(":")
    if "." in end:
        text = f"{head}{colon}{_ipv4(end)}"
    others = sum(map(bool, text.split(":"))) + ("." in text)
    if "::" in text and others > 6:
        raise AddressError('bad IPv6 literal: "::" for less than two groups')
    try:
        return ipaddress.IPv6Address(text)
    except ValueError as err:
        raise AddressError("bad IPv6 literal") from err


def parse_parameters(raw: bytes) -> dict[str, str | None]:
    """The ESMTP parameters behind a path: keys in upper case, values as given. A doubled key is refused."""
    parameters: dict[str, str | None] = {}
    for word in raw.split(b" "):
        if not word:
            continue
        found = _PARAMETER.fullmatch(word)
        if not found:
            raise AddressError("malformed parameter")
        key = found[1].decode().upper()
        if key in parameters:
            raise AddressError(f"parameter {key} is given twice")
        parameters[key] = _text(found[2], utf8=True) if found[2] is not None else None
    return parameters
