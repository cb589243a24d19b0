# SPDX-License-Identifier: Apache-2.0
"""The octets of one connection: out of the transport and into it, in clear or under TLS. The base is aiosmtpd's `SMTP`.

Promises: above this nobody knows whether there is TLS; the transport stays the same for the whole life of the connection;
what is read ahead is bounded by what the loop reads at once, in plain as on the wire; a half-close, by TCP or by
close_notify, only says that nothing more comes; a broken TLS session is never read on.
RFCs: 5246 §7.2.1 (close_notify), 5321 §4.1.1.10 (a half-close ends no command).
Not here: what octets mean and how long we wait for them (`edge/connection.py`), records (`edge/tlswire.py`).

aiosmtpd's own reader and dispatcher are not used: its constructor looks through all methods for each connection, its
lines end at a bare LF, a half-close cancels its handler, and its TLS upgrade needs asyncio's own protocol class.
"""

import asyncio
import ssl
from abc import abstractmethod
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import cast

from gateway.edge.base import SMTP
from gateway.edge.tlswire import TlsWire

# uvloop reads a stream up to 32 times in one turn while buffers of 250 KiB come full: a fast client would have the loop for
# 100 ms. After so many octets at once the others have their turn first.
MOUTHFUL = 128 << 10


@dataclass(slots=True)
class Link:
    """What has become of the connection."""

    read_paused: bool = False  # by us: too much has come that nobody has looked at
    eof: bool = False  # the client has said all
    securing: bool = False  # a handshake is under way
    storing: bool = False  # a message is being stored, which nothing may stop
    broken: bool = False  # by TLS: what comes cannot be trusted
    closing: bool = False  # we have said all
    lost: bool = False


class Wire(SMTP):
    """One transport, and TLS on it from some moment on."""

    _paused: bool  # of asyncio's FlowControlMixin: the client does not read our replies
    _drain_helper: Callable[[], Awaitable[None]]

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        # Deviates: SMTP.__init__ is left out (0.2 ms of `inspect` a connection); its base needs no StreamReader.
        asyncio.StreamReaderProtocol.__init__(self, None, loop=loop)  # type: ignore[arg-type]
        self.loop = loop
        self.received = 0  # octets of the network
        self.transport = None
        self._handler_coroutine: asyncio.Task[None] | None = None
        self._wire: asyncio.Transport
        self._tls: TlsWire | None = None
        self._link = Link()

    # --- what the loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = self._wire = cast(asyncio.Transport, transport)
        if self.admit():
            self._handler_coroutine = self.loop.create_task(self._handle_client())

    def connection_lost(self, error: Exception | None) -> None:
        link = self._link
        link.lost = True
        asyncio.StreamReaderProtocol.connection_lost(self, error)
        handler = self._handler_coroutine
        if link.securing:
            self.stir()
        elif handler is not None and not handler.done() and not link.storing:
            handler.cancel()
        self.gone()

    def data_received(self, data: bytes) -> None:
        if self._link.closing:
            return
        self.received += len(data)
        if self._tls is None:
            self.heard(data)
        else:
            self._under_tls(self._tls, data)
        if len(data) >= MOUTHFUL and not self._link.read_paused:
            self._wire.pause_reading()
            self.loop.call_soon(self._next_turn)

    def eof_received(self) -> bool:
        """The client has said all. We go on with what it sent, and close when that is answered."""
        self._link.eof = True
        self.stir()
        return not self._link.closing

    # --- what the connection is made of

    @abstractmethod
    def admit(self) -> bool:
        """Called once, with the transport in place: may this connection become a session?"""

    @abstractmethod
    async def _handle_client(self) -> None:
        """The session."""

    @abstractmethod
    def heard(self, octets: bytes) -> None:
        """The client has said this."""

    @abstractmethod
    def stir(self) -> None:
        """Whoever waits for the client shall look again."""

    @abstractmethod
    def broke(self) -> None:
        """TLS has broken: the connection must end."""

    @abstractmethod
    def gone(self) -> None:
        """Called once, when the connection no longer exists."""

    # --- what the connection calls

    def begin_tls(self, context: ssl.SSLContext, early: bytes = b"") -> TlsWire:
        """From here on all octets are TLS; `early` are those that have come already."""
        tls = self._tls = TlsWire(context)
        self._link.securing = True
        self.read_on()
        if early:
            self._under_tls(tls, early)
        return tls

    def send(self, octets: bytes, *, last: bool = False) -> None:
        """Say this; with `last` and under TLS also that it is all."""
        if self._wire.is_closing() or self._link.broken:
            return
        if (tls := self._tls) is not None:
            octets = tls.wrap(octets) if octets and tls.secured else b""  # within a handshake nothing can be said
            octets = octets + tls.close() if last else octets
        if octets:
            self._wire.write(octets)

    def hold_back(self) -> None:
        """Read no more for now."""
        if not self._link.read_paused:
            self._link.read_paused = True
            self._wire.pause_reading()

    def read_on(self) -> None:
        if self._link.read_paused:
            self._link.read_paused = False
            if not self._wire.is_closing():
                self._wire.resume_reading()

    def half_close(self) -> bool:
        """Say that we have said all, and wait for the client's end: a close with unread input resets the connection, and
        the client may lose our last reply with it. False where that is not possible (the client is gone)."""
        try:
            self._wire.write_eof()
        except OSError:  # ENOTCONN
            return False
        self.read_on()
        return True

    def cut(self) -> None:
        """End the connection now."""
        if not self._link.lost:
            self._wire.abort()

    # --- inside

    def _next_turn(self) -> None:
        if not self._link.read_paused and not self._wire.is_closing():
            self._wire.resume_reading()

    def _under_tls(self, tls: TlsWire, data: bytes) -> None:
        link = self._link
        if link.broken:
            return
        secured = tls.secured
        try:
            plain = tls.feed(data)
        except ssl.SSLError:
            link.broken = True
            plain = b""
        if answer := tls.answer():
            if self._paused:  # it makes us talk and does not listen
                self.cut()
                return
            self._wire.write(answer)
        if link.broken:
            self.broke()
            return
        if tls.ended:
            link.eof = True
        if plain:
            self.heard(plain)
        if tls.ended or not secured:
            self.stir()
