# SPDX-License-Identifier: Apache-2.0
"""A queue that an older version of this program wrote: its mail goes on, whatever happens while the file is changed."""

import os
import signal
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.mail.envelope import BodyType, Recipient
from gateway.mail.job import Deferred, make_queue_id
from gateway.mail.listing import Selector
from gateway.mail.reply import from_remote
from gateway.mail.verdict import ACCEPT
from gateway.queue import database
from gateway.queue.database import APPLICATION_ID, NEW, TABLES, VERSION
from gateway.queue.disk import DatabaseError
from tests.unit.queue.build import content, transaction
from tests.unit.queue.conftest import Rig
from tests.unit.queue.test_salvage import killed_in, recover, spoil_index

OLD = Path(__file__).parents[2] / "data" / "queue" / "schema1.sql"
LATER = Deferred(reply=from_remote(451, "4.7.1 later"), hop="mx1", remote=True)
IDS = [make_queue_id(number, 3) for number in range(1, 5)]


def write_old(rig: Rig, version: int = 1) -> None:
    """A shard as schema 1 left it: queued, deferred (one recipient done), held, and one with octets above 127."""
    rig.directory.mkdir(parents=True)
    connection = sqlite3.connect(rig.path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.executescript(f"BEGIN; {OLD.read_text()} PRAGMA user_version = {version}; COMMIT;")
    now = rig.clock.now()
    for n, (queue_id, state, flags) in enumerate(zip(IDS, (0, 0, 1, 0), (0, 0, 0, 1), strict=True), 1):
        message = content(b"old %d \xe4\r\n" % n)
        due = None if state else now
        row = (n, queue_id, state, due, now, message.size, "ann@source.example", flags, "", "", "spam" if state else "")
        connection.execute("INSERT INTO messages VALUES (?,?,?,?,?,?,?,?,?,?,?)", row)
        head = message.trace + message.header
        connection.execute("INSERT INTO contents VALUES (?,?,?,?,0)", (n, len(message.trace), head, message.body))
        for i in range(2):
            done = 2 if (n, i) == (2, 0) else 1 if n == 2 else 0
            there = (n, i, f"r{i}@dest.example", "dest.example", done, int(n == 2), now, "", "")
            connection.execute("INSERT INTO recipients VALUES (?,?,?,?,?,?,?,?,?)", there)
    connection.close()


def shape(path: Path) -> tuple[int, int, int]:
    """Version, and columns of messages and recipients."""
    connection = sqlite3.connect(path)
    try:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        counts = [
            connection.execute("SELECT count(*) FROM pragma_table_info(?)", (table,)).fetchone()[0]
            for table in ("messages", "recipients")
        ]
    finally:
        connection.close()
    return version, counts[0], counts[1]


OLD_SHAPE, OUR_SHAPE = (1, 11, 9), (VERSION, TABLES["messages"], TABLES["recipients"])


async def check_old_mail(rig: Rig) -> None:
    """All of it is there as it was."""
    views = {view.id: view for view in await rig.queue.find(Selector(), 100)}
    assert [views[queue_id].state for queue_id in IDS] == ["queued", "deferred", "held", "queued"]
    assert views[IDS[2]].reason == "spam"
    for n, queue_id in enumerate(IDS, 1):
        assert (await rig.queue.content(queue_id) or b"").endswith(b"old %d \xe4\r\n" % n)
    jobs = {job.id: job for job in await rig.queue.claim(10)}
    assert set(jobs) == {IDS[0], IDS[1], IDS[3]}
    assert [due.index for due in jobs[IDS[1]].recipients] == [1]
    job = jobs[IDS[3]]
    assert (job.eight_bit, job.binary, job.require_tls, job.ret, job.envid) == (True, False, False, "", "")
    assert all((due.notify, due.orcpt) == ((), "") for due in job.recipients)


@pytest.mark.parametrize("version", [1, NEW], ids=["used", "in-the-making"])
async def test_mail_of_schema_1_goes_on(rig: Rig, version: int) -> None:
    write_old(rig, version)
    await rig.open()
    assert rig.events.troubles == []
    await check_old_mail(rig)
    await rig.queue.close()
    assert shape(rig.path) == OUR_SHAPE
    await rig.open()
    assert rig.events.troubles == []


async def test_old_and_new_mail_stand_side_by_side(rig: Rig) -> None:
    write_old(rig)
    await rig.open()
    tx = transaction()
    tx.envid, tx.ret, tx.require_tls, tx.body = "Qq+2B1", "hdrs", True, BodyType.BINARY
    tx.recipients = [replace(tx.recipients[0], notify=("Success", "DELAY"), orcpt="RFC822;A+2Bb@x")]
    await rig.queue.accept(tx, ACCEPT)
    await rig.reopen()
    jobs = {job.id: job for job in await rig.queue.claim(10)}
    assert len(jobs) == 4
    job = jobs[tx.id]
    assert (job.ret, job.envid, job.require_tls, job.binary) == ("hdrs", "Qq+2B1", True, True)
    assert (job.recipients[0].notify, job.recipients[0].orcpt) == (("Success", "DELAY"), "RFC822;A+2Bb@x")


async def test_the_wishes_of_a_sender_outlive_deferral_and_restart(rig: Rig) -> None:
    """They are read back for each try, in every combination."""
    await rig.open()
    tx = transaction()
    address = tx.recipients[0].address
    wishes: list[tuple[tuple[str, ...], str]] = [
        ((), ""),
        (("NEVER",), ""),
        ((), "utf-8;b\\x{FC}@x"),
        (("DELAY",), "utf-8;ü@x"),
    ]
    tx.recipients = [Recipient(address, notify, orcpt) for notify, orcpt in wishes]
    tx.envid = "x"
    await rig.queue.accept(tx, ACCEPT)
    for _ in range(2):
        (job,) = await rig.queue.claim(1)
        assert [(due.notify, due.orcpt) for due in job.recipients] == wishes
        assert (job.envid, job.ret) == ("x", "")
        await rig.queue.settle(job, [(due, LATER) for due in job.recipients])
        await rig.reopen()
        await rig.clock.advance(7200)


async def test_mail_that_asks_for_nothing_costs_nothing_more(rig: Rig) -> None:
    await rig.open()
    await rig.queue.accept(transaction("a@dest.example", "b@dest.example"), ACCEPT)
    await rig.queue.close()
    connection = sqlite3.connect(rig.path)
    assert (
        connection.execute("SELECT options FROM messages UNION ALL SELECT options FROM recipients").fetchall() == [(None,)] * 3
    )
    connection.close()


async def test_a_migration_that_fails_leaves_the_old_file(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    write_old(rig)
    with monkeypatch.context() as patched:
        patched.setitem(database.MIGRATIONS, 2, [database.MIGRATIONS[2][0], "ALTER TABLE nothing ADD COLUMN x TEXT"])
        with pytest.raises(DatabaseError):
            await rig.open()
    assert shape(rig.path) == OLD_SHAPE
    await rig.open()
    await check_old_mail(rig)


async def test_a_death_in_the_middle_of_it_leaves_the_old_file(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    write_old(rig)

    first = database.MIGRATIONS[2][0]

    def deadly() -> Iterator[str]:
        yield first
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setitem(database.MIGRATIONS, 2, deadly())
    assert killed_in(lambda: recover(rig, rig.disk))
    monkeypatch.undo()
    assert shape(rig.path) == OLD_SHAPE
    await rig.open()
    await check_old_mail(rig)


async def test_a_damaged_file_of_schema_1_is_saved_into_ours(rig: Rig) -> None:
    write_old(rig)
    connection = sqlite3.connect(rig.path)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    spoil_index(rig.path)
    await rig.open()
    assert "4 messages saved" in rig.events.troubles[0]
    await check_old_mail(rig)
    assert shape(rig.path) == OUR_SHAPE


def test_the_schema_that_is_made_and_the_one_that_is_reached_are_the_same(tmp_path: Path) -> None:
    made, reached = sqlite3.connect(tmp_path / "made"), sqlite3.connect(tmp_path / "reached")
    made.executescript(database.SCHEMA)
    reached.executescript(OLD.read_text())
    for step in sorted(database.MIGRATIONS):
        for statement in database.MIGRATIONS[step]:
            reached.execute(statement)
    for table, columns in TABLES.items():
        facts = [
            each.execute('SELECT name, type, "notnull", pk FROM pragma_table_info(?)', (table,)).fetchall()
            for each in (made, reached)
        ]
        assert facts[0] == facts[1]
        assert len(facts[0]) == columns
    made.close()
    reached.close()


def test_there_is_a_migration_to_each_schema() -> None:
    assert sorted(database.MIGRATIONS) == list(range(2, VERSION + 1))
