# SPDX-License-Identifier: Apache-2.0
"""Caps on what filters may say, so that no message can make the record of itself large.

Promises: texts are short and have no control characters; of too many symbols the surplus is one symbol with their
scores added up, so a cap never changes a score; a verdict that makes no sense is a fault, never an acceptance;
the findings of a transaction are bounded, and those that count are folded together, not lost.
Fails with: `BadVerdict`.
Not here: what verdicts add up to (`filters/scoring.py`).
"""

from collections.abc import Mapping
from dataclasses import replace
from math import isfinite

from gateway.filters.scoring import merge
from gateway.mail.reply import clean
from gateway.mail.verdict import Action, Finding, Symbol, Verdict

SYMBOLS_MAX = 64  # of one verdict
FACTS_MAX = 32
FACT_NAME_MAX = 64  # characters
FACT_MAX = 512
DETAIL_MAX = 200
LOOKUPS_MAX = 100  # shown of one run: twice what SPF with both identities may cost (RFC 7208 §4.6.4) with its addresses
FINDINGS_MAX = 200  # of one transaction: some filters for each of 100 recipients (RFC 5321 §4.5.3.1.8)
SURPLUS = "MORE_SYMBOLS"


class BadVerdict(Exception):
    """A filter gave something that is not a usable verdict."""


def bounded(verdict: Verdict) -> Verdict:
    """`verdict` within all caps; the same object if it is so already. Raises BadVerdict."""
    if not isinstance(verdict, Verdict):
        raise BadVerdict(f"returned {type(verdict).__name__}, not a verdict")
    if verdict.action >= Action.DEFER and (verdict.reply is None or verdict.reply.positive):
        raise BadVerdict(f"{verdict.action.label} without a negative reply")
    symbols = _bounded_symbols(verdict.symbols) if verdict.symbols else ()
    facts = verdict.facts
    if facts and not _are_bounded(facts):
        facts = {clean(key, FACT_NAME_MAX): clean(value, FACT_MAX) for key, value in list(facts.items())[:FACTS_MAX]}
    if symbols is verdict.symbols and facts is verdict.facts:
        return verdict
    return replace(verdict, symbols=symbols, facts=facts)


def _bounded_symbols(symbols: tuple[Symbol, ...]) -> tuple[Symbol, ...]:
    tidy = len(symbols) <= SYMBOLS_MAX
    for symbol in symbols:
        if not isfinite(symbol.score):  # it would make every comparison with a limit false
            raise BadVerdict("a score that is not a number")
        if symbol.detail and not _is_short(symbol.detail, DETAIL_MAX):
            tidy = False
    if tidy:
        return symbols
    if len(symbols) > SYMBOLS_MAX:
        rest = symbols[SYMBOLS_MAX - 1 :]
        surplus = Symbol(SURPLUS, sum(symbol.score for symbol in rest), f"{len(rest)} symbols")
        symbols = (*symbols[: SYMBOLS_MAX - 1], surplus)
    return tuple(replace(symbol, detail=clean(symbol.detail, DETAIL_MAX)) for symbol in symbols)


def _are_bounded(facts: Mapping[str, str]) -> bool:
    if len(facts) > FACTS_MAX:
        return False
    for key, value in facts.items():  # a generator costs twice as much here  # noqa: SIM110
        if not _is_short(key, FACT_NAME_MAX) or not _is_short(value, FACT_MAX):
            return False
    return True


def _is_short(text: str, limit: int) -> bool:
    return len(text) <= limit and text.isprintable()


def remember(findings: list[Finding], fresh: list[Finding]) -> None:
    """Add `fresh` to the findings of a transaction, within the cap."""
    if len(findings) + len(fresh) <= FINDINGS_MAX:
        findings.extend(fresh)
        return
    for finding in fresh:
        if len(findings) < FINDINGS_MAX:
            findings.append(finding)
        elif matters(finding):
            _fold(findings, finding)


def matters(finding: Finding) -> bool:
    """True if the final verdict would be another one without it."""
    return finding.counts and bool(finding.verdict.action or finding.verdict.symbols)


def _fold(findings: list[Finding], finding: Finding) -> None:
    """Put what a finding says into an earlier one of its filter and phase; so there is at most one more for each pair."""
    for at, earlier in enumerate(findings):
        if (earlier.filter, earlier.phase) == (finding.filter, finding.phase) and matters(earlier):
            findings[at] = replace(earlier, verdict=bounded(merge((earlier.verdict, finding.verdict))))
            return
    findings.append(finding)
