# SPDX-License-Identifier: Apache-2.0
"""The trace fields that we put on top of an accepted message.

Promises: exactly one Received and, if anything was authenticated, one Authentication-Results above it; nothing that a
client said can end a line in them; a forged Authentication-Results that claims to be ours is taken out; a user's message
without Date or Message-ID gets them, above its own header; no other octet of the message changes.
RFCs: 5321 §4.4 and §7.2 (FOR with one recipient only), 3848 and 6531 §4.3 (WITH), 6409 §8 (what a submission server may
add; RFC 5321 §6.4 forbids it to all others), 8601 §5 (forged results).
Not here: how results are written (`auth/authres.py`).
"""

import re
from dataclasses import replace
from email.utils import formatdate
from functools import lru_cache

from gateway.auth.authres import claims, render
from gateway.mail.envelope import IP, Client, Transaction
from gateway.mail.message import Message, field_end

LARGE_HEADER = 64 << 10  # octets; stamping a larger one may take milliseconds: do it in a thread

# RFC 5322 §2.2: field-name ":" (blanks before it: §4.5.8); for a header in lower case, behind a line end
_RESULTS = re.compile(rb"\nauthentication-results[ \t]*:")
_DATE = re.compile(rb"\ndate[ \t]*:")
_MESSAGE_ID = re.compile(rb"\nmessage-id[ \t]*:")


def stamp(tx: Transaction, hostname: str, now: float) -> Message:
    """The message of `tx` with our trace fields. Raises ValueError if it has none."""
    if tx.message is None:
        raise ValueError("there is no message to stamp")
    message = without_forgeries(tx.message, hostname)
    if tx.client.role == "submission":
        message = completed(message, tx, hostname, now)
    results = render(hostname, tx.auth) if tx.auth else b""
    return message.with_trace(results + received(tx, hostname, now))


def without_forgeries(message: Message, hostname: str) -> Message:
    """The message without results in our name that we did not write (RFC 8601 §5).

    The header is searched, not split: some milliseconds for a hostile one, where splitting takes most of a second.
    """
    header = message.header
    kept, start = [], 0
    for found in _RESULTS.finditer(b"\n" + header.lower()):  # so that the name begins at `found.start()` in the header itself
        name, value = found.start(), found.end() - 1
        end = field_end(header, value)
        if claims(header[value:end].rstrip(b"\r\n"), hostname):
            kept.append(header[start:name])
            start = end
    return replace(message, header=b"".join((*kept, header[start:]))) if start else message


def completed(message: Message, tx: Transaction, hostname: str, now: float) -> Message:
    """The message with the Date and the Message-ID that it lacks (RFC 6409 §8.2, §8.3).

    They belong to the header, not to the trace: who signs the message has to sign them. A header that begins with a blank
    stays as it is, since its first line would become a part of ours.
    """
    header = message.header
    if header.startswith((b" ", b"\t")):
        return message
    lower = b"\n" + header.lower()
    added = "" if _DATE.search(lower) else f"Date: {_date(int(now))}\r\n"
    if not _MESSAGE_ID.search(lower):
        added += f"Message-ID: <{tx.id}@{hostname}>\r\n"
    return replace(message, header=added.encode("ascii") + header) if added else message


def received(tx: Transaction, hostname: str, now: float) -> bytes:
    """Our Received field. Folded, for the lines of others may be read by people only if short."""
    client = tx.client
    lines = [f"Received: from {client.helo} ({client.name or 'unknown'} [{_literal(client.ip)}])"]
    lines.append(f"by {hostname} with {_protocol(client, smtputf8=tx.smtputf8)} id {tx.id}")
    if client.tls:
        lines.append(f"({client.tls.version} {client.tls.cipher} {client.tls.bits} bits)")
    if len(tx.recipients) == 1:  # RFC 5321 §7.2: more would tell each of them about the others
        lines.append(f"for <{tx.recipients[0].address}>")
    text = "\r\n\t".join(lines) + f";\r\n\t{_date(int(now))}\r\n"
    return text.encode("utf-8")


def _literal(ip: IP) -> str:
    return f"IPv6:{ip}" if ip.version == 6 else str(ip)


def _protocol(client: Client, *, smtputf8: bool) -> str:
    how = ("S" if client.tls else "") + ("A" if client.user else "")
    if smtputf8:
        return f"UTF8SMTP{how}"
    return f"ESMTP{how}" if client.esmtp or how else "SMTP"


@lru_cache(maxsize=8)
def _date(seconds: int) -> str:
    return formatdate(seconds, usegmt=False, localtime=False).replace("-0000", "+0000")  # RFC 5322 §3.3: we know the zone
