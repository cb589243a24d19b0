# SPDX-License-Identifier: Apache-2.0
"""AUTH, and what a listener for submission asks of a sender: who he is, and that his addresses are his.

One AUTH: 1. may it be said here and now? 2. the exchange, which ends in a name and a password; 3. has this name or network
failed too often? 4. is the password right? 5. the client is that user until the connection ends.
Promises: no password is asked for, or taken, outside TLS; none is logged; a failure is answered late, and holds up nobody
but its own session; relay.networks do not spare anyone the login here (RFC 6409 §4.3).
Fails with: `MailError`; `SessionOver` after several failures.
RFCs: 3207 §4 (530), 4954 §4 to §6, 6409 §4.3 and §6.1 (whose sender), 8314 §3.3 (only under TLS).
Not here: mechanisms (`edge/sasl.py`), counting failures (`edge/lockout.py`), passwords (`infra/users.py`).
"""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from gateway.edge.authors import authors
from gateway.edge.handover import refusal, rejected
from gateway.edge.lifecycle import Lifecycle
from gateway.edge.lines import LineFault
from gateway.edge.over import SessionOver
from gateway.edge.sasl import MECHANISMS, Credentials, Exchange, SaslError, decode, encode
from gateway.edge.trace import LARGE_HEADER
from gateway.infra.passwords import outdated
from gateway.infra.userfile import User, name_key
from gateway.infra.users import Unavailable, Users
from gateway.mail import reply
from gateway.mail.address import Address
from gateway.mail.envelope import Transaction
from gateway.mail.events import AuthAttempted
from gateway.mail.reply import MailError, Reply, clean
from gateway.mail.verdict import Phase

FAILURES = 3  # of one session; an AUTH after that is answered 421
DELAY_MAX = 30.0  # seconds: clients give up on replies that come later than some
SHOWN = 64  # characters of a name that failed, in the log


class Login(Lifecycle):
    """The command AUTH, and the rules of submission."""

    _failures = 0  # logins of this session that were refused

    def mechanisms(self) -> tuple[str, ...]:
        """What EHLO offers in the present state of the session; empty where there is no AUTH."""
        if self._users is None or self.client.tls is None:
            return ()
        return tuple(MECHANISMS)

    async def auth(self, argument: bytes) -> None:
        """RFC 4954 §4."""
        users, mechanism, initial = self._wanted(argument)
        try:
            credentials = await self._converse(MECHANISMS[mechanism](), initial)
        except SaslError as err:
            self._tell(mechanism, "malformed", detail=str(err))
            raise MailError(reply.AUTH_MALFORMED, str(err)) from err
        user = await self._judge_login(users, mechanism, credentials)
        self.client = replace(self.client, user=user.name)
        self._tell(mechanism, "ok", name=user.name, old_hash=outdated(user.hash))
        self.say(reply.AUTH_OK)

    async def check_sender(self, tx: Transaction) -> None:
        """May this client send under this address? Raises MailError, recorded, if not.

        The null sender is anyone's: mail programs send notices of reading with it (RFC 8098 §3).
        """
        if self.options.role != "submission":
            return
        if not self.client.user:
            if self.offers.starttls:  # to log in it has to do that first; what comes next, EHLO tells it then
                raise self._refuse(Phase.MAIL, tx, reply.STARTTLS_REQUIRED, "submission.tls")
            raise self._refuse(Phase.MAIL, tx, reply.AUTH_REQUIRED, "submission.login")
        if tx.sender and not await self._own(Phase.MAIL, tx, [tx.sender]):
            raise self._refuse(Phase.MAIL, tx, reply.NOT_YOUR_SENDER, "submission.sender")

    async def check_author(self, tx: Transaction) -> None:
        """Is its From the user's, where `submission.check_from` wants that? Raises MailError, recorded, if not."""
        if self.setup.settings.submission.check_from:
            await self._check_from(tx)

    # --- 1. may it be said?

    @property
    def _users(self) -> Users | None:
        """Who may log in on this listener; None if nobody can."""
        return self.setup.settings.users if self.options.role == "submission" else None

    def _wanted(self, argument: bytes) -> tuple[Users, str, bytes | None]:
        """The mechanism and the initial response of a command that is in place. Raises MailError."""
        users = self._users
        if users is None:
            raise MailError(reply.NOT_IMPLEMENTED)
        if not self.client.esmtp or self.busy:
            raise MailError(reply.BAD_SEQUENCE)
        if self.client.user:
            raise MailError(reply.ALREADY_AUTHENTICATED)
        if self.client.tls is None:
            raise MailError(reply.AUTH_NEEDS_TLS)
        if self._failures >= FAILURES:
            raise SessionOver(reply.TOO_MANY_LOGINS, "auth")
        word, blank, initial = argument.partition(b" ")
        if not word:
            raise MailError(reply.SYNTAX)
        mechanism = word.decode("ascii", "replace").upper()
        if mechanism not in MECHANISMS:
            raise MailError(reply.AUTH_MECHANISM)
        if not blank:
            return users, mechanism, None
        return users, mechanism, b"" if initial == b"=" else initial  # RFC 4954 §4: "=" is the empty one

    # --- 2. the exchange

    async def _converse(self, exchange: Exchange, initial: bytes | None) -> Credentials:
        """Challenges and responses to their end. Raises SaslError for a response that is none."""
        challenge = next(exchange)
        while True:
            response = initial if initial is not None else await self._response(challenge)
            initial = None
            try:
                challenge = exchange.send(decode(response))
            except StopIteration as end:
                credentials: Credentials = end.value
                return credentials

    async def _response(self, challenge: bytes) -> bytes:
        self.say(reply.AUTH_CHALLENGE.but(encode(challenge)))
        line = await self.command(self.limits.command_timeout, reply.IDLE)
        match line:
            case LineFault.TOO_LONG:
                raise MailError(reply.AUTH_LINE_TOO_LONG)  # RFC 4954 §4
            case LineFault.ENDLESS:
                raise SessionOver(reply.LINE_TOO_LONG, "endless line")
            case LineFault.BARE:
                raise MailError(reply.BARE_NEWLINE)
            case LineFault():
                raise SaslError("not base64")
            case b"*":
                raise MailError(reply.AUTH_CANCELLED)
        return line

    # --- 3. and 4. is it he?

    async def _judge_login(self, users: Users, mechanism: str, given: Credentials) -> User:
        """The user. Raises MailError, late, if it is not he; at once if that cannot be said."""
        desk, ip = self.desk, self.client.ip
        counted = _counted(given.name)
        if not desk.lockout.enter(counted, ip, desk.clock.monotonic(), self.setup.settings.submission):
            raise await self._failed(mechanism, "locked", given.name, reply.AUTH_LOCKED)
        try:
            user = await users.verify(given.name, given.password)
        except Unavailable as err:
            desk.lockout.not_judged(counted, ip)
            self._tell(mechanism, "unavailable", name=clean(given.name, SHOWN), detail=str(err))
            raise MailError(reply.AUTH_UNAVAILABLE, str(err)) from err
        if user is None:
            raise await self._failed(mechanism, "failed", given.name, reply.AUTH_FAILED)
        desk.lockout.succeeded(counted, ip)
        return user

    async def _failed(self, mechanism: str, result: str, name: str, answer: Reply) -> MailError:
        """Count and tell it, and let time pass: each failure of a session takes twice as long as the one before."""
        self._tell(mechanism, result, name=clean(name, SHOWN))
        await self.nap(min(self.setup.settings.submission.failure_delay * 2**self._failures, DELAY_MAX))
        self._failures += 1
        return MailError(answer)

    def _tell(self, mechanism: str, result: str, *, name: str = "", detail: str = "", old_hash: bool = False) -> None:
        self.desk.events.emit(
            AuthAttempted(
                time=self.desk.clock.now(),
                client=self.client,
                name=name,
                mechanism=mechanism,
                result=result,
                detail=detail,
                old_hash=old_hash,
            )
        )

    # --- whose address is it?

    async def _own(self, phase: Phase, tx: Transaction, addresses: Sequence[Address]) -> bool:
        """As the file of users says now: what was taken from the user there is not his any more.

        Raises MailError 451, recorded, if it cannot be read: that is our fault, and not what the address is refused for.
        """
        try:
            user = await self._users.find(self.client.user) if self._users else None
        except Unavailable as err:
            raise self._refuse(phase, tx, reply.INTERNAL, "submission.users") from err
        return user is not None and all(map(user.owns, addresses))

    async def _check_from(self, tx: Transaction) -> None:
        header = tx.message.header if tx.message else b""
        found = await asyncio.to_thread(authors, header) if len(header) > LARGE_HEADER else authors(header)
        if not found or not await self._own(Phase.DATA, tx, found):
            raise self._refuse(Phase.DATA, tx, reply.NOT_YOUR_FROM, "submission.from")

    def _refuse(self, phase: Phase, tx: Transaction, answer: Reply, rule: str) -> MailError:
        """A refusal by a rule of submission, recorded."""
        return MailError(rejected(self.desk, phase, tx, refusal(answer, rule)))


def _counted(name: str) -> str:
    """Under which name a failure counts: all spellings of one name are one; what cannot be a name is one, too."""
    try:
        return name_key(name)
    except ValueError:
        return ""
