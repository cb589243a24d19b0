# SPDX-License-Identifier: Apache-2.0
"""SPF: may this client send mail in the name of this domain?

The check is made once a transaction, at the first RCPT: only there it is known whether the mail is for postmaster, which
is not refused. At end of data the result is weighed: its symbols, and hold.
Promises: MAIL FROM decides; HELO is asked only where MAIL FROM says neither pass nor fail, so a pass is never undone by
it; the results go to `tx.auth` for others to use; what the owner of the domain says in his explanation is marked as his,
plain ASCII, and short.
Fails with: 550 5.7.23 (fail), 451 4.7.24 (no answer from the DNS).
RFCs: 7208 §2.3 and §2.4 (identities), §6.2 (explanations), §8 (what results ask for); 7372 §3.2 (reply codes).
Not here: the evaluation of records (`auth/spf.py`).
"""

import asyncio
from collections.abc import Callable
from typing import ClassVar, Literal

from gateway.auth import spf
from gateway.auth.spf import SpfResult
from gateway.filters.base import OnFail, ScoredOptions
from gateway.infra.options import option
from gateway.mail import reply
from gateway.mail.envelope import Client, Transaction
from gateway.mail.value import value
from gateway.mail.verdict import ACCEPT, Action, AuthResult, Phase, Symbol, Verdict
from gateway.ports import Resolver

SCORES = {
    "SPF_PASS": 0.0,
    "SPF_FAIL": 6.0,  # counts where on_fail = "score", and for mail that only postmaster gets
    "SPF_SOFTFAIL": 2.0,  # RFC 7208 §8.5: between fail and neutral
    "SPF_NEUTRAL": 0.5,  # RFC 7208 §8.2: exactly as none
    "SPF_NONE": 0.5,
    "SPF_PERMERROR": 1.0,
    "SPF_TEMPERROR": 0.5,
    "SPF_HELO_FAIL": 4.0,
}
SHARE = 0.9  # of the filter's timeout is for the DNS: what is slow there has its own result
EXPLANATION_MAX = 250  # characters: with the rest it fits a reply line, RFC 5321 §4.5.3.1.5
LOGGED_IN = Verdict(facts={"skipped": "the client has logged in"})
SKIPPED = Verdict(facts={"skipped": "the client is trusted, and its mail goes elsewhere"})


class SpfOptions(ScoredOptions):
    """[filters.spf]"""

    default_scores: ClassVar = SCORES

    trusted: Literal["inbound", "all", "none"] = option(
        "inbound",
        doc="Which mail of clients in relay.networks is judged: inbound (what they bring for our relay.domains) | all | none.",
    )
    on_fail: OnFail = option(
        "reject", doc="When the domain of MAIL FROM disowns the client: reject (550 5.7.23) | hold | score."
    )
    on_helo_fail: OnFail = option("reject", doc="When the name of HELO disowns it, and MAIL FROM does not own it: as on_fail.")
    on_temperror: Literal["defer", "accept"] = option(
        "defer", doc="When the DNS has no answer: defer (451 4.7.24; never trusted clients) | accept."
    )


@value(frozen=True, slots=True)
class Checked(AuthResult):
    """A result in `tx.auth` with what the filter needs of it at later recipients and at end of data."""

    identity: str = ""  # "mailfrom" or "helo"
    text: str = ""  # of a refusal


class SpfFilter:
    """Checks at RCPT, weighs at DATA."""

    name = "spf"
    phases = frozenset({Phase.RCPT, Phase.DATA})

    def __init__(self, options: SpfOptions, resolver: Resolver, ours: Callable[[str], bool]) -> None:
        """`ours` says whether mail for a domain (in lower-case A-labels) is taken from anyone."""
        self._options = options
        self._ours = ours
        self._resolver = resolver
        self._symbols = options.symbols()

    async def check(self, phase: Phase, tx: Transaction) -> Verdict:
        if tx.client.user:  # he is wherever he is: no record can list the places that people write from
            return LOGGED_IN
        if tx.client.trusted and self._exempt(tx):
            return SKIPPED
        results = [result for result in tx.auth if isinstance(result, Checked)]
        if phase is Phase.DATA:
            return self._weigh(results)
        facts: dict[str, str] = {}
        if not results:
            results, facts = await self._ask(tx)
            tx.auth.extend(results)
        return self._refusal(results, facts, trusted=tx.client.trusted) or Verdict(facts=facts)

    def _exempt(self, tx: Transaction) -> bool:
        """A trusted client's mail to elsewhere is mail of the house: the sender's record names our own way out, not him."""
        if self._options.trusted != "inbound":
            return self._options.trusted == "none"
        return tx.candidate is not None and not self._ours(tx.candidate.address.ascii_domain)

    async def _ask(self, tx: Transaction) -> tuple[list[Checked], dict[str, str]]:
        """MAIL FROM (for the null sender that is postmaster@HELO, RFC 7208 §2.4), and HELO where it can matter."""
        sender = f"{tx.sender.local}@{tx.sender.ascii_domain}" if tx.sender else ""
        facts = {"ip": str(tx.client.ip), "helo": tx.client.helo, "sender": sender}
        end = asyncio.get_running_loop().time() + self._options.timeout * SHARE
        first = await self._check_host(tx.client, sender, end)
        facts |= _describe(first)
        results = [_checked("mailfrom", first, tx.client, sender)]
        if sender and tx.client.helo and first.result not in ("pass", "fail"):
            second = await self._check_host(tx.client, "", end)
            facts |= {f"helo_{key}": text for key, text in _describe(second).items()}
            results.append(_checked("helo", second, tx.client, ""))
        return results, facts

    async def _check_host(self, client: Client, sender: str, end: float) -> SpfResult:
        """A slow domain is a temperror of that domain; were it a fault of this filter, it would count against all others."""
        left = max(0.0, end - asyncio.get_running_loop().time())
        return await spf.check_host(self._resolver, client.ip, client.helo, sender, timeout=left)

    def _refusal(self, results: list[Checked], facts: dict[str, str], *, trusted: bool) -> Verdict | None:
        for result in results:
            if result.result == "fail" and self._on_fail(result) == "reject":
                why = reply.SPF_FAIL.but(result.text)
                return Verdict(Action.REJECT, why, rule=f"spf.{result.identity}_fail", facts=facts)
        # Our own hosts are not made to wait for somebody's DNS: they may relay anyway.
        if results[0].result == "temperror" and self._options.on_temperror == "defer" and not trusted:
            return Verdict(Action.DEFER, reply.SPF_TEMPERROR, rule="spf.temperror", facts=facts)
        return None

    def _weigh(self, results: list[Checked]) -> Verdict:
        if not results:  # the check was skipped after a fault
            return ACCEPT
        symbols = tuple(self._symbol(at, result) for at, result in enumerate(results) if not at or result.result == "fail")
        held = any(result.result == "fail" and self._on_fail(result) == "hold" for result in results)
        if held:
            return Verdict(Action.HOLD, None, symbols, "spf.fail")
        return Verdict(symbols=symbols)

    def _symbol(self, at: int, result: Checked) -> Symbol:
        return self._symbols[f"SPF_{result.result.upper()}" if not at else "SPF_HELO_FAIL"]

    def _on_fail(self, result: Checked) -> OnFail:
        return self._options.on_helo_fail if result.identity == "helo" else self._options.on_fail


def _checked(identity: str, result: SpfResult, client: Client, sender: str) -> Checked:
    shown = spf.to_auth_result(result, sender)
    return Checked(shown.method, shown.result, shown.reason, shown.properties, identity, _text(result, client))


def _text(result: SpfResult, client: Client) -> str:
    """What the client is told. RFC 7208 §6.2: the explanation is a stranger's text and has to be marked as that."""
    if result.explanation:
        return f"{reply.SPF_FAIL.text}; {result.domain} explains: {result.explanation[:EXPLANATION_MAX]}"
    return f"{reply.SPF_FAIL.text}: {client.ip} may not send for {result.domain}"


def _describe(result: SpfResult) -> dict[str, str]:
    facts = {
        "result": result.result,
        "domain": result.domain,
        "mechanism": result.mechanism,
        "explanation": result.explanation,
        "reason": result.reason,
        "lookups": str(result.lookups),
    }
    return {key: text for key, text in facts.items() if text}
