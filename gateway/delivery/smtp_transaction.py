# SPDX-License-Identifier: Apache-2.0
"""One transaction over an open session: MAIL, RCPT …, DATA, content, and what each reply means.

    1 ask of the hop    SIZE, 8BITMIME, BINARYMIME, SMTPUTF8, REQUIRETLS: what it cannot take is never sent
    2 envelope          one group where PIPELINING is offered (RFC 2920 §3.1), else one command a time
    3 content           only if a recipient was accepted; by BDAT if it is binary
    4 the dot           its reply is the outcome of everyone accepted

Promises: a refused recipient keeps its own reply; a 421 ends the session wherever it comes; a surprising code is never read
as yes. Recipients that were too many are left open for the next transaction, so long as this one took somebody.
Fails with: `StaleSession`: a kept session was dead before MAIL was accepted; nothing has happened yet.
RFCs: 5321 §4.5.4.1, 1870 §6.2, 6152 §3, 3030 §2 and §3, 6531 §3.4, 3461 §5.2 (DSN passed on, never invented), 8689 §4.2.1.
Not here: reaching the host (`smtp.py`), the meaning of failures (`smtp_outcomes.py`).
"""

import asyncio
import re
from collections.abc import Iterator, Sequence

from gateway.delivery.smtp_outcomes import TOO_MANY, Ledger
from gateway.delivery.smtp_session import Content, HostRefused, Session
from gateway.delivery.smtp_wire import Answer, SessionFault
from gateway.mail import reply
from gateway.mail.address import Address
from gateway.mail.job import Due, Job
from gateway.mail.message import Message
from gateway.mail.notify import ascii_orcpt
from gateway.mail.reply import MailError
from gateway.mail.value import value

_UNSAFE = re.compile(rb"[\x00-\x20\x7f]")
_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")
CLOSING = 421


class StaleSession(Exception):
    """A kept session turned out dead when it was used again."""


@value(frozen=True, slots=True)
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
        return cls(job, Content.of(message, binary=job.binary), message.size, eight_bit, job.smtputf8 and not ascii_header)


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
    offers_utf8 = "SMTPUTF8" in offered
    if not offers_utf8 and (letter.utf8_header or not job.sender.local.isascii()):
        raise MailError(reply.NEXT_HOP_NO_SMTPUTF8)  # RFC 6531 §3.5: no downgrade on the way
    good = list(places)
    beyond = [place for place in places if not job.recipients[place].address.local.isascii()]
    if beyond and not offers_utf8:
        ledger.message_refused(beyond, reply.NEXT_HOP_NO_SMTPUTF8, remote=False)
        good = [place for place in places if place not in beyond]
    addresses = (job.sender, *(job.recipients[place].address for place in good))
    # A domain could always go as A-labels; where it need not, it goes as it came.
    utf8 = offers_utf8 and (letter.utf8_header or any(address.needs_smtputf8 for address in addresses))
    if job.require_tls and not session.protected:
        raise MailError(reply.TLS_NEEDED)
    lines = [b"MAIL FROM:<" + _path(job.sender, utf8=utf8) + b">" + _parameters(letter, offered, utf8=utf8)]
    dsn = "DSN" in offered
    for due in (job.recipients[place] for place in good):
        lines.append(b"RCPT TO:<" + _path(due.address, utf8=utf8) + b">" + (_wishes(due, utf8=utf8) if dsn else b""))
    if not job.binary:
        lines.append(b"DATA")
    return good, lines


def _parameters(letter: Letter, offered: dict[str, str], *, utf8: bool) -> bytes:
    parameters = b""
    if "SIZE" in offered:
        limit = offered["SIZE"].strip()
        if limit.isdecimal() and 0 < int(limit) < letter.size:  # RFC 1870 §6.1; 0 is no limit
            raise MailError(reply.NEXT_HOP_SIZE)
        parameters += b" SIZE=%d" % letter.size
    if letter.job.binary:
        if not {"CHUNKING", "BINARYMIME"} <= offered.keys():
            raise MailError(reply.NEXT_HOP_NO_BINARY)  # RFC 3030 §3
        parameters += b" BODY=BINARYMIME"
    elif letter.eight_bit:
        if "8BITMIME" not in offered:
            raise MailError(reply.NEXT_HOP_NO_8BIT)  # RFC 6152 §3; to convert would break every signature
        parameters += b" BODY=8BITMIME"
    if utf8:
        parameters += b" SMTPUTF8"
    return parameters + _terms(letter.job, offered)


def _terms(job: Job, offered: dict[str, str]) -> bytes:
    """What the sender asked for, passed on as it came (RFC 3461 §5.2.1, RFC 8689 §4.2)."""
    terms = b""
    if "DSN" in offered:
        terms += b" RET=" + job.ret.encode() if job.ret else b""
        terms += b" ENVID=" + job.envid.encode() if job.envid else b""
    if job.require_tls and "REQUIRETLS" in offered:
        terms += b" REQUIRETLS"
    if _CONTROL.search(terms):
        raise MailError(reply.INTERNAL, "a parameter with a control character must not reach the wire")
    return terms


def _wishes(due: Due, *, utf8: bool) -> bytes:
    """NOTIFY and ORCPT as they came; what needs SMTPUTF8 is embedded where that is not used (RFC 6533 §3)."""
    wishes = " NOTIFY=" + ",".join(due.notify) if due.notify else ""
    if due.orcpt:
        wishes += " ORCPT=" + (due.orcpt if utf8 else ascii_orcpt(due.orcpt))
    encoded = wishes.encode()
    if _CONTROL.search(encoded):
        raise MailError(reply.INTERNAL, "a parameter with a control character must not reach the wire")
    return encoded


def _path(address: Address, *, utf8: bool) -> bytes:
    """An address for the wire. Where SMTPUTF8 is not used, its domain goes as A-labels (RFC 6531 §3.2)."""
    path = (str(address) if utf8 or address.domain.isascii() else f"{address.local}@{address.ascii_domain}").encode()
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
        # Behind a dot the transaction is over there too, whatever the reply was. RFC 3030 §2 does not say so of a refused BDAT.
        self._session.dirty = self._letter.job.binary and not answer.positive
        if answer.positive:
            # RFC 3461 §5.2.2: a host that knows DSN tells the sender itself; for another one it is up to us
            self._ledger.delivered(self._accepted, answer, "" if "DSN" in self._session.extensions else "relayed")
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
        if self._letter.job.binary:
            return True
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
        if self._session.pipelining and not self._letter.job.binary and (await self._ask("data")).code == 354:
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
