# SPDX-License-Identifier: Apache-2.0
"""The notice about what became of mail: multipart/report with a text, a status for programs, and the original.

Promises: every line ends with CRLF and has at most 998 octets; nothing that others wrote (addresses, replies, the original)
can begin a field or end a part; the notice is 7-bit unless an address in it needs UTF-8 (`Notice.eight_bit`); of a larger
original than `Notice.whole` no more than `HEADER_MAX` octets are looked at.
RFCs: 3464 (status), 3461 §6 (what a sender asked for), 6522 (report), 6533 (internationalised), 3834 §3.1.7 (Auto-Submitted).
Not here: who gets one, and under which envelope (`delivery/bounce.py`).
"""

import base64
import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime

from gateway.mail.address import Address
from gateway.mail.job import QueueId
from gateway.mail.message import Message, find_values
from gateway.mail.notify import envelope_id, original_recipient
from gateway.mail.reply import Reply, clean

LINE_MAX = 998  # RFC 5322 §2.1.1, without CRLF
WIDTH = 76
DIAGNOSTIC_MAX = 500  # characters of a reply that are passed on
HEADER_MAX = 64 << 10  # octets of the original's header that are returned

_WHOLE_LINES = re.compile(rb"(?s).{0,%d}\r\n" % (HEADER_MAX - 2))
_WHOLE_FIELDS = re.compile(_WHOLE_LINES.pattern + rb"(?![ \t])")


FAILED, DELIVERED, RELAYED = "failed", "delivered", "relayed"  # RFC 3464 §2.3.3

_SAID = {
    FAILED: "Your message could not be delivered to {}:",
    DELIVERED: "Your message was delivered to {}:",
    RELAYED: "Your message was passed on for {}, to a system that sends no notice of delivery:",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What became of one recipient. `remote` says that the reply is the next hop's; `hop` is "name[address]:port".

    `orcpt` is the ORCPT that came with it, as it was given.
    """

    address: Address
    reply: Reply
    action: str = FAILED
    remote: bool = False
    hop: str = ""
    orcpt: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """All that goes into one. `boundary` must be unguessable: the original is written by strangers.

    `whole` is the most that a message may have (octets) to be returned with its body.
    """

    hostname: str
    id: QueueId  # of the original
    notice_id: QueueId
    sender: Address  # of the original, who is told
    arrived: float
    now: float
    reports: Sequence[Report]
    boundary: str
    whole: int = 0
    envid: str = ""  # as it was given

    @property
    def eight_bit(self) -> bool:
        """True if it can only travel with 8BITMIME: an address in it has no ASCII form."""
        return not self.sender.local.isascii() or any(not report.address.local.isascii() for report in self.reports)

    @property
    def failed(self) -> bool:
        """True if it tells about a failure at all."""
        return any(report.action == FAILED for report in self.reports)


def compose(notice: Notice, original: Message) -> Message:
    """The notice about a message. Reads no file: a body in one is not returned.

    Raises NotifyError if `envid` or an `orcpt` is not what the edge lets in.
    """
    parts = [_text_part(notice, original), _status_part(notice), _original_part(notice, original)]
    separator = f"--{notice.boundary}\r\n".encode()
    body = b"\r\nThis is a report in MIME format.\r\n\r\n"
    body += b"".join(separator + part + b"\r\n" for part in parts) + f"--{notice.boundary}--\r\n".encode()
    return Message(b"", _header(notice, original), body)


# --- the header


def _header(notice: Notice, original: Message) -> bytes:
    kind = "global-delivery-status" if notice.eight_bit else "delivery-status"
    fields = [
        f"From: Mail Delivery System <MAILER-DAEMON@{notice.hostname}>",
        f"To: <{ascii_if_possible(notice.sender)}>",
        f"Subject: {'Undelivered mail returned to sender' if notice.failed else 'Notice of delivery'}",
        f"Date: {_date(notice.now)}",
        f"Message-ID: <{notice.notice_id}@{notice.hostname}>",
        *_references(original),
        "Auto-Submitted: auto-replied",  # RFC 3834 §5.1
        "MIME-Version: 1.0",
        f'Content-Type: multipart/report; report-type={kind};\r\n boundary="{notice.boundary}"',
        *(["Content-Transfer-Encoding: 8bit"] if notice.eight_bit else []),
    ]
    return "".join(f"{field}\r\n" for field in fields).encode()


def _references(original: Message) -> list[str]:
    """A well-formed Message-ID of the original, so that a mail program can show the two together."""
    ids = find_values(_cut(original.header), b"message-id", 2)
    if len(ids) != 1 or not _is_message_id(ids[0]):
        return []
    text = ids[0].decode("ascii")
    return [f"In-Reply-To: {text}", f"References: {text}"]


def _is_message_id(value: bytes) -> bool:
    inner = value[1:-1]
    plain = inner.isascii() and all(32 < octet < 127 for octet in inner) and not set(inner) & set(b"<>")
    return value.startswith(b"<") and value.endswith(b">") and 0 < len(inner) <= 250 and plain


# --- the text


def _text_part(notice: Notice, original: Message) -> bytes:
    lines = list(_wrapped(_sentences(notice, original)))
    text = "".join(f"{line}\r\n" for line in lines)
    if text.isascii():
        return _part('text/plain; charset="us-ascii"', "7bit", text.encode())
    return _part('text/plain; charset="utf-8"', "base64", _base64(text.encode()))


def _sentences(notice: Notice, original: Message) -> Iterator[str]:
    yield f"This is the mail system at {notice.hostname}."
    for action, said in _SAID.items():
        reports = [report for report in notice.reports if report.action == action]
        if not reports:
            continue
        yield ""
        yield said.format("these recipients" if len(reports) > 1 else "this recipient")
        for report in reports:
            yield ""
            yield f"<{report.address}>"
            yield f"    {_reason(report)}"
    yield ""
    yield "The message:"
    yield f"    queue id    {notice.id}"
    yield f"    arrived     {_date(notice.arrived)}"
    for name in (b"Message-ID", b"Subject"):
        for value in find_values(_cut(original.header), name, 1):
            yield f"    {name.decode().lower():<12}{clean(value.decode('utf-8', 'replace'), 200)}"
    yield ""
    yield "What follows is a status report for programs, and the message or its header."


def _reason(report: Report) -> str:
    text = clean(str(report.reply), DIAGNOSTIC_MAX)
    return f"{clean(report.hop, 300)} said: {text}" if report.remote else text


def _wrapped(sentences: Iterator[str]) -> Iterator[str]:
    for sentence in sentences:
        if len(sentence) <= WIDTH:
            yield sentence
            continue
        indent = "    " if sentence.startswith(" ") else ""
        yield from textwrap.wrap(sentence, WIDTH, subsequent_indent=indent, break_on_hyphens=False)


# --- the status


def _status_part(notice: Notice) -> bytes:
    """RFC 3464 §2: a group of fields about the message, then one for each recipient."""
    general = [
        *([f"Original-Envelope-Id: {envelope_id(notice.envid)}"] if notice.envid else []),
        f"Reporting-MTA: dns; {notice.hostname}",
        f"X-Queue-Id: {notice.id}",
        f"Arrival-Date: {_date(notice.arrived)}",
    ]
    groups = [general, *(_recipient_fields(report, notice) for report in notice.reports)]
    text = "\r\n".join("".join(_folded(field) for field in group) for group in groups)
    if notice.eight_bit:
        return _part("message/global-delivery-status", "8bit", text.encode())
    return _part("message/delivery-status", "7bit", text.encode("ascii", "replace"))


def _recipient_fields(report: Report, notice: Notice) -> list[str]:
    address = ascii_if_possible(report.address)
    fields = [f"Original-Recipient: {original_recipient(report.orcpt, utf8=notice.eight_bit)}"] if report.orcpt else []
    fields += [
        f"Final-Recipient: {'rfc822' if address.isascii() else 'utf-8'}; {address}",
        f"Action: {report.action}",
        f"Status: {report.reply.enhanced or f'{report.reply.code // 100}.0.0'}",
    ]
    if report.remote and (name := _host_name(report.hop)):
        fields.append(f"Remote-MTA: dns; {name}")
    kind = "smtp" if report.remote else "x-gateway"  # RFC 3464 §2.3.6: smtp is for what a server really said
    fields.append(f"Diagnostic-Code: {kind}; {clean(str(report.reply), DIAGNOSTIC_MAX)}")
    fields.append(f"Last-Attempt-Date: {_date(notice.now)}")
    return fields


def _host_name(hop: str) -> str:
    """The name in "name[address]:port"; an address that was configured as one is written as a literal."""
    name, bracket, rest = hop.partition("[")
    if not bracket:
        return ""
    if name and name != rest.partition("]")[0]:
        return clean(name, 255)
    return f"[{clean(rest.partition(']')[0], 60)}]"


def _folded(field: str) -> str:
    """One field with CRLF, folded at blanks. What is folded has no line breaks of its own.

    What the sender gave us goes back as it was, blanks too; it is short enough for any line.
    """
    if len(field) <= WIDTH or field.startswith("Original-"):
        return field + "\r\n"
    lines = textwrap.wrap(field, WIDTH, subsequent_indent=" ", break_long_words=False, break_on_hyphens=False)
    return "\r\n".join(lines) + "\r\n"


# --- the original


def _original_part(notice: Notice, original: Message) -> bytes:
    """The whole message if it is small and 7-bit, else its header."""
    header = original.trace + original.header
    if isinstance(original.body, bytes) and original.size <= notice.whole and _is_plain(header + original.body):
        return _part("message/rfc822", "7bit", header + original.body)
    header = _cut(header)
    kind = "message/global-headers" if notice.eight_bit else "text/rfc822-headers"
    if _is_plain(header):
        return _part(kind, "7bit", header)
    return _part(kind, "base64", _base64(header))


def _is_plain(octets: bytes) -> bool:
    """True if the octets are 7-bit lines of a length that every server takes (RFC 2045 §2.7)."""
    pairs = octets.count(b"\r\n")
    bare = octets.count(b"\n") != pairs or octets.count(b"\r") != pairs
    return octets.isascii() and b"\0" not in octets and not bare and max(map(len, octets.split(b"\r\n"))) <= LINE_MAX


def _cut(header: bytes) -> bytes:
    """At most HEADER_MAX octets: whole fields, or as much as there is room for of one that alone is longer."""
    if len(header) <= HEADER_MAX:
        return header
    found = _WHOLE_FIELDS.match(header) or _WHOLE_LINES.match(header)
    return found[0] if found else b""


# --- common


def _part(kind: str, encoding: str, content: bytes) -> bytes:
    return f"Content-Type: {kind}\r\nContent-Transfer-Encoding: {encoding}\r\n\r\n".encode() + content


def _base64(octets: bytes) -> bytes:
    return base64.encodebytes(octets).replace(b"\n", b"\r\n")


def _date(when: float) -> str:
    """RFC 5322 §3.3, with an explicit zone."""
    return format_datetime(datetime.fromtimestamp(when, UTC))


def ascii_if_possible(address: Address) -> str:
    """The address with its domain in A-labels if that makes it ASCII, else as it is."""
    if address.local.isascii() and not address.domain.isascii():
        return f"{address.local}@{address.ascii_domain}"
    return str(address)
