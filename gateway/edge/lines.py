# SPDX-License-Identifier: Apache-2.0
"""Command lines: octets in any chunking → lines, or a named fault.

Promises: a line ends in CRLF only, and one line gives one result, so a bare LF cannot hide a second command in it;
a line that is handed out has no control character; memory is bounded by `LINE_MAX` and what was pipelined.
RFCs: 5321 §2.3.8 (line ends), §4.5.3.1.4 (length), §4.1.1.11 (extensions make MAIL and RCPT longer).
Not here: what the line means (`edge/verbs.py`), how long to wait for it (`edge/connection.py`).
"""

from enum import Enum, auto

from gateway.edge.proxy import SIGNATURE

LINE_MAX = 12288 + 2  # with CRLF: RFC 4954 §4 wants as much for AUTH; the table of verbs has less for all others
ENDLESS = 64 << 10  # a line beyond this is no mistake
_CONTROLS = bytes([*range(0x20), 0x7F])


class LineFault(Enum):
    """What is wrong with a line."""

    BARE = auto()  # CR or LF alone
    CONTROL = auto()  # NUL, TAB, DEL …
    TOO_LONG = auto()
    ENDLESS = auto()  # reading goes no further
    TLS = auto()  # a TLS record where a command should be
    PROXY = auto()  # a binary PROXY header where none is expected
    CHUNK = auto()  # one of the first three, in a BDAT: how many octets follow, nobody knows


class CommandReader:
    """Lines of one session, in the order in which they came."""

    __slots__ = ("_begun", "_buffer", "_searched", "_skipped", "_verb")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._begun = False  # the first line has been told from a PROXY header, which begins with empty ones
        self._searched = 0  # octets of the buffer in which no CRLF begins
        self._skipped = 0  # octets of the present line that were thrown away
        self._verb = b""  # what that line began with

    def __len__(self) -> int:
        return len(self._buffer)

    def feed(self, data: bytes) -> None:
        self._buffer += data

    def take(self, most: int | None = None) -> bytes:
        """What was not handed out as lines: the beginning of message content, or what must be forgotten. `most` are octets."""
        taken = bytes(self._buffer[:most])
        del self._buffer[:most]  # costs nothing at the front: thousands of small chunks may stand in one packet
        self._skipped = self._searched = 0
        self._verb = b""
        return taken

    @property
    def complete(self) -> bool:
        """True if `next` has a line."""
        return self._buffer.find(b"\r\n") >= 0

    @property
    def odd(self) -> bool:
        """True if what has come is no line, but the client may think so: a bare LF at its end, or an empty first line,
        which may become a PROXY header."""
        return self._buffer.endswith(b"\n")

    def give_up(self) -> LineFault | None:
        """Nothing more came to what was odd. None: there is a line now; else it is one with that fault."""
        if not self._begun:
            self._begun = True
            return None
        verb, taken = self._verb, self.take()
        return _named(LineFault.BARE, verb or taken)

    def next(self) -> bytes | LineFault | None:
        """The next line without CRLF; None if it has not come as a whole."""
        buffer = self._buffer
        if not self._begun and self._like_proxy(buffer):
            return LineFault.PROXY if len(buffer) >= len(SIGNATURE) else None
        if buffer[:1] == b"\x16" and not self._skipped:  # RFC 8446 §5.1: a handshake record; no command begins so
            return LineFault.TLS
        end = buffer.find(b"\r\n", self._searched)
        length = self._skipped + (end + 2 if end >= 0 else len(buffer))
        if length > ENDLESS:
            return LineFault.ENDLESS
        if end < 0:
            self._searched = max(len(buffer) - 1, 0)  # or a long line that comes octet by octet is searched as often
            if length > LINE_MAX:  # keep a CR, whose LF may be on its way
                self._verb = self._verb or bytes(buffer[:4])
                kept = 1 if buffer.endswith(b"\r") else 0
                self._skipped += len(buffer) - kept
                del buffer[: len(buffer) - kept]
                self._searched = 0
            return None
        line = bytes(buffer[:end])
        del buffer[: end + 2]
        self._skipped = self._searched = 0
        if length > LINE_MAX:
            verb, self._verb = self._verb or line, b""
            return _named(LineFault.TOO_LONG, verb)
        if len(line.translate(None, _CONTROLS)) != len(line):
            return _named(LineFault.BARE if b"\n" in line or b"\r" in line else LineFault.CONTROL, line)
        return line

    def _like_proxy(self, buffer: bytearray) -> bool:
        """True while all that ever came may be the beginning of a PROXY header of version 2."""
        if buffer and buffer.startswith(SIGNATURE[: len(buffer)]):
            return True
        self._begun = bool(buffer)
        return False


def _named(fault: LineFault, line: bytes) -> LineFault:
    """RFC 3030 §2: octets follow a BDAT. If its size cannot be read, they would be read as commands."""
    return LineFault.CHUNK if line[:4].upper() == b"BDAT" else fault
