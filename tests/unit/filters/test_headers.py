# SPDX-License-Identifier: Apache-2.0
"""Header heuristics: loops, GTUBE, and what RFC 5322 §3.6 allows; for hostile octets linear and without exceptions."""

import asyncio
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.filters import heuristics
from gateway.filters.headers import LARGE_HEADER, HeadersFilter, HeadersOptions
from gateway.filters.heuristics import GTUBE, count_hops, examine, scan
from gateway.mail import reply
from gateway.mail.message import FileBody, Message
from gateway.mail.verdict import ACCEPT, Action, Phase, Verdict
from tests.unit.filters.kit import CONTENT, HEADER, NOW, transaction

HOP = b"Received: from a by b; Tue, 14 Nov 2023 22:13:20 +0000\r\n"


async def look(content: bytes, *, trusted: bool = False, smtputf8: bool = False, **options: Any) -> Verdict:
    tx = transaction(content, trusted=trusted)
    tx.smtputf8 = smtputf8
    return await HeadersFilter(HeadersOptions.model_validate(options)).check(Phase.DATA, tx)


async def found(header: bytes, **options: Any) -> set[str]:
    """Names of the symbols for a header, from an untrusted client, where a bad From is not refused."""
    verdict = await look(header + b"\r\nHello\r\n", on_bad_from="score", **options)
    return {symbol.name for symbol in verdict.symbols}


async def test_good_mail_has_no_symbols():
    assert await found(HEADER) == set()
    assert (await look(CONTENT)).action is Action.ACCEPT


# --- loops (RFC 5321 §6.3)


@pytest.mark.parametrize("trusted", [True, False])
async def test_more_hops_than_allowed_are_a_loop(trusted: bool):
    assert (await look(HOP * 100 + CONTENT, trusted=trusted)).action is Action.ACCEPT
    verdict = await look(HOP * 101 + CONTENT, trusted=trusted)
    assert (verdict.reply, verdict.rule, verdict.facts) == (reply.LOOP, "headers.loop", {"hops": "101", "limit": "100"})


async def test_limit_of_hops_is_configurable_and_zero_is_none():
    assert (await look(HOP * 3 + CONTENT, max_hops=2)).reply == reply.LOOP
    assert (await look(HOP * 300 + CONTENT, max_hops=0)).action is Action.ACCEPT


@pytest.mark.parametrize("spelling", [b"RECEIVED: x\r\n", b"received : x\r\n", b"ReCeived\t:\r\n x\r\n"])
async def test_hops_count_in_every_spelling(spelling: bytes):
    """Another case of the letters must not hide a loop."""
    assert (await look(spelling * 101 + CONTENT)).reply == reply.LOOP


async def test_only_fields_count_as_hops():
    talk = b"X-Note: received received:\r\n Received: folded\r\nX-Received: a\r\nReceived-SPF: pass\r\n"
    assert (await look(talk * 101 + CONTENT)).reply is None


# --- GTUBE


@pytest.mark.parametrize("trusted", [True, False])
@pytest.mark.parametrize(
    "content",
    [
        CONTENT + GTUBE + b"\r\n",
        CONTENT + b"x" * 100_000 + GTUBE,
        CONTENT.replace(b"Lunch", GTUBE),
        CONTENT.replace(b"Lunch", b"Re:\r\n " + GTUBE),
    ],
)
async def test_gtube_is_refused_from_everyone(content: bytes, trusted: bool):
    verdict = await look(content, trusted=trusted)
    assert (verdict.reply, verdict.rule, [symbol.name for symbol in verdict.symbols]) == (
        reply.SPAM,
        "headers.gtube",
        ["GTUBE"],
    )


async def test_a_large_header_is_searched_for_gtube_in_a_thread(monkeypatch: pytest.MonkeyPatch):
    """The name of a test string is no reason to take a header bomb apart while all sessions wait."""
    threads: list[threading.Thread] = []
    values = Message.values
    monkeypatch.setattr(Message, "values", lambda *told: threads.append(threading.current_thread()) or values(*told))
    bomb = b"a:\r\n" * (LARGE_HEADER // 4) + b"X-Test: " + GTUBE + b"\r\n"
    assert (await look(bomb + CONTENT, trusted=True)).action is Action.ACCEPT
    assert len(threads) == 1
    assert threading.current_thread() not in threads
    assert (await look(bomb + CONTENT.replace(b"Lunch", GTUBE))).reply == reply.SPAM


@pytest.mark.parametrize("content", [CONTENT + GTUBE[:-1], CONTENT.replace(b"Lunch", b"Lunch\r\nX-Test: " + GTUBE)])
async def test_what_is_nearly_gtube_passes(content: bytes):
    assert (await look(content)).action is Action.ACCEPT


async def in_file(path: Path, body: bytes, **options: Any) -> Verdict:
    path.write_bytes(body)
    tx = transaction(trusted=True)
    tx.message = Message(b"", HEADER, FileBody(path, 0, len(body)))
    return await HeadersFilter(HeadersOptions.model_validate(options)).check(Phase.DATA, tx)


@pytest.mark.parametrize("at", [0, 1, (256 << 10) - 30, (256 << 10) - len(GTUBE) + 1, (512 << 10) - 1, 700_000])
async def test_gtube_is_found_in_a_file_across_the_borders_of_chunks(tmp_path: Path, at: int):
    body = b"\r\n" + b"x" * at + GTUBE + b"y" * 1000
    assert (await in_file(tmp_path / "body", body)).reply == reply.SPAM


async def test_search_ends_at_its_limit(tmp_path: Path):
    body = b"\r\n" + b"x" * 998 + GTUBE
    for limit, expected in ((1000, None), (1000 + len(GTUBE) - 1, None), (1000 + len(GTUBE), reply.SPAM), (0, reply.SPAM)):
        assert (await in_file(tmp_path / "body", body, scan_size=limit)).reply == expected
        assert (await look(HEADER + body, scan_size=limit)).reply == expected


async def test_body_that_cannot_be_read_is_a_fault_not_a_pass(tmp_path: Path):
    tx = transaction(trusted=True)
    tx.message = Message(b"", HEADER, FileBody(tmp_path / "gone", 0, 1000))
    with pytest.raises(OSError):
        await HeadersFilter(HeadersOptions()).check(Phase.DATA, tx)


async def test_run_that_is_cut_leaves_no_thread_reading_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Else a stalled disk would fill the pool of threads with readers nobody waits for."""
    scanning, ended, loop = asyncio.Event(), asyncio.Event(), asyncio.get_running_loop()

    def endless(chunks: Any, limit: int, stop: threading.Event) -> bool:
        loop.call_soon_threadsafe(scanning.set)
        if stop.wait(30):
            loop.call_soon_threadsafe(ended.set)
        return False

    monkeypatch.setattr(heuristics, "scan", endless)
    task = asyncio.create_task(in_file(tmp_path / "body", b"\r\nx"))
    await scanning.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    async with asyncio.timeout(20):
        await ended.wait()


@given(st.binary(max_size=300), st.integers(1, 100), st.integers(0, 400), st.booleans())
def test_scan_is_what_find_says_whatever_the_chunks(noise: bytes, size: int, limit: int, planted: bool):
    content = noise[: len(noise) // 2] + (GTUBE if planted else b"") + noise[len(noise) // 2 :]
    chunks = [content[at : at + size] for at in range(0, len(content), size)]
    assert scan(chunks, limit, threading.Event()) == (GTUBE in (content[:limit] if limit else content))


# --- fields


@pytest.mark.parametrize("field", [b"From", b"To", b"Subject", b"Date", b"Message-ID"])
async def test_missing_and_doubled_field(field: bytes):
    lines = HEADER.splitlines(keepends=True)
    own = next(line for line in lines if line.startswith(field))
    name = field.decode().upper().replace("-", "_")
    assert await found(b"".join(line for line in lines if line != own)) == {f"MISSING_{name}"}
    assert await found(HEADER + own) == {f"MULTIPLE_{name}"}
    assert await found(HEADER + own.replace(field, field.lower())) == {f"MULTIPLE_{name}"}


@pytest.mark.parametrize("field", [b"Cc", b"Bcc"])
async def test_mail_that_is_to_nobody_but_copies_is_addressed(field: bytes):
    assert await found(HEADER.replace(b"To:", field + b":")) == set()


@pytest.mark.parametrize(
    ("old", "new", "symbol"),
    [
        (b"Ann <ann@a.example>", b"Ann", "FROM_WITHOUT_ADDRESS"),
        (b"Ann <ann@a.example>", b"", "FROM_WITHOUT_ADDRESS"),
        (b"Lunch", b"BUY THIS NOW AT ONCE", "SUBJECT_ALL_CAPS"),
        (b"14 Nov 2023", b"16 Nov 2023", "DATE_IN_FUTURE"),
        (b"14 Nov 2023", b"14 Sep 2023", "DATE_IN_PAST"),
        (b"14 Nov 2023", b"99 Foo 2023", "DATE_INVALID"),
        (b"14 Nov 2023", b"14 Nov 99999999999999999999", "DATE_INVALID"),
        (b"+0000", b"+99999999999999999999", "DATE_INVALID"),
        (b"Tue, 14 Nov 2023 22:13:20 +0000", b"", "DATE_INVALID"),
        (b"Tue, 14 Nov 2023 22:13:20 +0000", b"(" * 5000, "DATE_INVALID"),
        (b"Lunch", b"Lun\0ch", "HEADER_NUL"),
        (b"Lunch", "Grüße".encode(), "HEADER_8BIT"),
        (b"Lunch", b"\xff\xfe", "HEADER_8BIT"),
        (b"Subject: Lunch\r\n", b"Subject: Lunch\r\nno colon here\r\n", "HEADER_MALFORMED"),
        (b"Subject: Lunch\r\n", b"Subject: Lunch\r\nBad Name: x\r\n", "HEADER_MALFORMED"),
        (b"Subject: Lunch\r\n", b"Subject: Lunch\r\n: x\r\n", "HEADER_MALFORMED"),
        (b"From: Ann", b" folded: nowhere\r\nFrom: Ann", "HEADER_MALFORMED"),
        (b"Subject: Lunch\r\n", b"Subject: Lunch\r\nSender: a\r\nSender: b\r\n", "MULTIPLE_OTHER"),
        (b"ann@a.example", b"ann@xn--pypal-4ve.example", "LOOK_ALIKE_DOMAIN"),  # a Cyrillic letter among Latin ones
    ],
)
async def test_odd_field(old: bytes, new: bytes, symbol: str):
    assert old in HEADER
    assert await found(HEADER.replace(old, new)) == {symbol}


@pytest.mark.parametrize(
    "subject",
    [b"FYI", b"RE: ISO 9001", b"ABCDEFGHIJKL and more", b"=?UTF-8?B?QUJDREVGR0hJSktMTU5P?=", "ПРИВЕТ ВСЕМ ЛЮДЯМ".encode(), b""],
)
async def test_short_or_encoded_capitals_mean_nothing(subject: bytes):
    assert "SUBJECT_ALL_CAPS" not in await found(HEADER.replace(b"Lunch", subject))


async def test_utf8_in_headers_is_right_under_smtputf8():
    header = HEADER.replace(b"Lunch", "Grüße".encode())
    verdict = await look(header + b"\r\n", smtputf8=True)
    assert verdict.symbols == ()


async def test_ages_of_dates_are_configurable():
    assert await found(HEADER.replace(b"14 Nov 2023", b"16 Nov 2023"), max_ahead="3d") == set()
    assert await found(HEADER.replace(b"14 Nov 2023", b"13 Nov 2023"), max_age="1h") == {"DATE_IN_PAST"}


BAD_FROM = [HEADER.replace(b"From:", b"X-From:"), HEADER + b"From: eve@evil.example\r\n", b""]


@pytest.mark.parametrize("header", BAD_FROM)
async def test_no_from_or_several_are_refused_from_strangers_only(header: bytes):
    """RULES 53: DMARC cannot judge such a message, and programs show whichever From they like."""
    content = header + b"\r\nHello\r\n"
    assert (await look(content)).reply == reply.BAD_HEADERS
    assert await look(content, trusted=True) is ACCEPT
    held = await look(content, on_bad_from="hold")
    assert (held.action, held.rule) == (Action.HOLD, "headers.from")
    assert (await look(content, on_bad_from="score")).action is Action.ACCEPT


async def test_a_user_who_has_logged_in_is_of_the_house():
    tx = transaction(b"Subject: x\r\n\r\n")
    tx.client = replace(tx.client, user="ann")
    assert await HeadersFilter(HeadersOptions()).check(Phase.DATA, tx) is ACCEPT


async def test_scores_are_those_of_the_options():
    verdict = await look(HEADER.replace(b"Date:", b"X-Date:") + b"\r\n", scores={"MISSING_DATE": 7.25})
    assert verdict.score == 7.25


async def test_message_that_is_not_there_is_accepted():
    assert await HeadersFilter(HeadersOptions()).check(Phase.DATA, transaction(None)) is ACCEPT


async def test_large_header_is_taken_apart_in_a_thread_with_the_same_outcome():
    header = HEADER + b"".join(b"X-%d: y\r\n" % at for at in range(10_000)) + b"Date: x\r\n"
    assert await found(header) == {"MULTIPLE_DATE"}


@given(st.binary(max_size=400), st.booleans())
def test_any_octets_are_judged_without_an_exception(octets: bytes, smtputf8: bool):
    message = Message.parse(octets)
    names, facts = examine(message, NOW, (1.0, 1.0), smtputf8=smtputf8)
    assert set(names) <= set(heuristics.SCORES)
    assert len(set(names)) == len(names)
    assert all(text.isprintable() for text in facts.values())


@given(st.binary(max_size=60).map(lambda text: text.replace(b"\r", b"").replace(b"\n", b"")))
def test_any_date_is_judged_without_an_exception(value: bytes):
    examine(Message.parse(b"Date: " + value + b"\r\n\r\n"), NOW, (1.0, 1.0), smtputf8=False)


@given(
    st.lists(st.sampled_from([HOP, b"received: x\r\n", b"X: received\r\n", b"Subject: a\r\n"]), max_size=30), st.integers(0, 30)
)
def test_hops_are_counted_exactly_where_it_matters(fields: list[bytes], limit: int):
    header = b"".join(fields)
    exact = sum(field.name.lower() == b"received" for field in Message.parse(header).fields)
    counted = count_hops(header, limit)
    assert (counted > limit) == (exact > limit)
    assert counted <= limit or counted == exact
