# SPDX-License-Identifier: Apache-2.0
"""From the end of data to the final reply: the message is stored for good, or the client hears why not.

Promises: a positive reply is made only after the intake has returned (RFC 5321 §6.1); once the intake has been asked,
nothing that happens to the connection stops it; the spool file of a message that was not taken over is removed.
Not here: judging the message (the session asks the policy before), durability itself (`queue/`).
"""

from gateway.edge.desk import Desk
from gateway.edge.incoming import Incoming
from gateway.mail import reply
from gateway.mail.address import Address
from gateway.mail.envelope import Transaction
from gateway.mail.events import Rejected
from gateway.mail.reply import MailError, Reply
from gateway.mail.verdict import Action, Phase, Verdict


async def hand_over(desk: Desk, tx: Transaction, verdict: Verdict, incoming: Incoming) -> Reply:
    """Give the message to the intake; the final reply. Never raises; whoever awaits it sees to it that nobody cancels it."""
    taken = False
    try:
        queue_id = await desk.intake.accept(tx, verdict)
        taken = True
        return reply.QUEUED.but(f"{reply.QUEUED.text} {queue_id}")
    except MailError as err:
        return reject_message(desk, tx, err, "queue.refused")
    except Exception as err:  # a fault of the queue must not end the session, and the client must try again  # noqa: BLE001
        desk.trouble(err, "intake", session=tx.client.session, queue_id=tx.id)
        return reject_message(desk, tx, MailError(reply.INTERNAL, repr(err)), "queue.fault")
    finally:
        if not taken:
            await incoming.remove()


def reject_message(desk: Desk, tx: Transaction, err: MailError, rule: str, size: int = 0) -> Reply:
    """Record that a message is refused at end of data by something else than the policy; the reply to give."""
    verdict = refusal(err.reply, rule)
    rejected(desk, Phase.DATA, tx, verdict, detail=err.detail, size=size)
    return err.reply


def refusal(answer: Reply, rule: str) -> Verdict:
    """The verdict of a rule of the edge itself."""
    return Verdict(Action.DEFER if answer.temporary else Action.REJECT, answer, rule=rule)


def rejected(
    desk: Desk,
    phase: Phase,
    tx: Transaction,
    verdict: Verdict,
    *,
    recipient: Address | None = None,
    detail: str = "",
    size: int = 0,
) -> Reply:
    """Record a refusal; the reply to give."""
    answer = verdict.reply or (reply.FILTER_FAULT if verdict.action is Action.DEFER else reply.POLICY)
    desk.events.emit(
        Rejected(
            time=desk.clock.now(),
            id=tx.id,
            client=tx.client,
            phase=phase,
            envelope=tx.envelope(),
            recipient=recipient,
            reply=answer,
            verdict=verdict,
            findings=tuple(tx.findings),
            detail=detail,
            size=size or (tx.message.size if tx.message else 0),
            final=phase is Phase.DATA,
        )
    )
    return answer
