# SPDX-License-Identifier: Apache-2.0
"""A database is broken or gone, and the start that mends it dies, or the disk fails it: no mail may be lost over that."""

import os
import shutil
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.mail.job import QueueId
from gateway.mail.listing import Selector
from gateway.mail.verdict import ACCEPT
from gateway.queue import database, recovery
from gateway.queue.database import prepare
from gateway.queue.disk import Connection, Disk
from gateway.queue.manager import existing_shards
from gateway.queue.options import QueueOptions
from tests.support.disk import FailingDisk, database_full, sync_failed
from tests.unit.queue.build import content, transaction
from tests.unit.queue.conftest import Rig

BIG = b"\r\n" + b"x" * (300 << 10)
PAGE = 4096


async def put(rig: Rig, body: bytes = b"hello\r\n") -> QueueId:
    return await rig.queue.accept(transaction(message=content(body)), ACCEPT)


async def filled(rig: Rig) -> set[QueueId]:
    """A queue of small and large messages, closed."""
    await rig.open()
    ids = {await put(rig) for _ in range(6)} | {await put(rig, BIG) for _ in range(2)}
    await rig.queue.close()
    return ids


def spoil_index(path: Path) -> None:
    """Damage that the check finds, but that costs no message."""
    connection = sqlite3.connect(path)
    (root,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'messages_due'").fetchone()
    connection.close()
    octets = bytearray(path.read_bytes())
    octets[(root - 1) * PAGE + 8 : (root - 1) * PAGE + 100] = b"\xff" * 92
    path.write_bytes(octets)


async def whole(rig: Rig) -> set[QueueId]:
    """What is queued with all its octets, and not held."""
    found = set()
    for view in await rig.queue.find(Selector(state="queued"), 100):
        octets = await rig.queue.content(view.id) or b""
        assert octets.endswith((b"hello\r\n", BIG))
        found.add(view.id)
    return found


def recover(rig: Rig, disk: Disk) -> None:
    """As a start does, without what runs afterwards."""
    spool = recovery.Spool(rig.path.with_suffix(".spool"), disk)
    recovery.recover(rig.path, spool, disk, rig.options, now=rig.clock.now(), tell=lambda detail, about: None)


def killed_in(work: Callable[[], object]) -> bool:
    """Run it in a process that `work` kills. False if it ended by itself."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


class Fatal(FailingDisk):
    """Its n-th act, or n-th message copied, is the last one of the process."""

    def __init__(self, at: int, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.fail(at)
        insert = database._insert

        def inserted(target: Connection, rows: dict[str, list[tuple[object, ...]]]) -> None:
            self.act("copy")
            insert(target, rows)

        monkeypatch.setattr(database, "_insert", inserted)
        move = recovery.move

        def moved(source: Path, target: Path) -> None:
            self.act("move")
            move(source, target)

        monkeypatch.setattr(recovery, "move", moved)

    def act(self, name: str) -> bool:
        if super().act(name):
            os.kill(os.getpid(), signal.SIGKILL)
        return False


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
async def test_a_death_anywhere_in_a_salvage_loses_no_message(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """kill -9 before the n-th act, for every n, twice in a row; then a start that lives has all of it."""
    ids = await filled(rig)
    spoil_index(rig.path)
    broken = rig.directory.with_name("broken")
    shutil.copytree(rig.directory, broken)
    deaths = 0
    for at in range(200):
        shutil.rmtree(rig.directory)
        shutil.copytree(broken, rig.directory)

        def start(at: int = at) -> None:
            recover(rig, Fatal(at, monkeypatch))

        died = killed_in(start)
        assert existing_shards(rig.directory) == [0]
        killed_in(start)
        assert existing_shards(rig.directory) == [0]
        await rig.open()
        assert await whole(rig) == ids, f"after a death before act {at}"
        assert len(list(rig.queue.spool_directory.iterdir())) == 2
        await rig.queue.close()
        deaths += died
        if not died:
            break
    assert deaths > 30


async def test_a_stale_log_never_stands_beside_a_new_database(rig: Rig) -> None:
    """SQLite would take it for the new one's and write the old pages into it."""
    await rig.open()
    await put(rig)
    log = rig.path.with_name("0.sqlite-wal")
    stale = log.read_bytes()
    assert stale
    await rig.queue.close()
    rig.path.unlink()
    log.write_bytes(stale)
    await rig.open()
    assert await rig.queue.find(Selector(), 10) == []
    (aside,) = rig.directory.glob("0.sqlite.missing-*-wal")
    assert aside.read_bytes() == stale
    assert aside.name in rig.events.troubles[0]


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
async def test_bodies_without_a_database_are_put_aside_even_if_the_start_dies_over_it(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    await filled(rig)
    bodies = {path.name: path.read_bytes() for path in rig.directory.glob("0.spool/*")}
    assert len(bodies) == 2
    rig.path.unlink()
    at = 0
    while killed_in(lambda: recover(rig, Fatal(at, monkeypatch))):  # noqa: B023  # runs in this turn
        at += 1
    await rig.open()
    assert {path.name: path.read_bytes() for path in rig.directory.glob("0.sqlite.missing-*.spool/*")} == bodies
    assert at > 8
    await rig.reopen()
    assert len(list(rig.directory.glob("0.sqlite.missing-*.spool/*"))) == 2


async def test_bodies_without_a_database_are_told_of(rig: Rig) -> None:
    await filled(rig)
    rig.path.unlink()
    await rig.open()
    (trouble,) = rig.events.troubles
    assert trouble.startswith("2 files of messages that the new database does not know; put aside in 0.sqlite.missing-")
    await rig.reopen()
    assert len(rig.events.troubles) == 1


async def test_a_first_start_has_nothing_to_tell(rig: Rig) -> None:
    await rig.open()
    assert rig.events.troubles == []


async def test_a_copy_that_was_not_finished_is_made_again_from_what_was_put_aside(rig: Rig) -> None:
    """The database is gone, its broken form and half a copy are there."""
    ids = await filled(rig)
    spoil_index(rig.path)
    rig.path.rename(rig.directory / "0.sqlite.broken-20260101T000000")
    rig.path.with_suffix(".new").write_bytes(b"half")
    await rig.open()
    assert await whole(rig) == ids
    assert not rig.path.with_suffix(".new").exists()


async def test_what_was_put_aside_long_ago_is_not_queued_again(rig: Rig) -> None:
    """Its mail was saved then, and delivered since."""
    await filled(rig)
    rig.path.rename(rig.directory / "0.sqlite.broken-20260101T000000")
    await rig.open()
    assert await rig.queue.find(Selector(), 10) == []
    assert "0.sqlite.broken-20260101T000000 is not in the queue" in rig.events.troubles[0]


async def test_half_a_copy_beside_a_sound_database_is_removed(rig: Rig) -> None:
    ids = await filled(rig)
    rig.path.with_suffix(".new").write_bytes(b"half")
    await rig.open()
    assert await whole(rig) == ids
    assert not rig.path.with_suffix(".new").exists()


# --- a disk that fails is no damage


class Faulty(Disk):
    """Raises `fault` in the first statement with `word` in it."""

    def __init__(self, word: str, fault: sqlite3.Error) -> None:
        self.word, self.fault = word, fault

    def _open(self, path: Path) -> Connection:
        disk = self

        class FaultyConnection(sqlite3.Connection):
            def execute(self, sql: str, parameters: object = (), /) -> sqlite3.Cursor:
                if disk.word in sql:
                    raise disk.fault
                return super().execute(sql, parameters)  # type: ignore[arg-type]

        return sqlite3.connect(path, isolation_level=None, check_same_thread=False, factory=FaultyConnection)


def fault(code: int) -> sqlite3.Error:
    err = sqlite3.OperationalError("no luck")
    err.sqlite_errorcode = code
    return err


@pytest.mark.parametrize("word", ["journal_mode", "user_version", "quick_check", "FROM contents LIMIT"])
@pytest.mark.parametrize(
    "code", [sqlite3.SQLITE_IOERR_READ, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_BUSY]
)
async def test_a_passing_fault_of_the_disk_puts_no_sound_database_aside(rig: Rig, word: str, code: int) -> None:
    ids = await filled(rig)
    before = sorted(path.name for path in rig.directory.iterdir())
    with pytest.raises(sqlite3.OperationalError, match="no luck"):
        prepare(rig.path, Faulty(word, fault(code)), 0.0)
    assert sorted(path.name for path in rig.directory.iterdir() if not path.name.endswith(("-wal", "-shm"))) == before
    await rig.open()
    assert await whole(rig) == ids


async def test_a_database_without_a_table_is_damaged(rig: Rig) -> None:
    await filled(rig)
    with sqlite3.connect(rig.path) as connection:
        connection.execute("DROP TABLE contents")
    connection.close()
    await rig.open()
    assert "no such table: contents" in rig.events.troubles[0]


@pytest.mark.parametrize("err", [database_full(), sync_failed()], ids=["full", "eio"])
async def test_a_copy_that_the_disk_fails_does_not_take_the_place_of_the_file(rig: Rig, err: sqlite3.Error) -> None:
    """What could not be written would be counted as lost, though it can be read."""
    ids = await filled(rig)
    spoil_index(rig.path)
    with pytest.raises(sqlite3.OperationalError):
        prepare(rig.path, Faulty("COMMIT", err), 0.0)
    assert list(rig.directory.glob("*.broken-*")) == []
    await rig.open()
    assert await whole(rig) == ids


# --- the room that must stay


@pytest.mark.parametrize(
    ("whole_size", "limit"), [(64 << 20, (64 << 20) // 20), (5 << 30, 256 << 20), (1 << 40, 256 << 20)], ids=["64M", "5G", "1T"]
)
async def test_the_room_that_must_stay_free_fits_a_small_disk(rig: Rig, whole_size: int, limit: int) -> None:
    rig.options = QueueOptions()
    rig.disk.whole = whole_size
    await rig.open()
    for free, pressure in [(limit, False), (limit - 1, True), (limit, True), (int(limit * 1.25) + 1, False)]:
        rig.disk.space = (free, None)
        await rig.clock.advance(1.1)
        assert rig.queue.pressure() is pressure


async def test_the_room_that_the_operator_names_is_taken_as_it_is(rig: Rig) -> None:
    rig.options = QueueOptions.model_validate({"min_free": "60MiB"})
    rig.disk.whole = 64 << 20
    rig.disk.space = (59 << 20, None)
    await rig.open()
    assert rig.queue.pressure()
    rig.queue.reload(QueueOptions.model_validate({"min_free": "auto"}))
    assert not rig.queue.pressure()
    rig.disk.space = (0, None)
    rig.queue.reload(QueueOptions(min_free=0))
    assert not rig.queue.pressure()


@pytest.mark.parametrize("value", ["much", "-1MiB", -1, True])
def test_room_that_makes_no_sense_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="min_free"):
        QueueOptions.model_validate({"min_free": value})


def test_the_real_disk_knows_its_size(tmp_path: Path) -> None:
    disk = Disk()
    assert disk.size(tmp_path) >= disk.free(tmp_path)[0] > 0
