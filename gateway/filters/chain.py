# SPDX-License-Identifier: Apache-2.0
"""The chain of filters: all that the edge sees of them (`ports.Policy`).

The way of a decision: 1 the filters of the phase run in the order of the table, each under its deadline and all under
that of the phase; 2 the first enforced DEFER or REJECT ends the round; 3 what the enforced ones said adds up to the
verdict of the phase; 4 at end of data, what the earlier phases said is added and the score is held against its limits.
Promises: a filter in shadow mode runs and is recorded and changes nothing; hold and discard of an earlier phase are in the
final verdict; what was said about a refused recipient is not; `postmaster` is exempt from judgement (not from rules of
relaying, size and loops); a filter that fails never lets mail pass silently; findings are bounded.
RFCs: 5321 §4.5.1 (postmaster), §4.5.3.2.6 (the client waits 10 minutes for the final reply) and §6.1 (so keep it short).
Not here: one run (`filters/runner.py`), sums (`filters/scoring.py`), which filters there are (`filters/builtin.py`).
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from gateway.filters.bounds import LOOKUPS_MAX, matters, remember
from gateway.filters.options import FiltersOptions
from gateway.filters.runner import BoundFilter as BoundFilter
from gateway.filters.runner import Runner
from gateway.filters.scoring import judge, merge
from gateway.infra.dns import record_lookups
from gateway.mail import reply
from gateway.mail.address import Address
from gateway.mail.envelope import Transaction
from gateway.mail.verdict import ACCEPT, Action, Finding, Phase, Symbol, Verdict
from gateway.ports import Clock, EventSink

EXEMPT = Symbol("POSTMASTER_EXEMPT")
PROTECTIVE = frozenset({reply.LOOP})  # refusals of content filters that protect us and judge nobody


def _any_postmaster(address: Address) -> bool:
    """Without knowledge of our domains. An untrusted client reaches only those, a trusted one may write to others too."""
    return address.is_postmaster


class Chain:
    """The filters of one configuration. `ours` says whether an address is a postmaster of ours; `observer` is called
    with each finding, must be quick and must not raise."""

    def __init__(
        self,
        filters: Sequence[BoundFilter],
        options: FiltersOptions,
        clock: Clock,
        events: EventSink,
        *,
        ours: Callable[[Address], bool] = _any_postmaster,
        observer: Callable[[Finding], None] | None = None,
    ) -> None:
        runners = [Runner(bound, clock, events, faults=options.breaker_faults, rest=options.breaker_rest) for bound in filters]
        self._phases = {phase: tuple(runner for runner in runners if phase in runner.phases) for phase in Phase}
        self._options = options
        self._clock = clock
        self._ours = ours
        self._observer = observer

    async def decide(self, phase: Phase, tx: Transaction) -> Verdict:
        """The verdict for a phase; for DATA, the final one of the whole transaction."""
        runners = self._phases[phase]
        if not runners and phase is not Phase.DATA:
            return ACCEPT
        findings = await self._round(runners, phase, tx) if runners else []
        verdict = merge([finding.verdict for finding in findings if matters(finding)])
        if phase is Phase.DATA:
            verdict = self._final(verdict, tx)
        elif verdict.stops:  # one recipient (or command) is refused: this round is no part of the message
            findings = [replace(finding, counts=False) for finding in findings]
        remember(tx.findings, findings)
        if self._observer is not None:
            for finding in findings:
                self._observer(finding)
        return verdict

    async def _round(self, runners: Sequence[Runner], phase: Phase, tx: Transaction) -> list[Finding]:
        findings: list[Finding] = []
        now = self._clock.monotonic()
        end = now + self._options.deadline
        with record_lookups() as lookups:
            for runner in runners:
                asked, started = len(lookups), now
                verdict, fault = await runner.run(phase, tx, now, end - now)
                if verdict.action is Action.REJECT:
                    verdict = self._exempted(verdict, runner, phase, tx)
                now = self._clock.monotonic()
                own = tuple(lookups[asked : asked + LOOKUPS_MAX]) if len(lookups) > asked else ()
                finding = Finding(runner.name, phase, runner.mode, verdict, now - started, own, fault, runner.enforced)
                findings.append(finding)
                if verdict.stops and runner.enforced:
                    break
        return findings

    def _exempted(self, verdict: Verdict, runner: Runner, phase: Phase, tx: Transaction) -> Verdict:
        """RFC 5321 §4.5.1: mail for postmaster is taken, whatever a filter thinks of its sender or content."""
        if runner.always or verdict.reply in PROTECTIVE or not self._for_postmaster(phase, tx):
            return verdict
        symbols = (*verdict.symbols, EXEMPT)
        return Verdict(Action.ACCEPT, None, symbols, "postmaster.exempt", {**verdict.facts, "exempt_from": verdict.rule})

    def _for_postmaster(self, phase: Phase, tx: Transaction) -> bool:
        """True if nobody but our postmaster is meant: by this RCPT, or by the whole message."""
        if phase is Phase.RCPT and tx.candidate is not None:
            return self._ours(tx.candidate.address)
        return bool(tx.recipients) and all(self._ours(recipient.address) for recipient in tx.recipients)

    def _final(self, verdict: Verdict, tx: Transaction) -> Verdict:
        """The verdict of the DATA round and what the earlier phases have left standing, held against the limits."""
        earlier = [finding.verdict for finding in tx.findings if matters(finding)]
        if earlier:
            verdict = merge([*earlier, verdict])
        if not verdict.symbols:
            return verdict
        options = self._options
        judged = judge(verdict, options.reject_score, options.hold_score)
        if judged.action is Action.REJECT and not verdict.stops and self._for_postmaster(Phase.DATA, tx):
            return judge(replace(verdict, symbols=(*verdict.symbols, EXEMPT)), 0, options.hold_score)
        return judged
