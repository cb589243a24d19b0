# SPDX-License-Identifier: Apache-2.0
"""DKIM: who has signed this message, and does it still say what was signed?

Promises: signatures are verified for every client, trusted or not; each result goes to `tx.auth` for others to use;
by itself a failed signature changes nothing, as the standard wants. Large messages are worked on in threads, few at a time.
Fails with: 451 4.7.20 and 550 5.7.20, only where `on_temperror` and `on_fail` ask for them.
RFCs: 6376 §6.1 and §6.3 (a failed signature is as none), 8601 §2.7.1 (results), 7372 §3.1 (reply codes).
Not here: the verification (`auth/dkim.py`).
"""

import asyncio
from collections.abc import Sequence
from typing import ClassVar, Literal

from gateway.auth import dkim
from gateway.auth.dkim import DkimResult
from gateway.filters.base import OnFail, ScoredOptions
from gateway.infra.options import Duration, Size, option
from gateway.mail import reply
from gateway.mail.envelope import Transaction
from gateway.mail.message import Message
from gateway.mail.verdict import Action, AuthResult, Phase, Symbol, Verdict
from gateway.ports import Resolver

SCORES = {  # RFC 6376 §6.1: a message with a failed signature is treated as one without, so both weigh the same
    "DKIM_PASS": 0.0,
    "DKIM_NONE": 0.0,
    "DKIM_FAIL": 0.0,
    "DKIM_TEMPERROR": 0.0,
    "DKIM_TOO_BIG": 0.0,
}
FIELD = b"dkim-signature"
LARGE = 256 << 10  # octets; what is larger keeps a thread busy for more than a moment


class DkimOptions(ScoredOptions):
    """[filters.dkim]"""

    default_scores: ClassVar = SCORES

    timeout: Duration = option("20s", doc="How long one run may take; then on_error applies.", gt=0)
    max_size: Size = option("50MiB", doc="Larger messages are not verified (result neutral); 0 = no limit.", ge=0)
    large_at_once: int = option(
        2, doc="How many messages over 256KiB are verified at a time; each keeps a thread busy.", ge=1, le=64
    )
    on_temperror: Literal["accept", "defer"] = option("accept", doc="When a key could not be looked up: accept | defer (451).")
    on_fail: OnFail = option("score", doc="When there are signatures and none is valid: reject | hold | score.")


class DkimFilter:
    """Verifies at end of data. `tx.started` is the time that signatures are held against."""

    name = "dkim"
    phases = frozenset({Phase.DATA})

    def __init__(self, options: DkimOptions, resolver: Resolver) -> None:
        self._options = options
        self._resolver = resolver
        self._symbols = options.symbols()
        self._large = asyncio.Semaphore(options.large_at_once)
        self._none = Verdict(symbols=(self._symbols["DKIM_NONE"],))

    async def check(self, phase: Phase, tx: Transaction) -> Verdict:
        message = tx.message
        if message is None or FIELD not in message.header.lower():  # most cheaply: nothing is read for nothing
            tx.auth.append(AuthResult("dkim", "none"))
            return self._none
        if 0 < self._options.max_size < message.size:
            tx.auth.append(AuthResult("dkim", "neutral", "message too large to verify"))
            return Verdict(symbols=(self._symbols["DKIM_TOO_BIG"],), facts={"size": str(message.size)})
        results = await self._verify(message, tx.started)
        tx.auth.extend(dkim.to_auth_results(results))
        return self._judge(results)

    async def _verify(self, message: Message, now: float) -> Sequence[DkimResult]:
        if message.size <= LARGE:
            return await dkim.verify_message(self._resolver, message, now)
        # A run that is cut by its deadline gives its place back while its thread may still be busy for a moment: the
        # size of the loop's thread pool is the bound of last resort.
        async with self._large:
            return await dkim.verify_message(self._resolver, message, now)

    def _judge(self, results: Sequence[DkimResult]) -> Verdict:
        symbol = self._symbol(results)
        facts = {f"signature {at}": _describe(result) for at, result in enumerate(results, 1)}
        if symbol.name == "DKIM_TEMPERROR" and self._options.on_temperror == "defer":
            return Verdict(Action.DEFER, reply.DKIM_TEMPERROR, (symbol,), "dkim.temperror", facts)
        if symbol.name == "DKIM_FAIL" and self._options.on_fail == "reject":
            return Verdict(Action.REJECT, reply.DKIM_FAIL, (symbol,), "dkim.fail", facts)
        if symbol.name == "DKIM_FAIL" and self._options.on_fail == "hold":
            return Verdict(Action.HOLD, None, (symbol,), "dkim.fail", facts)
        return Verdict(symbols=(symbol,), facts=facts)

    def _symbol(self, results: Sequence[DkimResult]) -> Symbol:
        """One for the message: a valid signature outweighs all others, one that might be valid those that are not."""
        # RFC 6376 §3.6.1: a failure under a key that is being tested (t=y) is to be treated as no signature
        found = {result.result for result in results if result.result == "pass" or not result.testing}
        if "pass" in found:
            return self._symbols["DKIM_PASS"]
        if "temperror" in found:
            return self._symbols["DKIM_TEMPERROR"]
        return self._symbols["DKIM_FAIL" if found - {"none"} else "DKIM_NONE"]


def _describe(result: DkimResult) -> str:
    words = (
        f"{result.domain}/{result.selector}",
        result.result,
        result.algorithm,
        f"{result.bits} bits" if result.bits else "",
    )
    return " ".join(word for word in words if word) + (f": {result.reason}" if result.reason else "")
