# SPDX-License-Identifier: Apache-2.0
"""The door to aiosmtplib: its client protocol, with replies in a queue so that commands can go out in a group.

aiosmtplib gives the connection, its TLS upgrade and its write state. Two things are ours. Replies are queued and counted
against what was asked, so PIPELINING works and a reply too much is seen instead of being taken for the next one. And
one waiter serves replies, the write buffer and the loss of the connection, so a refusal in the middle of content is seen.

Promises: a reply has at most `REPLY_MAX` octets in `LINES_MAX` lines, and no line is read twice, however it comes; after a
fault nothing more is read or written; no wait outlasts its deadline.
Fails with: `SessionFault`, whose `reply` is what the queue is told.
RFCs: 5321 §4.2 (replies), 2920 (groups), 3207 §4.2 (what came before TLS does not count).
Not here: what is said, and what a reply means (`smtp_session.py`, `smtp_transaction.py`).
"""

import asyncio
import re
import ssl
from collections import deque
from typing import Any

from aiosmtplib.errors import SMTPException, SMTPResponseException, SMTPServerDisconnected
from aiosmtplib.protocol import SMTPProtocol
from aiosmtplib.response import SMTPResponse

from gateway.mail import reply
from gateway.mail.reply import MailError, Reply, from_remote
from gateway.mail.value import value

REPLY_MAX = 32 << 10  # a long EHLO is 2 KiB; who sends more does not speak SMTP
LINES_MAX = 500  # of one reply; a long EHLO has 30

# RFC 5321 §4.2.1: Reply-line = *( Reply-code "-" [ textstring ] CRLF ) Reply-code [ SP textstring ] CRLF
_LINE = re.compile(rb"([2-5][0-9][0-9])(?:([ -])(.*))?", re.S)

# An upgrade that renames what is used here must fail at start, not in the middle of a delivery.
for _name in ("connection_made", "connection_lost", "data_received", "eof_received", "resume_writing", "write", "start_tls"):
    if not hasattr(SMTPProtocol, _name):
        raise ImportError(f"this aiosmtplib has no SMTPProtocol.{_name}")


class SessionFault(MailError):
    """The session is of no use any more: lost, too slow, or not SMTP."""


class Unprotected(MailError):
    """The host cannot give the protection that the message needs (RFC 8689 §4.2.1); another one may."""


class TlsFault(Exception):
    """The handshake failed; the connection is gone with it. `untrusted`: the certificate was refused, by us."""

    def __init__(self, detail: str, *, untrusted: bool = False) -> None:
        super().__init__(detail)
        self.untrusted = untrusted


@value(frozen=True, slots=True)
class Answer:
    """A reply as it came. Made into a `Reply` only if somebody will read it."""

    code: int
    text: str

    @property
    def positive(self) -> bool:
        return self.code < 300

    @property
    def reply(self) -> Reply:
        return from_remote(self.code, self.text)


class Wire(SMTPProtocol):
    """One connection. `fault` says why nothing more will come; None while it is good."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop=loop)
        self.fault: SessionFault | None = None
        self._answers: deque[Answer] = deque()
        self._expected = 1  # the greeting
        self._waiter: asyncio.Future[None] | None = None
        self._wait_for = ("", 0.0)  # what the waiter wants, and how many seconds it has
        self._deadline = 0.0  # … that is, until when on the loop's clock
        self._timer: asyncio.TimerHandle | None = None
        self._texts: list[bytes] = []  # the lines so far of the reply at the front of the buffer
        self._line = 0  # where its next line begins
        self._seen = 0  # up to where that line's end was looked for

    @property
    def idle_and_good(self) -> bool:
        """True if a new transaction may be begun."""
        return self.fault is None and self._expected == 0 and not self._answers and not self._buffer and self.is_connected

    # --- called by the transport

    def data_received(self, data: bytes) -> None:
        if self.fault:
            return
        self._buffer += data
        try:
            while answer := self._parse():
                if self._expected <= 0:
                    raise SessionFault(reply.PROTOCOL_ERROR, f"a reply that nobody asked for: {answer.reply}")
                self._expected -= 1
                self._answers.append(answer)
        except SessionFault as err:
            self.end(err)
        self._wake()

    def eof_received(self) -> bool:
        self.end(SessionFault(reply.CONNECTION_LOST, "closed by the other side"))
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._timer is not None:  # it would keep us in memory
            self._timer.cancel()
        self.end(SessionFault(reply.CONNECTION_LOST, str(exc) if exc else "closed"))

    def resume_writing(self) -> None:
        super().resume_writing()
        self._wake()

    def _parse(self) -> Answer | None:
        """One whole reply off the buffer. Goes on where the last call ended: a host may send octet by octet."""
        buffer = self._buffer
        while (end := buffer.find(b"\n", self._seen)) >= 0:
            line = bytes(buffer[self._line : end]).removesuffix(b"\r")
            self._line = self._seen = end + 1
            found = _LINE.fullmatch(line)
            if not found:
                raise SessionFault(reply.PROTOCOL_ERROR, f"not a reply: {line[:80]!r}")
            self._texts.append(found[3] or b"")
            if end >= REPLY_MAX or len(self._texts) > LINES_MAX:
                raise _too_long()
            if found[2] != b"-":
                text = b"\n".join(self._texts).decode("utf-8", "replace")
                del buffer[: self._line]
                self._restart()
                return Answer(int(found[1]), text)
        self._seen = len(buffer)
        if self._seen > REPLY_MAX:
            raise _too_long()
        return None

    def _restart(self) -> None:
        """What is in the buffer is read from its start."""
        self._texts = []
        self._line = self._seen = 0

    # --- called by the session

    def send(self, data: bytes, answers: int = 0) -> None:
        """Write; that many replies will be owed for it. Raises SessionFault if the connection is gone."""
        if self.fault:
            raise self.fault
        self._expected += answers
        try:
            self.write(data)
        except SMTPServerDisconnected as err:
            self.end(SessionFault(reply.CONNECTION_LOST, "closed"))
            raise self.fault or err from err

    def owe(self, answers: int) -> None:
        """That many replies will be owed for what is about to be written."""
        self._expected += answers

    async def answer(self, stage: str, timeout: float) -> Answer:
        """The next reply. Raises SessionFault if it does not come within `timeout` seconds."""
        while not self._answers:
            if self.fault:
                raise self.fault
            await self._wait(stage, timeout)
        return self._answers.popleft()

    async def flushed(self, timeout: float) -> bool:
        """Wait until more may be written. False if a reply came instead; SessionFault if nothing moves in time."""
        while self._paused and not self._answers:
            if self.fault:
                raise self.fault
            await self._wait("content", timeout)
        return not self._answers

    async def upgrade(self, context: ssl.SSLContext, server_name: str | None, timeout: float) -> Answer | None:
        """STARTTLS and the handshake. Returns the refusal if there was one; TlsFault if the handshake fails."""
        self._expected += 1
        try:
            await self.start_tls(context, server_hostname=server_name, timeout=timeout)
        except SMTPResponseException as err:
            return Answer(err.code, err.message)
        except (SessionFault, SMTPException, OSError, ValueError) as err:  # ValueError: a name that cannot stand in SNI
            raise TlsFault(f"{type(err).__name__}: {err}", untrusted=_is_untrusted(err)) from err
        if self.fault or self._answers:  # octets from before the handshake (RFC 3207 §4.2)
            raise TlsFault("the other side spoke between STARTTLS and the handshake")
        return None

    async def read_response(self, timeout: float | None = None) -> SMTPResponse:
        """For aiosmtplib's own `start_tls`: the reply to STARTTLS."""
        answer = await self.answer("STARTTLS", timeout or 0.0)
        self._restart()  # aiosmtplib throws away next what else is in the buffer (RFC 3207 §4.2)
        return SMTPResponse(answer.code, answer.text)

    def end(self, fault: SessionFault) -> None:
        """Give the connection up; the first reason stays."""
        self.fault = self.fault or fault
        if self.transport is not None:
            self.transport.abort()  # type: ignore[attr-defined]  # typed as a base transport there
        self._wake()

    def close(self, fault: SessionFault) -> None:
        """Close after what has been written is sent."""
        self.fault = self.fault or fault
        if self.transport is not None:
            self.transport.close()

    def info(self, name: str) -> Any:
        """Extra information of the transport; None once it is closed."""
        return self.transport.get_extra_info(name) if self.transport is not None else None

    async def _wait(self, stage: str, timeout: float) -> None:
        """Until anything happens. Running out of time is a fault.

        A timer that is running is left alone unless it would ring too late: most answers come long before it does.
        """
        self._wait_for = (stage, timeout)
        self._deadline = deadline = self._loop.time() + timeout
        if self._timer is None or self._timer.when() > deadline:
            self._set_timer(deadline)
        self._waiter = waiter = self._loop.create_future()
        try:
            await waiter
        finally:
            self._waiter = None

    def _set_timer(self, moment: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(moment, self._ring)

    def _ring(self) -> None:
        """The timer's moment has come; the waiter's may be later, or nobody waits."""
        self._timer = None
        if self._waiter is None:
            return
        if self._loop.time() < self._deadline:
            self._set_timer(self._deadline)
            return
        stage, timeout = self._wait_for
        self.end(SessionFault(reply.HOST_TIMEOUT, f"nothing for {timeout:g} s after {stage}"))

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def _is_untrusted(err: BaseException | None) -> bool:
    """True if a certificate that could not be verified is at the bottom of an error."""
    while err is not None and not isinstance(err, ssl.SSLCertVerificationError):
        err = err.__cause__ or err.__context__
    return err is not None


def _too_long() -> SessionFault:
    return SessionFault(reply.PROTOCOL_ERROR, f"a reply longer than {REPLY_MAX} octets or {LINES_MAX} lines")
