# SPDX-License-Identifier: Apache-2.0
"""The size limit: announced and real, at the edge of the limit (RFC 1870)."""

from pathlib import Path

import pytest

from gateway.filters.size import SizeFilter, SizeOptions
from gateway.mail import reply
from gateway.mail.message import FileBody, Message
from gateway.mail.verdict import ACCEPT, Action, Phase, Verdict
from tests.unit.filters.kit import CONTENT, transaction


async def at_mail(limit: int, declared: int | None) -> Verdict:
    tx = transaction(None)
    tx.declared_size = declared
    return await SizeFilter(SizeOptions(), limit).check(Phase.MAIL, tx)


@pytest.mark.parametrize(("limit", "declared"), [(100, 100), (100, None), (100, 0), (0, 1 << 62)])
async def test_announced_size_within_the_limit_is_taken(limit: int, declared: int | None):
    assert await at_mail(limit, declared) is ACCEPT


async def test_announced_size_over_the_limit_is_refused_before_data():
    verdict = await at_mail(100, 101)
    assert (verdict.action, verdict.reply, verdict.rule) == (Action.REJECT, reply.TOO_BIG, "size.declared")
    assert verdict.facts == {"size": "101", "limit": "100"}


@pytest.mark.parametrize(("spare", "rule"), [(0, ""), (-1, "size.real")])
async def test_real_size_counts_whatever_was_announced(spare: int, rule: str):
    tx = transaction()
    tx.declared_size = 1
    verdict = await SizeFilter(SizeOptions(), len(CONTENT) + spare).check(Phase.DATA, tx)
    assert (verdict.rule, verdict.reply) == (rule, reply.TOO_BIG if rule else None)


async def test_body_in_a_file_counts():
    tx = transaction()
    tx.message = Message(b"", b"A: b\r\n", FileBody(Path("/nonexistent"), 0, 1000))
    judge = SizeFilter(SizeOptions(), 1005)
    assert (await judge.check(Phase.DATA, tx)).reply == reply.TOO_BIG
