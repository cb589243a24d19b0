# SPDX-License-Identifier: Apache-2.0
"""The built-in filters together, as a session asks them: MAIL, RCPT for each recipient, DATA."""

from dataclasses import dataclass
from typing import Any

import pytest

from gateway.auth.dkim_sign import SigningKey, sign
from gateway.filters.builtin import build
from gateway.filters.chain import Chain
from gateway.filters.heuristics import GTUBE
from gateway.filters.options import FiltersOptions
from gateway.filters.recipients import RelayOptions, RelayRule
from gateway.mail import reply
from gateway.mail.address import NULL_SENDER, parse_path
from gateway.mail.envelope import Recipient, Transaction
from gateway.mail.message import Message
from gateway.mail.reply import Reply
from gateway.mail.verdict import Action, Phase, Verdict
from tests.support.clock import FakeClock
from tests.support.resolver import MapResolver
from tests.unit.filters.kit import CONTENT, Events, transaction

RELAY = RelayOptions(domains=["dest.example"])
KEY = SigningKey("a.example", "s1", bytes(range(32)))
ZONE = {
    "a.example": {"TXT": ["v=spf1 ip4:192.0.2.1 -all"]},
    "spoofed.example": {"TXT": ["v=spf1 -all"]},
    KEY.record_name: {"TXT": [KEY.record]},
}


@dataclass
class Outcome:
    tx: Transaction
    replies: list[Reply | None]  # one for each recipient
    verdict: Verdict | None  # None if nobody was left to send to

    @property
    def accepted(self) -> list[str]:
        return [str(recipient.address) for recipient in self.tx.recipients]


async def send(
    *paths: bytes, sender: bytes = b"<ann@a.example>", content: bytes = CONTENT, trusted: bool = False, **options: Any
) -> Outcome:
    given = FiltersOptions.model_validate(options)
    filters = build(given, RELAY, 100_000, MapResolver(ZONE))
    chain = Chain(filters, given, FakeClock(), Events(), ours=RelayRule(RELAY).is_our_postmaster)
    tx = transaction(None, trusted=trusted, recipients=())
    tx.sender, _ = parse_path(sender, utf8=True) if sender else (NULL_SENDER, b"")
    assert not (await chain.decide(Phase.MAIL, tx)).stops
    replies = []
    for path in paths:
        tx.candidate = Recipient(parse_path(path, utf8=True)[0])
        verdict = await chain.decide(Phase.RCPT, tx)
        replies.append(verdict.reply)
        if not verdict.stops:
            tx.recipients.append(tx.candidate)
    if not tx.recipients:
        return Outcome(tx, replies, None)
    tx.message = Message.parse(content)
    return Outcome(tx, replies, await chain.decide(Phase.DATA, tx))


def names(outcome: Outcome) -> set[str]:
    assert outcome.verdict
    return {symbol.name for symbol in outcome.verdict.symbols}


async def test_good_mail_is_accepted_with_all_results():
    outcome = await send(b"<bob@dest.example>")
    assert outcome.verdict
    assert (outcome.verdict.action, names(outcome)) == (Action.ACCEPT, {"SPF_PASS", "DKIM_NONE"})
    assert {finding.filter for finding in outcome.tx.findings} == {"recipients", "size", "spf", "headers", "dkim"}
    assert [(result.method, result.result) for result in outcome.tx.auth] == [("spf", "pass"), ("dkim", "none")]


async def test_signed_mail_of_a_trusted_client_is_verified():
    outcome = await send(b"<anyone@else.example>", content=sign(CONTENT, KEY) + CONTENT, trusted=True)
    assert "dkim" in {result.method for result in outcome.tx.auth}
    assert outcome.accepted == ["anyone@else.example"]


async def test_spoofed_mail_is_refused_in_the_session():
    outcome = await send(b"<bob@dest.example>", sender=b"<eve@spoofed.example>")
    assert [str(refusal)[:10] for refusal in outcome.replies] == ["550 5.7.23"]
    assert outcome.verdict is None


async def test_foreign_recipient_is_refused_before_dns_is_asked():
    outcome = await send(b"<bob@else.example>", sender=b"<eve@spoofed.example>")
    assert outcome.replies == [reply.RELAY_DENIED]
    assert outcome.tx.auth == []


@pytest.mark.parametrize("path", [b"<postmaster>", b"<Postmaster@dest.example>"])
async def test_postmaster_hears_from_everyone(path: bytes):
    """RFC 5321 §4.5.1: from those whose mail fails every test, too."""
    outcome = await send(path, sender=b"<eve@spoofed.example>", content=b"X: y\r\n\r\n" + GTUBE + b"\r\n", hold_score=0)
    assert outcome.accepted[0].lower() == "postmaster@dest.example"
    assert outcome.verdict
    assert outcome.verdict.action is Action.ACCEPT
    assert "POSTMASTER_EXEMPT" in names(outcome)


@pytest.mark.parametrize(
    ("content", "why"),
    [(b"Received: x\r\n" * 101 + CONTENT, reply.LOOP), (CONTENT + b"x" * 100_000, reply.TOO_BIG)],
    ids=["loop", "size"],
)
async def test_postmaster_does_not_take_what_would_harm_us(content: bytes, why: Reply):
    outcome = await send(b"<postmaster>", content=content)
    assert outcome.verdict
    assert outcome.verdict.reply == why


@pytest.mark.parametrize(("hold_score", "action", "rule"), [(8.0, Action.HOLD, "score.hold"), (0.0, Action.ACCEPT, "")])
async def test_many_small_oddities_hold_the_mail_where_that_is_asked_for(hold_score: float, action: Action, rule: str):
    content = b"From: nobody\r\nDate: never\r\nno colon\r\nSubject: BUY BUY BUY NOW NOW\r\n\r\nHello\r\n"
    outcome = await send(b"<bob@dest.example>", content=content, hold_score=hold_score)
    assert outcome.verdict
    assert (outcome.verdict.action, outcome.verdict.rule) == (action, rule)


async def test_everything_off_is_still_no_open_relay():
    outcome = await send(b"<bob@else.example>", b"<bob@dest.example>", sender=b"<eve@spoofed.example>", mode="off")
    assert outcome.replies == [reply.RELAY_DENIED, None]
    assert names(outcome) == set()


async def test_everything_in_shadow_records_what_it_would_have_done():
    outcome = await send(b"<bob@dest.example>", sender=b"<eve@spoofed.example>", content=CONTENT + GTUBE, mode="shadow")
    assert outcome.verdict
    assert (outcome.replies, outcome.verdict.action, names(outcome)) == ([None], Action.ACCEPT, set())
    would = [finding.verdict.rule for finding in outcome.tx.findings if finding.verdict.stops]
    assert would == ["spf.mailfrom_fail", "headers.gtube"]
