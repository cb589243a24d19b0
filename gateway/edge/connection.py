# SPDX-License-Identifier: Apache-2.0
"""One connection: lines and content in, replies out, deadlines, TLS, an orderly end.

Promises: what a client sends is buffered up to a limit and then not read, so memory is bounded; replies leave in order,
together where commands came together, and always before we wait; every wait has a deadline on the client's clock;
nothing that came before a TLS handshake is read after it; content that breaks off is never taken for a whole message.
Fails with: `SessionOver`; cancellation, if the connection is lost.
RFCs: 2920 §3.2 (pipelining), 3207 §4.2 (STARTTLS), 5321 §4.5.3.2 (time-outs).
Not here: commands (`edge/session.py`), transport and records (`edge/wire.py`).
"""

import asyncio
from abc import abstractmethod
from typing import TYPE_CHECKING

from gateway.edge.content import ContentReader
from gateway.edge.incoming import Incoming
from gateway.edge.lines import CommandReader, LineFault
from gateway.edge.over import SessionOver
from gateway.edge.watchdog import Watchdog
from gateway.edge.wire import Wire
from gateway.mail import reply
from gateway.mail.envelope import Tls
from gateway.mail.reply import Reply

if TYPE_CHECKING:
    from ssl import SSLContext

COMMANDS_HIGH = 64 << 10  # octets of pipelined commands beyond which no more are read
CONTENT_HIGH = 768 << 10  # octets of content that wait for the disk, likewise
ROW = 16  # commands that are answered in a row without a look at other sessions; so many replies are kept together at most
PROGRESS = 1024  # octets that must come within data_timeout: less is a client that holds us up on purpose
PATIENCE = 1.0  # seconds after which the beginning of a line that is no command yet is judged as it stands
LINGER = 2.0  # seconds for a client to read our last reply before the connection is reset


class Connection(Wire):
    """Gives lines and content to the session, and takes its replies."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.leaving = False  # the daemon drains
        self._lines = CommandReader()
        self._content: ContentReader | None = None
        self._out: list[bytes] = []
        self._row = 0  # commands since we waited last
        self._waiter: asyncio.Future[bool] | None = None
        self._watch = Watchdog(loop, self._time_is_up)

    # --- what the wire calls

    def heard(self, octets: bytes) -> None:
        reader = self._content
        if reader is None:
            self._lines.feed(octets)
            if len(self._lines) > COMMANDS_HIGH:
                self.hold_back()
        elif not self._feed(reader, octets):
            return
        self.stir()

    def stir(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(True)

    def broke(self) -> None:
        if self._link.securing:  # whoever waits for the handshake tells the session
            self.stir()
        else:
            self.part(None)

    def connection_lost(self, error: Exception | None) -> None:
        self._watch.cancel()
        super().connection_lost(error)

    # --- what the session is made of

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

    def send_replies(self, *, last: bool = False) -> None:
        """Send all replies, without waiting for the client to read them."""
        if self._out or last:
            octets = self._out[0] if len(self._out) == 1 else b"".join(self._out)
            self._out.clear()
            self.send(octets, last=last)

    async def command(self, seconds: float, late: Reply) -> bytes | LineFault:
        """The next command line. Raises SessionOver with `late` if it has not come whole after that many seconds."""
        until = 0.0  # from the first wait on: octets that come one by one win no time
        while True:
            if self.leaving and not self.busy:
                raise SessionOver(reply.SHUTTING_DOWN, "shutdown")
            line = self._lines.next()
            if self._link.read_paused and len(self._lines) < COMMANDS_HIGH:
                self.read_on()
            if line is not None:
                self._row += 1
                if self._row >= ROW:  # thousands of commands at once must not hold up other sessions
                    self._row = 0
                    await self.flush(seconds)
                    await asyncio.sleep(0)
                return line
            if self._link.eof:
                raise SessionOver(None, "lost")
            now, odd = self.loop.time(), self._lines.odd
            until = until or now + seconds
            if until > now and await self.wait(min(PATIENCE, until - now) if odd else until - now):
                continue
            if not odd:
                raise SessionOver(late, "idle")
            if (fault := self._lines.give_up()) is not None:
                return fault

    async def receive(self, incoming: Incoming, patience: float, end: float) -> None:
        """Read content to its end. `patience` is data_timeout; `end` the moment at which the transaction takes too long."""
        reader = self._content = incoming.reader
        if first := self._lines.take(reader.wanted):
            self._feed(reader, first)
        seen = self.received
        while not reader.ended:
            if incoming.wants_storing:
                await incoming.store()
                continue
            self.read_on()
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
        self.send_replies()
        if self._paused:
            await self.flush(seconds)
        self._row = 0
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
        self.send_replies()
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

    async def secure(self, context: "SSLContext", seconds: float, *, first: bool = False) -> Tls:
        """Let the client do a TLS handshake. Raises SessionOver if it does not come about.

        With `first` TLS is what the client begins with, and what has come is its handshake. Otherwise what has come was
        said in clear behind STARTTLS, before our reply to it: it is dropped, even if it looks like a record (RFC 3207
        §4.2, CVE-2011-0411). What comes after the reply is TLS, or the end.
        """
        until = self.loop.time() + seconds
        await self.flush(seconds)
        early = self._lines.take()
        tls, link = self.begin_tls(context, early if first else b""), self._link
        try:
            while not tls.secured:
                if self.leaving:
                    raise SessionOver(None, "shutdown")
                left = until - self.loop.time()
                if link.broken or link.eof or link.lost or left <= 0 or not await self.wait(left):
                    raise SessionOver(None, "tls")
        finally:
            link.securing = False
        return tls.facts()

    def part(self, last: Reply | None, *, linger: bool = True) -> None:
        """Say `last`, if anything, and close. The client gets time to read it even if it is still sending."""
        link = self._link
        if link.lost or link.closing:
            return
        if last is not None:
            self.say(last)
        self._content = None
        link.closing = True
        self.send_replies(last=True)
        if not (linger and last is not None and not link.eof and self.half_close()):
            self._wire.close()
        self._watch.set(LINGER)

    def leave(self) -> None:
        """The daemon drains: no new transaction."""
        self.leaving = True
        self.stir()

    # --- inside

    def _feed(self, reader: ContentReader, data: bytes) -> bool:
        """Content; True if someone should look at it: it has ended, or grown enough to be stored."""
        behind = reader.feed(data)
        if behind is not None:
            self._content = None
            self.heard(behind)
            return True
        if reader.pending > CONTENT_HIGH:
            self.hold_back()
        return reader.pending >= Incoming.STORE_FROM

    def _time_is_up(self) -> None:
        waiter = self._waiter
        if waiter is not None and not self._link.closing:
            if not waiter.done():
                waiter.set_result(False)
            return
        self.cut()  # it does not read our replies, or does not close when we have
