# SPDX-License-Identifier: Apache-2.0
"""Message content as it comes behind DATA or BDAT: octets in any chunking → header, body, and at the end perhaps a fault.

Promises: data ends at CRLF.CRLF and nowhere else, a chunk where its size says; text with a bare CR or LF is never handed
out; NUL and 8-bit octets pass unchanged; the result depends on the octets, not on how they were cut, be it by the network
or into chunks. Memory is bounded: a refused message is read to its end without being kept, the header is capped, and the
body is taken away by the caller as it grows.
Fails with: a named `Fault`. Behind DATA it is told at the end only, because an earlier reply would not be read
(RFC 5321 §4.5.3.1.6 ff.); behind BDAT at the end of a chunk (RFC 3030 §2).
RFCs: 5321 §2.3.8 (line ends), §4.1.1.4 (end of data), §4.5.2 (dots); 1870 §6 (real octets are counted); 3030 §2, §3.
Not here: sockets and files (`edge/incoming.py`).

Everything works on whole pieces (`find`, `count`, `replace`), never line by line: that is five times as fast.
"""

from abc import ABC, abstractmethod
from enum import Enum

from gateway.mail import reply
from gateway.mail.value import value

END = b"\r\n.\r\n"
FIELD_MIN = 3  # octets of the shortest field that there can be: one, and CRLF
_BEGINNINGS = (END[:4], END[:3], END[:2], END[:1])


class Fault(Enum):
    """Why content is refused, with the reply; if there are several reasons, the first of this list is given."""

    TOO_BIG = reply.TOO_BIG
    HEADER_TOO_BIG = reply.HEADER_TOO_BIG
    BARE_LINE_END = reply.BARE_LINE_END
    LINE_TOO_LONG = reply.CONTENT_LINE_TOO_LONG


@value(frozen=True, slots=True)
class ContentLimits:
    """Octets, but for `fields`. All but `header` may be 0 for no limit. A line is counted with CRLF, without a stuffed dot."""

    size: int
    line: int
    header: int
    fields: int = 0  # of the header


def count_fields(header: bytes) -> int:
    """Lines that do not go on the one before (RFC 5322 §2.2.3); for a header that ends with CRLF."""
    return header.count(b"\r\n") - header.count(b"\r\n ") - header.count(b"\r\n\t")


class ContentReader(ABC):
    """One message: the rules of content. Feed it until `feed` returns something else than None; then look at `fault` first.

    With `binary` the body is any octets (RFC 3030 §3: BODY=BINARYMIME); the header section is lines all the same.
    """

    __slots__ = ("_binary", "_body", "_faults", "_head", "_keep", "_limits", "_line", "ended", "header", "size")

    def __init__(self, limits: ContentLimits, *, binary: bool = False) -> None:
        self._limits = limits
        self._binary = binary
        self._head: bytearray | None = bytearray()  # until the header has ended
        self._body = bytearray()
        self._line = 0  # octets of the line that has not ended
        self._keep = True
        self._faults: set[Fault] = set()
        self.header = b""
        self.size = 0
        self.ended = False

    @abstractmethod
    def feed(self, data: bytes) -> bytes | None:
        """Take octets. None while the end has not come, then what stood behind the end: the next command."""

    @property
    def wanted(self) -> int | None:
        """How many octets belong to us for certain; None if only they can tell."""
        return None

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
        return len(self._head or b"") + len(self.header) + len(self._body)

    def take(self) -> bytes:
        """Hand out the body as far as it came; the reader forgets it."""
        taken = bytes(self._body)
        self._body.clear()
        return taken

    def drop(self) -> None:
        """Read on to the end, but keep nothing more: the caller cannot store it."""
        self._keep = False
        self._body.clear()

    def _accept(self, piece: bytes) -> None:
        """One piece of the message. It does not end in CR, so that no CRLF is ever cut in two."""
        self.size += len(piece)
        if self._limits.size and self.size > self._limits.size:
            self._refuse(Fault.TOO_BIG)
        body = piece if self._head is None else self._read_header(self._head, piece)
        if not self._binary:
            self._check_lines(piece)
        elif len(body) < len(piece):
            self._check_lines(piece[: len(piece) - len(body)])
        if self._keep:
            self._body += body

    def _check_lines(self, piece: bytes) -> None:
        ends = piece.count(b"\r\n")
        if not piece.count(b"\n") == ends == piece.count(b"\r"):
            self._refuse(Fault.BARE_LINE_END)
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


class DataReader(ContentReader):
    """Behind DATA: dots are taken off, and CRLF.CRLF is the end."""

    __slots__ = ("_held", "_started")

    def __init__(self, limits: ContentLimits) -> None:
        super().__init__(limits)
        # The end may stand right behind the DATA line, whose CRLF counts as its first half: so we begin behind one.
        self._held = b"\r\n"  # the end of what came, as long as it may be the beginning of END
        self._started = False

    @property
    def held(self) -> int:
        return super().held + len(self._held)

    def feed(self, data: bytes) -> bytes | None:
        data = self._held + data
        end = data.find(END)
        if end >= 0:
            self._unstuff(data[: end + 2])
            self._held = b""
            self._finish()
            return data[end + len(END) :]
        held = next((len(part) for part in _BEGINNINGS if data.endswith(part)), 0)
        cut = len(data) - held
        if cut:  # a held back CR means that no CRLF and no stuffed dot is ever cut in two
            self._unstuff(data[:cut])
            self._held = data[cut:]
        else:
            self._held = data
        return None

    def _unstuff(self, piece: bytes) -> None:
        """One piece of raw content that neither ends in CR nor hides a part of END."""
        piece = piece.replace(b"\r\n.", b"\r\n")  # RFC 5321 §4.5.2: a first dot goes; a line of one dot was the end
        if not self._started:
            self._started = True
            piece = piece[2:]  # the CRLF that we began behind
        if piece:
            self._accept(piece)


class ChunkReader(ContentReader):
    """Behind BDAT: nothing but a count says where a chunk ends, and its border means nothing to the content.

    Call `begin` for each chunk; `ended` and `feed` speak of that chunk.
    """

    __slots__ = ("_held", "_last", "_left")

    def __init__(self, limits: ContentLimits, *, binary: bool = False) -> None:
        super().__init__(limits, binary=binary)
        self._held = b""  # a CR whose LF may be on its way, perhaps in the next chunk
        self._left = 0
        self._last = False

    def begin(self, size: int, *, last: bool) -> None:
        """A chunk of so many octets follows. One of none has ended already."""
        self._left, self._last, self.ended = size, last, False
        if self._limits.size and self.size + len(self._held) + size > self._limits.size:
            self._refuse(Fault.TOO_BIG)  # known before the first octet: none of them need go to the disk
        if not size:
            self._end()

    @property
    def wanted(self) -> int:
        return self._left

    @property
    def held(self) -> int:
        return super().held + len(self._held)

    def feed(self, data: bytes) -> bytes | None:
        left = self._left
        self._left = max(0, left - len(data))
        self._add(data[:left])
        if self._left:
            return None
        self._end()
        return data[left:]

    def _add(self, data: bytes) -> None:
        if self._held:
            data = self._held + data
        self._held = b"\r" if data.endswith(b"\r") else b""
        if piece := data.removesuffix(self._held):
            self._accept(piece)

    def _end(self) -> None:
        self.ended = True
        if not self._last:
            return
        if self._held:  # no LF will come: a bare CR, which only a binary body may have
            self._held = b""
            self._accept(b"\r")
        if self._head is not None or not self._binary:
            self._end_line()
        self._finish()

    def _end_line(self) -> None:
        """The last line may lack its CRLF. On the way on it gets one (`delivery/stuffing.py`); a header is whole lines here."""
        if self._limits.line and 0 < self._line > self._limits.line - 2:
            self._refuse(Fault.LINE_TOO_LONG)
        if self._head and not self._head.endswith(b"\r\n"):
            self._head += b"\r\n"


class Waste(ContentReader):
    """Octets behind a BDAT that is refused: counted, so that the session stays in step, and nothing else."""

    __slots__ = ("_left",)

    def __init__(self, size: int) -> None:
        super().__init__(ContentLimits(0, 0, 0))
        self._left = size
        self.ended = size == 0

    @property
    def wanted(self) -> int:
        return self._left

    def feed(self, data: bytes) -> bytes | None:
        left = self._left
        self._left = max(0, left - len(data))
        self.ended = self._left == 0
        return data[left:] if self.ended else None
