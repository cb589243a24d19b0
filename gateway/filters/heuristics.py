# SPDX-License-Identifier: Apache-2.0
"""What is odd about a header, as names; pure functions behind `filters/headers.py`.

Promises: linear in the octets looked at; no exception for any octets; field names, not values, end up in facts.
RFCs: 5322 §3.6 (limits of fields) and §3.3 (dates), 6532 §3.2, 5321 §6.3.
Not here: what follows from it (`filters/headers.py`).
"""

import re
import threading
from collections import Counter
from collections.abc import Iterable
from email.utils import mktime_tz, parsedate_tz

from gateway.mail.address import Address, mixes_scripts
from gateway.mail.message import Message

GTUBE = b"XJS*C4JDBQADN1.NSBN3*2IDNEN*GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X"

SCORES = {
    "GTUBE": 0.0,  # refused whatever the sum
    "MISSING_FROM": 5.0,
    "MISSING_DATE": 2.0,
    "MISSING_SUBJECT": 0.5,  # optional in RFC 5322 §3.6, and rarely left out by people
    "MISSING_TO": 1.0,
    "MISSING_MESSAGE_ID": 1.5,
    "MULTIPLE_FROM": 5.0,
    "MULTIPLE_DATE": 2.0,
    "MULTIPLE_SUBJECT": 3.0,
    "MULTIPLE_TO": 1.5,
    "MULTIPLE_MESSAGE_ID": 2.0,
    "MULTIPLE_OTHER": 1.0,  # Sender, Reply-To, Cc, Bcc, In-Reply-To, References
    "FROM_WITHOUT_ADDRESS": 3.0,
    "DATE_INVALID": 2.0,
    "DATE_IN_FUTURE": 2.0,
    "DATE_IN_PAST": 1.0,
    "SUBJECT_ALL_CAPS": 1.0,
    "LOOK_ALIKE_DOMAIN": 3.0,  # of the sender or in From: letters of several scripts that look the same
    "HEADER_NUL": 3.0,
    "HEADER_8BIT": 1.5,
    "HEADER_MALFORMED": 2.0,
}

# RFC 5322 §3.6: "Max number" is 1 for all of these
_SINGLE = {
    b"from": "MULTIPLE_FROM",
    b"date": "MULTIPLE_DATE",
    b"subject": "MULTIPLE_SUBJECT",
    b"to": "MULTIPLE_TO",
    b"message-id": "MULTIPLE_MESSAGE_ID",
    **dict.fromkeys((b"sender", b"reply-to", b"cc", b"bcc", b"in-reply-to", b"references"), "MULTIPLE_OTHER"),
}
_WANTED = {b"from": "MISSING_FROM", b"date": "MISSING_DATE", b"subject": "MISSING_SUBJECT", b"message-id": "MISSING_MESSAGE_ID"}
_NAME = re.compile(rb"[!-9;-~]+")  # RFC 5322 §3.6.8: ftext
_RECEIVED = re.compile(rb"(?:\A|\n)received[ \t]*:", re.I)
_CAPITAL = re.compile(rb"[A-Z]")
ZONE_MAX = 99 * 3600 + 59 * 60  # seconds: RFC 5322 §3.3 gives a zone four digits
DATE_MAX = 200  # octets that are read as a date
SUBJECT_MAX = 1000  # octets that are looked at for capitals
FROM_MAX = 1000  # octets of a From field that are searched for domains
_FROM_DOMAIN = re.compile(rb"@([^\s@<>()\",;:]{1,255})")
CAPS_MIN = 10  # letters before capitals mean something


def count_hops(header: bytes, limit: int) -> int:
    """How many Received fields there are. Up to `limit` only a cheap bound from above is told."""
    bound = header.lower().count(b"received")
    return bound if bound <= limit else len(_RECEIVED.findall(header))


def scan(chunks: Iterable[bytes], limit: int, stop: threading.Event) -> bool:
    """Is GTUBE in the first `limit` octets (0: in all)? For a thread: it ends soon after `stop` is set."""
    tail, seen = b"", 0
    for chunk in chunks:
        if stop.is_set():
            break
        part = chunk[: limit - seen] if limit else chunk
        if GTUBE in tail + part:
            return True
        seen += len(part)
        if limit and seen >= limit:
            break
        tail = (tail + part)[-len(GTUBE) + 1 :]  # it may lie across the border of two chunks
    return False


def examine(message: Message, now: float, ages: tuple[float, float], *, smtputf8: bool) -> tuple[list[str], dict[str, str]]:
    """The names of all that is odd, and the facts behind them. `ages`: seconds a Date may lie in the past and the future."""
    counts = Counter(field.name.lower() for field in message.fields)
    names = [symbol for name, symbol in _WANTED.items() if name not in counts]
    if not (b"to" in counts or b"cc" in counts or b"bcc" in counts):
        names.append("MISSING_TO")
    repeated = [name for name in _SINGLE if counts[name] > 1]
    names += dict.fromkeys(_SINGLE[name] for name in repeated)
    names += _octets(message.header, counts, smtputf8=smtputf8)
    names += _values(message, counts, now, ages)
    facts = {"hops": str(counts[b"received"])}
    if repeated:
        facts["repeated"] = ", ".join(f"{name.decode()} {counts[name]}" for name in repeated)
    return names, facts


def _octets(header: bytes, counts: Counter[bytes], *, smtputf8: bool) -> list[str]:
    names = []
    if b"\0" in header:
        names.append("HEADER_NUL")
    if not smtputf8 and not header.isascii():  # RFC 6532 §3.2: UTF-8 only under SMTPUTF8
        names.append("HEADER_8BIT")
    if not all(_NAME.fullmatch(name) for name in counts):
        names.append("HEADER_MALFORMED")
    return names


def _values(message: Message, counts: Counter[bytes], now: float, ages: tuple[float, float]) -> list[str]:
    names = []
    if counts[b"from"] == 1 and b"@" not in message.values(b"from")[0]:
        names.append("FROM_WITHOUT_ADDRESS")
    if counts[b"date"] == 1 and (odd := _date(message.values(b"date")[0], now, ages)):
        names.append(odd)
    if counts[b"subject"] == 1 and _all_caps(message.values(b"subject")[0]):
        names.append("SUBJECT_ALL_CAPS")
    return names


def _date(value: bytes, now: float, ages: tuple[float, float]) -> str:
    """The symbol for a date, empty if it is a good one (RFC 5322 §3.3)."""
    try:
        parts = parsedate_tz(value[:DATE_MAX].decode("ascii"))
        stamp = mktime_tz(parts) if parts and abs(parts[9] or 0) <= ZONE_MAX else None
    except (ValueError, OverflowError, TypeError, IndexError):  # the library's ways to say no
        stamp = None
    if stamp is None:
        return "DATE_INVALID"
    if stamp > now + ages[1]:
        return "DATE_IN_FUTURE"
    return "DATE_IN_PAST" if stamp < now - ages[0] else ""


def has_look_alike(message: Message, sender: Address | None) -> bool:
    """Does the domain of the sender, or one in From, mix scripts? It is told, never rewritten."""
    domains = [sender.domain] if sender else []
    for author in message.values(b"from"):
        domains += [found.decode("utf-8", "replace") for found in _FROM_DOMAIN.findall(author[:FROM_MAX])]
    return any(map(mixes_scripts, domains))


def _all_caps(subject: bytes) -> bool:
    """Ten ASCII letters at least, none of them small. An encoded word (RFC 2047) says nothing."""
    subject = subject[:SUBJECT_MAX]
    return b"=?" not in subject and subject.isupper() and len(_CAPITAL.findall(subject)) >= CAPS_MIN
