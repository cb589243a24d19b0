# SPDX-License-Identifier: Apache-2.0
"""One connection: octets in, replies out, deadlines, TLS, an orderly end. The base is aiosmtpd's `SMTP`.

Promises: what a client sends is buffered up to a limit and then not read, so memory is bounded; replies leave in order,
together where commands came together, and always before we wait; every wait has a deadline on the client's clock;
nothing that came before a TLS handshake is read after it; a half-close ends no command (RFC 5321 §4.1.1.10).
Fails with: `SessionOver`; cancellation, if the connection is lost.
RFCs: 2920 §3.2 (pipelining), 3207 §4.2 (STARTTLS), 5321 §4.5.3.2 (time-outs).
Not here: commands (`edge/session.py`).

aiosmtpd's own reader and dispatcher are not used: its constructor looks through all methods for each connection, its
lines end at a bare LF, a half-close cancels its handler, and its TLS upgrade needs asyncio's own protocol class.
"""

import asyncio
from abc import abstractmethod
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from gateway.edge.base import SMTP
from gateway.edge.content import ContentReader
from gateway.edge.incoming import Incoming
from gateway.edge.lines import CommandReader, LineFault
from gateway.edge.over import SessionOver
from gateway.edge.watchdog import Watchdog
from gateway.mail import reply
from gateway.mail.envelope import Tls
from gateway.mail.reply import Reply

if TYPE_CHECKING:
    from ssl import SSLContext

COMMANDS_HIGH = 64 << 10  # octets of pipelined commands beyond which no more are read
CONTENT_HIGH = 768 << 10  # octets of content that wait for the disk, likewise
REPLIES_HIGH = 128  # replies that are kept together at most
PROGRESS = 1024  # octets that must come within data_timeout: less is a client that holds us up on purpose
BARE_LF_PATIENCE = 1.0  # seconds after which "COMMAND LF" is taken for a whole line, to refuse it
LINGER = 2.0  # seconds for a client to read our last reply before the connection is reset
TLS_SHUTDOWN = 5.0  # seconds for a client to answer our close_notify


@dataclass(slots=True)
class Link:
    """What has become of the connection."""

    read_paused: bool = False  # by us: too much has come that nobody has looked at
    eof: bool = False  # the client has said all
    securing: bool = False  # a handshake is under way
    closing: bool = False  # we have said all
    lost: bool = False


class Connection(SMTP):
    """Gives lines and content to the session, and takes its replies."""

    _paused: bool  # of asyncio's FlowControlMixin: the client does not read our replies
    _drain_helper: Callable[[], Awaitable[None]]

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        # Deviates: SMTP.__init__ is left out (0.2 ms of `inspect` a connection); its base needs no StreamReader.
        asyncio.StreamReaderProtocol.__init__(self, None, loop=loop)  # type: ignore[arg-type]
        self.loop = loop
        self.leaving = False  # the daemon drains
        self.received = 0
        self.transport = None
        self._handler_coroutine: asyncio.Task[None] | None = None
        self._wire: asyncio.Transport
        self._lines = CommandReader()
        self._content: ContentReader | None = None
        self._out: list[bytes] = []
        self._waiter: asyncio.Future[bool] | None = None
        self._watch = Watchdog(loop, self._time_is_up)
        self._link = Link()

    # --- what the loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = self._wire = cast(asyncio.Transport, transport)
        if self.admit():
            self._handler_coroutine = self.loop.create_task(self._handle_client())

    def connection_lost(self, error: Exception | None) -> None:
        if self._link.lost:  # a failed handshake ends here by two ways
            return
        self._link.lost = True
        self._watch.cancel()
        asyncio.StreamReaderProtocol.connection_lost(self, error)
        handler = self._handler_coroutine
        if handler is not None and not handler.done() and not self._link.securing:
            handler.cancel()
        self.gone()

    def data_received(self, data: bytes) -> None:
        if self._link.closing:
            return
        self.received += len(data)
        reader = self._content
        if reader is None:
            self._lines.feed(data)
            self._hold_back(len(self._lines), COMMANDS_HIGH)
        elif not self._feed(reader, data):
            return
        self._wake()

    def eof_received(self) -> bool:
        """The client has said all. We go on with what it sent, and close when that is answered."""
        self._link.eof = True
        self._wake()
        under_tls = self._wire.get_extra_info("sslcontext") is not None  # which knows no half-close
        return not self._link.closing and not under_tls

    # --- what the session is made of

    @abstractmethod
    def admit(self) -> bool:
        """Called once, with the transport in place: may this connection become a session?"""

    @abstractmethod
    async def _handle_client(self) -> None:
        """The session."""

    @abstractmethod
    def gone(self) -> None:
        """Called once, when the connection no longer exists."""

    @property
    @abstractmethod
    def busy(self) -> bool:
        """True within a transaction, which a drain lets finish."""

    # --- what the session calls

    def say(self, answer: Reply) -> None:
        """Queue a reply; it leaves before we wait for anything of the client."""
        self._out.append(answer.wire())

    def say_raw(self, octets: bytes) -> None:
        """Queue a reply that was made before."""
        self._out.append(octets)

    async def command(self, seconds: float, late: Reply) -> bytes | LineFault:
        """The next command line. Raises SessionOver with `late` if it has not come whole after that many seconds."""
        while True:
            if self.leaving and not self.busy:
                raise SessionOver(reply.SHUTTING_DOWN, "shutdown")
            line = self._lines.next()
            if self._link.read_paused and len(self._lines) < COMMANDS_HIGH:
                self._read_on()
            if line is not None:
                if len(self._out) > REPLIES_HIGH:  # thousands of commands at once must not hold up other sessions
                    await self.flush(seconds)
                    await asyncio.sleep(0)
                return line
            if self._link.eof:
                raise SessionOver(None, "lost")
            bare = self._lines.ends_bare
            if await self.wait(BARE_LF_PATIENCE if bare else seconds):
                continue
            if not bare:
                raise SessionOver(late, "idle")
            self._lines.take()
            return LineFault.BARE

    async def receive(self, incoming: Incoming, patience: float, end: float) -> None:
        """Read content to its end. `patience` is data_timeout; `end` the moment at which the transaction takes too long."""
        reader = self._content = incoming.reader
        if first := self._lines.take():
            self._feed(reader, first)
        seen = self.received
        while not reader.ended:
            if incoming.wants_storing:
                await incoming.store()
                continue
            self._read_on()
            if self._link.eof:
                raise SessionOver(None, "lost")
            left = end - self.loop.time()
            if left <= 0:
                raise SessionOver(reply.TOO_SLOW, "slow")
            if not await self.wait(min(patience, left)):
                if self.received - seen < PROGRESS and patience < left:
                    raise SessionOver(reply.IDLE, "idle")
                seen = self.received

    async def wait(self, seconds: float) -> bool:
        """Until the client (or the drain) gives us something to look at; False if the time is up first."""
        await self.flush(seconds)
        waiter: asyncio.Future[bool] = self.loop.create_future()
        self._waiter = waiter
        self._watch.set(seconds)
        try:
            return await waiter
        finally:
            self._waiter = None
            self._watch.off()

    async def nap(self, seconds: float) -> None:
        """Do nothing for a while; a drain cuts it short."""
        until = self.loop.time() + seconds
        while (left := until - self.loop.time()) > 0 and not self.leaving:
            await self.wait(left)

    async def flush(self, seconds: float) -> None:
        """Send all replies; a client that does not read them within that time is cut off."""
        self._send()
        if self._paused:
            self._watch.set(seconds)
            try:
                await self._drain_helper()
            except ConnectionError as err:
                raise SessionOver(None, "lost") from err
            finally:
                self._watch.off()

    @property
    def ended(self) -> bool:
        """True if the client will send nothing more."""
        return self._link.eof

    @property
    def has_input(self) -> bool:
        """True if something has come that nobody asked for yet."""
        return len(self._lines) > 0

    async def secure(self, context: "SSLContext", seconds: float) -> Tls:
        """Let the client do a TLS handshake. Raises SessionOver if it does not come about."""
        self._wire.pause_reading()  # from here to the handshake nothing is read: the rest of the plaintext is dropped
        await self.flush(seconds)
        self._lines.take()  # RFC 3207 §4.2, CVE-2011-0411: what was pipelined behind STARTTLS was never said
        self._link.securing = True
        try:
            wire = await self.loop.start_tls(
                self._wire,
                self,
                context,
                server_side=True,
                ssl_handshake_timeout=seconds,
                ssl_shutdown_timeout=TLS_SHUTDOWN,
            )
        except OSError as err:  # ssl.SSLError, reset, or the handshake's time is up
            self._abandon(err)
            raise SessionOver(None, "tls") from err
        finally:
            self._link.securing = False
        if wire is None or self._link.lost:
            self._abandon(None)
            raise SessionOver(None, "tls")
        self.transport = self._wire = wire
        self._link.read_paused = False
        self._hold_back(len(self._lines), COMMANDS_HIGH)
        return self.tls_facts()

    def tls_facts(self) -> Tls:
        """Of a connection that is under TLS."""
        name, version, bits = self._wire.get_extra_info("cipher")
        return Tls(version=self._wire.get_extra_info("ssl_object").version() or version, cipher=name, bits=bits)

    def part(self, last: Reply | None, *, linger: bool = True) -> None:
        """Say `last`, if anything, and close. The client gets time to read it even if it is still sending."""
        if self._link.lost:
            return
        if last is not None:
            self.say(last)
        self._content = None
        self._link.closing = True
        self._send()
        if not (linger and last is not None and not self._link.eof and self._half_close()):
            self._wire.close()
        self._watch.set(LINGER)

    def _half_close(self) -> bool:
        """Say that we have said all, and wait for the client's end: a close with unread input resets the connection, and
        the client may lose our last reply with it. False where that is not possible (TLS, or the client is gone)."""
        if not self._wire.can_write_eof():
            return False
        try:
            self._wire.write_eof()
        except OSError:  # ENOTCONN
            return False
        self._read_on()
        return True

    def cut(self) -> None:
        """End the connection now."""
        if not self._link.lost:
            self._wire.abort()

    def leave(self) -> None:
        """The daemon drains: no new transaction."""
        self.leaving = True
        self._wake()

    # --- inside

    def _send(self) -> None:
        if self._out:
            octets = b"".join(self._out)
            self._out.clear()
            if not self._wire.is_closing():
                self._wire.write(octets)

    def _abandon(self, error: Exception | None) -> None:
        self._wire.abort()
        self._link.securing = False
        if not self._link.lost:  # a connection lost in the handshake is not told to the protocol by every loop
            self._link.lost = True
            self._watch.cancel()
            asyncio.StreamReaderProtocol.connection_lost(self, error)
            self.gone()

    def _feed(self, reader: ContentReader, data: bytes) -> bool:
        """Content; True if someone should look at it: it has ended, or grown enough to be stored."""
        behind = reader.feed(data)
        if behind is not None:
            self._content = None
            self._lines.feed(behind)
            self._hold_back(len(self._lines), COMMANDS_HIGH)
            return True
        self._hold_back(reader.pending, CONTENT_HIGH)
        return reader.pending >= Incoming.STORE_FROM

    def _hold_back(self, octets: int, limit: int) -> None:
        if octets > limit and not self._link.read_paused and not self._link.securing:
            self._link.read_paused = True
            self._wire.pause_reading()

    def _read_on(self) -> None:
        if self._link.read_paused:
            self._link.read_paused = False
            if not self._wire.is_closing():
                self._wire.resume_reading()

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(True)

    def _time_is_up(self) -> None:
        waiter = self._waiter
        if waiter is not None and not self._link.closing:
            if not waiter.done():
                waiter.set_result(False)
            return
        self.cut()  # it does not read our replies, or does not close when we have
