# SPDX-License-Identifier: Apache-2.0
"""How verdicts add up."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.mail import reply
from gateway.mail.verdict import ACCEPT, Action, Symbol, Verdict, combine

HOLD = Verdict(Action.HOLD, None, (Symbol("A", 1.5),), "one.hold", {"why": "a"})
DISCARD = Verdict(Action.DISCARD, None, (Symbol("B", -0.5),), "two.discard")
DEFER = Verdict(Action.DEFER, reply.FILTER_FAULT, (Symbol("C"),), "three.defer")
REJECT = Verdict(Action.REJECT, reply.POLICY, (Symbol("D", 4.0),), "four.reject", {"why": "d"})


def test_nothing_is_accepted() -> None:
    assert combine([]) == ACCEPT
    assert combine(iter(())) is ACCEPT


@pytest.mark.parametrize(
    ("mild", "severe"), [(ACCEPT, HOLD), (HOLD, DISCARD), (DISCARD, DEFER), (DEFER, REJECT), (ACCEPT, REJECT)]
)
def test_the_severest_wins_wherever_it_stands(mild: Verdict, severe: Verdict) -> None:
    for order in ([mild, severe], [severe, mild], [mild, severe, mild]):
        found = combine(order)
        assert (found.action, found.reply, found.rule, found.facts) == (severe.action, severe.reply, severe.rule, severe.facts)


def test_of_equal_ones_the_first_decides() -> None:
    other = Verdict(Action.REJECT, reply.SPAM, (Symbol("E"),), "five.reject")
    assert combine([HOLD, REJECT, other]).rule == "four.reject"
    assert combine([other, HOLD, REJECT]).reply == reply.SPAM


def test_symbols_are_kept_in_order_and_scores_add_up() -> None:
    found = combine([REJECT, HOLD, ACCEPT, DISCARD, HOLD])
    assert [symbol.name for symbol in found.symbols] == ["D", "A", "B", "A"]
    assert found.score == 4.0 + 1.5 - 0.5 + 1.5


def test_what_the_client_is_told() -> None:
    assert [verdict.stops for verdict in (ACCEPT, HOLD, DISCARD, DEFER, REJECT)] == [False, False, False, True, True]
    assert [action.label for action in Action] == ["accept", "hold", "discard", "defer", "reject"]


verdicts = st.lists(st.sampled_from([ACCEPT, HOLD, DISCARD, DEFER, REJECT]), max_size=8)


@given(verdicts, verdicts)
def test_adding_up_in_parts_is_adding_up_at_once(first: list[Verdict], second: list[Verdict]) -> None:
    """Phase by phase or filter by filter: the outcome is the same."""
    whole, parts = combine([*first, *second]), combine([combine(first), combine(second)])
    assert (whole.action, whole.reply, whole.symbols) == (parts.action, parts.reply, parts.symbols)
    if whole.action is not Action.ACCEPT:
        assert whole == parts
