# SPDX-License-Identifier: Apache-2.0
"""The SMTP transport: one job to one next hop, over a kept session or a new one.

    1 reuse      an idle session to the same hop; if it is dead before MAIL is accepted, go on with
    2 find       the hosts of the hop, best first
    3 open       the first that will have us; TLS where offered, once more in clear where TLS fails; mail under REQUIRETLS goes
                 over verified TLS only, to a host that passes the requirement on
    4 transact   as many transactions as the recipients need

Promises: never raises; one outcome a recipient, in their order; a recipient that the hop has taken is reported even when
the attempt is cancelled, and one whose final dot went unanswered is reported as ambiguous.
RFCs: 5321 §5.1 (hosts in order), §4.5.4.1, 3207, 7504 (521), 8689 §4.2.1 and §5.
Not here: meaning of failures (`smtp_outcomes.py`), the dialogue (`smtp_transaction.py`), concurrency (`shaping.py`).
"""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from gateway.delivery.mx import Host, HostFinder
from gateway.delivery.pool import Pool
from gateway.delivery.smtp_outcomes import Ledger
from gateway.delivery.smtp_session import HostRefused, Session, SessionSettings
from gateway.delivery.smtp_transaction import Letter, StaleSession, transact
from gateway.delivery.smtp_wire import SessionFault, TlsFault, Unprotected
from gateway.mail import reply
from gateway.mail.events import Trouble
from gateway.mail.job import Job, NextHop, Outcome
from gateway.mail.message import Message
from gateway.mail.reply import MailError
from gateway.ports import Clock, EventSink

VERIFIED, REQUIRETLS = "+tls", "+requiretls"  # what mail may need of a session; kept ones are apart by it


def _needs(job: Job) -> str:
    """RFC 8689 §5: a notice under REQUIRETLS is not lost because a host has not heard of that; TLS it needs all the same."""
    if not job.require_tls:
        return ""
    return REQUIRETLS if job.sender else VERIFIED


class SmtpTransport:
    """For hops of kind "smtp" (a route's host) and "mx" (a domain)."""

    def __init__(self, finder: HostFinder, settings: SessionSettings, *, clock: Clock, events: EventSink) -> None:
        self._finder = finder
        self._settings = settings
        self._options = settings.options
        self._clear = replace(settings, tls=None)
        self._pool = Pool(settings.options, clock)
        self._clock = clock
        self._events = events

    async def deliver(self, job: Job, message: Message, hop: NextHop) -> Sequence[Outcome]:
        """See `ports.Transport`. A cancellation is swallowed if a recipient has an outcome by then, and raised otherwise."""
        ledger = Ledger(job, self._clock)
        try:
            letter = Letter.of(job, message)
            while places := ledger.open[: self._options.recipients_per_transaction]:
                await self._send(letter, ledger, places, hop)
        except MailError as err:  # no host to go to, or content that must not go out
            ledger.no_host(err)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if ledger.untouched or task is None:
                raise
            task.uncancel()
        except Exception as err:  # noqa: BLE001 - task border: a fault of ours must not lose the outcomes of those already served
            ledger.trouble = f"{hop}: {type(err).__name__}: {err}"
            ledger.message_refused(ledger.open, reply.INTERNAL, remote=False)
        if ledger.trouble:
            self._events.emit(Trouble(time=self._clock.now(), area="delivery", detail=ledger.trouble, id=job.id))
        return ledger.all()

    async def close(self) -> None:
        """Close idle sessions now and the others as they are done."""
        self._pool.close()

    async def _send(self, letter: Letter, ledger: Ledger, places: list[int], hop: NextHop) -> None:
        """One transaction. A kept session that turns out dead is replaced once, at once."""
        needs = _needs(letter.job)
        key = f"{hop}{needs}"
        session = self._pool.take(key)
        try:
            if session is not None:
                try:
                    await transact(session, letter, ledger, places)
                    return
                except StaleSession:
                    session = None
            session = await self._open(hop, ledger, needs)
            if session is not None:
                await transact(session, letter, ledger, places)
        finally:
            self._pool.give(key, session)

    async def _open(self, hop: NextHop, ledger: Ledger, needs: str) -> Session | None:
        """A session with the best host that will have us; None if there is none: the ledger says why.

        Raises MailError if there is no host to try, or if it is ourselves.
        """
        tried: list[tuple[Host, MailError]] = []
        end = self._clock.monotonic() + self._options.connect_budget
        for host in (await self._finder.find(hop))[: self._options.addresses_per_attempt]:
            if tried and self._clock.monotonic() >= end:
                break
            try:
                session = await self._open_host(host, needs)
            except (SessionFault, HostRefused, Unprotected) as err:
                tried.append((host, err))
                continue
            if host.found and session.banner_name == self._settings.hostname.lower():
                session.quit()  # RFC 5321 §5.1: MX data must not lead back to us, under whatever address
                raise MailError(reply.MX_LOOP, f"{host} is this host")
            return session
        ledger.host_failed(tried)
        return None

    async def _open_host(self, host: Host, needs: str) -> Session:
        """A session, in clear if TLS fails: opportunistic TLS is no reason to keep mail back. Unless the mail needs more."""
        if needs:
            return await Session.open_protected(host, self._settings, supported=needs == REQUIRETLS)
        try:
            return await Session.open(host, self._settings)
        except TlsFault as err:
            self._events.emit(Trouble(time=self._clock.now(), area="delivery.tls", detail=f"{host}: {err}; going on in clear"))
            return await Session.open(host, self._clear)
