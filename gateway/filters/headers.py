# SPDX-License-Identifier: Apache-2.0
"""First heuristics: mail that loops, the test string for spam, and headers that no honest program writes.

Promises: linear time whatever the header; a loop and GTUBE are refused from everyone, the rest is for untrusted clients
only (programs of our own house write odd headers); reading a large message is done in a thread.
Fails with: 554 5.4.6 (loop), 554 5.7.1 (GTUBE), 550 5.6.0 (no or several From).
RFCs: 5321 §6.3 (counting Received), 5322 §3.6 (how often each field may occur), 6532 §3.2 (UTF-8 in headers).
Not here: the examination itself (`filters/heuristics.py`), authentication (`filters/spf.py`, `filters/dkim.py`).
"""

import asyncio
import threading
from typing import ClassVar

from gateway.filters import heuristics
from gateway.filters.base import OnFail, ScoredOptions
from gateway.infra.options import Duration, Size, option
from gateway.mail import reply
from gateway.mail.envelope import Transaction
from gateway.mail.message import Message
from gateway.mail.verdict import ACCEPT, Action, Phase, Symbol, Verdict

BAD_FROM = frozenset({"MISSING_FROM", "MULTIPLE_FROM"})
LARGE_HEADER = 64 << 10  # octets; taking a larger one apart would hold up the loop for milliseconds


class HeadersOptions(ScoredOptions):
    """[filters.headers]"""

    default_scores: ClassVar = heuristics.SCORES

    max_hops: int = option(
        100, doc="More Received fields than this are a loop (RFC 5321 §6.3: at least 100); 0 = no limit.", ge=0
    )
    scan_size: Size = option("10MiB", doc="How much of a body is searched for the GTUBE test string; 0 = all of it.", ge=0)
    on_bad_from: OnFail = option(
        "reject", doc="No From or several, from an untrusted client: reject (550 5.6.0) | hold | score. DMARC cannot judge it."
    )
    max_ahead: Duration = option("1d", doc="A Date that is further in the future is odd.", ge=0)
    max_age: Duration = option("30d", doc="A Date that is older is odd.", ge=0)


class HeadersFilter:
    """Looks at end of data; `tx.started` is the time that Date is held against."""

    name = "headers"
    phases = frozenset({Phase.DATA})

    def __init__(self, options: HeadersOptions) -> None:
        self._options = options
        self._symbols = options.symbols()
        self._ages = (options.max_age, options.max_ahead)

    async def check(self, phase: Phase, tx: Transaction) -> Verdict:
        message = tx.message
        if message is None:
            return ACCEPT
        if refusal := self._loop(message.header):
            return refusal
        if await self._has_gtube(message):
            return Verdict(Action.REJECT, reply.SPAM, (self._symbols["GTUBE"],), "headers.gtube")
        if tx.client.may_relay:
            return ACCEPT
        if len(message.header) > LARGE_HEADER:
            return await asyncio.to_thread(self._judge, message, tx)
        return self._judge(message, tx)

    def _loop(self, header: bytes) -> Verdict | None:
        limit = self._options.max_hops
        if not limit or (hops := heuristics.count_hops(header, limit)) <= limit:
            return None
        return Verdict(Action.REJECT, reply.LOOP, rule="headers.loop", facts={"hops": str(hops), "limit": str(limit)})

    async def _has_gtube(self, message: Message) -> bool:
        if heuristics.GTUBE in message.header:
            large = len(message.header) > LARGE_HEADER
            if await asyncio.to_thread(_in_subject, message) if large else _in_subject(message):
                return True
        limit = self._options.scan_size
        if isinstance(message.body, bytes):
            return message.body.find(heuristics.GTUBE, 0, limit or None) >= 0
        stop = threading.Event()
        try:
            return await asyncio.to_thread(heuristics.scan, message.body_chunks(), limit, stop)
        finally:
            stop.set()  # a run that is cut must not leave a thread reading on

    def _judge(self, message: Message, tx: Transaction) -> Verdict:
        names, facts = heuristics.examine(message, tx.started, self._ages, smtputf8=tx.smtputf8)
        if heuristics.has_look_alike(message, tx.sender):
            names.append("LOOK_ALIKE_DOMAIN")
        symbols: tuple[Symbol, ...] = tuple(self._symbols[name] for name in names)
        bad = [name for name in names if name in BAD_FROM]
        if bad and self._options.on_bad_from == "reject":
            return Verdict(Action.REJECT, reply.BAD_HEADERS, symbols, "headers.from", facts)
        if bad and self._options.on_bad_from == "hold":
            return Verdict(Action.HOLD, None, symbols, "headers.from", facts)
        return Verdict(symbols=symbols, facts=facts)


def _in_subject(message: Message) -> bool:
    return any(heuristics.GTUBE in value for value in message.values(b"subject"))
