# SPDX-License-Identifier: Apache-2.0
"""What the verdicts of all filters add up to: the one final verdict of a message.

Promises: the severest action wins, and what an earlier phase asked for (hold, discard) is not forgotten; a symbol that
several verdicts bear counts once, with its highest score, so that many recipients do not multiply it; the order of the
verdicts changes neither action nor score. Pure.
Not here: which filters run (`filters/chain.py`).
"""

from collections.abc import Sequence

from gateway.mail import reply
from gateway.mail.verdict import ACCEPT, Action, Symbol, Verdict, combine

PRECISION = 3  # decimals: sums of decimal scores must reach the limit that their decimals reach


def merge(verdicts: Sequence[Verdict]) -> Verdict:
    """The severest of `verdicts`, with every symbol once. Nobody decided an acceptance: it has no rule and no facts."""
    if not verdicts:
        return ACCEPT
    symbols = distinct(verdicts)
    acting = [verdict for verdict in verdicts if verdict.action]
    if acting:
        decided = combine(acting)
        return Verdict(decided.action, decided.reply, symbols, decided.rule, decided.facts)
    return Verdict(symbols=symbols) if symbols else ACCEPT


def distinct(verdicts: Sequence[Verdict]) -> tuple[Symbol, ...]:
    """All symbols in the order of their first appearance, each name once with its highest score."""
    best: dict[str, Symbol] = {}
    for verdict in verdicts:
        for symbol in verdict.symbols:
            known = best.get(symbol.name)
            if known is None or symbol.score > known.score:
                best[symbol.name] = symbol
    return tuple(best.values())


def judge(verdict: Verdict, reject_score: float, hold_score: float) -> Verdict:
    """Apply the limits to the summed score; a limit of 0 is none. A severer action stays."""
    if verdict.stops or not verdict.symbols:
        return verdict
    score = round(verdict.score, PRECISION)
    if reject_score and score >= reject_score:
        return _because(verdict, "score.reject", score, reject_score, Action.REJECT)
    if hold_score and score >= hold_score and verdict.action < Action.HOLD:
        return _because(verdict, "score.hold", score, hold_score, Action.HOLD)
    return verdict


def _because(verdict: Verdict, rule: str, score: float, limit: float, action: Action) -> Verdict:
    facts = {"score": f"{score:g}", "limit": f"{limit:g}"}
    return Verdict(action, reply.SPAM if action is Action.REJECT else None, verdict.symbols, rule, facts)
