# SPDX-License-Identifier: Apache-2.0
"""Both ends of a connection in memory, for sessions without sockets or waiting, one step of the loop at a time.

`Pipe` is the transport that a session gets: what the client says comes in one piece for each step of the loop, as from a
selector; nothing comes while reading is paused; `close` is told in a later step; a client that does not listen fills it.
`Peer` is the client: it talks in clear or under TLS, and hears what was said reply by reply.

Not here: what stands behind the session (`memhouse.py`), what a real kernel does besides (`edges.py`).
"""

import asyncio
import contextlib
import ssl
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

CLIENT = ("127.0.0.1", 40000)
DEAF_FROM = 1024  # octets that a client leaves unread before the session is told to pause
STEPS = 400  # of the loop, and a few more for each piece, in which anything must be done


class Pipe(asyncio.Transport):
    """The session's end of a connection."""

    def __init__(self, loop: asyncio.AbstractEventLoop, session: asyncio.Protocol, peer: object) -> None:
        super().__init__({"peername": peer})
        self.heard = bytearray()  # all that the session has written
        self.finished = False  # the session will write nothing more
        self.lost = False
        self.gone = False  # and the session knows it
        self._loop, self._session = loop, session
        self._coming: deque[bytes | None] = deque()  # None is the end
        self._scheduled = self._reading_paused = self._closing = self._told_deaf = False
        self._unread = 0
        self._listens = True
        loop.call_soon(session.connection_made, self)

    # --- the client's side

    def bring(self, piece: bytes | None) -> None:
        self._coming.append(piece)
        self._schedule()

    def reset(self) -> None:
        """The client is gone."""
        self._coming.clear()
        self._lose(ConnectionResetError("reset"))

    def listen(self, yes: bool) -> None:
        self._listens = yes
        if yes:
            self._unread = 0
            if self._told_deaf:
                self._told_deaf = False
                self._session.resume_writing()
            if self._closing:
                self._lose(None)

    @property
    def waiting(self) -> int:
        """Pieces that the session has not read."""
        return len(self._coming)

    # --- the session's side

    def is_closing(self) -> bool:
        return self._closing

    def pause_reading(self) -> None:
        self._reading_paused = True

    def resume_reading(self) -> None:
        self._reading_paused = False
        self._schedule()

    def write(self, data: Any) -> None:
        assert not self.finished, "written after write_eof"
        if self._closing or self.lost:
            return
        self.heard += data
        if not self._listens:
            self._unread += len(data)
            if self._unread > DEAF_FROM and not self._told_deaf:
                self._told_deaf = True
                self._session.pause_writing()

    def write_eof(self) -> None:
        self.finished = True

    def close(self) -> None:
        self._closing = self.finished = True
        if not self._unread or self._listens:
            self._lose(None)

    def abort(self) -> None:
        self._lose(None)

    # --- inside

    def _schedule(self) -> None:
        if self._coming and not (self._scheduled or self._reading_paused or self._closing):
            self._scheduled = True
            self._loop.call_soon(self._deliver)

    def _deliver(self) -> None:
        self._scheduled = False
        if self._closing or self._reading_paused or not self._coming:
            return
        piece = self._coming.popleft()
        if piece is None:
            if not self._session.eof_received():
                self.close()
            return
        self._session.data_received(piece)
        self._schedule()

    def _lose(self, error: Exception | None) -> None:
        if not self.lost:
            self.lost = self.finished = self._closing = True
            self._loop.call_soon(self._part, error)

    def _part(self, error: Exception | None) -> None:
        self.gone = True
        self._session.connection_lost(error)


class Peer:
    """A client. `replies` are whole ones, as text without the last CRLF."""

    def __init__(self, pipe: Pipe) -> None:
        self.pipe = pipe
        self.replies: list[str] = []
        self._plain = bytearray()
        self._read = 0  # of what the pipe has heard
        self._tls: ssl.SSLObject | None = None
        self._in: ssl.MemoryBIO
        self._out: ssl.MemoryBIO

    def say(self, *pieces: bytes) -> None:
        for piece in pieces:
            if self._tls is not None and piece:
                self._tls.write(piece)
                piece = self._out.read()
            if piece:
                self.pipe.bring(piece)

    def half_close(self) -> None:
        self.pipe.bring(None)

    def hear(self) -> int:
        """How many replies have come by now. Raises AssertionError for what is no reply."""
        fresh, self._read = bytes(self.pipe.heard[self._read :]), len(self.pipe.heard)
        if self._tls is None:
            self._plain += fresh
        else:
            self._in.write(fresh)
            self._decipher(self._tls)
        fresh_replies = replies(self._plain)
        del self._plain[: sum(len(text.encode()) + 2 for text in fresh_replies)]
        self.replies += fresh_replies
        return len(self.replies)

    @property
    def broken_off(self) -> bytes:
        """What was said and is no whole reply."""
        return bytes(self._plain)

    @property
    def over(self) -> bool:
        """True if the session will say nothing more."""
        return self.pipe.finished

    async def until(self, condition: Callable[[], object], steps: int = STEPS) -> bool:
        """Let the loop turn until something is so. False if it is not after so many steps."""
        steps += 4 * self.pipe.waiting
        for _ in range(steps):
            if condition():
                return True
            await asyncio.sleep(0)
        return bool(condition())

    async def secure(self, context: ssl.SSLContext) -> bool:
        """Do a handshake from here on; False, and all stays in clear, if the session does not want one."""
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(self._in, self._out, server_hostname="mx.example.test")
        for _ in range(STEPS):
            try:
                tls.do_handshake()
            except ssl.SSLWantReadError:
                self._flight()
            except ssl.SSLError:
                return False
            else:
                self._flight()
                self._tls = tls
                return True
            if self.pipe.finished and self._read == len(self.pipe.heard):
                return False
            await asyncio.sleep(0)
            self._in.write(bytes(self.pipe.heard[self._read :]))
            self._read = len(self.pipe.heard)
        return False

    def say_goodbye(self) -> None:
        """close_notify, under TLS."""
        if self._tls is not None:
            with contextlib.suppress(ssl.SSLError):
                self._tls.unwrap()
            self._flight()

    def say_raw(self, octets: bytes) -> None:
        """Octets on the wire, which under TLS are no record."""
        self.pipe.bring(octets)

    def _flight(self) -> None:
        if octets := self._out.read():
            self.pipe.bring(octets)

    def _decipher(self, tls: ssl.SSLObject) -> None:
        with contextlib.suppress(ssl.SSLWantReadError, ssl.SSLZeroReturnError, ssl.SSLError):
            while plain := tls.read(1 << 16):
                self._plain += plain


def replies(said: bytes | bytearray) -> list[str]:
    """The whole replies that this begins with. Raises AssertionError for what is no reply."""
    found, at = list[str](), 0
    while (end := _reply_end(said, at)) > 0:
        found.append(said[at : end - 2].decode("utf-8"))
        at = end
    return found


def _reply_end(said: bytes | bytearray, at: int) -> int:
    """Where the reply that begins at `at` ends; 0 if it has not. Each line has the same code (RFC 5321 §4.2.1)."""
    code = said[at : at + 3]
    while (end := said.find(b"\r\n", at)) >= 0:
        line = bytes(said[at:end])
        assert line[:3] == code, f"not a line of one reply: {line!r}"
        assert line[:3].isdigit(), f"not a reply: {line!r}"
        assert line[3:4] in (b" ", b"-"), f"not a reply: {line!r}"
        assert not any(octet < 0x20 or octet == 0x7F for octet in line), f"a control character in a reply: {line!r}"
        assert len(line) + 2 <= 512, f"longer than RFC 5321 §4.5.3.1.5 has it: {line!r}"
        at = end + 2
        if line[3:4] == b" ":
            return at
    return 0


def cut(octets: bytes, sizes: Iterable[int]) -> list[bytes]:
    """Pieces of these sizes in turn; the rest in one when they are used up."""
    pieces, at = [], 0
    for size in sizes:
        if at >= len(octets):
            break
        pieces.append(octets[at : at + size])
        at += size
    return [*pieces, octets[at:]] if at < len(octets) else pieces
