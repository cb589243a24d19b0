# SPDX-License-Identifier: Apache-2.0
"""A session from connect to disconnect: arrival, banner, the loop of commands, refusals, the end.

Promises: `Connected` and `Disconnected` come in pairs (one that was not let in, by a limit or for want of a PROXY header or
TLS, has only the second; one that was reset before we learnt its address neither); a fault of ours costs one command with
451 and the transaction, never the session; what CONNECT and HELO found out is the beginning of each transaction.
RFCs: 5321 §3.1 (banner), §4.2.4, §4.5.3; 2920 §3.2.
Not here: what a command does (`edge/session.py`), what comes before the banner (`edge/arrival.py`).
"""

import asyncio
from abc import abstractmethod
from dataclasses import dataclass, replace

from gateway.edge.arrival import Arrival
from gateway.edge.desk import Desk, End
from gateway.edge.greeting import banner
from gateway.edge.handover import rejected
from gateway.edge.lines import LineFault
from gateway.edge.offers import NOTHING
from gateway.edge.options import ListenerOptions
from gateway.edge.over import SessionOver
from gateway.edge.verbs import State, Verb, look_up
from gateway.mail import reply
from gateway.mail.address import Address
from gateway.mail.envelope import Transaction
from gateway.mail.events import Disconnected
from gateway.mail.reply import MailError, Reply
from gateway.mail.verdict import Phase, Verdict

_LINE_REPLIES = {
    LineFault.BARE: reply.BARE_NEWLINE,
    LineFault.CONTROL: reply.SYNTAX,
    LineFault.TOO_LONG: reply.LINE_TOO_LONG,
}


@dataclass(slots=True)
class Counts:
    """What a connection has done so far."""

    commands: int = 0
    idle: int = 0  # in a row, without a message
    errors: int = 0
    unknown: int = 0  # of these, commands that nobody knows
    surplus: int = 0  # recipients beyond the limit
    refused: int = 0  # recipients that were refused, for that or anything else
    messages: int = 0


class Lifecycle(Arrival):
    """The life of a session, but for what its commands do."""

    def __init__(self, loop: asyncio.AbstractEventLoop, desk: Desk, options: ListenerOptions, other: End | None = None) -> None:
        super().__init__(loop, desk, options, other)
        self.state = State.START
        self.counts = Counts()
        self.tx: Transaction | None = None
        self.offers = NOTHING
        self._began = desk.clock.monotonic()
        self.end = 0.0  # until when the transaction may last, in the loop's time

    @property
    def busy(self) -> bool:
        return self.tx is not None

    # --- beginning and end

    def gone(self) -> None:
        handler = self._handler_coroutine
        if self._other is not None and (handler is None or handler.done()):
            self._leave()

    async def _handle_client(self) -> None:
        try:
            await self.arrive()
            await self._greet()
            while True:
                await self._obey(await self.command(*self._patience()))
        except SessionOver as over:
            # To whom nothing can be said, before TLS, nothing is said here either.
            if self._unwanted and over.reason == "shutdown":
                over = SessionOver(over.last and reply.TOO_BUSY, "shed")
            self._reason = over.reason
            self.part(over.last, linger=over.reason != "quit")
        except asyncio.CancelledError:  # the connection is lost or was cut; this task ends, as it was told to
            ended = "tls" if self._link.broken else "shutdown" if self.leaving else "lost"
            self._reason = self._reason or ended
        except Exception as err:  # the border of this task: nothing may escape unseen  # noqa: BLE001
            self._reason = "fault"
            self.desk.trouble(err, "session", session=self.client.session)
            self.cut()
        finally:
            if self._link.lost:
                self._leave()

    def _leave(self) -> None:
        """Both the task and the connection are gone."""
        desk = self.desk
        self._watch.dismiss()
        desk.forget(self)
        counts, now = self.counts, desk.clock
        desk.events.emit(
            Disconnected(
                time=now.now(),
                client=self.client,
                reason=self._reason or "lost",
                seconds=now.monotonic() - self._began,
                messages=counts.messages,
                commands=counts.commands,
            )
        )

    async def _greet(self) -> None:
        """The banner, unless the client speaks first or is not welcome."""
        if self.options.greeting_delay:
            await self._keep_silent(self.options.greeting_delay)
        await self.welcome()

    async def welcome(self) -> None:
        """The banner, or what the policy says in its place."""
        try:
            await self.judge(Phase.CONNECT, self.met)
        except MailError as err:
            # RFC 5321 §3.1: 554 in place of the banner, then only QUIT; a temporary no is 421 and the end.
            if err.reply.temporary:
                raise SessionOver(replace(err.reply, code=421), "refused") from err
            self.state = State.CLOSED
            self.say(replace(err.reply, code=554))
            return
        except Exception as err:  # a fault of the policy: the client may come again
            self.desk.trouble(err, "policy", session=self.client.session)
            raise SessionOver(reply.TOO_BUSY, "fault") from err
        self.say_raw(banner(self.setup.settings.hostname))

    async def _keep_silent(self, seconds: float) -> None:
        """A client that speaks before the banner does not listen to replies either (RFC 5321 §3.1 has it wait)."""
        until = self.loop.time() + seconds
        while True:
            if self.has_input:
                raise SessionOver(reply.SPOKE_TOO_EARLY, "early")
            if self.leaving:
                raise SessionOver(reply.SHUTTING_DOWN, "shutdown")
            if self.ended:
                raise SessionOver(None, "lost")
            if (left := until - self.loop.time()) <= 0:
                return
            await self.wait(left)

    # --- one command

    @abstractmethod
    async def perform(self, verb: Verb, argument: bytes) -> None:
        """Do what a command says, and answer. Raises MailError for a no, SessionOver for the end."""

    def begin_transaction(self, tx: Transaction) -> None:
        """MAIL was accepted."""
        self.tx, self.state = tx, State.IN_MAIL
        self.end = self.loop.time() + self.limits.transaction_timeout

    def reset(self) -> None:
        """No transaction: what was begun is forgotten."""
        self.tx = None
        if self.state is not State.START:
            self.state = State.GREETED

    def mail_in_hand(self) -> Transaction:
        """The transaction that the table of verbs has made sure of."""
        if self.tx is None:
            raise MailError(reply.BAD_SEQUENCE)
        return self.tx

    @abstractmethod
    async def check_author(self, tx: Transaction) -> None:
        """On a listener for submission: may this message be from whom it says? Raises MailError, recorded."""

    async def judge(self, phase: Phase, tx: Transaction, recipient: Address | None = None) -> Verdict:
        """Ask the policy. Raises MailError, and records it, if the answer is no."""
        verdict = await self.setup.policy.decide(phase, tx)
        if verdict.stops:
            raise MailError(rejected(self.desk, phase, tx, verdict, recipient=recipient))
        return verdict

    def _patience(self) -> tuple[float, Reply]:
        """How long the client may take for the next command, and what it hears if it takes longer."""
        patience = self.setup.settings.limits.command_timeout
        if self.tx is not None and (left := self.end - self.loop.time()) <= patience:
            return left, reply.TOO_SLOW
        return patience, reply.IDLE

    async def _obey(self, line: bytes | LineFault) -> None:
        self.counts.commands += 1
        tx = self.tx
        try:
            if isinstance(line, LineFault):
                raise self._complaint(line)
            verb, argument = look_up(line, self.state, esmtp=self.client.esmtp)
            if verb.counted:
                self._count_idle()
            await self.perform(verb, argument)
            if verb.ends_group:
                self.send_replies()
                if self._paused:
                    await self.flush(self.limits.command_timeout)
        except SessionOver:
            raise
        except MailError as err:
            await self._say_no(err.reply)
        except Exception as err:  # a fault of ours costs one transaction, not the session  # noqa: BLE001
            self.desk.trouble(err, "command", session=self.client.session, queue_id=tx.id if tx else None)
            self.reset()
            await self._say_no(reply.INTERNAL)

    def _complaint(self, fault: LineFault) -> MailError:
        if fault is LineFault.TLS or fault is LineFault.PROXY:
            return SessionOver(reply.NOT_SMTP, "not smtp")
        if fault is LineFault.ENDLESS:
            return SessionOver(reply.LINE_TOO_LONG, "endless line")
        if fault is LineFault.CHUNK:
            return SessionOver(reply.SYNTAX, "unreadable")
        return MailError(_LINE_REPLIES[fault])

    def _count_idle(self) -> None:
        self.counts.idle += 1
        if self.limits.commands and self.counts.idle > self.limits.commands:
            raise SessionOver(reply.TOO_MANY_COMMANDS, "commands")

    async def _say_no(self, answer: Reply) -> None:
        """Refuse a command; too many refusals for good are the end. Deferrals are the client's business and not counted."""
        if answer.code == 421:
            raise SessionOver(answer, "refused")
        if answer is reply.NOT_SMTP:
            raise SessionOver(answer, "not smtp")
        if answer is reply.UNKNOWN_COMMAND:
            self.counts.unknown += 1
            if self.limits.unknown_commands and self.counts.unknown > self.limits.unknown_commands:
                raise SessionOver(reply.TOO_MANY_UNKNOWN, "unknown commands")
        if answer.permanent:
            self.counts.errors += 1
            if self.limits.errors and self.counts.errors > self.limits.errors:
                raise SessionOver(reply.TOO_MANY_ERRORS, "errors")
        if self.options.tarpit:
            await self.nap(self.options.tarpit)
        self.say(answer)
