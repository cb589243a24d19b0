# SPDX-License-Identifier: Apache-2.0
"""The Authentication-Results field: write ours, and recognise a forged one.

Promises: `render` gives exactly one field of ASCII octets, whatever the values hold: one that cannot be written safely is
left out; lines are at most 78 octets where a value allows it. `claims` errs on the side of "ours": a field that is cut out
needlessly costs nothing, one that is believed wrongly does.
Fails with: ValueError for an authserv-id that is empty or has control characters.
RFCs: 8601 §2.2 (grammar), §2.3 (authserv-id), §5 (removing forged fields), 2045 §5.1 (token, quoted-string), 5322 §3.2.2.
Not here: cutting fields out (the edge), which results there are (`spf.py`, `dkim.py` …).
"""

import re
from collections.abc import Iterator, Sequence

from gateway.mail.address import AddressError, to_ascii
from gateway.mail.verdict import AuthResult

LINE_MAX = 78  # RFC 5322 §2.1.1: SHOULD, without CRLF
VALUE_MAX = 400  # characters; an address has at most 320, and a quoted one must fit in a line of 998
REASON_MAX = 200  # characters; longer ones are cut
CLAIM_MAX = 2000  # octets of a field in which its authserv-id is looked for; a longer preamble is not honest

# RFC 8601 §2.2: Keyword = sub-domain of RFC 5321 ("_" for properties in use, such as smtp.mail_from)
_KEYWORD = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_-]{0,60}[A-Za-z0-9])?")
_PROPERTY = re.compile(r"[a-z]{1,20}\.[A-Za-z0-9](?:[A-Za-z0-9_-]{0,60}[A-Za-z0-9])?")
# RFC 2045 §5.1: token = 1*<any CHAR except SPACE, CTLs, or tspecials>
_TOKEN = re.compile(r"[!#$%&'*+.0-9A-Z^_`a-z{|}~-]+")
# RFC 8601 §2.2: pvalue may be [ [ local-part ] "@" ] domain-name without quotes
_MAILBOX = re.compile(r"(?:[!#$%&'*+/0-9=?A-Z^_`a-z{|}~-]+(?:\.[!#$%&'*+/0-9=?A-Z^_`a-z{|}~-]+)*+)?@[A-Za-z0-9][A-Za-z0-9._-]*")
_QUOTABLE = re.compile(r"[ -~]+")
# one piece of what may stand before or in an authserv-id
_BLANKS = re.compile(rb"[ \t\r\n]+")
_QUOTED = re.compile(rb'"((?:[^"\\]|\\.)*+)"', re.S)
_CONTROLS = bytes(range(32)) + b"\x7f"
_WORD = re.compile(rb'[^ \t\r\n;()"]+')


# --- render


def render(authserv_id: str, results: Sequence[AuthResult]) -> bytes:
    """One folded field with its final CRLF. Results whose method or result is no keyword are left out."""
    groups = [
        [f"{result.method}={result.result}", *_details(result)]
        for result in results
        if _KEYWORD.fullmatch(result.method) and _KEYWORD.fullmatch(result.result)
    ]
    start = f"Authentication-Results: {_authserv_id(authserv_id)};"
    if not groups:
        return f"{start} none\r\n".encode("ascii")  # RFC 8601 §2.2: no-result
    return "\r\n".join((start, ";\r\n".join(map(_fold, groups)), "")).encode("ascii")


def _authserv_id(text: str) -> str:
    try:
        value = _value(text if text.isascii() else to_ascii(text))
    except AddressError:
        value = None
    if value is None:
        raise ValueError(f"{text!r} cannot be an authserv-id")
    return value


def _details(result: AuthResult) -> Iterator[str]:
    """Reason and properties that can be written; each stays on one line."""
    if reason := _value(_printable(result.reason[:REASON_MAX]), always_quoted=True):
        yield f"reason={reason}"
    for name, text in result.properties:
        value = _value(_ascii(text))
        if value is not None and _PROPERTY.fullmatch(name):
            yield f"{name}={value}"


def _value(text: str, *, always_quoted: bool = False) -> str | None:
    """A pvalue: bare if the grammar allows it, else quoted; None if neither can carry it."""
    if not text or len(text) > VALUE_MAX or not _QUOTABLE.fullmatch(text):
        return None
    if not always_quoted and (_TOKEN.fullmatch(text) or _MAILBOX.fullmatch(text)):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _ascii(text: str) -> str:
    """A domain, or the domain of an address, in A-labels. A local part that is not ASCII has no such form: empty."""
    if text.isascii():
        return text
    local, at, domain = text.rpartition("@")
    try:
        return local + at + to_ascii(domain) if local.isascii() and len(domain) <= VALUE_MAX else ""
    except AddressError:
        return ""


def _printable(text: str) -> str:
    return "".join(c if " " <= c <= "~" else "?" for c in text)


def _fold(words: Sequence[str]) -> str:
    """The words of one result on lines of `LINE_MAX` where possible. Blanks inside a quoted string stay as they are."""
    lines = [f"\t{words[0]}"]
    for word in words[1:]:
        if len(lines[-1]) + 1 + len(word) < LINE_MAX:  # one octet is kept for the semicolon
            lines[-1] += f" {word}"
        else:
            lines.append(f"\t{word}")
    return "\r\n".join(lines)


# --- claims


def claims(field_value: bytes, authserv_id: str) -> bool:
    """Does an Authentication-Results field with this value say that we have written it?

    The authserv-id is compared without case, quotes, comments, folds and final dot, and in A-labels. A value from which no
    authserv-id can be read claims to be ours if our name stands anywhere before its first semicolon.
    """
    ours = _normal(authserv_id.encode())
    head = field_value[:CLAIM_MAX]
    found = _read_id(head)
    if found is not None:
        return _normal(found) == ours
    words = re.split(rb'[ \t\r\n()"\\/]+', head.partition(b";")[0])
    return len(field_value) > CLAIM_MAX or any(_normal(word) == ours for word in words)


def _read_id(head: bytes) -> bytes | None:
    """The authserv-id behind comments and blanks; None if the value is malformed, or has none."""
    at = _skip_comments(head)
    if at is None:
        return None
    if quoted := _QUOTED.match(head, at):
        return re.sub(rb"\\(.)", rb"\1", quoted[1], flags=re.S)
    word = _WORD.match(head, at)
    # "host/1" is how some write the version; it is still the host's
    return word[0].partition(b"/")[0] if word else None


def _skip_comments(text: bytes) -> int | None:
    """Where the first octet outside blanks and comments is; None if a comment does not end."""
    at = depth = 0
    while at < len(text):
        octet = text[at : at + 1]
        if octet == b"(":
            depth += 1
        elif octet == b")" and depth:
            depth -= 1
        elif octet == b"\\" and depth:
            at += 1
        elif not depth and not _BLANKS.match(octet):
            return at
        at += 1
    return None if depth else at


def _normal(raw: bytes) -> str:
    """For comparison. Controls are dropped: a reader in C stops at a NUL."""
    text = raw.translate(None, _CONTROLS).strip(b" ").decode("utf-8", "replace").rstrip(".")
    try:
        return to_ascii(text) if len(text) <= VALUE_MAX else ""
    except AddressError:
        return text.lower()
