# SPDX-License-Identifier: Apache-2.0
"""Content: DATA and BDAT, from the command to the final reply.

Promises: when a message was taken or refused its transaction is over; a spool file is removed unless the queue has taken
it over; the octets of a chunk are read before its reply, whatever that is, so that content is never taken for commands;
once the queue was asked to store, nothing that happens to the connection stops it.
Fails with: `MailError` for a refused message or chunk, `SessionOver` for the end.
RFCs: 5321 §4.1.1.4 (DATA), 3030 §2 (BDAT), §3 (BINARYMIME).
Not here: the rules of content (`edge/content.py`), what storing comes to (`edge/handover.py`).

After a refused chunk there is no transaction. Those behind it may be on their way already (RFC 3030 §2: a server must be
prepared to discard them), so up to the LAST one they get 503 without being counted as errors of the client.
"""

import asyncio
from typing import cast

from gateway.edge.content import ChunkReader, ContentLimits, ContentReader, DataReader, Waste
from gateway.edge.handover import hand_over, reject_message
from gateway.edge.incoming import Incoming
from gateway.edge.lifecycle import Lifecycle
from gateway.edge.over import SessionOver
from gateway.edge.trace import LARGE_HEADER, stamp
from gateway.edge.verbs import VERBS, State
from gateway.mail import reply
from gateway.mail.envelope import BodyType, Transaction
from gateway.mail.reply import MailError, Reply
from gateway.mail.verdict import Phase, Verdict

SIZE_DIGITS = 20  # of a chunk, as RFC 1870 §3 has them of a message; RFC 3030 §2 sets no end
# A chunk larger than that many messages of the greatest size is not read for the sake of its reply.
UNREADABLE = 4
_START_CONTENT = reply.START_CONTENT.wire()
_OBEYED = VERBS[b"BDAT"].allowed


def parse_chunk(argument: bytes) -> tuple[int, bool]:
    """`size [LAST]` (RFC 3030 §2). Raises SessionOver for anything else.

    Who cannot tell the size of a chunk cannot tell its end: all that follows could be content or commands, and the only
    safe thing is not to read it.
    """
    size, _, mark = argument.partition(b" ")
    if not size.isdigit() or len(size) > SIZE_DIGITS or mark.strip(b" ").upper() not in (b"", b"LAST"):
        raise SessionOver(reply.SYNTAX, "unreadable")
    return int(size), bool(mark)


class Transfer(Lifecycle):
    """The commands that bring content."""

    _incoming: Incoming | None = None  # the message that comes in; its file is ours to remove
    _chunks: ChunkReader | None = None  # its reader, if it comes by BDAT

    async def data(self, argument: bytes) -> None:
        """RFC 5321 §4.1.1.4. Whatever comes of it, the transaction is over."""
        if self.state is State.NO_RCPT:
            raise MailError(reply.NO_RECIPIENTS)
        tx = self.mail_in_hand()
        if tx.body is BodyType.BINARY:  # RFC 3030 §3: it needs BDAT, and may still come that way
            raise MailError(reply.BAD_SEQUENCE)
        incoming = self._incoming = self._spooled(tx, DataReader(self._content_limits()))
        self.say_raw(_START_CONTENT)
        try:
            await self.receive(incoming, self.limits.data_timeout, self.end)
            await self._conclude(tx, incoming)
        except MailError:
            raise
        except Exception as err:  # recorded as what became of the message, then dealt with as any fault of ours
            self._record_fault(tx, incoming, err)
            raise
        finally:
            self.reset()

    async def bdat(self, argument: bytes) -> None:
        """RFC 3030 §2. One chunk; with LAST the message is whole."""
        size, last = parse_chunk(argument)
        if (answer := self._objection(size)) is not None:
            await self._waste(size)
            self._decline(answer, last=last)
            return
        tx = self.mail_in_hand()
        try:
            await self._take_chunk(tx, size, last=last)
        except Exception as err:  # as in `data`; and whatever it was, no chunk may follow this one
            if self._incoming is not None and not isinstance(err, MailError):
                self._record_fault(tx, self._incoming, err)
            self._break_off(last=last)
            raise
        if last:
            self.reset()

    def reset(self) -> None:
        self._forget()
        super().reset()

    def _leave(self) -> None:
        self._forget()
        super()._leave()

    # --- chunks

    def _objection(self, size: int) -> Reply | None:
        """Why a chunk is not taken, as far as it can be said before it is read."""
        if 0 < UNREADABLE * self.limits.message_size < size:
            if self.tx is not None:
                reject_message(self.desk, self.tx, MailError(reply.TOO_BIG), "content.too_big", size)
            raise SessionOver(reply.TOO_BIG, "endless chunk")
        if self.state not in _OBEYED or not self.client.esmtp:
            return reply.BAD_SEQUENCE
        return reply.NO_RECIPIENTS if self.state is State.NO_RCPT else None

    async def _take_chunk(self, tx: Transaction, size: int, *, last: bool) -> None:
        incoming, chunks = self._incoming, self._chunks
        if incoming is None or chunks is None:
            chunks = self._chunks = ChunkReader(self._content_limits(), binary=tx.body is BodyType.BINARY)
            incoming = self._incoming = self._spooled(tx, chunks)
            self.state = State.IN_CHUNKS
        chunks.begin(size, last=last)
        if size:
            await self.receive(incoming, self.limits.data_timeout, self.end)
        if incoming.wants_storing:  # `receive` looks at this only as long as it has to wait for more
            await incoming.store()
        if last:
            await self._conclude(tx, incoming)
            return
        if not size:
            self._count_idle()
        try:
            incoming.check()
        except MailError as err:
            raise self._refused_content(tx, incoming, err) from err
        self.say(reply.CHUNK_TAKEN.but(f"{size} {reply.CHUNK_TAKEN.text}"))

    async def _waste(self, size: int) -> None:
        """Read a chunk that is not taken, under the same deadlines."""
        if not self.busy and self.state is not State.CHUNKS_REFUSED:
            self.end = self.loop.time() + self.limits.transaction_timeout
        if size:
            waste = Incoming(Waste(size), self.setup.settings.spool_directory, "waste", self.desk.threads)
            await self.receive(waste, self.limits.data_timeout, self.end)

    def _decline(self, answer: Reply, *, last: bool) -> None:
        late = self.state is State.CHUNKS_REFUSED
        self._break_off(last=last)
        if not late:
            raise MailError(answer)
        self._count_idle()
        self.say(answer)

    def _break_off(self, *, last: bool) -> None:
        """A chunk was refused: the transaction is over."""
        if self.state in (State.START, State.CLOSED):
            return
        self.reset()
        if not last:
            self.state = State.CHUNKS_REFUSED

    # --- a message

    def _content_limits(self) -> ContentLimits:
        limits = self.limits
        return ContentLimits(limits.message_size, limits.line_length, limits.header_size, limits.header_fields)

    def _spooled(self, tx: Transaction, reader: ContentReader) -> Incoming:
        return Incoming(reader, self.setup.settings.spool_directory, tx.id, self.desk.threads)

    async def _conclude(self, tx: Transaction, incoming: Incoming) -> None:
        """All of it has come: judge, store, answer. Raises MailError if the answer is no."""
        verdict = await self._read_and_judge(tx, incoming)
        answer = await self._store(tx, verdict, incoming)
        if answer.positive:
            self.counts.messages += 1
            self.counts.idle = 0
        if self._link.lost:  # while it was stored: we were not cancelled then
            raise SessionOver(None, "lost")
        if not answer.positive:
            raise MailError(answer)
        self.say(answer)

    async def _read_and_judge(self, tx: Transaction, incoming: Incoming) -> Verdict:
        """The verdict on the message, which has our stamps then. Raises MailError if it is refused."""
        try:
            tx.message = await incoming.finish()
        except MailError as err:
            raise self._refused_content(tx, incoming, err) from err
        if self.options.role == "submission":
            await self.check_author(tx)
        verdict = await self.judge(Phase.DATA, tx)
        large = len(tx.message.header) > LARGE_HEADER
        hostname, now = self.setup.settings.hostname, self.desk.clock.now()
        tx.message = await asyncio.to_thread(stamp, tx, hostname, now) if large else stamp(tx, hostname, now)
        return verdict

    async def _store(self, tx: Transaction, verdict: Verdict, incoming: Incoming) -> Reply:
        """The final reply. The session itself waits for the queue, and a lost connection lets it alone until then: that is
        as safe as a task of its own, shielded from the session's end, and saves 6 to 11 µs a message."""
        this = cast("asyncio.Task[None]", self._handler_coroutine)
        self._link.storing = True
        self._incoming = None  # `hand_over` takes care of its file
        self.desk.hold(this)
        try:
            return await hand_over(self.desk, tx, verdict, incoming)
        finally:
            self.desk.release(this)
            self._link.storing = False

    def _refused_content(self, tx: Transaction, incoming: Incoming, err: MailError) -> MailError:
        """A refusal by the rules of content, or by the disk, recorded."""
        fault = incoming.reader.fault
        rule = f"content.{fault.name.lower()}" if fault else "edge.spool"
        return MailError(reject_message(self.desk, tx, err, rule, incoming.reader.size), err.detail)

    def _record_fault(self, tx: Transaction, incoming: Incoming, err: Exception) -> None:
        reject_message(self.desk, tx, MailError(reply.INTERNAL, repr(err)), "edge.fault", incoming.reader.size)

    def _forget(self) -> None:
        """What has come of a message goes away, with its file."""
        incoming, self._incoming, self._chunks = self._incoming, None, None
        if incoming is not None and incoming.on_disk:
            self.desk.own(incoming.remove())
