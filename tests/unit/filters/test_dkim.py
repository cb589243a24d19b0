# SPDX-License-Identifier: Apache-2.0
"""The DKIM filter over real signatures: what each outcome means for the message."""

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from gateway.auth import dkim
from gateway.auth.dkim import DkimResult
from gateway.auth.dkim_sign import SigningKey, sign
from gateway.filters.dkim import LARGE, DkimFilter, DkimOptions
from gateway.mail import reply
from gateway.mail.envelope import Transaction
from gateway.mail.message import FileBody, Message
from gateway.mail.verdict import Action, AuthResult, Phase, Verdict
from gateway.ports import Answer, Resolver
from tests.support.resolver import MapResolver
from tests.unit.filters import kit
from tests.unit.filters.kit import CONTENT

KEY = SigningKey("a.example", "s1", bytes(range(32)))
OTHER = SigningKey("b.example", "s2", bytes(range(1, 33)))
SIGNED = sign(CONTENT, KEY) + CONTENT
BROKEN = SIGNED.replace(b"Hello", b"Hallo")


def transaction(content: bytes = CONTENT, *, trusted: bool = False) -> Transaction:
    """One that begins now: a signature from its future would not be valid."""
    tx = kit.transaction(content, trusted=trusted)
    tx.started = time.time()
    return tx


def dns(*, testing: bool = False) -> MapResolver:
    flags = b"; t=y" if testing else b""
    return MapResolver({key.record_name: {"TXT": [key.record + flags]} for key in (KEY, OTHER)})


async def look(content: bytes, resolver: MapResolver | None = None, **options: Any) -> tuple[Verdict, Transaction]:
    tx = transaction(content)
    judge = DkimFilter(DkimOptions.model_validate(options), resolver or dns())
    return await judge.check(Phase.DATA, tx), tx


def only(verdict: Verdict) -> str:
    (symbol,) = verdict.symbols
    return symbol.name


async def test_valid_signature_passes_and_is_told_to_others():
    verdict, tx = await look(SIGNED)
    assert (verdict.action, only(verdict)) == (Action.ACCEPT, "DKIM_PASS")
    assert [(result.method, result.result) for result in tx.auth] == [("dkim", "pass")]
    assert ("header.d", "a.example") in tx.auth[0].properties
    assert verdict.facts["signature 1"].startswith("a.example/s1 pass ed25519-sha256")


@pytest.mark.parametrize("trusted", [True, False])
async def test_signatures_of_trusted_clients_are_verified_too(trusted: bool):
    tx = transaction(SIGNED, trusted=trusted)
    assert only(await DkimFilter(DkimOptions(), dns()).check(Phase.DATA, tx)) == "DKIM_PASS"


async def test_message_without_signature_asks_and_reads_nothing():
    resolver = dns()
    tx = transaction()
    tx.message = Message(b"", tx.message.header if tx.message else b"", FileBody(Path("/nonexistent"), 0, 1000))
    verdict = await DkimFilter(DkimOptions(), resolver).check(Phase.DATA, tx)
    assert (only(verdict), tx.auth, resolver.questions) == ("DKIM_NONE", [AuthResult("dkim", "none")], [])


async def test_our_own_trace_fields_are_no_part_of_what_was_signed():
    tx = transaction(SIGNED)
    assert tx.message
    tx.message = tx.message.with_trace(b"From: eve@evil.example\r\n")
    assert only(await DkimFilter(DkimOptions(), dns()).check(Phase.DATA, tx)) == "DKIM_PASS"


@pytest.mark.parametrize(
    ("on_fail", "action", "why"),
    [("score", Action.ACCEPT, None), ("hold", Action.HOLD, None), ("reject", Action.REJECT, reply.DKIM_FAIL)],
)
async def test_broken_signature_means_what_the_operator_says(on_fail: str, action: Action, why: object):
    """RFC 6376 §6.3: by default nothing."""
    verdict, tx = await look(BROKEN, on_fail=on_fail)
    assert (verdict.action, verdict.reply, only(verdict), tx.auth[0].result) == (action, why, "DKIM_FAIL", "fail")
    assert (await look(CONTENT, on_fail=on_fail))[0].action is Action.ACCEPT  # no signature is not a failed one
    assert (await look(SIGNED, on_fail=on_fail))[0].action is Action.ACCEPT


async def test_one_valid_signature_outweighs_broken_ones():
    broken = sign(CONTENT.replace(b"Hello", b"Hallo"), OTHER)
    verdict, tx = await look(broken + SIGNED, on_fail="reject")
    assert (verdict.action, only(verdict)) == (Action.ACCEPT, "DKIM_PASS")
    assert [result.result for result in tx.auth] == ["fail", "pass"]


async def test_failure_under_a_key_that_is_being_tested_is_as_no_signature():
    """RFC 6376 §3.6.1, t=y."""
    verdict, _ = await look(BROKEN, dns(testing=True), on_fail="reject")
    assert (verdict.action, only(verdict)) == (Action.ACCEPT, "DKIM_NONE")


async def test_missing_key_is_a_failure():
    verdict, tx = await look(SIGNED, MapResolver(), on_fail="reject")
    assert (verdict.reply, tx.auth[0].result) == (reply.DKIM_FAIL, "permerror")


@pytest.mark.parametrize(
    ("on_temperror", "action", "why"), [("accept", Action.ACCEPT, None), ("defer", Action.DEFER, reply.DKIM_TEMPERROR)]
)
async def test_key_that_cannot_be_looked_up(on_temperror: str, action: Action, why: object):
    resolver = MapResolver({KEY.record_name: "SERVFAIL"})
    verdict, tx = await look(SIGNED, resolver, on_temperror=on_temperror, on_fail="reject")
    assert (verdict.action, verdict.reply, only(verdict), tx.auth[0].result) == (action, why, "DKIM_TEMPERROR", "temperror")


async def test_message_over_max_size_is_neutral_and_not_read():
    verdict, tx = await look(SIGNED, max_size=len(SIGNED) - 1)
    assert (only(verdict), tx.auth[0].result) == ("DKIM_TOO_BIG", "neutral")
    assert only((await look(SIGNED, max_size=len(SIGNED)))[0]) == "DKIM_PASS"
    assert only((await look(SIGNED, max_size=0))[0]) == "DKIM_PASS"


def large(folder: Path) -> Transaction:
    """A transaction whose body lies in a file."""
    content = CONTENT + b"x" * 70 + b"\r\n" + b"line\r\n" * (LARGE // 6)
    content = sign(content, KEY) + content
    message = Message.parse(content)
    assert isinstance(message.body, bytes)
    path = folder / "body"
    path.write_bytes(b"some other octets" + message.body)
    tx = transaction()
    tx.message = Message(b"", message.header, FileBody(path, len(b"some other octets"), len(message.body)))
    return tx


class Held(MapResolver):
    """Tells when it is asked, and keeps its answers back."""

    def __init__(self) -> None:
        super().__init__({KEY.record_name: {"TXT": [KEY.record]}})
        self.asked = asyncio.Event()
        self.hold = asyncio.Event()

    def release(self) -> None:
        assert self.hold
        self.hold.set()

    async def txt(self, name: str) -> Answer[bytes]:
        self.asked.set()
        return await super().txt(name)


async def test_large_message_is_verified_from_its_file(tmp_path: Path):
    tx = large(tmp_path)
    assert only(await DkimFilter(DkimOptions(), dns()).check(Phase.DATA, tx)) == "DKIM_PASS"


async def test_only_so_many_large_messages_are_in_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    working, done = [], asyncio.Event()

    async def verify(resolver: Resolver, message: Message, now: float) -> list[DkimResult]:
        working.append(message.size)
        await done.wait()
        return []

    monkeypatch.setattr(dkim, "verify_message", verify)
    judge = DkimFilter(DkimOptions(large_at_once=2), dns())
    tasks = [asyncio.create_task(judge.check(Phase.DATA, large(tmp_path))) for _ in range(3)]
    tasks.append(asyncio.create_task(judge.check(Phase.DATA, transaction(SIGNED))))
    for _ in range(10):
        await asyncio.sleep(0)
    assert [size > LARGE for size in working] == [True, True, False]  # nobody small waits behind them
    done.set()
    await asyncio.gather(*tasks)
    assert len(working) == 4


async def test_cancelled_run_gives_its_place_back(tmp_path: Path):
    tx, resolver = large(tmp_path), Held()
    judge = DkimFilter(DkimOptions(large_at_once=1), resolver)
    task = asyncio.create_task(judge.check(Phase.DATA, tx))
    await resolver.asked.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    resolver.release()
    assert only(await judge.check(Phase.DATA, tx)) == "DKIM_PASS"


async def test_body_that_cannot_be_read_is_a_fault_not_a_pass(tmp_path: Path):
    tx = large(tmp_path)
    (tmp_path / "body").unlink()
    with pytest.raises(OSError):
        await DkimFilter(DkimOptions(), dns()).check(Phase.DATA, tx)
