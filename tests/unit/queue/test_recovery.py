# SPDX-License-Identifier: Apache-2.0
"""What a start finds: unfinished work, wrong clocks, broken files, files of others."""

import asyncio
import sqlite3
from pathlib import Path

import pytest

from gateway.mail import reply
from gateway.mail.job import Deferred, QueueId
from gateway.mail.listing import Selector
from gateway.mail.message import FileBody, Message
from gateway.mail.verdict import ACCEPT
from gateway.queue.manager import NewerSchema, existing_shards
from tests.unit.queue.build import HEADER, TRACE, content, queue_id, transaction
from tests.unit.queue.conftest import Rig

DEFERRED = Deferred(reply=reply.INTERNAL)
BIG = b"\r\n" + b"x" * (300 << 10)


async def put(rig: Rig, *, body: bytes = b"hello\r\n") -> QueueId:
    return await rig.queue.accept(transaction(message=content(body)), ACCEPT)


async def ids(rig: Rig) -> list[QueueId]:
    return [view.id for view in await rig.queue.find(Selector(), 1000)]


async def test_what_was_claimed_or_deferred_is_there_after_a_restart(rig: Rig) -> None:
    await rig.open()
    claimed, deferred = await put(rig), await put(rig)
    jobs = {job.id: job for job in await rig.queue.claim(2)}
    await rig.queue.settle(jobs[deferred], [(jobs[deferred].recipients[0], DEFERRED)])
    await rig.reopen()
    assert [job.id for job in await rig.queue.claim(10)] == [claimed]
    await rig.clock.advance(70)
    (job,) = await asyncio.wait_for(rig.queue.claim(10), 5)
    assert (job.id, job.recipients[0].attempts) == (deferred, 1)


async def test_content_and_ids_go_on_after_a_restart(rig: Rig) -> None:
    await rig.open()
    first, big = await put(rig), await put(rig, body=BIG)
    await rig.reopen()
    second = await put(rig)
    jobs = await rig.queue.claim(10)
    assert [job.id for job in jobs] == [first, big, second]
    assert [(await rig.queue.load(job)).body_size for job in jobs] == [9, len(BIG) + 2, 9]


async def test_files_that_nobody_needs_are_removed_and_foreign_ones_left(rig: Rig) -> None:
    await rig.open()
    needed = await put(rig, body=BIG)
    spool = rig.queue.spool_directory
    orphan, leftover = queue_id(), queue_id()
    for name in (orphan, f"{leftover}.tmp", "notes.txt", "../strange"):
        (spool / name).write_bytes(b"x")
    await rig.reopen()
    assert sorted(path.name for path in spool.iterdir()) == sorted([needed, "notes.txt"])
    assert any("notes.txt" in trouble for trouble in rig.events.troubles)


@pytest.mark.parametrize("loss", ["missing", "short"])
async def test_a_message_whose_file_is_lost_is_held_and_the_others_go_on(rig: Rig, loss: str) -> None:
    await rig.open()
    lost, other = await put(rig, body=BIG), await put(rig)
    path = rig.queue.spool_directory / lost
    await rig.queue.close()
    path.unlink() if loss == "missing" else path.write_bytes(BIG[:1000])
    await rig.open()
    assert [job.id for job in await rig.queue.claim(10)] == [other]
    (view,) = await rig.queue.find(Selector(state="held"), 10)
    assert view.id == lost
    assert "file is missing" in view.reason
    assert len(rig.events.troubles) == 1


async def test_a_file_that_is_lost_while_we_run_holds_the_message(rig: Rig) -> None:
    await rig.open()
    rig.options = rig.options.model_copy(update={"memory": 0})
    await rig.reopen()
    lost = await put(rig, body=BIG)
    (job,) = await rig.queue.claim(1)
    (rig.queue.spool_directory / lost).unlink()
    with pytest.raises(reply.MailError) as failure:
        await rig.queue.load(job)
    assert failure.value.reply == reply.CONTENT_LOST
    await rig.queue.settle(job, [(job.recipients[0], DEFERRED)])
    assert [view.state for view in await rig.queue.find(Selector(), 1)] == ["held"]


# --- clocks


async def test_stamps_of_a_wrong_clock_neither_expire_nor_hide_mail(rig: Rig) -> None:
    """A machine without clock battery: mail taken in 1970 must not be five decades old when the time is known."""
    right = rig.clock.now()
    rig.clock.jump(-right)
    await rig.open()
    early = await put(rig)
    (job,) = await rig.queue.claim(1)
    await rig.queue.settle(job, [(job.recipients[0], DEFERRED)])
    await rig.queue.close()
    rig.clock.jump(2 * right)  # and now far in the future
    await rig.open()
    late = await put(rig)
    jobs = await rig.queue.claim(10)
    for job in jobs:
        await rig.queue.settle(job, [(job.recipients[0], DEFERRED)])
    await rig.queue.close()
    rig.clock.jump(-right)
    await rig.open()
    assert {job.id for job in await rig.queue.claim(10)} == {early, late}
    assert all(abs(view.created - rig.clock.now()) < 1 for view in await rig.queue.find(Selector(), 10))


# --- broken files


def damage(path: Path, kind: str) -> None:
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("this is no database\n" * 1000)
    elif kind == "truncated":
        path.write_bytes(path.read_bytes()[:5000])
    elif kind == "garbled":
        octets = bytearray(path.read_bytes())
        octets[4096:] = b"\xa5" * (len(octets) - 4096)
        path.write_bytes(octets)
    elif kind == "foreign":
        path.unlink()
        with sqlite3.connect(path) as connection:
            connection.execute("CREATE TABLE other (a)")
        connection.close()
    else:
        path.unlink()
        path.mkdir()


@pytest.mark.parametrize("kind", ["empty", "text", "truncated", "garbled", "foreign", "folder"])
async def test_a_broken_file_is_put_aside_and_the_start_goes_on(rig: Rig, kind: str) -> None:
    await rig.open()
    big = await put(rig, body=BIG)
    await rig.queue.close()
    damage(rig.path, kind)
    before = rig.path.read_bytes() if rig.path.is_file() else b""
    await rig.open()
    assert "put aside" in rig.events.troubles[0]
    (aside,) = [path for path in rig.directory.glob("0.sqlite.broken-*") if not path.name.endswith(".spool")]
    assert not before or aside.read_bytes() == before
    assert await ids(rig) == []
    assert [path.name for path in rig.directory.glob("0.sqlite.broken-*.spool/*")] == [big]  # not lost with its row
    queued = await put(rig)
    await rig.reopen()
    assert await ids(rig) == [queued]


async def test_what_can_be_read_of_a_damaged_database_is_saved(rig: Rig) -> None:
    await rig.open()
    taken = [await put(rig, body=bytes([65 + n]) * 9000) for n in range(20)]
    await rig.queue.close()
    octets = bytearray(rig.path.read_bytes())
    page = octets.index(b"J" * 3000) // 4096  # an overflow page of the tenth body
    octets[page * 4096 : page * 4096 + 8] = b"\xff" * 8
    rig.path.write_bytes(octets)
    await rig.open()
    saved = await ids(rig)
    assert set(saved) >= set(taken) - {taken[9]}
    for name, letter in [(taken[0], b"A"), (taken[19], b"T")]:
        octets = await rig.queue.content(name) or b""
        assert octets.endswith(letter * 9000)


async def test_a_crash_while_the_file_is_made_leaves_nothing_that_hinders(rig: Rig) -> None:
    rig.directory.mkdir()
    rig.path.with_suffix(".new").write_bytes(b"half")
    await rig.open()
    assert rig.events.troubles == []


async def test_a_newer_schema_is_refused_and_left_alone(rig: Rig) -> None:
    await rig.open()
    await rig.queue.close()
    with sqlite3.connect(rig.path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(NewerSchema, match="schema 99"):
        await rig.open()
    await rig.queue.close()  # of one that never opened: nothing to do
    assert [path.name for path in rig.directory.glob("*.broken*")] == []


async def test_shards_are_found_by_their_files(rig: Rig, tmp_path: Path) -> None:
    await rig.open()
    for name in ("12.sqlite", "2.sqlite", "x.sqlite", "3.sqlite-wal", "4.sqlite.broken-1"):
        (rig.directory / name).touch()
    assert existing_shards(rig.directory) == [0, 2, 12]
    assert existing_shards(tmp_path / "nowhere") == []


async def test_a_shard_that_is_only_emptied_takes_no_mail_but_delivers(rig: Rig) -> None:
    await rig.open()
    queued = await put(rig)
    await rig.queue.close()
    await rig.open(drain_only=True)
    with pytest.raises(reply.MailError) as failure:
        await put(rig)
    assert failure.value.reply == reply.QUEUE_CLOSED
    assert [job.id for job in await rig.queue.claim(1)] == [queued]


async def test_a_backlog_that_is_gone_is_given_back_to_the_file_system(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.queue.recovery.SHRINK_PAGES", 100)
    await rig.open()
    for _ in range(20):
        await put(rig, body=b"x" * 100_000)
    await rig.queue.operate("delete", Selector(), dry_run=False)
    await rig.reopen()
    assert rig.path.stat().st_size < 200_000


async def test_files_are_for_our_eyes_only(rig: Rig) -> None:
    await rig.open()
    await put(rig, body=BIG)
    for path in [*rig.directory.glob("0.sqlite*"), *rig.queue.spool_directory.iterdir()]:
        assert path.stat().st_mode & 0o077 == 0, path
    assert rig.directory.stat().st_mode & 0o077 == 0


async def test_a_file_of_the_edge_is_taken_over_and_any_other_copied(rig: Rig, tmp_path: Path) -> None:
    await rig.open()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(b"HEAD" + BIG)
    tx = transaction(message=Message(TRACE, HEADER, FileBody(elsewhere, 4, len(BIG))))
    await rig.queue.accept(tx, ACCEPT)
    assert elsewhere.exists()
    assert await rig.queue.content(tx.id) == TRACE + HEADER + BIG
    taken_over = transaction()
    path = rig.queue.spool_directory / f"{taken_over.id}.tmp"
    path.write_bytes(HEADER + BIG)
    taken_over.message = Message(TRACE, HEADER, FileBody(path, len(HEADER), len(BIG)))
    await rig.queue.accept(taken_over, ACCEPT)
    assert await rig.queue.content(taken_over.id) == TRACE + HEADER + BIG
    assert sorted(path.name for path in rig.queue.spool_directory.iterdir()) == sorted([tx.id, taken_over.id])
