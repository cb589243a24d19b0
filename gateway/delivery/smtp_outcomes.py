# SPDX-License-Identifier: Apache-2.0
"""What a failure means for whom: the outcomes of one attempt, one place a recipient.

Each kind of failure has one function, named by how far it reaches: `session_failed`, `host_failed`, `content_lost`,
`message_refused`, `recipient_refused`. Its first sentence says who is concerned, whether the session can go on, and
whether another host is tried.

Promises: a place is filled once (only `session_failed` by confusion may take refusals back); by the end all are.
RFCs: 5321 §4.2.1 (first digit only), §4.5.3.1.10 (552 to RCPT), §4.5.4.1 (state is per recipient).
Not here: when the next attempt is due (the queue).
"""

from collections.abc import Collection, Sequence
from dataclasses import replace

from gateway.delivery.mx import Host
from gateway.delivery.smtp_wire import Answer, SessionFault, Unprotected
from gateway.mail import reply
from gateway.mail.job import Deferred, Delivered, Failed, Job, Outcome
from gateway.mail.reply import MailError, Reply
from gateway.ports import Clock

TOO_MANY = frozenset({452, 552})  # RFC 5321 §4.5.3.1.10: both may only mean "too many recipients in one transaction"


def explained(error: MailError) -> Reply:
    """The reply of an error with its detail, for the queue's memory and the bounce."""
    return error.reply.but(f"{error.reply.text}: {error.detail}") if error.detail else error.reply


class Ledger:
    """The outcomes so far. Places are indexes into `job.recipients`."""

    def __init__(self, job: Job, clock: Clock) -> None:
        self._clock = clock
        self._started = clock.monotonic()
        self._outcomes: list[Outcome | None] = [None] * len(job.recipients)
        self._hop = ""
        self._tls = ""
        self.trouble = ""  # what went wrong on our side, for the operator

    def at(self, hop: str, tls: str = "") -> None:
        """What follows is about this host; none if empty."""
        self._hop = hop
        self._tls = tls

    @property
    def open(self) -> list[int]:
        """Places without an outcome yet."""
        return [place for place, outcome in enumerate(self._outcomes) if outcome is None]

    @property
    def untouched(self) -> bool:
        return all(outcome is None for outcome in self._outcomes)

    def all(self) -> Sequence[Outcome]:
        """Every outcome, in the order of the job; a place left open is deferred, uncounted."""
        return [
            outcome or Deferred(reply=reply.CONNECTION_LOST, hop=self._hop, counted=False, seconds=self._seconds())
            for outcome in self._outcomes
        ]

    # --- good news

    def delivered(self, places: Sequence[int], answer: Answer, action: str = "relayed") -> None:
        """These recipients are the next hop's now; the session can go on. `action` as in `Delivered`."""
        outcome = Delivered(
            reply=answer.reply, hop=self._hop, remote=True, tls=self._tls, seconds=self._seconds(), action=action
        )
        for place in places:
            self._outcomes[place] = outcome

    # --- failures, by reach

    def recipient_refused(self, place: int, answer: Answer) -> None:
        """Only this recipient is deferred (4yz, 552) or fails (5yz); the transaction goes on; no other host is tried."""
        given = answer.reply
        if given.code in TOO_MANY:
            given = replace(given, code=452)
        self._refuse([place], given, remote=True)

    def message_refused(self, places: Sequence[int], given: Reply, *, remote: bool) -> None:
        """All these recipients are deferred (4yz) or fail (5yz); the session can be reset and used; no other host is tried."""
        self._refuse(places, given, remote=remote)

    def content_lost(self, detail: str) -> None:
        """Everyone without an outcome is deferred: we cannot read what we are to send; the session is closed."""
        self.trouble = detail
        self._refuse(self.open, reply.CONTENT_LOST, remote=False)

    def session_failed(
        self, fault: MailError, *, ambiguous: Collection[int] = (), void: Sequence[int] = (), remote: bool = False
    ) -> None:
        """Everyone without an outcome is deferred; the session is closed; no other host is tried in this attempt.

        `ambiguous` are the places whose final dot was sent but not answered; `void` those whose refusals cannot be
        trusted, because the replies of their transaction came out of step.
        """
        for place in void:
            self._outcomes[place] = None
        given = fault.reply if remote else explained(fault)
        for place in self.open:
            self._outcomes[place] = Deferred(
                reply=given,
                hop=self._hop,
                remote=remote,
                tls=self._tls,
                seconds=self._seconds(),
                ambiguous=place in ambiguous,
            )

    def host_failed(self, tried: Sequence[tuple[Host, MailError]]) -> None:
        """No host would have us and none is left: everyone is deferred, or fails if each host said 5yz (RFC 5321 §3.1)."""
        temporary = [item for item in tried if isinstance(item[1], SessionFault) or item[1].reply.temporary]
        host, error = (temporary or list(tried))[-1]
        self.at(str(host))
        if isinstance(error, SessionFault) and error.reply is reply.TLS_FAILED:  # it is up, so the site is not put to rest
            self._refuse(self.open, explained(error), remote=False)
        elif isinstance(error, SessionFault):
            text = f"{reply.HOST_UNREACHABLE.text}: {error.detail}"
            self._refuse(self.open, reply.HOST_UNREACHABLE.but(text), remote=False)
        elif isinstance(error, Unprotected):
            self._refuse(self.open, explained(error), remote=False)
        else:
            self._refuse(self.open, error.reply, remote=True)

    def no_host(self, error: MailError) -> None:
        """No host was found to try: everyone is deferred or fails, as the error says."""
        self.at("")
        self._refuse(self.open, explained(error), remote=False)

    def _refuse(self, places: Sequence[int], given: Reply, *, remote: bool) -> None:
        kind = Failed if given.permanent else Deferred  # RFC 5321 §4.2.1: the first digit decides
        outcome = kind(reply=given, hop=self._hop, remote=remote, tls=self._tls, seconds=self._seconds())
        for place in places:
            self._outcomes[place] = outcome

    def _seconds(self) -> float:
        return self._clock.monotonic() - self._started
