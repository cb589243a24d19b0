# SPDX-License-Identifier: Apache-2.0
"""A session from connect to disconnect: admission, banner, the loop of commands, refusals, the end.

Promises: a connection is counted as long as it lives; `Connected` and `Disconnected` come in pairs (one that was refused
by a limit has only the second, one that was reset before we learnt its address neither); a fault of ours costs one
command with 451 and the transaction, never the session; what CONNECT and HELO found out is the beginning of each transaction.
RFCs: 5321 §3.1 (banner), §4.2.4, §4.5.3; 2920 §3.2.
Not here: what a command does (`edge/session.py`), octets and deadlines (`edge/connection.py`).
"""

import asyncio
import random
from abc import abstractmethod
from dataclasses import dataclass, replace

from gateway.edge.connection import Connection
from gateway.edge.desk import Desk, End, Setup, peer
from gateway.edge.greeting import banner
from gateway.edge.handover import rejected
from gateway.edge.lines import LineFault
from gateway.edge.options import LimitsOptions, ListenerOptions
from gateway.edge.over import SessionOver
from gateway.edge.verbs import State, Verb, look_up
from gateway.mail import reply
from gateway.mail.address import Address
from gateway.mail.envelope import Client, Transaction
from gateway.mail.events import Connected, Disconnected
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
    surplus: int = 0  # recipients beyond the limit
    refused: int = 0  # recipients that were refused, for that or anything else
    messages: int = 0


class Lifecycle(Connection):
    """One client on one listener. `setup` is what its present transaction runs under."""

    def __init__(self, loop: asyncio.AbstractEventLoop, desk: Desk, options: ListenerOptions, other: End | None = None) -> None:
        super().__init__(loop)
        self.desk = desk
        self.options = options
        self._other = other  # None: the transport knows it
        self.setup: Setup = desk.setup
        self.state = State.START
        self.counts = Counts()
        self.client: Client
        self.first: Transaction  # what CONNECT has found out
        self.met: Transaction  # and what HELO has
        self.tx: Transaction | None = None
        self._began = desk.clock.monotonic()
        self.end = 0.0  # until when the transaction may last, in the loop's time
        self._reason = ""  # why the session is over

    @property
    def limits(self) -> LimitsOptions:
        return self.setup.settings.limits

    @property
    def busy(self) -> bool:
        return self.tx is not None

    # --- beginning and end

    def admit(self) -> bool:
        desk, now = self.desk, self.desk.clock.now()
        other = self._other = self._other or peer(self._wire.get_extra_info("peername"))
        if other is None:  # reset already. What it said could still be read, but nobody may be served as nobody.
            self.cut()
            return False
        ip, port = other
        trusted = self.setup.settings.trusts(ip)
        self.client = Client(
            session=f"{random.getrandbits(48):012x}",
            ip=ip,
            port=port,
            listener=self.options.address,
            role=self.options.role,
            connected=now,
            tls=self.tls_facts() if self.options.tls == "implicit" else None,
            trusted=trusted,
        )
        # Behind implicit TLS a connection was counted before its handshake (`edge/implicit.py`).
        if self.options.tls != "implicit" and not desk.admission.enter(ip, self.limits, trusted=trusted):
            self._reason = "refused"
            self.part(reply.TOO_MANY_CONNECTIONS, linger=False)
            return False
        desk.sessions.add(self)
        self.leaving = desk.draining
        self.first = self.met = Transaction(client=self.client, id=desk.new_id(), started=now)
        desk.events.emit(Connected(time=now, client=self.client))
        return True

    def gone(self) -> None:
        handler = self._handler_coroutine
        if self._other is not None and (handler is None or handler.done()):
            self._leave()

    async def _handle_client(self) -> None:
        try:
            await self._greet()
            while True:
                await self._obey(await self._next_command())
        except SessionOver as over:
            self._reason = over.reason
            self.part(over.last, linger=over.reason != "quit")
        except asyncio.CancelledError:  # the connection is lost or was cut; this task ends, as it was told to
            self._reason = self._reason or ("shutdown" if self.leaving else "lost")
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
        while (left := until - self.loop.time()) > 0:
            await self.wait(left)
            if self.has_input:
                raise SessionOver(reply.SPOKE_TOO_EARLY, "early")
            if self.leaving:
                raise SessionOver(reply.SHUTTING_DOWN, "shutdown")
            if self.ended:
                raise SessionOver(None, "lost")

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

    async def judge(self, phase: Phase, tx: Transaction, recipient: Address | None = None) -> Verdict:
        """Ask the policy. Raises MailError, and records it, if the answer is no."""
        verdict = await self.setup.policy.decide(phase, tx)
        if verdict.stops:
            raise MailError(rejected(self.desk, phase, tx, verdict, recipient=recipient))
        return verdict

    async def _next_command(self) -> bytes | LineFault:
        patience = self.limits.command_timeout
        if not self.busy:
            return await self.command(patience, reply.IDLE)
        left = self.end - self.loop.time()
        return await self.command(patience, reply.IDLE) if left > patience else await self.command(left, reply.TOO_SLOW)

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
        if fault is LineFault.TLS:
            return SessionOver(reply.NOT_SMTP, "not smtp")
        if fault is LineFault.ENDLESS:
            return SessionOver(reply.LINE_TOO_LONG, "endless line")
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
        if answer.permanent:
            self.counts.errors += 1
            if self.limits.errors and self.counts.errors > self.limits.errors:
                raise SessionOver(reply.TOO_MANY_ERRORS, "errors")
        if self.options.tarpit:
            await self.nap(self.options.tarpit)
        self.say(answer)
