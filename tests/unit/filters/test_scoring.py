# SPDX-License-Identifier: Apache-2.0
"""How verdicts add up, and the caps on what one may say."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.filters import bounds
from gateway.filters.bounds import BadVerdict, bounded, matters, remember
from gateway.filters.scoring import judge, merge
from gateway.mail import reply
from gateway.mail.verdict import ACCEPT, Action, Finding, Phase, Symbol, Verdict
from tests.unit.filters.kit import says

symbols = st.builds(
    Symbol, st.sampled_from("ABCDEFGH"), st.decimals(-20, 20, places=2).map(float), st.sampled_from(["", "detail", "other"])
)
verdicts = st.builds(lambda action, found: says(action, *found), st.sampled_from(Action), st.lists(symbols, max_size=5))


@given(st.lists(verdicts, max_size=8), st.randoms(use_true_random=False))
def test_order_of_verdicts_changes_neither_action_nor_score(given_verdicts: list[Verdict], random: Random):
    """Filters may be put in another order, recipients come in any order: the mail's fate is the same."""
    shuffled = list(given_verdicts)
    random.shuffle(shuffled)
    one, other = (judge(merge(verdicts), 15.0, 8.0) for verdicts in (given_verdicts, shuffled))
    assert (one.action, round(one.score, 6)) == (other.action, round(other.score, 6))
    assert {(symbol.name, symbol.score) for symbol in one.symbols} == {(symbol.name, symbol.score) for symbol in other.symbols}


@given(st.lists(verdicts, max_size=8))
def test_merged_verdict_is_never_milder_than_any_of_its_parts(given_verdicts: list[Verdict]):
    merged = judge(merge(given_verdicts), 15.0, 8.0)
    assert merged.action >= max((verdict.action for verdict in given_verdicts), default=Action.ACCEPT)
    assert merged.stops == (merged.reply is not None)
    assert {symbol.name for symbol in merged.symbols} == {
        symbol.name for verdict in given_verdicts for symbol in verdict.symbols
    }


@given(st.lists(verdicts, max_size=6), st.lists(verdicts, max_size=6))
def test_merging_in_parts_is_merging_at_once(first: list[Verdict], second: list[Verdict]):
    """What the chain folds together to keep the record short must not change the outcome."""
    at_once, in_parts = merge([*first, *second]), merge([merge(first), merge(second)])
    assert (at_once.action, at_once.symbols) == (in_parts.action, in_parts.symbols)


def test_acceptance_has_no_rule_and_no_facts_of_somebody_who_did_not_decide():
    merged = merge([Verdict(rule="a", facts={"x": "y"}), Verdict(symbols=(Symbol("S"),), rule="b")])
    assert (merged.rule, merged.facts, merged.symbols) == ("", {}, (Symbol("S"),))
    assert merge([Verdict(rule="a")]) is ACCEPT


def test_symbol_that_several_give_counts_once_at_its_highest():
    merged = merge([says(Action.ACCEPT, Symbol("S", score, str(score))) for score in (1.0, 3.0, 2.0)])
    assert merged.symbols == (Symbol("S", 3.0, "3.0"),)


def test_first_of_equals_decides():
    merged = merge([says(Action.HOLD, rule="mild"), says(Action.REJECT, rule="first"), says(Action.REJECT, rule="second")])
    assert merged.rule == "first"


def test_verdict_within_the_caps_stays_the_same_object():
    verdict = Verdict(Action.REJECT, reply.POLICY, (Symbol("S", 1.0, "x"),), "r", {"a": "b"})
    assert bounded(verdict) is verdict


def test_surplus_symbols_keep_their_score():
    verdict = bounded(Verdict(symbols=tuple(Symbol(f"S{at}", 1.0) for at in range(1000))))
    assert len(verdict.symbols) == bounds.SYMBOLS_MAX
    assert verdict.score == 1000.0
    assert verdict.symbols[-1].name == bounds.SURPLUS


@given(st.dictionaries(st.text(max_size=200), st.text(max_size=2000), max_size=50), st.text(max_size=1000))
def test_texts_are_short_and_printable(facts: dict[str, str], detail: str):
    verdict = bounded(Verdict(symbols=(Symbol("S", 0.0, detail),), facts=facts))
    assert len(verdict.facts) <= bounds.FACTS_MAX
    for text, limit in [
        (verdict.symbols[0].detail, bounds.DETAIL_MAX),
        *((v, bounds.FACT_MAX) for v in verdict.facts.values()),
    ]:
        assert len(text) <= limit
        assert text.isprintable()


@pytest.mark.parametrize("score", [float("nan"), float("inf"), float("-inf")])
def test_score_that_is_no_number_is_a_fault(score: float):
    """It would make every comparison with a limit false: mail would pass unjudged."""
    with pytest.raises(BadVerdict):
        bounded(Verdict(symbols=(Symbol("S", score),)))


def finding(verdict: Verdict, *, name: str = "f", counts: bool = True) -> Finding:
    return Finding(name, Phase.RCPT, "enforce", verdict, 0.0, counts=counts)


@given(st.lists(st.tuples(st.sampled_from("fgh"), st.booleans(), verdicts), max_size=60), st.integers(1, 20))
def test_findings_are_bounded_and_nothing_that_counts_is_lost(said: list[tuple[str, bool, Verdict]], cap: int):
    findings: list[Finding] = []
    everything = [finding(verdict, name=name, counts=counts) for name, counts, verdict in said]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bounds, "FINDINGS_MAX", cap)
        for one in everything:
            remember(findings, [one])
    assert len(findings) <= cap + 3  # one more for each filter
    kept, wanted = (merge([one.verdict for one in many if one.counts]) for many in (findings, everything))
    assert (kept.action, set(kept.symbols)) == (wanted.action, set(wanted.symbols)) or kept.score == wanted.score
    assert [matters(one) for one in everything[:cap]] == [matters(one) for one in findings[: min(cap, len(everything))]]
