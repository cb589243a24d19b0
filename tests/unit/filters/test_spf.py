# SPDX-License-Identifier: Apache-2.0
"""The SPF filter over the real evaluator: which identity, once a transaction, and what each result means."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from gateway.filters.chain import Chain
from gateway.filters.options import FiltersOptions
from gateway.filters.runner import BoundFilter
from gateway.filters.spf import LOGGED_IN, SKIPPED, SpfFilter, SpfOptions
from gateway.infra.dns import DnsOptions, DnsResolver
from gateway.mail import reply
from gateway.mail.address import Address
from gateway.mail.envelope import Transaction
from gateway.mail.reply import Reply
from gateway.mail.verdict import ACCEPT, Action, Phase, Verdict
from tests.support.clock import FakeClock
from tests.support.dnsserver import DnsServer
from tests.support.resolver import MapResolver
from tests.unit.filters.kit import Events, Puppet, asking, enforced, transaction

RECORDS = {
    "pass.example": "v=spf1 ip4:192.0.2.1 -all",
    "fail.example": "v=spf1 -all",
    "soft.example": "v=spf1 ~all",
    "neutral.example": "v=spf1 ?all",
    "perm.example": "v=spf1 nonsense",
    "exp.example": "v=spf1 -all exp=why.exp.example",
    "why.exp.example": "See http://exp.example/why?ip=%{i}",
    "xn--bcher-kva.example": "v=spf1 -all",
}


def dns() -> MapResolver:
    resolver = MapResolver({name: {"TXT": [record]} for name, record in RECORDS.items()})
    resolver.fail("temp.example", "TXT", "SERVFAIL")
    return resolver


def ours(domain: str) -> bool:
    return domain == "dest.example"


class Session:
    """One transaction and the filter that judges it."""

    def __init__(
        self, sender: str, *, helo: str = "none.example", trusted: bool = False, asked: str = "inbound", **options: Any
    ) -> None:
        self.resolver = dns()
        options["trusted"] = asked
        self.judge = SpfFilter(SpfOptions.model_validate(options), self.resolver, ours)
        self.tx = transaction(sender=sender, helo=helo, trusted=trusted)

    async def rcpt(self, recipient: str = "bob@dest.example") -> Verdict:
        return await self.judge.check(Phase.RCPT, asking(self.tx, recipient))

    async def data(self) -> Verdict:
        return await self.judge.check(Phase.DATA, self.tx)

    @property
    def results(self) -> list[tuple[str, str]]:
        return [(result.result, result.properties[0][0]) for result in self.tx.auth]


def names(verdict: Verdict) -> list[str]:
    return [symbol.name for symbol in verdict.symbols]


@pytest.mark.parametrize(
    ("sender", "result"),
    [
        ("a@pass.example", "pass"),
        ("a@soft.example", "softfail"),
        ("a@neutral.example", "neutral"),
        ("a@none.example", "none"),
        ("a@perm.example", "permerror"),
        ("a@[192.0.2.1]", "none"),
    ],
)
async def test_result_that_refuses_nothing_is_a_symbol_at_end_of_data(sender: str, result: str):
    session = Session(sender)
    at_rcpt = await session.rcpt()
    assert (at_rcpt.action, at_rcpt.symbols, at_rcpt.facts["result"]) == (Action.ACCEPT, (), result)
    at_data = await session.data()
    assert (at_data.action, names(at_data)) == (Action.ACCEPT, [f"SPF_{result.upper()}"])
    assert session.results[0] == (result, "smtp.mailfrom")


async def test_fail_is_refused_at_rcpt_with_the_right_codes():
    session = Session("a@fail.example")
    verdict = await session.rcpt()
    assert (verdict.action, verdict.rule) == (Action.REJECT, "spf.mailfrom_fail")
    assert verdict.reply is not None
    assert (verdict.reply.code, verdict.reply.enhanced) == (550, "5.7.23")
    assert verdict.reply.text == "SPF check failed: 192.0.2.1 may not send for fail.example"
    assert session.tx.auth[0].properties == (("smtp.mailfrom", "a@fail.example"),)
    facts = {"ip": "192.0.2.1", "helo": "none.example", "sender": "a@fail.example", "result": "fail", "domain": "fail.example"}
    assert facts.items() <= verdict.facts.items()
    assert verdict.facts["mechanism"]


async def test_explanation_of_the_owner_is_marked_as_his_and_short():
    session = Session("a@exp.example")
    session.resolver.remove("why.exp.example")
    session.resolver.add("why.exp.example", "TXT", "x" * 5000)
    verdict = await session.rcpt()
    assert verdict.reply is not None
    assert verdict.reply.text == f"SPF check failed; exp.example explains: {'x' * 250}"
    assert len(verdict.reply.wire()) <= 512


async def test_check_is_made_once_a_transaction_and_decides_for_each_recipient():
    session = Session("a@exp.example")
    first = await session.rcpt("one@dest.example")
    asked = session.resolver.count
    second = await session.rcpt("two@dest.example")
    assert asked == session.resolver.count > 0
    assert first.reply == second.reply
    assert len(session.tx.auth) == 1


@pytest.mark.parametrize("sender", ["a@bücher.example", "a@xn--bcher-kva.example"])
async def test_internationalised_sender_is_looked_up_in_a_labels(sender: str):
    assert (await Session(sender).rcpt()).stops


# --- HELO


async def test_null_sender_is_judged_by_helo():
    """RFC 7208 §2.4."""
    session = Session("", helo="fail.example")
    verdict = await session.rcpt()
    assert (verdict.action, session.results) == (Action.REJECT, [("fail", "smtp.helo")])


async def test_forged_helo_is_refused_where_mail_from_says_nothing():
    session = Session("a@none.example", helo="fail.example")
    verdict = await session.rcpt()
    assert (verdict.action, verdict.rule) == (Action.REJECT, "spf.helo_fail")
    assert verdict.facts["helo_result"] == "fail"
    assert session.results == [("none", "smtp.mailfrom"), ("fail", "smtp.helo")]


async def test_pass_of_mail_from_is_not_undone_by_helo():
    session = Session("a@pass.example", helo="fail.example")
    assert (await session.rcpt()).action is Action.ACCEPT
    assert session.results == [("pass", "smtp.mailfrom")]


async def test_helo_fail_may_only_score():
    session = Session("a@soft.example", helo="fail.example", on_helo_fail="score")
    assert (await session.rcpt()).action is Action.ACCEPT
    assert names(await session.data()) == ["SPF_SOFTFAIL", "SPF_HELO_FAIL"]


@pytest.mark.parametrize("helo", ["pass.example", "none.example", "[192.0.2.1]", "temp.example"])
async def test_helo_that_does_not_fail_changes_nothing(helo: str):
    session = Session("a@none.example", helo=helo)
    assert (await session.rcpt()).action is Action.ACCEPT
    assert names(await session.data()) == ["SPF_NONE"]


# --- options


@pytest.mark.parametrize("on_fail", ["hold", "score"])
async def test_fail_may_hold_or_score(on_fail: str):
    session = Session("a@fail.example", on_fail=on_fail)
    assert (await session.rcpt()).action is Action.ACCEPT
    verdict = await session.data()
    assert verdict.action is (Action.HOLD if on_fail == "hold" else Action.ACCEPT)
    assert (names(verdict), verdict.score) == (["SPF_FAIL"], 6.0)


@pytest.mark.parametrize(
    ("on_temperror", "action", "why"), [("defer", Action.DEFER, reply.SPF_TEMPERROR), ("accept", Action.ACCEPT, None)]
)
async def test_dns_without_an_answer(on_temperror: str, action: Action, why: Reply | None):
    session = Session("a@temp.example", on_temperror=on_temperror)
    verdict = await session.rcpt()
    assert (verdict.action, verdict.reply) == (action, why)
    assert names(await session.data()) == ["SPF_TEMPERROR"]


async def test_a_trusted_client_does_not_wait_for_the_dns():
    session = Session("a@temp.example", trusted=True)
    assert (await session.rcpt("bob@dest.example")).action is Action.ACCEPT
    assert names(await session.data()) == ["SPF_TEMPERROR"]


async def test_a_trusted_client_is_asked_about_only_where_it_brings_mail_in():
    """The house's own hosts send to elsewhere for every domain."""
    session = Session("a@fail.example", trusted=True)
    assert await session.rcpt("bob@elsewhere.example") is SKIPPED
    assert (await session.data()).action is Action.ACCEPT
    assert (session.tx.auth, session.resolver.questions) == ([], [])
    assert (await session.rcpt("bob@dest.example")).stops


async def test_a_user_who_has_logged_in_is_where_he_is():
    """From a hotel to a colleague: nobody's record lists that address."""
    session = Session("a@fail.example", asked="all")
    session.tx.client = replace(session.tx.client, user="ann")
    assert await session.rcpt("bob@dest.example") is LOGGED_IN
    assert not (await session.data()).symbols
    assert (session.tx.auth, session.resolver.questions) == ([], [])


@pytest.mark.parametrize(("trusted", "stops"), [("all", True), ("none", False)])
async def test_which_mail_of_trusted_clients_is_asked_about_can_be_said(trusted: str, stops: bool):
    for recipient, expected in (("bob@elsewhere.example", stops), ("bob@dest.example", stops)):
        session = Session("a@fail.example", trusted=True, asked=trusted)
        assert (await session.rcpt(recipient)).stops is expected


async def test_nothing_is_weighed_where_nothing_was_checked():
    assert await Session("a@fail.example").data() is ACCEPT


async def test_domain_that_never_answers_is_its_own_temperror_not_a_fault_of_the_filter():
    """A fault would count for the circuit breaker: ten such senders would stop everybody's mail."""
    session = Session("a@pass.example", timeout="50ms")
    session.resolver.hold = asyncio.Event()
    chain = Chain([BoundFilter(session.judge, "enforce", 30.0, "defer")], FiltersOptions(), FakeClock(), events := Events())
    verdict = await chain.decide(Phase.RCPT, asking(session.tx, "bob@dest.example"))
    assert (verdict.reply, events.all) == (reply.SPF_TEMPERROR, [])


# --- in the chain


async def through(tx: Transaction, *recipients: str, **options: Any) -> list[Verdict]:
    """RCPT for each recipient as the edge does it, then DATA."""
    judge = SpfFilter(SpfOptions.model_validate(options), dns(), ours)
    chain = Chain([BoundFilter(judge, "enforce", 30.0, "defer")], FiltersOptions(), FakeClock(), Events())
    tx.recipients = []
    verdicts = []
    for recipient in recipients:
        verdicts.append(await chain.decide(Phase.RCPT, asking(tx, recipient)))
        if not verdicts[-1].stops and tx.candidate:
            tx.recipients.append(tx.candidate)
    return [*verdicts, await chain.decide(Phase.DATA, tx)]


async def test_spoofed_mail_reaches_postmaster_only():
    tx = transaction(sender="a@fail.example")
    verdicts = await through(tx, "postmaster@dest.example", "bob@dest.example", "Postmaster@dest.example")
    assert [verdict.action for verdict in verdicts] == [Action.ACCEPT, Action.REJECT, Action.ACCEPT, Action.ACCEPT]
    assert names(verdicts[-1]) == ["POSTMASTER_EXEMPT", "SPF_FAIL"]
    assert [str(recipient.address) for recipient in tx.recipients] == ["postmaster@dest.example", "Postmaster@dest.example"]


async def test_hold_and_score_reach_the_final_verdict_whatever_the_recipients():
    verdicts = await through(transaction(sender="a@fail.example"), "a@dest.example", "b@dest.example", on_fail="hold")
    assert (verdicts[-1].action, verdicts[-1].score) == (Action.HOLD, 6.0)


async def test_lookups_stand_in_the_finding_of_the_filter_that_asked():
    async with DnsServer() as server:
        server.add("fail.example", "TXT", "v=spf1 a:host.fail.example -all")
        server.add("host.fail.example", "A", "192.0.2.9")
        resolver = DnsResolver(DnsOptions(nameservers=[server.address]))
        judge = BoundFilter(SpfFilter(SpfOptions(), resolver, ours), "enforce", 30.0, "defer")

        async def ask(phase: Phase, tx: Transaction) -> Verdict:
            await resolver.mx("other.example")
            return ACCEPT

        others = [enforced(Puppet(ask, phases=(Phase.RCPT,))), enforced(Puppet(phases=(Phase.RCPT,)))]
        chain = Chain([others[0], judge, others[1]], FiltersOptions(), FakeClock(), Events())
        tx = asking(transaction(sender="a@fail.example", recipients=()), Address("postmaster", ""))
        await chain.decide(Phase.RCPT, tx)
        await resolver.close()
    before, own, after = tx.findings
    assert [(lookup.name, lookup.type, lookup.status) for lookup in own.lookups] == [
        ("fail.example", "TXT", "ok"),
        ("host.fail.example", "A", "ok"),
    ]
    assert [lookup.name for lookup in before.lookups] == ["other.example"]
    assert after.lookups == ()
