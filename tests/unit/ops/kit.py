# SPDX-License-Identifier: Apache-2.0
"""One event of each class, and messages' lives, for the tests of log, metrics, trace and explain."""

from dataclasses import replace
from ipaddress import IPv4Address

from gateway.mail.address import NULL_SENDER, Address
from gateway.mail.envelope import Client, Envelope, Recipient, Tls
from gateway.mail.events import (
    Accepted,
    Attempted,
    AuthAttempted,
    Bounced,
    Connected,
    Disconnected,
    Event,
    Fate,
    Finished,
    Held,
    Lifecycle,
    Operated,
    Rejected,
    Trouble,
)
from gateway.mail.job import Deferred, Delivered, Due, Failed, Outcome, QueueId, make_queue_id
from gateway.mail.reply import NO_SUCH_USER, SPF_FAIL, Reply
from gateway.mail.verdict import ACCEPT, Action, Finding, Lookup, Phase, Symbol, Verdict

NOW = 1_700_000_000.0
ID = make_queue_id(int(NOW * 1e6), 7)

CLIENT = Client(
    session="S1",
    ip=IPv4Address("192.0.2.1"),
    port=40000,
    listener="0.0.0.0:25",
    role="mx",
    connected=NOW - 1,
    helo="client.example",
    esmtp=True,
    tls=Tls(version="TLSv1.3", cipher="TLS_AES_256_GCM_SHA384", bits=256),
)
SENDER = Address("a", "b.example")
RECIPIENT = Address("x", "dest.example")
ENVELOPE = Envelope(sender=SENDER, recipients=(Recipient(RECIPIENT), Recipient(Address("y", "dest.example"))))
SPF = Finding(
    filter="spf",
    phase=Phase.MAIL,
    mode="enforce",
    verdict=Verdict(
        Action.REJECT, SPF_FAIL, (Symbol("SPF_FAIL", 4.0, "by -all"),), "spf.fail", {"domain": "b.example", "mechanism": "-all"}
    ),
    seconds=0.012,
    lookups=(Lookup("b.example", "TXT", ("v=spf1 -all",), "ok", 0.011),),
)
SIZE = Finding(filter="size", phase=Phase.DATA, mode="enforce", verdict=ACCEPT, seconds=0.0001)
SHADOW = replace(SPF, mode="shadow", phase=Phase.DATA)
REFUSED = Reply(550, "No such user", (1, 1))


def queue_id(number: int, moment: float = NOW) -> QueueId:
    return make_queue_id(int(moment * 1e6) + number, number)


def connected() -> Connected:
    return Connected(time=NOW, client=CLIENT)


def disconnected(reason: str = "quit", client: Client = CLIENT) -> Disconnected:
    return Disconnected(time=NOW, client=client, reason=reason, seconds=2.0, messages=1, commands=6)


def accepted(id: QueueId = ID, findings: tuple[Finding, ...] = (), client: Client | None = CLIENT) -> Accepted:
    envelope = ENVELOPE if client else replace(ENVELOPE, sender=NULL_SENDER)
    verdict = Verdict(symbols=(Symbol("SPF_PASS", -1.0),))
    return Accepted(
        time=NOW,
        id=id,
        client=client,
        envelope=envelope,
        size=4096,
        verdict=verdict,
        findings=findings,
        message_id="<m@b.example>",
        seconds=0.02,
    )


def refused_recipient(id: QueueId = ID, findings: tuple[Finding, ...] = ()) -> Rejected:
    verdict = Verdict(Action.REJECT, NO_SUCH_USER, rule="recipients.unknown")
    return Rejected(
        time=NOW,
        id=id,
        client=CLIENT,
        phase=Phase.RCPT,
        envelope=ENVELOPE,
        recipient=Address("nobody", "dest.example"),
        reply=NO_SUCH_USER,
        verdict=verdict,
        findings=findings,
    )


def refused_message(id: QueueId = ID, findings: tuple[Finding, ...] = (SPF,)) -> Rejected:
    return Rejected(
        time=NOW,
        id=id,
        client=CLIENT,
        phase=Phase.DATA,
        envelope=ENVELOPE,
        recipient=None,
        reply=SPF_FAIL,
        verdict=SPF.verdict,
        findings=findings,
        detail="b.example says -all",
        size=4096,
        final=True,
    )


def delivered(hop: str = "mx.dest.example[192.0.2.9]:25") -> Delivered:
    return Delivered(reply=Reply(250, "Ok", (2, 0)), hop=hop, remote=True, tls="TLSv1.3", seconds=0.3)


def deferred(*, counted: bool = True) -> Deferred:
    return Deferred(reply=Reply(451, "later", (4, 1)), hop="mx.dest.example[192.0.2.9]:25", seconds=0.1, counted=counted)


def failed() -> Failed:
    return Failed(reply=REFUSED, remote=True, seconds=0.2)


def attempted(outcome: Outcome, id: QueueId = ID, attempts: int = 0, due: float | None = None) -> Attempted:
    return Attempted(time=NOW + 1, id=id, sender=SENDER, recipient=Due(0, RECIPIENT, attempts), outcome=outcome, due=due)


def bounced(id: QueueId = ID, notice: QueueId | None = None) -> Bounced:
    why = "" if notice else "null sender"
    return Bounced(time=NOW + 2, id=id, sender=SENDER, recipient=RECIPIENT, reply=REFUSED, notice=notice, why_not=why)


def finished(id: QueueId = ID, *results: str) -> Finished:
    fates = tuple(Fate(address=str(RECIPIENT), result=each, attempts=2, reply="250 Ok") for each in results or ("delivered",))
    return Finished(
        time=NOW + 3, id=id, sender=SENDER, fates=fates, size=4096, accepted=NOW, rule="spf.pass", symbols=("SPF_PASS",)
    )


def one_of_each() -> list[Event]:
    """At least one event of every class."""
    return [
        connected(),
        disconnected(),
        AuthAttempted(time=NOW, client=CLIENT, name="ann", mechanism="PLAIN", result="failed", detail="why not", old_hash=True),
        refused_recipient(),
        refused_message(),
        accepted(findings=(SPF, SIZE)),
        attempted(delivered()),
        attempted(deferred(), due=NOW + 60),
        attempted(failed()),
        bounced(),
        Held(time=NOW, id=ID, reason="spam"),
        finished(),
        Operated(time=NOW, id=ID, command="release"),
        Trouble(time=NOW, area="filter.spf", detail="timeout", id=ID, session="S1"),
        Lifecycle(time=NOW, what="ready", detail="now"),
    ]
