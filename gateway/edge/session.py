# SPDX-License-Identifier: Apache-2.0
"""The SMTP session: what each command does. The class that a listener makes for each connection.

Promises: order and outline of commands were checked before (`edge/verbs.py`); what the policy refuses is refused with
its reply; every new EHLO, TLS or transaction starts from fresh values, so nothing has to be reset field by field.
Fails with: `MailError` for a refused command, `SessionOver` for the end.
RFCs: 5321 §4.1.1, 1870, 2034, 3207, 6531.
Not here: from end of data to the final reply (`edge/handover.py`), what filters think (`filters/`).
"""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import ClassVar

from gateway.edge.commands import MailCommand, check_vrfy, parse_helo, parse_mail, parse_rcpt
from gateway.edge.greeting import extended_hello, hello, helping
from gateway.edge.handover import refusal, rejected
from gateway.edge.login import Login
from gateway.edge.offers import NOTHING, Offers
from gateway.edge.over import SessionOver
from gateway.edge.transfer import Transfer
from gateway.edge.verbs import State, Verb
from gateway.edge.xclient import Impersonation
from gateway.mail import reply
from gateway.mail.address import Address
from gateway.mail.envelope import Client, Transaction
from gateway.mail.reply import MailError, Reply
from gateway.mail.verdict import Phase

_OK, _SENDER_OK, _RECIPIENT_OK = reply.OK.wire(), reply.SENDER_OK.wire(), reply.RECIPIENT_OK.wire()
SURPLUS = 10  # times the limit of recipients that a connection may go beyond it
REFUSED = 1000  # refused recipients that a connection may have at least: a whole mailing that is greylisted


class SmtpSession(Transfer, Login, Impersonation):
    """The commands, in the order of RFC 5321 §4.1.1."""

    async def perform(self, verb: Verb, argument: bytes) -> None:
        await self._HANDLERS[verb.name](self, argument)

    async def _ehlo(self, argument: bytes) -> None:
        await self._meet(argument, esmtp=True)
        self.say_raw(extended_hello(self.setup.settings.hostname, self.offers))

    async def _helo(self, argument: bytes) -> None:
        await self._meet(argument, esmtp=False)
        self.say_raw(hello(self.setup.settings.hostname))

    async def _meet(self, argument: bytes, *, esmtp: bool) -> None:
        """RFC 5321 §4.1.4: a refused EHLO changes nothing, an accepted one clears everything."""
        client = replace(self.client, helo=parse_helo(argument), esmtp=esmtp)
        self.setup = self.desk.setup
        met = self._begin(client, self.first)
        await self.judge(Phase.HELO, met)
        self.client, self.met, self.state = client, met, State.GREETED
        self.offers = self._offer() if esmtp else NOTHING
        self.reset()

    def _offer(self) -> Offers:
        """What this client may use, as things are now."""
        settings, limits, tls = self.setup.settings, self.limits, self.client.tls
        return Offers(
            size=limits.message_size,
            recipients=limits.recipients,
            messages=limits.messages_per_connection,
            starttls=self.options.tls == "starttls" and settings.tls_context is not None and tls is None,
            auth=self.mechanisms(),
            require_tls=tls is not None,
            binary=settings.binary,
            xclient=self.offers_xclient(),
        )

    async def _mail(self, argument: bytes) -> None:
        command = parse_mail(argument, self.offers)
        self.setup = self.desk.setup  # a reload takes effect between two transactions
        limits = self.limits
        if limits.messages_per_connection and self.counts.messages >= limits.messages_per_connection:
            raise SessionOver(reply.TOO_MANY_MESSAGES, "messages")
        tx = self._begin(self.client, self.met, command)
        if limits.message_size and (command.size or 0) > limits.message_size:
            raise self._refused(Phase.MAIL, tx, reply.TOO_BIG, "limits.message_size")
        if pressure := self.desk.shedding.refuses_mail():
            raise self._refused(Phase.MAIL, tx, reply.NO_SPACE, f"shedding.{pressure}")
        await self.check_sender(tx)
        await self.judge(Phase.MAIL, tx)
        self.begin_transaction(tx)
        self.say_raw(_SENDER_OK)

    async def _rcpt(self, argument: bytes) -> None:
        tx = self.mail_in_hand()
        try:
            recipient = parse_rcpt(argument, self.offers, smtputf8=tx.smtputf8)
            if self.limits.recipients and len(tx.recipients) >= self.limits.recipients:
                raise self._too_many(tx, recipient.address)
            tx.candidate = recipient
            await self.judge(Phase.RCPT, tx, recipient.address)
            tx.recipients.append(tx.candidate)  # a filter may have put another in its place (postmaster without domain)
        except SessionOver:
            raise
        except MailError:
            if self.state is State.IN_MAIL:
                self.state = State.NO_RCPT
            self._count_refused()
            raise
        finally:
            tx.candidate = None
        self.state = State.HAS_RCPT
        self.say_raw(_RECIPIENT_OK)

    async def _rset(self, argument: bytes) -> None:
        self.reset()
        self.say_raw(_OK)

    async def _noop(self, argument: bytes) -> None:
        self.say_raw(_OK)

    async def _vrfy(self, argument: bytes) -> None:
        check_vrfy(argument)
        self.say(reply.NOT_VERIFIED)  # RFC 5321 §7.3: no answer that helps to collect addresses

    async def _help(self, argument: bytes) -> None:
        here = {"AUTH": self.options.role == "submission", "STARTTLS": self.options.tls == "starttls"}
        here["XCLIENT"] = self.offers_xclient()
        self.say_raw(helping(self.setup.settings.hostname, frozenset(verb for verb, known in here.items() if not known)))

    async def _quit(self, argument: bytes) -> None:
        raise SessionOver(reply.BYE, "quit")

    async def _starttls(self, argument: bytes) -> None:
        """RFC 3207 §4.2: afterwards nothing is known of the client but its address."""
        if self.client.tls is not None or not self.client.esmtp:
            raise MailError(reply.BAD_SEQUENCE)
        self.setup = self.desk.setup
        context = self.setup.settings.tls_context
        if self.options.tls != "starttls" or context is None:
            raise MailError(reply.TLS_NOT_OFFERED)
        self.say(reply.START_TLS)
        tls = await self.secure(context, self.limits.handshake_timeout)
        self.tx, self.state, self.offers = None, State.START, NOTHING
        self.client = replace(self.client, helo="", esmtp=False, tls=tls)
        self.disbelieve()
        self.met = self.first = self._begin(self.client, self.first)

    _HANDLERS: ClassVar[dict[str, Callable[["SmtpSession", bytes], Awaitable[None]]]] = {
        "EHLO": _ehlo,
        "HELO": _helo,
        "MAIL": _mail,
        "RCPT": _rcpt,
        "DATA": Transfer.data,
        "BDAT": Transfer.bdat,
        "AUTH": Login.auth,
        "XCLIENT": Impersonation.xclient,
        "RSET": _rset,
        "NOOP": _noop,
        "VRFY": _vrfy,
        "HELP": _help,
        "QUIT": _quit,
        "STARTTLS": _starttls,
    }

    # --- parts of them

    def _begin(self, client: Client, base: Transaction, command: MailCommand | None = None) -> Transaction:
        """A transaction that knows what was found out before it."""
        desk = self.desk
        auth, findings, now = list(base.auth), list(base.findings), desk.clock.now()
        if command is None:  # no mail yet: the id stands for the connection
            return Transaction(client=client, id=base.id, started=now, auth=auth, findings=findings)
        return Transaction(
            client=client,
            id=desk.new_id(),
            started=now,
            sender=command.sender,
            body=command.body,
            smtputf8=command.smtputf8,
            ret=command.ret,
            envid=command.envid,
            require_tls=command.require_tls,
            declared_size=command.size,
            auth=auth,
            findings=findings,
        )

    def _too_many(self, tx: Transaction, recipient: Address) -> MailError:
        """RFC 5321 §4.5.3.1.10: the client sends the rest in another transaction. One that never stops is not listened to."""
        self.counts.surplus += 1
        if self.counts.surplus > SURPLUS * self.limits.recipients:
            return SessionOver(reply.TOO_MANY_COMMANDS, "recipients")
        return self._refused(Phase.RCPT, tx, reply.TOO_MANY_RECIPIENTS, "limits.recipients", recipient)

    def _count_refused(self) -> None:
        """Deferrals are no errors of the client (`limits.errors`), but each is recorded: nobody may ask for ever."""
        self.counts.refused += 1
        if self.counts.refused - self.counts.surplus > max(REFUSED, self.limits.recipients):
            raise SessionOver(reply.TOO_MANY_COMMANDS, "recipients")

    def _refused(self, phase: Phase, tx: Transaction, answer: Reply, rule: str, recipient: Address | None = None) -> MailError:
        """A refusal by a limit of our own, recorded."""
        return MailError(rejected(self.desk, phase, tx, refusal(answer, rule), recipient=recipient))
