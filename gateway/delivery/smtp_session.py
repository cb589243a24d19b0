# SPDX-License-Identifier: Apache-2.0
"""One SMTP session with one host: connect, greeting, EHLO, STARTTLS, then commands and content.

Promises: every wait has the deadline of its stage; HELO is said to who does not know EHLO; what was learnt before TLS is
forgotten after it; content goes out octet for octet, a large one in chunks read by a thread, never whole in memory.
Fails with: `SessionFault` (the session is of no use), `HostRefused` (the host said no before a transaction), `TlsFault`.
RFCs: 5321 §3.1, §3.2 and §4.5.3.2, 3207, 2920 §3.1, 8689 §4.2.1 (REQUIRETLS), 3030 §2 (BDAT).
Not here: what a refusal means for recipients (`smtp_transaction.py`), which host (`mx.py`), reuse (`pool.py`).
"""

import asyncio
import os
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, replace

from gateway.delivery.mx import Host
from gateway.delivery.options import DeliveryOptions
from gateway.delivery.smtp_wire import Answer, SessionFault, TlsFault, Unprotected, Wire
from gateway.delivery.stuffing import Stuffer, stuff
from gateway.mail import reply
from gateway.mail.message import Message
from gateway.mail.reply import MailError
from gateway.mail.value import value

CHUNK = 256 << 10  # octets of a large body in memory at one time


class HostRefused(MailError):
    """The host said no to us, not to a message: at its greeting, to EHLO or to RSET."""


@dataclass(frozen=True, slots=True)
class SessionSettings:
    """What all sessions share. `tls` is None where STARTTLS is not to be used.

    `verified` is the context for mail under REQUIRETLS: it demands a certificate for the name of the host.
    """

    hostname: str
    options: DeliveryOptions
    tls: ssl.SSLContext | None = None
    verified: ssl.SSLContext | None = None


class Session:
    """An open session. `used` counts its transactions; `dirty` asks for RSET before the next one."""

    def __init__(self, wire: Wire, host: Host, settings: SessionSettings) -> None:
        self.host = host
        self.name = str(host)  # for the outcome of each transaction
        self.settings = settings
        self.extensions: dict[str, str] = {}
        self.tls = ""
        self.protected = False  # by TLS with a certificate that was verified
        self.tls_refusal: Answer | None = None  # what STARTTLS was answered, if it was no
        self.used = 0
        self.dirty = False
        self.dot_sent = False  # the final dot of the running transaction was handed to the kernel
        self.banner_name = ""  # what the host calls itself in its reply to EHLO
        self._wire = wire

    @classmethod
    async def open(cls, host: Host, settings: SessionSettings) -> "Session":
        """Connect and come as far as MAIL. Raises SessionFault, HostRefused or TlsFault; then nothing stays open."""
        session = cls(await _connect(host, settings.options.connect_timeout), host, settings)
        try:
            session._expect(await session.answer("greeting"), 220, "greeting")
            await session._hello()
            if settings.tls and "STARTTLS" in session.extensions:
                await session._start_tls(settings.tls)
        except BaseException:  # a cancellation must not leave the connection behind either
            session.abort()
            raise
        return session

    @classmethod
    async def open_protected(cls, host: Host, settings: SessionSettings, *, supported: bool) -> "Session":
        """As `open`, under verified TLS (RFC 8689 §4.2.1); with `supported`, the host must offer REQUIRETLS too.

        Raises Unprotected too; SessionFault for a handshake that failed by chance.
        """
        if settings.verified is None or not host.sure:
            why = "its name came without DNSSEC" if settings.verified else "TLS is switched off"
            raise Unprotected(reply.TLS_NEEDED, f"{host}: {why}")
        try:
            session = await cls.open(host, replace(settings, tls=settings.verified))
        except TlsFault as err:
            if err.untrusted:
                raise Unprotected(reply.TLS_NEEDED, f"{host}: {err}") from err
            raise SessionFault(reply.TLS_FAILED, f"{host}: {err}") from err
        session.protected = bool(session.tls)
        if session.protected and (not supported or "REQUIRETLS" in session.extensions):
            return session
        session.quit()
        if session.tls_refusal and session.tls_refusal.code < 500:  # RFC 3207 §4: 454, TLS is not to be had at present
            raise HostRefused(session.tls_refusal.reply, "to STARTTLS")
        raise Unprotected(reply.REQUIRETLS_NEEDED if session.protected else reply.TLS_NEEDED, str(host))

    # --- opening

    async def _hello(self) -> None:
        """EHLO; HELO if that is unknown there (RFC 5321 §3.2)."""
        name = self.settings.hostname
        answer = await self.ask("ehlo", b"EHLO " + name.encode())
        if answer.code >= 500:
            self._expect(await self.ask("ehlo", b"HELO " + name.encode()), 250, "HELO")
            self.extensions = {}
            return
        self._expect(answer, 250, "EHLO")
        first, *lines = answer.text.split("\n")
        self.banner_name = first.split(" ", 1)[0].lower()
        words = [line.strip().partition(" ") for line in lines]
        self.extensions = {keyword.upper(): value for keyword, _, value in words if keyword}

    async def _start_tls(self, context: ssl.SSLContext) -> None:
        """Go over to TLS. A host that takes its offer back is spoken to in clear."""
        named = not self.host.name.startswith("[")
        name = self.host.name if named else str(self.host.ip) if context.check_hostname else None
        refusal = await self._wire.upgrade(context, name, self.settings.options.tls_timeout)
        if refusal is not None:
            if refusal.code < 400 or refusal.code == 421:
                raise TlsFault(f"{refusal.code} to STARTTLS")
            self.tls_refusal = refusal
            return
        tls = self._wire.info("ssl_object")
        self.tls = (tls.version() if tls else None) or "TLS"
        await self._hello()  # RFC 3207 §4.2: what was offered in clear does not count

    def _expect(self, answer: Answer, code: int, stage: str) -> None:
        if answer.code == code:
            return
        if answer.code >= 400:
            raise HostRefused(answer.reply, f"to {stage}")
        raise self.confused(f"{answer.code} to {stage}")

    # --- speaking

    @property
    def pipelining(self) -> bool:
        return "PIPELINING" in self.extensions

    @property
    def usable(self) -> bool:
        """True if another transaction may be begun on it."""
        return self._wire.idle_and_good

    def send(self, lines: list[bytes]) -> None:
        """Write commands as one group; each will be answered."""
        self._wire.send(b"\r\n".join(lines) + b"\r\n", len(lines))

    async def answer(self, stage: str) -> Answer:
        """The next reply, within the time that `stage` has."""
        return await self._wire.answer(stage, getattr(self.settings.options, f"{stage}_timeout"))

    async def ask(self, stage: str, line: bytes) -> Answer:
        """One command and its reply."""
        self.send([line])
        return await self.answer(stage)

    async def reset(self) -> None:
        """RSET before the next transaction."""
        self._expect(await self.ask("ehlo", b"RSET"), 250, "RSET")
        self.dirty = False

    async def content(self, content: "Content") -> Answer:
        """Send what follows 354, the dot included, and give the reply to it.

        A reply that comes while content is still being sent ends the session; it is returned if it is a refusal.
        """
        if content.binary:
            return await self._chunk(content)
        wire, block = self._wire, self.settings.options.block_timeout
        if content.octets is not None:
            self.dot_sent = True
            wire.send(content.octets, 1)
        elif not await self._stream(content.message):
            return await self._early()
        await wire.flushed(block)
        return await self.answer("dot")

    async def _stream(self, message: Message) -> bool:
        """A large body, chunk by chunk. False if the host replied before the end."""
        wire, block = self._wire, self.settings.options.block_timeout
        stuffer, chunks = Stuffer(), message.chunks(CHUNK)
        wire.owe(1)  # from now on a reply is in order
        while (chunk := await asyncio.to_thread(_next, chunks)) is not None:
            wire.send(stuffer.feed(chunk))
            if not await wire.flushed(block):
                return False
        self.dot_sent = True
        wire.send(stuffer.finish())
        return True

    async def _chunk(self, content: "Content") -> Answer:
        """All of it as one chunk (RFC 3030 §2): counted, so no octet of it means anything on the way."""
        wire, block = self._wire, self.settings.options.block_timeout
        left = content.message.size
        command, chunks = b"BDAT %d LAST\r\n" % left, content.message.chunks(CHUNK)
        wire.owe(1)
        while (chunk := await asyncio.to_thread(_next, chunks)) is not None:
            left -= len(chunk)
            self.dot_sent = left <= 0  # with its last octet the message is whole over there
            wire.send(command + chunk)
            command = b""
            if not await wire.flushed(block) and left > 0:
                return await self._early()
        if left:
            raise OSError(f"the content has {left} octets less than its size")
        return await self.answer("dot")

    async def _early(self) -> Answer:
        answer = await self.answer("dot")
        if answer.code < 400:
            raise self.confused(f"{answer.code} in the middle of content")
        self.abort()
        return answer

    # --- ending

    def confused(self, detail: str) -> SessionFault:
        """The fault for a host that does not keep to the protocol; the session ends here."""
        fault = SessionFault(reply.PROTOCOL_ERROR, detail)
        self._wire.end(fault)
        return fault

    def quit(self) -> None:
        """Say QUIT and close; the reply is not waited for, as it can change nothing."""
        if self.usable:
            self._wire.send(b"QUIT\r\n", 1)
            self._wire.close(SessionFault(reply.CONNECTION_LOST, "quit"))
        else:
            self.abort()

    def abort(self) -> None:
        """Close at once."""
        self._wire.end(SessionFault(reply.CONNECTION_LOST, "given up"))


@value(frozen=True, slots=True)
class Content:
    """A message made ready for the wire: `octets` if it is small enough to be sent in one piece behind DATA.

    A `binary` one goes by BDAT, as it is.
    """

    message: Message
    octets: bytes | None
    binary: bool = False

    @classmethod
    def of(cls, message: Message, *, binary: bool = False) -> "Content":
        """Raises MailError for content that must not be sent (a bare CR or LF, unless it is binary)."""
        if binary:
            return cls(message, None, binary=True)
        if isinstance(message.body, bytes):
            return cls(message, stuff(message.trace + message.header + message.body))
        return cls(message, None)


async def _connect(host: Host, timeout: float) -> Wire:
    """A TCP connection. Raises SessionFault."""
    loop = asyncio.get_running_loop()
    wire = Wire(loop)
    try:
        async with asyncio.timeout(timeout):
            await loop.create_connection(lambda: wire, str(host.ip), host.port)
    except TimeoutError:
        raise SessionFault(reply.HOST_UNREACHABLE, f"{host}: no connection within {timeout:g} s") from None
    except OSError as err:
        raise SessionFault(reply.HOST_UNREACHABLE, f"{host}: {os.strerror(err.errno) if err.errno else err}") from err
    return wire


def _next(chunks: Iterator[bytes]) -> bytes | None:
    return next(chunks, None)
