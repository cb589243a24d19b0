# SPDX-License-Identifier: Apache-2.0
"""No message larger than `limits.message_size`. Always on.

Promises: the size that the client announces is judged at MAIL, the real one at end of data, by the same rule. The edge stops
keeping octets at the limit while it reads; this is the same limit, seen once more for messages that come another way.
Fails with: 552 5.3.4.
RFCs: 1870 §6.1 (the announced size), §6.3 (the real one).
"""

from typing import ClassVar

from gateway.filters.base import FilterOptions
from gateway.mail import reply
from gateway.mail.envelope import Transaction
from gateway.mail.verdict import ACCEPT, Action, Phase, Verdict


class SizeOptions(FilterOptions):
    """[filters.size]"""

    always_on: ClassVar[bool] = True


class SizeFilter:
    """`limit` is in octets of header and body; 0 is no limit."""

    name = "size"
    phases = frozenset({Phase.MAIL, Phase.DATA})

    def __init__(self, options: SizeOptions, limit: int) -> None:
        self._limit = limit

    async def check(self, phase: Phase, tx: Transaction) -> Verdict:
        if phase is Phase.DATA:
            return self._judge("size.real", tx.message.size if tx.message else 0)
        return self._judge("size.declared", tx.declared_size or 0)

    def _judge(self, rule: str, size: int) -> Verdict:
        if not self._limit or size <= self._limit:
            return ACCEPT
        return Verdict(Action.REJECT, reply.TOO_BIG, rule=rule, facts={"size": str(size), "limit": str(self._limit)})
