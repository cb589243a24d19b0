# SPDX-License-Identifier: Apache-2.0
"""The DKIM-Signature field: tag list → checked values.

Promises: what comes out is valid by the grammar, so that a name asked of the DNS is a name; linear, and bounded by
`FIELD_MAX`, `TAGS_MAX` and `NAMES_MAX`.
Fails with: `Unverifiable`, which carries the result and a short reason.
RFCs: 6376 §3.2 (tag lists), §3.5 (tags), §6.1.1 (checks), 8301 §3.1 (no SHA-1), 8463 (Ed25519), 8616 §5 (U-labels).
Not here: the key (`dkim_key.py`), hashes (`dkim_canon.py`).
"""

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass

from gateway.mail.address import AddressError, to_ascii

FIELD_MAX = 64 << 10  # octets of one field; real ones have 300 to 1,500, and z= may copy a whole header section
TAGS_MAX = 100  # tags of one list; the RFCs define 13
NAMES_MAX = 1000  # names in h=; oversigning signers use up to some 60
EXPIRY_LEEWAY = 300  # seconds after x= that a signature is still taken: clocks differ
FUTURE_LEEWAY = 36_000  # seconds that t= may lie ahead: a clock in a wrong time zone; the number is dkimpy's

_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_TAG_NAME = re.compile(rb"[A-Za-z][A-Za-z0-9_]*")  # RFC 6376 §3.2: tag-name = ALPHA *ALNUMPUNC
_BASE64 = re.compile(rb"[A-Za-z0-9+/]+={0,2}")
_NUMBER = re.compile(rb"[0-9]{1,12}")  # RFC 6376 §3.5: sig-t-tag, sig-x-tag
_LENGTH = re.compile(rb"[0-9]{1,76}")  # RFC 6376 §3.5: sig-l-tag
_HEADER_NAME = re.compile(rb"[!-9<-~]+")  # RFC 5322 §2.2: ftext without ";"
_QUOTED = re.compile(rb"=([0-9A-F]{2})")  # RFC 6376 §2.11: hex-octet
# RFC 5321 §4.1.2: sub-domain; "_" besides, which real selectors use
_NAME = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?(?:\.[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?)*+")
_REQUIRED = (b"v", b"a", b"b", b"bh", b"d", b"h", b"s")
_CANONS = {b"simple": False, b"relaxed": True}


class Unverifiable(Exception):
    """A signature (or a key) that does not get as far as a comparison of hashes; `result` is of RFC 8601 §2.7.1."""

    def __init__(self, result: str, reason: str) -> None:
        super().__init__(reason)
        self.result = result
        self.reason = reason


def _syntax(reason: str) -> Unverifiable:
    """RFC 6376 §6.1.1: "PERMFAIL (signature syntax error)" and its like."""
    return Unverifiable("permerror", reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """A signature that may be verified. Domains are in lower-case A-labels, header names in lower case."""

    domain: str  # d=
    selector: str  # s=
    identity: str  # i=, decoded
    identity_domain: str
    algorithm: str  # a=
    relaxed_header: bool
    relaxed_body: bool
    names: tuple[bytes, ...]  # h=
    body_hash: bytes  # bh=
    octets: bytes  # b=
    length: int | None  # l=

    @property
    def key_name(self) -> str:
        """Where the key is (RFC 6376 §3.6.2.1)."""
        return f"{self.selector}._domainkey.{self.domain}"

    @property
    def key_type(self) -> str:
        return self.algorithm.partition("-")[0]


def read_tags(text: bytes) -> dict[bytes, bytes]:
    """The tags of a signature field's value or of a key record. Folds are taken out; order is kept."""
    if len(text) > FIELD_MAX:
        raise _syntax("tag list is too long")
    if text.count(b";") > TAGS_MAX:
        raise _syntax("too many tags")
    text = text.replace(b"\r\n", b"")
    if _CONTROL.search(text):
        raise _syntax("control character in a tag list")
    # RFC 6376 §3.2: tag-list = tag-spec *( ";" tag-spec ) [ ";" ];  tag-spec = [FWS] tag-name [FWS] "=" [FWS] tag-value [FWS]
    specs = text.strip().split(b";")
    if not specs[-1]:
        specs.pop()
    tags: dict[bytes, bytes] = {}
    for spec in specs:
        name, equals, value = spec.partition(b"=")
        name = name.strip()
        if not equals:
            raise _syntax("malformed tag list")
        if name in tags:
            raise _syntax("a tag is given twice")
        tags[name] = value.strip()
    if not all(_TAG_NAME.fullmatch(name) for name in tags):
        raise _syntax("malformed tag name")
    return tags


def parse_signature(tags: Mapping[bytes, bytes], now: float) -> Signature:
    """RFC 6376 §6.1.1, step by step. `now` is Unix time."""
    if tags.get(b"v", b"1") != b"1":
        raise _syntax("incompatible version")
    for name in _REQUIRED:
        if not tags.get(name):
            raise _syntax(f"missing tag {name.decode()}=")
    domain = read_name(tags[b"d"], "d=")
    if "." not in domain:  # RFC 6376 §3.5: at least two labels; §6.1.1: nobody signs for "com"
        raise _syntax("d= is not a domain that signs")
    selector = read_name(tags[b"s"], "s=")
    if len(selector) + len("._domainkey.") + len(domain) > 253:
        raise _syntax("name of the key is too long")
    _check_query(tags)
    identity, identity_domain = _identity(tags, domain)
    relaxed_header, relaxed_body = _canons(tags.get(b"c", b"simple/simple"))
    signature = Signature(
        domain=domain,
        selector=selector,
        identity=identity,
        identity_domain=identity_domain,
        algorithm=_algorithm(tags[b"a"]),
        relaxed_header=relaxed_header,
        relaxed_body=relaxed_body,
        names=_names(tags[b"h"]),
        body_hash=read_base64(tags[b"bh"], "bh="),
        octets=read_base64(tags[b"b"], "b="),
        length=_number(tags, b"l", _LENGTH),
    )
    _check_times(tags, now)
    return signature


def read_name(raw: bytes, what: str) -> str:
    """A domain name or selector in lower-case A-labels; U-labels are allowed (RFC 8616 §5)."""
    try:
        name = to_ascii(raw.decode("utf-8")) if len(raw) <= 255 else ""
    except (UnicodeDecodeError, AddressError):
        name = ""
    if len(name) > 253 or not _NAME.fullmatch(name):
        raise _syntax(f"malformed {what}")
    return name


def read_base64(raw: bytes, what: str) -> bytes:
    """Strict base64 with white space anywhere in it (RFC 6376 §2.10)."""
    text = raw.translate(None, b" \t")
    if not _BASE64.fullmatch(text):
        raise _syntax(f"malformed base64 in {what}")
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as err:
        raise _syntax(f"malformed base64 in {what}") from err


def _algorithm(raw: bytes) -> str:
    name = raw.lower()
    if name == b"rsa-sha1":  # RFC 8301 §3.1: MUST NOT be used for verifying
        raise Unverifiable("permerror", "rsa-sha1 is not secure")
    if name not in (b"rsa-sha256", b"ed25519-sha256"):
        raise _syntax("unknown algorithm in a=")
    return name.decode()


def _canons(raw: bytes) -> tuple[bool, bool]:
    """Whether header and body are relaxed. A missing second word means simple (RFC 6376 §3.5)."""
    header, slash, body = raw.lower().partition(b"/")
    try:
        return _CANONS[header.strip()], _CANONS[body.strip()] if slash else False
    except KeyError as err:
        raise _syntax("unknown canonicalisation in c=") from err


def _names(raw: bytes) -> tuple[bytes, ...]:
    if raw.count(b":") >= NAMES_MAX:
        raise _syntax(f"more than {NAMES_MAX} names in h=")
    names = tuple(name.strip().lower() for name in raw.split(b":"))
    if not all(_HEADER_NAME.fullmatch(name) for name in names):
        raise _syntax("malformed h=")
    if b"from" not in names:  # RFC 6376 §6.1.1: "PERMFAIL (From field not signed)"
        raise _syntax("From field not signed")
    return names


def _identity(tags: Mapping[bytes, bytes], domain: str) -> tuple[str, str]:
    """i= and its domain, which must be d= or below it (RFC 6376 §6.1.1)."""
    raw = tags.get(b"i")
    if raw is None:
        return f"@{domain}", domain
    raw = _QUOTED.sub(lambda found: bytes((int(found[1], 16),)), raw.translate(None, b" \t"))
    local, at, host = raw.rpartition(b"@")
    if not at:
        raise _syntax("malformed i=")
    identity_domain = read_name(host, "i=")
    if identity_domain != domain and not identity_domain.endswith("." + domain):
        raise _syntax("i= is not within d=")
    return f"{local.decode('utf-8', 'replace')}@{identity_domain}", identity_domain


def _check_query(tags: Mapping[bytes, bytes]) -> None:
    """RFC 6376 §3.5: unknown query methods are ignored; without dns/txt no key can be had."""
    methods = {method.strip().lower() for method in tags.get(b"q", b"dns/txt").split(b":")}
    if b"dns/txt" not in methods:
        raise _syntax("unknown query method in q=")


def _number(tags: Mapping[bytes, bytes], name: bytes, form: re.Pattern[bytes]) -> int | None:
    raw = tags.get(name)
    if raw is None:
        return None
    if not form.fullmatch(raw):
        raise _syntax(f"malformed {name.decode()}=")
    return int(raw)


def _check_times(tags: Mapping[bytes, bytes], now: float) -> None:
    signed = _number(tags, b"t", _NUMBER)
    expires = _number(tags, b"x", _NUMBER)
    if expires is not None and signed is not None and expires <= signed:
        raise _syntax("x= is not after t=")  # RFC 6376 §3.5, x=
    if expires is not None and expires + EXPIRY_LEEWAY < now:
        raise Unverifiable("permerror", "signature expired")  # RFC 6376 §6.1.1
    if signed is not None and signed > now + FUTURE_LEEWAY:
        raise Unverifiable("policy", "signed in the future")  # RFC 6376 §3.5, t=: MAY ignore
