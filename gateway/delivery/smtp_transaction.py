# SPDX-License-Identifier: Apache-2.0
"""One transaction over an open session: MAIL, RCPT …, DATA, content, and what each reply means.

    1 ask of the hop    SIZE, 8BITMIME, SMTPUTF8: what it cannot take is never sent
    2 envelope          one group where PIPELINING is offered (RFC 2920 §3.1), else one command a time
    3 content           only if a recipient was accepted
    4 the dot           its reply is the outcome of everyone accepted

Promises: a refused recipient keeps its own reply; a 421 ends the session wherever it comes; a surprising code is never read
as yes. Recipients that were too many are left open for the next transaction, so long as this one took somebody.
Fails with: `StaleSession`: a kept session was dead before MAIL was accepted; nothing has happened yet.
RFCs: 5321 §4.5.4.1, 1870 §6.2, 6152 §3, 6531 §3.4.
Not here: reaching the host (`smtp.py`), the meaning of failures (`smtp_outcomes.py`).
"""

import asyncio
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gateway.delivery.smtp_outcomes import TOO_MANY, Ledger
from gateway.delivery.smtp_session import Content, HostRefused, Session
from gateway.delivery.smtp_wire import Answer, SessionFault
from gateway.mail import reply
from gateway.mail.address import Address
from gateway.mail.job import Job
from gateway.mail.message import Message
from gateway.mail.reply import MailError

_UNSAFE = re.compile(rb"[\x00-\x20\x7f]")
CLOSING = 421


class StaleSession(Exception):
    """A kept session turned out dead when it was used again."""


@dataclass(frozen=True, slots=True)
class Letter:
    """What is to be sent, and what it asks of a next hop."""

    job: Job
    content: Content
    size: int
    eight_bit: bool
    utf8_header: bool

    @classmethod
    def of(cls, job: Job, message: Message) -> "Letter":
        """Raises MailError if the content must not be sent."""
        ascii_header = message.header.isascii() and message.trace.isascii()
        eight_bit = job.eight_bit or not ascii_header
        return cls(job, Content.of(message), message.size, eight_bit, job.smtputf8 and not ascii_header)


class _Closing(Exception):
    """The host said 421: it closes the session, whatever stage this is."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer)
        self.answer = answer


async def transact(session: Session, letter: Letter, ledger: Ledger, places: Sequence[int]) -> None:
    """Send the letter to the recipients at `places`; their outcomes go into the ledger. Raises StaleSession."""
    ledger.at(session.name, session.tls)
    kept = session.used > 0
    session.used += 1
    session.dot_sent = False
    try:
        good, lines = _commands(session, letter, ledger, places)
    except MailError as err:
        ledger.message_refused(places, err.reply, remote=False)
        return
    if good:
        await _Transaction(session, letter, ledger, good).run(lines, kept=kept)


# --- 1 what the hop can take


def _commands(session: Session, letter: Letter, ledger: Ledger, places: Sequence[int]) -> tuple[list[int], list[bytes]]:
    """The places that can be served and the commands for them. Raises MailError if the message cannot be taken there."""
    offered = session.extensions
    job = letter.job
    utf8 = "SMTPUTF8" in offered
    if letter.utf8_header and not utf8:
        raise MailError(reply.NEXT_HOP_NO_SMTPUTF8)  # RFC 6531 §3.5: no downgrade on the way
    sender = _path(job.sender, utf8=utf8)
    paths = [(place, _path(job.recipients[place].address, utf8=utf8)) for place in places]
    if sender is None:
        raise MailError(reply.NEXT_HOP_NO_SMTPUTF8)
    ledger.message_refused([place for place, path in paths if path is None], reply.NEXT_HOP_NO_SMTPUTF8, remote=False)
    good = [(place, path) for place, path in paths if path is not None]
    needs_utf8 = letter.utf8_header or not (sender.isascii() and all(path.isascii() for _, path in good))
    mail = b"MAIL FROM:<" + sender + b">" + _parameters(letter, offered, utf8=needs_utf8)
    lines = [mail, *(b"RCPT TO:<" + path + b">" for _, path in good), b"DATA"]
    return [place for place, _ in good], lines


def _parameters(letter: Letter, offered: dict[str, str], *, utf8: bool) -> bytes:
    parameters = b""
    if "SIZE" in offered:
        limit = offered["SIZE"].strip()
        if limit.isdecimal() and 0 < int(limit) < letter.size:  # RFC 1870 §6.1; 0 is no limit
            raise MailError(reply.NEXT_HOP_SIZE)
        parameters += b" SIZE=%d" % letter.size
    if letter.eight_bit:
        if "8BITMIME" not in offered:
            raise MailError(reply.NEXT_HOP_NO_8BIT)  # RFC 6152 §3; to convert would break every signature
        parameters += b" BODY=8BITMIME"
    return parameters + b" SMTPUTF8" if utf8 else parameters


def _path(address: Address, *, utf8: bool) -> bytes | None:
    """An address for the wire. None if it cannot be written without SMTPUTF8.

    Without the extension a domain goes as A-labels; a local part has no such form (RFC 6531 §3.2).
    """
    if utf8 or not address.needs_smtputf8:
        path = str(address).encode()
    elif address.local.isascii():
        path = f"{address.local}@{address.ascii_domain}".encode()
    else:
        return None
    if _UNSAFE.search(path) and not _quoted_blank(path):
        raise MailError(reply.BAD_RECIPIENT, "an address with a control character must not reach the wire")
    return path


def _quoted_blank(path: bytes) -> bool:
    """True if blanks within a quoted local part are all that is unusual."""
    return path.startswith(b'"') and not _UNSAFE.search(path.replace(b" ", b""))


# --- 2 to 4


class _Transaction:
    """The dialogue. Once MAIL has an answer, everything that can happen ends in the ledger."""

    def __init__(self, session: Session, letter: Letter, ledger: Ledger, places: list[int]) -> None:
        self._session = session
        self._letter = letter
        self._ledger = ledger
        self._places = places
        self._accepted: list[int] = []
        self._too_many: list[tuple[int, Answer]] = []
        self._lines: Iterator[bytes] = iter(())

    async def run(self, lines: list[bytes], *, kept: bool) -> None:
        """All of it. `kept` says that the session has been used before."""
        session, ledger = self._session, self._ledger
        try:
            await self._dialogue(lines, kept=kept)
        except _Closing as closing:
            session.abort()
            ledger.session_failed(MailError(closing.answer.reply), remote=True)
        except SessionFault as fault:
            session.abort()
            confused = fault.reply is reply.PROTOCOL_ERROR and not session.dot_sent
            ledger.session_failed(fault, ambiguous=self._in_doubt(), void=self._places if confused else ())
        except MailError as err:  # the content turned out unfit, or unreadable, when half of it was sent
            session.abort()
            ledger.message_refused(ledger.open, err.reply, remote=False)
        except OSError as err:  # the file of the body; what a network does is a SessionFault
            session.abort()
            ledger.content_lost(f"content: {type(err).__name__}: {err}")
        except asyncio.CancelledError:
            session.abort()
            if session.dot_sent:
                stopped = MailError(reply.CONNECTION_LOST, "stopped while the final dot was not answered")
                ledger.session_failed(stopped, ambiguous=self._in_doubt())
            raise

    def _in_doubt(self) -> list[int]:
        """Who may have the message although nobody said so."""
        return self._accepted if self._session.dot_sent else []

    async def _dialogue(self, lines: list[bytes], *, kept: bool) -> None:
        mail = await self._begin(lines, kept=kept)
        if not mail.positive:
            self._ledger.message_refused(self._places, mail.reply, remote=True)
            await self._skip_group()
            return
        await self._recipients()
        if not await self._data():
            return
        answer = self._not_intermediate(await self._session.content(self._letter.content), "the final dot")
        self._session.dirty = False  # whatever the reply was, the transaction is over there too
        if answer.positive:
            self._ledger.delivered(self._accepted, answer)
        else:
            self._ledger.message_refused(self._accepted, answer.reply, remote=True)

    async def _begin(self, lines: list[bytes], *, kept: bool) -> Answer:
        """RSET if something is left over, then the group; the reply to MAIL. Raises StaleSession if `kept` and dead."""
        session = self._session
        self._lines = iter(lines)
        try:
            if session.dirty:
                await session.reset()
            if session.pipelining:
                session.send(lines)
            answer = await self._ask("mail")
        except (HostRefused, SessionFault, _Closing) as err:
            if kept and not (isinstance(err, SessionFault) and err.reply is reply.HOST_TIMEOUT):
                session.abort()
                raise StaleSession from err
            raise
        session.dirty = True
        return answer

    async def _recipients(self) -> None:
        for place in self._places:
            answer = await self._ask("rcpt")
            if answer.positive:
                self._accepted.append(place)
            elif answer.code in TOO_MANY:
                self._too_many.append((place, answer))
            else:
                self._ledger.recipient_refused(place, answer)
        if not self._accepted:
            for place, answer in self._too_many:
                self._ledger.recipient_refused(place, answer)

    async def _data(self) -> bool:
        """True if content may follow."""
        if not self._accepted:
            await self._skip_data()
            return False
        answer = await self._ask("data")
        if answer.code == 354:
            return True
        self._ledger.message_refused(self._accepted, answer.reply, remote=True)
        return False

    async def _skip_group(self) -> None:
        """MAIL was refused: read what the rest of a group is answered, in step."""
        if self._session.pipelining:
            for _ in self._places:
                await self._ask("rcpt")
            await self._skip_data()

    async def _skip_data(self) -> None:
        """Nobody was accepted. A host that wants content all the same gets none: it is left (RFC 2920 §3.1)."""
        if self._session.pipelining and (await self._ask("data")).code == 354:
            self._session.abort()

    async def _ask(self, stage: str) -> Answer:
        """The reply to the next command; the command is sent now unless its group was."""
        session = self._session
        if not session.pipelining:
            session.send([next(self._lines)])
        answer = await session.answer(stage)
        if stage != "data":
            return self._not_intermediate(answer, stage.upper())
        if answer.code == CLOSING:
            raise _Closing(answer)
        if answer.code < 400 and answer.code != 354:
            raise session.confused(f"{answer.code} to DATA")
        return answer

    def _not_intermediate(self, answer: Answer, stage: str) -> Answer:
        if answer.code == CLOSING:
            raise _Closing(answer)
        if 300 <= answer.code < 400:
            raise self._session.confused(f"{answer.code} to {stage}")
        return answer
