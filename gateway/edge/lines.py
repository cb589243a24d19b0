# SPDX-License-Identifier: Apache-2.0
"""Command lines: octets in any chunking → lines, or a named fault.

Promises: a line ends in CRLF only, and one line gives one result, so a bare LF cannot hide a second command in it;
a line that is handed out has no control character; memory is bounded by `LINE_MAX` and what was pipelined.
RFCs: 5321 §2.3.8 (line ends), §4.5.3.1.4 (length), §4.1.1.11 (extensions make MAIL and RCPT longer).
Not here: what the line means (`edge/verbs.py`), how long to wait for it (`edge/connection.py`).
"""

from enum import Enum, auto

LINE_MAX = 2048  # with CRLF: 512, and generous room for the parameters of MAIL and RCPT
ENDLESS = 64 << 10  # a line beyond this is no mistake
_CONTROLS = bytes([*range(0x20), 0x7F])


class LineFault(Enum):
    """What is wrong with a line."""

    BARE = auto()  # CR or LF alone
    CONTROL = auto()  # NUL, TAB, DEL …
    TOO_LONG = auto()
    ENDLESS = auto()  # reading goes no further
    TLS = auto()  # a TLS record where a command should be


class CommandReader:
    """Lines of one session, in the order in which they came."""

    __slots__ = ("_buffer", "_skipped")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._skipped = 0  # octets of the present line that were thrown away

    def __len__(self) -> int:
        return len(self._buffer)

    def feed(self, data: bytes) -> None:
        self._buffer += data

    def take(self) -> bytes:
        """All that was not handed out as lines: the beginning of message content, or what must be forgotten."""
        taken = bytes(self._buffer)
        self._buffer.clear()
        self._skipped = 0
        return taken

    @property
    def complete(self) -> bool:
        """True if `next` has a line."""
        return self._buffer.find(b"\r\n") >= 0

    @property
    def ends_bare(self) -> bool:
        """True if the line so far ends in a bare LF: perhaps the client thinks that it is complete."""
        return self._buffer.endswith(b"\n")

    def next(self) -> bytes | LineFault | None:
        """The next line without CRLF; None if it has not come as a whole."""
        buffer = self._buffer
        if buffer[:1] == b"\x16" and not self._skipped:  # RFC 8446 §5.1: a handshake record; no command begins so
            return LineFault.TLS
        end = buffer.find(b"\r\n")
        length = self._skipped + (end + 2 if end >= 0 else len(buffer))
        if length > ENDLESS:
            return LineFault.ENDLESS
        if end < 0:
            if length > LINE_MAX:  # keep a CR, whose LF may be on its way
                kept = 1 if buffer.endswith(b"\r") else 0
                self._skipped += len(buffer) - kept
                del buffer[: len(buffer) - kept]
            return None
        line = bytes(buffer[:end])
        del buffer[: end + 2]
        self._skipped = 0
        if length > LINE_MAX:
            return LineFault.TOO_LONG
        if len(line.translate(None, _CONTROLS)) != len(line):
            return LineFault.BARE if b"\n" in line or b"\r" in line else LineFault.CONTROL
        return line
