# SPDX-License-Identifier: Apache-2.0
"""Who is told what became of mail, and with which envelope.

Promises: no notice about a notice (null sender, RFC 5321 §4.5.5 and §6.1), none to automatic mail (RFC 3834 §2); the notice
has the null sender itself and a fresh queue id. The whole message is returned only with a failure, and if the sender has
not asked for the header alone; about mail under REQUIRETLS the notice is under it too, and returns the header (RFC 8689 §5).
RFCs: 3461 §4.3 (RET) and §6.1 (envelope), 8689 §5.
Not here: its text (`mail/dsn.py`), its place in the queue (`queue/`: it enters in the commit that records the failure).
"""

import secrets
from collections.abc import Callable, Sequence

from gateway.mail import dsn
from gateway.mail.address import NULL_SENDER, Address
from gateway.mail.envelope import BodyType, Envelope, Recipient
from gateway.mail.job import Delivered, Due, Failed, Job, Outcome, QueueId, make_queue_id
from gateway.mail.message import Message, find_values
from gateway.mail.notify import returns_header
from gateway.ports import Submission

MANY = 10  # fields of one name that no person's mail program writes


def _fresh_id(now: float) -> QueueId:
    return make_queue_id(int(now * 1e6), secrets.randbits(25))


class DsnBouncer:
    """`returned_message`: octets up to which a message is returned whole; of a larger one the header is."""

    def __init__(self, hostname: str, *, returned_message: int = 0, new_id: Callable[[float], QueueId] = _fresh_id) -> None:
        self._hostname = hostname
        self._whole = returned_message
        self._new_id = new_id

    def reload(self, hostname: str, returned_message: int) -> None:
        """Notices from now on speak in that name and return messages up to that size."""
        self._hostname = hostname
        self._whole = returned_message

    def compose(
        self, job: Job, message: Message, told: Sequence[tuple[Due, Failed | Delivered]], now: float
    ) -> Submission | None:
        """See `ports.Bouncer`."""
        if not told or not job.sender or not job.sender.domain or _is_automatic(message):
            return None
        notice = dsn.Notice(
            hostname=self._hostname,
            id=job.id,
            notice_id=self._new_id(now),
            sender=job.sender,
            arrived=job.created,
            now=now,
            reports=[_report(due, outcome) for due, outcome in told],
            boundary=f"=_{secrets.token_hex(16)}",
            whole=self._most(job, [outcome for _, outcome in told]),
            envid=job.envid,
        )
        sender = job.sender if notice.eight_bit else Address(job.sender.local, job.sender.ascii_domain)
        envelope = Envelope(
            sender=NULL_SENDER,
            recipients=(Recipient(sender),),
            body=BodyType.EIGHT_BIT if notice.eight_bit else BodyType.SEVEN_BIT,
            smtputf8=notice.eight_bit,
            require_tls=job.require_tls,
        )
        return Submission(id=notice.notice_id, envelope=envelope, message=dsn.compose(notice, message))

    def _most(self, job: Job, outcomes: Sequence[Outcome]) -> int:
        """Octets that the original may have to be returned whole."""
        failed = any(isinstance(outcome, Failed) for outcome in outcomes)
        return self._whole if failed and not job.require_tls and not returns_header(job.ret) else 0


def _report(due: Due, outcome: Failed | Delivered) -> dsn.Report:
    return dsn.Report(
        address=due.address,
        reply=outcome.reply,
        action=outcome.action if isinstance(outcome, Delivered) else dsn.FAILED,
        remote=outcome.remote,
        hop=outcome.hop,
        orcpt=due.orcpt,
    )


def _is_automatic(message: Message) -> bool:
    """True if a program wrote it: `Auto-Submitted` says something else than "no" (RFC 3834 §5), or says too much."""
    values = find_values(message.header, b"auto-submitted", MANY)
    return len(values) == MANY or any(value.partition(b";")[0].strip().lower() not in (b"", b"no") for value in values)
