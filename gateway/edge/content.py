# SPDX-License-Identifier: Apache-2.0
"""Message content as it comes behind DATA: octets in any chunking → header, body, and at the end perhaps a fault.

Promises: the data ends at CRLF.CRLF and nowhere else; content with a bare CR or LF is never handed out; NUL and 8-bit
octets pass unchanged; the result depends on the octets, not on how they were cut. Memory is bounded: a refused message
is read to its end without being kept, the header is capped, and the body is taken away by the caller as it grows.
Fails with: a named `Fault`, known at the end only, because an earlier reply would not be read (RFC 5321 §4.5.3.1.6 ff.).
RFCs: 5321 §2.3.8 (line ends), §4.1.1.4 (end of data), §4.5.2 (dots); 1870 §6 (real octets are counted).
Not here: sockets and files (`edge/incoming.py`).

Everything works on whole chunks (`find`, `count`, `replace`), never line by line: that is five times as fast.
"""

from dataclasses import dataclass
from enum import Enum

from gateway.mail import reply

END = b"\r\n.\r\n"
FIELD_MIN = 3  # octets of the shortest field that there can be: one, and CRLF
_BEGINNINGS = (END[:4], END[:3], END[:2], END[:1])


class Fault(Enum):
    """Why content is refused, with the reply; if there are several reasons, the first of this list is given."""

    BARE_LINE_END = reply.BARE_LINE_END
    TOO_BIG = reply.TOO_BIG
    HEADER_TOO_BIG = reply.HEADER_TOO_BIG
    LINE_TOO_LONG = reply.CONTENT_LINE_TOO_LONG


@dataclass(frozen=True, slots=True)
class ContentLimits:
    """Octets, but for `fields`. All but `header` may be 0 for no limit. A line is counted with CRLF, without a stuffed dot."""

    size: int
    line: int
    header: int
    fields: int = 0  # of the header


def count_fields(header: bytes) -> int:
    """Lines that do not go on the one before (RFC 5322 §2.2.3); for a header that ends with CRLF."""
    return header.count(b"\r\n") - header.count(b"\r\n ") - header.count(b"\r\n\t")


class ContentReader:
    """One message. Feed it until `feed` returns something else than None; then look at `fault` first."""

    __slots__ = ("_body", "_faults", "_head", "_held", "_keep", "_limits", "_line", "_started", "ended", "header", "size")

    def __init__(self, limits: ContentLimits) -> None:
        self._limits = limits
        # The end may stand right behind the DATA line, whose CRLF counts as its first half: so we begin behind one.
        self._held = b"\r\n"  # the end of what came, as long as it may be the beginning of END
        self._started = False
        self._head: bytearray | None = bytearray()  # until the header has ended
        self._body = bytearray()
        self._line = 0  # octets of the line that has not ended
        self._keep = True
        self._faults: set[Fault] = set()
        self.header = b""
        self.size = 0
        self.ended = False

    @property
    def fault(self) -> Fault | None:
        """The gravest fault so far; final once the end was seen."""
        return next((fault for fault in Fault if fault in self._faults), None) if self._faults else None

    @property
    def pending(self) -> int:
        """Octets of body that wait for `take`."""
        return len(self._body)

    @property
    def held(self) -> int:
        """All octets that are kept in memory now."""
        return len(self._held) + len(self._head or b"") + len(self.header) + len(self._body)

    def take(self) -> bytes:
        """Hand out the body as far as it came; the reader forgets it."""
        taken = bytes(self._body)
        self._body.clear()
        return taken

    def drop(self) -> None:
        """Read on to the end, but keep nothing more: the caller cannot store it."""
        self._keep = False
        self._body.clear()

    def feed(self, data: bytes) -> bytes | None:
        """Take octets. None while the end has not come, then what stood behind the end: the next command."""
        data = self._held + data
        end = data.find(END)
        if end >= 0:
            self._accept(data[: end + 2])
            self._held = b""
            self._finish()
            return data[end + len(END) :]
        held = next((len(part) for part in _BEGINNINGS if data.endswith(part)), 0)
        cut = len(data) - held
        if cut:  # a held back CR means that no CRLF and no stuffed dot is ever cut in two
            self._accept(data[:cut])
            self._held = data[cut:]
        else:
            self._held = data
        return None

    def _accept(self, piece: bytes) -> None:
        """One piece of raw content that neither ends in CR nor hides a part of END."""
        piece = piece.replace(b"\r\n.", b"\r\n")  # RFC 5321 §4.5.2: a first dot goes; a line of one dot was the end
        if not self._started:
            self._started = True
            piece = piece[2:]  # the CRLF that we began behind
        if not piece:
            return
        ends = piece.count(b"\r\n")
        if not piece.count(b"\n") == ends == piece.count(b"\r"):
            self._refuse(Fault.BARE_LINE_END)
        self._measure(piece)
        if self._head is not None:
            piece = self._read_header(self._head, piece)
        if self._keep:
            self._body += piece

    def _measure(self, piece: bytes) -> None:
        self.size += len(piece)
        if self._limits.size and self.size > self._limits.size:
            self._refuse(Fault.TOO_BIG)
        if self._limits.line:
            self._measure_lines(piece, self._limits.line)

    def _measure_lines(self, piece: bytes, limit: int) -> None:
        """Find a line longer than `limit` in jumps of that size: the last CRLF of each window begins the next one."""
        at, room = 0, limit - self._line
        while len(piece) - at > room:
            found = piece.rfind(b"\r\n", at, at + max(room, 0))
            if found < 0:
                self._refuse(Fault.LINE_TOO_LONG)
                break
            at, room = found + 2, limit
        last = piece.rfind(b"\r\n", at)
        if last >= 0:
            self._line = len(piece) - last - 2
        else:
            self._line = len(piece) - at + (self._line if at == 0 else 0)

    def _read_header(self, head: bytearray, piece: bytes) -> bytes:
        """Add to the header section; what belongs to the body comes back."""
        searched = max(0, len(head) - 3)
        head += piece
        found = head.find(b"\r\n\r\n", searched)
        end = 0 if head.startswith(b"\r\n") else found + 2 if found >= 0 else -1
        if end < 0:
            if len(head) + (0 if head.endswith(b"\r\n") else 2) > self._limits.header:  # its last CRLF is still to come
                self._refuse(Fault.HEADER_TOO_BIG)
                self._head = None
            return b""
        self._head = None
        self._take_header(bytes(head[:end]))
        return bytes(head[end:])

    def _take_header(self, header: bytes) -> None:
        """It has ended. Those who read it take it apart: many short fields cost far more than the same octets in a few."""
        most = self._limits.fields
        if len(header) > self._limits.header or (most and len(header) > FIELD_MIN * most and count_fields(header) > most):
            self._refuse(Fault.HEADER_TOO_BIG)
        else:
            self.header = header

    def _finish(self) -> None:
        """The end was seen: what has no empty line is all header."""
        self.ended = True
        if self._head is None:
            return
        self._take_header(bytes(self._head))
        self._head = None

    def _refuse(self, fault: Fault) -> None:
        self._faults.add(fault)
        self.drop()
