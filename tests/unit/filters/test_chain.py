# SPDX-License-Identifier: Apache-2.0
"""The chain: order, modes, sums, what persists from phase to phase, who is exempt, what is recorded."""

import pytest

from gateway.filters.bounds import FINDINGS_MAX
from gateway.filters.chain import EXEMPT, Chain
from gateway.filters.options import FiltersOptions
from gateway.filters.recipients import RelayOptions, RelayRule
from gateway.mail import reply
from gateway.mail.address import Address
from gateway.mail.envelope import Recipient, Transaction
from gateway.mail.verdict import ACCEPT, Action, Phase, Symbol, Verdict
from tests.support.clock import FakeClock
from tests.unit.filters.kit import Events, Puppet, asking, bench, enforced, says, shadowed, transaction


async def test_phase_without_filters_accepts_and_records_nothing():
    tx = transaction()
    for phase in Phase:
        assert await bench().decide(tx, phase) is ACCEPT
    assert tx.findings == []


async def test_filters_run_in_table_order_and_only_in_their_phases():
    order: list[str] = []

    def noting(name: str):
        async def note(phase: Phase, tx: Transaction) -> Verdict:
            order.append(f"{name} {phase.value}")
            return ACCEPT

        return note

    made = bench(
        Puppet(noting("b"), name="b", phases=(Phase.RCPT, Phase.DATA)),
        Puppet(noting("a"), name="a"),
        Puppet(noting("c"), name="c", phases=(Phase.MAIL,)),
    )
    tx = transaction()
    for phase in (Phase.MAIL, Phase.RCPT, Phase.DATA):
        await made.decide(asking(tx, "bob@dest.example"), phase)
    assert order == ["c mail", "b rcpt", "b data", "a data"]
    assert [(finding.filter, finding.phase) for finding in tx.findings] == [
        ("c", Phase.MAIL),
        ("b", Phase.RCPT),
        ("b", Phase.DATA),
        ("a", Phase.DATA),
    ]
    assert made.observed == tx.findings


@pytest.mark.parametrize("action", [Action.DEFER, Action.REJECT])
async def test_refusal_ends_the_round_and_keeps_the_symbols_so_far(action: Action):
    later = Puppet(name="later")
    made = bench(Puppet(says(Action.ACCEPT, Symbol("A", 1.0))), Puppet(says(action, Symbol("B", 2.0))), later)
    verdict = await made.decide()
    assert (verdict.action, verdict.rule) == (action, "test.rule")
    assert [symbol.name for symbol in verdict.symbols] == ["A", "B"]
    assert later.runs == 0


@pytest.mark.parametrize("action", [Action.HOLD, Action.DISCARD])
async def test_hold_and_discard_do_not_end_the_round(action: Action):
    later = Puppet(says(Action.REJECT, rule="later"))
    verdict = await bench(Puppet(says(action)), later).decide()
    assert (verdict.action, verdict.rule) == (Action.REJECT, "later")


@pytest.mark.parametrize("action", list(Action)[1:])
async def test_shadow_is_recorded_as_it_would_have_been_and_changes_nothing(action: Action):
    tx = transaction()
    shadow = Puppet(says(action, Symbol("BAD", 100.0)), name="shadow")
    later = Puppet(name="later")
    assert await bench(shadowed(shadow), later).decide(tx) is ACCEPT
    assert later.runs == 1
    assert (tx.findings[0].mode, tx.findings[0].verdict.action, tx.findings[0].counts) == ("shadow", action, False)


async def test_shadow_symbols_of_an_earlier_phase_do_not_count_either():
    tx = asking(transaction(), "bob@dest.example")
    made = bench(shadowed(Puppet(says(Action.HOLD, Symbol("BAD", 100.0)), phases=(Phase.RCPT,))))
    assert await made.decide(tx, Phase.RCPT) is ACCEPT
    assert await made.decide(tx) is ACCEPT


@pytest.mark.parametrize(
    ("scores", "action", "rule"),
    [
        ((7.9,), Action.ACCEPT, ""),
        ((4.0, 4.0), Action.HOLD, "score.hold"),
        ((20.0, -12.1), Action.ACCEPT, ""),
        ((7.5, 7.5), Action.REJECT, "score.reject"),
        ((1.1, 2.2, 4.7), Action.HOLD, "score.hold"),  # 8.000000000000002 or 7.999999999999999: decimals must add up
        ((0.1,) * 80, Action.HOLD, "score.hold"),
    ],
)
async def test_scores_add_up_over_filters(scores: tuple[float, ...], action: Action, rule: str):
    made = bench(
        *(Puppet(says(Action.ACCEPT, Symbol(f"S{at}", score)), name=f"f{at}") for at, score in enumerate(scores)),
        hold_score=8.0,
    )
    verdict = await made.decide()
    assert (verdict.action, verdict.rule) == (action, rule)
    assert verdict.reply == (reply.SPAM if action is Action.REJECT else None)
    assert len(verdict.symbols) == len(scores)


async def test_scores_add_up_over_phases():
    made = bench(
        Puppet(says(Action.ACCEPT, Symbol("EARLY", 4.0)), phases=(Phase.MAIL,)),
        Puppet(says(Action.ACCEPT, Symbol("LATE", 4.0)), name="late"),
        hold_score=8.0,
    )
    tx = transaction()
    assert (await made.decide(tx, Phase.MAIL)).action is Action.ACCEPT
    verdict = await made.decide(tx)
    assert (verdict.action, verdict.facts) == (Action.HOLD, {"score": "8", "limit": "8"})


async def test_limits_of_zero_are_none():
    made = bench(Puppet(says(Action.ACCEPT, Symbol("BAD", 1e9))), reject_score=0, hold_score=0)
    assert (await made.decide()).action is Action.ACCEPT


async def test_score_never_makes_a_verdict_milder():
    verdict = await bench(Puppet(says(Action.DISCARD, Symbol("BAD", 9.0)))).decide()
    assert (verdict.action, verdict.rule) == (Action.DISCARD, "test.rule")


@pytest.mark.parametrize("action", [Action.DEFER, Action.REJECT])
async def test_score_does_not_take_the_place_of_a_refusal(action: Action):
    verdict = await bench(Puppet(says(action, Symbol("BAD", 99.0)))).decide()
    assert (verdict.action, verdict.rule) == (action, "test.rule")


async def test_symbol_seen_for_each_of_many_recipients_counts_once():
    made = bench(Puppet(says(Action.ACCEPT, Symbol("ODD", 3.0)), phases=(Phase.RCPT,)))
    tx = transaction()
    for at in range(50):
        await made.decide(asking(tx, f"u{at}@dest.example"), Phase.RCPT)
    verdict = await made.decide(tx)
    assert (verdict.action, verdict.score) == (Action.ACCEPT, 3.0)


@pytest.mark.parametrize("action", [Action.HOLD, Action.DISCARD])
async def test_hold_of_an_earlier_phase_is_in_the_final_verdict(action: Action):
    made = bench(Puppet(says(action, Symbol("EARLY", 1.0)), phases=(Phase.RCPT,)), Puppet(name="later"))
    tx = asking(transaction(), "bob@dest.example")
    assert (await made.decide(tx, Phase.RCPT)).action is action
    verdict = await made.decide(tx)
    assert (verdict.action, verdict.rule, verdict.score) == (action, "test.rule", 1.0)


async def test_hold_persists_past_any_number_of_findings():
    """A client must not be able to push a hold out of the record with many recipients."""

    async def first_only(phase: Phase, tx: Transaction) -> Verdict:
        first = tx.candidate is not None and tx.candidate.address.local == "u0"
        return says(Action.HOLD, Symbol("HELD", 1.0)) if first else ACCEPT

    made = bench(Puppet(first_only, phases=(Phase.RCPT,)))
    tx = transaction()
    for at in range(3 * FINDINGS_MAX):
        await made.decide(asking(tx, f"u{at}@dest.example"), Phase.RCPT)
    assert len(tx.findings) <= FINDINGS_MAX + 1
    assert (await made.decide(tx)).action is Action.HOLD


async def test_hold_that_comes_after_the_cap_is_not_lost():
    async def last_only(phase: Phase, tx: Transaction) -> Verdict:
        last = tx.candidate is not None and tx.candidate.address.local == "last"
        return says(Action.HOLD, Symbol("HELD", 9.0)) if last else ACCEPT

    made = bench(Puppet(last_only, phases=(Phase.RCPT,)))
    tx = transaction()
    for local in [*(f"u{at}" for at in range(FINDINGS_MAX + 50)), "last", "after"]:
        await made.decide(asking(tx, f"{local}@dest.example"), Phase.RCPT)
    verdict = await made.decide(tx)
    assert (verdict.action, verdict.rule, verdict.score) == (Action.HOLD, "test.rule", 9.0)


async def test_what_was_said_about_a_refused_recipient_is_no_part_of_the_message():
    async def discard(phase: Phase, tx: Transaction) -> Verdict:
        return says(Action.DISCARD, Symbol("BAD", 20.0)) if tx.candidate and tx.candidate.address.local == "trap" else ACCEPT

    async def refuse(phase: Phase, tx: Transaction) -> Verdict:
        return says(Action.REJECT) if tx.candidate and tx.candidate.address.local == "trap" else ACCEPT

    made = bench(Puppet(discard, name="d", phases=(Phase.RCPT,)), Puppet(refuse, name="r", phases=(Phase.RCPT,)))
    tx = transaction()
    assert (await made.decide(asking(tx, "trap@dest.example"), Phase.RCPT)).action is Action.REJECT
    assert (await made.decide(asking(tx, "bob@dest.example"), Phase.RCPT)) is ACCEPT
    assert [finding.counts for finding in tx.findings] == [False, False, True, True]
    assert await made.decide(tx) is ACCEPT


async def test_finding_has_the_time_of_its_filter_only():
    clock = FakeClock()

    async def slow(phase: Phase, tx: Transaction) -> Verdict:
        await clock.advance(1.5)
        return ACCEPT

    chain = Chain([enforced(Puppet(slow)), enforced(Puppet(name="other"))], FiltersOptions(), clock, Events())
    tx = transaction()
    await chain.decide(Phase.DATA, tx)
    assert [finding.seconds for finding in tx.findings] == [1.5, 0.0]


async def test_phase_has_one_deadline_for_all_filters():
    clock, events = FakeClock(), Events()

    async def slow(phase: Phase, tx: Transaction) -> Verdict:
        await clock.advance(61)
        return says(Action.ACCEPT, Symbol("SEEN", 1.0))

    starved = Puppet(name="starved")
    chain = Chain([enforced(Puppet(slow), timeout=100), enforced(starved)], FiltersOptions(), clock, events)
    tx = transaction()
    verdict = await chain.decide(Phase.DATA, tx)
    assert (verdict.action, verdict.reply, verdict.rule) == (Action.DEFER, reply.FILTER_FAULT, "starved.fault")
    assert starved.runs == 0
    assert tx.findings[1].fault == events.troubles[0].detail == "no time left in this phase"


# --- postmaster (RFC 5321 §4.5.1)

OURS = RelayRule(RelayOptions(domains=["dest.example", ".sub.example"])).is_our_postmaster


def postmaster_chain(verdict: Verdict, phase: Phase, **options: object) -> Chain:
    puppet = Puppet(verdict, phases=(phase,))
    return Chain([enforced(puppet)], FiltersOptions.model_validate(options), FakeClock(), Events(), ours=OURS)


@pytest.mark.parametrize(
    ("address", "exempt"),
    [
        (Address("postmaster", ""), True),
        (Address("PostMaster", "DEST.example"), True),
        (Address('"postmaster"', "dest.example"), True),
        (Address("postmaster", "a.sub.example"), True),
        (Address("postmaster", "else.example"), False),
        (Address("postmaster+x", "dest.example"), False),
        (Address("bob", "dest.example"), False),
    ],
)
@pytest.mark.parametrize("phase", [Phase.RCPT, Phase.DATA])
async def test_postmaster_is_exempt_from_refusals(address: Address, exempt: bool, phase: Phase):
    tx = transaction(recipients=())
    if phase is Phase.RCPT:
        tx.candidate = Recipient(address)
    else:
        tx.recipients = [Recipient(address)]
    verdict = await postmaster_chain(says(Action.REJECT, Symbol("BAD")), phase).decide(phase, tx)
    assert (verdict.action is Action.ACCEPT) == exempt
    assert (EXEMPT in verdict.symbols) == exempt


async def test_message_for_postmaster_and_others_is_not_exempt():
    tx = transaction(recipients=("postmaster@dest.example", "bob@dest.example"))
    assert (await postmaster_chain(says(Action.REJECT), Phase.DATA).decide(Phase.DATA, tx)).action is Action.REJECT


async def test_message_without_recipients_is_not_exempt():
    tx = transaction(recipients=())
    assert (await postmaster_chain(says(Action.REJECT), Phase.DATA).decide(Phase.DATA, tx)).action is Action.REJECT


async def test_postmaster_is_not_exempt_from_loops():
    tx = transaction(recipients=("postmaster@dest.example",))
    verdict = await postmaster_chain(says(Action.REJECT, why=reply.LOOP), Phase.DATA).decide(Phase.DATA, tx)
    assert verdict.reply == reply.LOOP


async def test_postmaster_is_not_exempt_from_rules_that_are_always_on():
    puppet = Puppet(says(Action.REJECT), phases=(Phase.RCPT,))
    chain = Chain([enforced(puppet, always=True)], FiltersOptions(), FakeClock(), Events(), ours=OURS)
    tx = asking(transaction(), "postmaster@dest.example")
    assert (await chain.decide(Phase.RCPT, tx)).action is Action.REJECT


@pytest.mark.parametrize(("hold_score", "action"), [(8.0, Action.HOLD), (0, Action.ACCEPT)])
async def test_postmaster_is_exempt_from_the_score_that_refuses_but_not_from_the_one_that_holds(
    hold_score: float, action: Action
):
    tx = transaction(recipients=("postmaster@dest.example",))
    chain = postmaster_chain(says(Action.ACCEPT, Symbol("BAD", 99.0)), Phase.DATA, hold_score=hold_score)
    verdict = await chain.decide(Phase.DATA, tx)
    assert (verdict.action, EXEMPT in verdict.symbols) == (action, True)
