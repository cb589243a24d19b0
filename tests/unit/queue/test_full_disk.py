# SPDX-License-Identifier: Apache-2.0
"""No room: new mail is refused in time, outcomes are recorded all the same, and it passes by itself."""

import asyncio
import errno
import os
from pathlib import Path

import pytest

from gateway.mail import reply
from gateway.mail.events import Attempted, Finished, Lifecycle, Trouble
from gateway.mail.job import Deferred, Delivered, Job
from gateway.mail.listing import Selector
from gateway.mail.reply import MailError
from gateway.mail.verdict import ACCEPT
from gateway.queue import upkeep
from gateway.queue.disk import Connection, DatabaseError, Disk
from gateway.queue.options import QueueOptions
from gateway.queue.reserve import Reserve
from gateway.queue.space import COPIES, OVERHEAD
from tests.support.disk import FailingDisk, no_room_for_index, sync_failed
from tests.unit.queue.build import content, queue_id, transaction, until
from tests.unit.queue.conftest import Rig
from tests.unit.queue.test_disk_faults import message

MIB = 1 << 20
DELIVERED = Delivered(reply=reply.OK)
LATER = Deferred(reply=reply.INTERNAL)
BODY = b"x" * 100_000


async def small(rig: Rig, free: int) -> None:
    """A disk of 64 MiB, so the limit is 3.2 MiB, the reserve 2 and the log 1."""
    rig.options = QueueOptions()
    rig.disk.whole = 64 * MIB
    rig.disk.space = (free, None)
    await rig.open()


async def jobs(rig: Rig, count: int = 1) -> list[Job]:
    return list(await asyncio.wait_for(rig.queue.claim(count), 5))


def reserve(rig: Rig) -> Path:
    return rig.directory / "0.reserve"


# --- refused in time


async def test_a_burst_between_two_looks_cannot_use_up_more_than_there_is(rig: Rig) -> None:
    """The clock stands still, so only what was promised can make the queue look again."""
    await small(rig, 8 * MIB)
    assert not rig.queue.pressure()
    results = await asyncio.gather(
        *[rig.queue.accept(transaction(message=content(BODY)), ACCEPT) for _ in range(100)], return_exceptions=True
    )
    taken = [result for result in results if isinstance(result, str)]
    room = 8 * MIB - 64 * MIB // 20
    assert len(taken) == room // (COPIES * len(content(BODY).read()) + OVERHEAD) + 1
    assert {result.reply for result in results if isinstance(result, MailError)} == {reply.NO_SPACE}
    rig.disk.space = (8 * MIB, None)  # all of it is written, and there is still as much
    await rig.clock.advance(1.1)
    assert not rig.queue.pressure()


@pytest.mark.parametrize("big", [False, True], ids=["inline", "file"])
async def test_what_was_promised_ends_when_mail_was_refused_or_its_client_has_gone(rig: Rig, big: bool) -> None:
    await small(rig, 8 * MIB)
    for _ in range(3):
        name = queue_id()
        rig.disk.fail(0, on="sync" if big else "commit", full=True)
        with pytest.raises(MailError):
            await rig.queue.accept(transaction(message=message(rig, big=big, name=name), id=name), ACCEPT)
    rig.disk.heal()
    for _ in range(3):
        task = asyncio.ensure_future(rig.queue.accept(transaction(message=content(BODY)), ACCEPT))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    rig.disk.space = (64 * MIB // 20 + 1, None)
    await rig.clock.advance(1.1)
    assert not rig.queue.pressure()


async def test_a_file_that_the_edge_has_written_is_not_counted_again(rig: Rig) -> None:
    await small(rig, 8 * MIB)
    rig.disk.space = (64 * MIB // 20 + 2 * OVERHEAD, None)
    for _ in range(2):
        name = queue_id()
        await rig.queue.accept(transaction(message=message(rig, big=True, name=name), id=name), ACCEPT)


async def test_the_log_of_a_small_disk_stays_small(rig: Rig) -> None:
    await small(rig, 40 * MIB)
    for _ in range(5):
        await asyncio.gather(*[rig.queue.accept(transaction(message=content(BODY)), ACCEPT) for _ in range(30)])
    assert (rig.directory / "0.sqlite-wal").stat().st_size <= 2 * MIB + 4 * len(BODY)  # the reserve is as large


async def test_the_beginning_and_the_end_are_told_once_and_without_being_asked(rig: Rig) -> None:
    await small(rig, 8 * MIB)
    rig.disk.space = (1 * MIB, None)
    await rig.clock.advance(1.1)
    assert rig.queue.pressure()
    for _ in range(3):
        await rig.clock.advance(1.1)
    assert [event.area for event in rig.events.of(Trouble)] == ["queue.space"]
    assert "no new mail is taken: 1MiB free" in rig.events.troubles[0]
    rig.disk.space = (30 * MIB, None)
    while not rig.events.of(Lifecycle):
        await rig.clock.advance(1.1)
        await asyncio.sleep(0.001)
    assert [event.what for event in rig.events.of(Lifecycle)] == ["space"]
    assert not rig.queue.pressure()


# --- recorded all the same


async def test_outcomes_that_find_no_room_get_the_room_of_the_reserve(rig: Rig) -> None:
    """They share their flight with new mail, which is refused. First they try with the log as it is."""
    await small(rig, 30 * MIB)
    assert reserve(rig).stat().st_blocks * 512 >= 2 * MIB
    await rig.queue.accept(transaction(), ACCEPT)
    (job,) = await jobs(rig)
    rig.disk.fail(0, on="commit", full=True, times=2)
    settled, refused = await asyncio.gather(
        rig.queue.settle(job, [(job.recipients[0], DELIVERED)]),
        rig.queue.accept(transaction(), ACCEPT),
        return_exceptions=True,
    )
    assert settled is None
    assert isinstance(refused, MailError)
    assert refused.reply is reply.NO_SPACE
    assert len(rig.events.of(Finished)) == 1
    assert rig.disk.connections == 3  # made, checked, used: a full disk is no reason for a new one
    assert not reserve(rig).exists()
    assert rig.queue.pressure()
    await until(lambda: rig.clock.sleepers > 0)
    while rig.queue.pressure():
        await rig.clock.advance(1.1)
        await asyncio.sleep(0.001)
    assert reserve(rig).stat().st_blocks * 512 >= 2 * MIB
    await rig.queue.accept(transaction(), ACCEPT)


async def test_a_reserve_without_room_is_not_there_and_mail_waits_for_it(rig: Rig) -> None:
    rig.disk.fail(0, on="allocate", for_ever=True, full=True)
    await small(rig, 30 * MIB)
    assert rig.queue.pressure()
    assert not reserve(rig).exists()
    rig.disk.heal()
    while rig.queue.pressure():
        await rig.clock.advance(1.1)
        await asyncio.sleep(0.001)
    assert reserve(rig).exists()
    await rig.queue.close()
    assert not reserve(rig).exists()


async def test_the_reserve_of_a_killed_process_is_taken_over_on_a_full_disk(rig: Rig) -> None:
    rig.directory.mkdir()
    reserve(rig).write_bytes(bytes(2 * MIB))
    await small(rig, 2 * MIB)
    rig.disk.space = (30 * MIB, None)
    assert not rig.queue.pressure()


async def test_no_limit_is_no_reserve(rig: Rig) -> None:
    rig.directory.mkdir()
    reserve(rig).write_bytes(bytes(1000))
    await rig.open()
    assert not reserve(rig).exists()


@pytest.mark.parametrize("both", [False, True], ids=["alone", "with-another"])
async def test_a_wait_that_a_full_disk_does_not_take_is_kept_in_memory(rig: Rig, both: bool) -> None:
    """Nobody waits for the disk, and the message is not tried before its time although its row says so."""
    await rig.open()
    await rig.queue.accept(transaction("a@dest.example", "b@dest.example"), ACCEPT)
    (job,) = await jobs(rig)
    first, second = job.recipients
    rig.disk.fail(0, on="commit", full=True, for_ever=True)
    if both:
        await asyncio.wait_for(rig.queue.settle(job, [(first, LATER), (second, LATER)]), 5)
    else:
        await asyncio.wait_for(rig.queue.settle(job, [(first, LATER)]), 5)
        rig.disk.heal()
        await rig.queue.settle(job, [(second, DELIVERED)])
    rig.disk.heal()
    assert len(rig.events.of(Attempted)) == 2
    claiming = asyncio.ensure_future(rig.queue.claim(1))
    await rig.clock.advance(30)
    assert not claiming.done()
    await rig.clock.advance(60)
    (again,) = await asyncio.wait_for(claiming, 5)
    assert again.id == job.id
    assert [due.index for due in again.recipients] == ([0, 1] if both else [0])


async def test_a_delivery_that_a_full_disk_does_not_take_is_recorded_within_seconds_of_room(rig: Rig) -> None:
    await rig.open()
    await rig.queue.accept(transaction(), ACCEPT)
    (job,) = await jobs(rig)
    rig.disk.fail(0, on="commit", full=True, for_ever=True)
    settling = asyncio.ensure_future(rig.queue.settle(job, [(job.recipients[0], DELIVERED)]))
    for _ in range(8):
        await until(lambda: rig.clock.sleepers > 0)
        assert not settling.done()
        await rig.clock.advance(2.1)
    await until(lambda: rig.clock.sleepers > 0)
    rig.disk.heal()
    await rig.clock.advance(2.1)
    await asyncio.wait_for(settling, 5)
    assert len(rig.events.of(Finished)) == 1


async def test_reads_go_on_when_the_flight_they_share_finds_no_room(rig: Rig) -> None:
    rig.options = rig.options.model_copy(update={"memory": 0})  # so that content is read
    await rig.open()
    await rig.queue.accept(transaction(message=content(BODY)), ACCEPT)
    (job,) = await jobs(rig)
    rig.disk.fail(0, on="commit", full=True, for_ever=True)
    loaded, refused = await asyncio.gather(rig.queue.load(job), rig.queue.accept(transaction(), ACCEPT), return_exceptions=True)
    rig.disk.heal()
    assert not isinstance(loaded, BaseException)
    assert loaded.read() == content(BODY).read()
    assert isinstance(refused, MailError)


# --- passes by itself


async def test_room_inside_the_database_counts_and_is_given_back_when_the_queue_is_empty(rig: Rig) -> None:
    """What mail leaves behind is in the database file, which does not get smaller by itself."""
    await small(rig, 30 * MIB)
    await asyncio.gather(*[rig.queue.accept(transaction(message=content(BODY)), ACCEPT) for _ in range(60)])
    rig.disk.space = (5 * MIB // 2, None)  # below the limit, enough for the log
    await rig.clock.advance(1.1)
    assert rig.queue.pressure()
    claimed = await jobs(rig, 60)
    for job in claimed[:40]:
        await rig.queue.settle(job, [(job.recipients[0], DELIVERED)])
    await rig.clock.advance(1.1)
    assert not rig.queue.pressure()  # twenty large messages are left, too many to copy
    large = rig.path.stat().st_size
    assert large > 5 * MIB
    for job in claimed[40:]:
        await rig.queue.settle(job, [(job.recipients[0], DELIVERED)])
    while rig.path.stat().st_size > MIB:
        await rig.clock.advance(1.1)
        await asyncio.sleep(0.001)
    await rig.queue.accept(transaction(), ACCEPT)
    assert len(await jobs(rig)) == 1


# --- the reserve itself


def test_a_reserve_has_blocks_and_not_only_a_length(tmp_path: Path) -> None:
    reserve = Reserve(tmp_path / "0.reserve", Disk())
    assert reserve.stands
    reserve.octets = MIB
    assert not reserve.stands
    (tmp_path / "0.reserve").write_bytes(bytes(3 * MIB))  # of an earlier time
    reserve.make()
    state = (tmp_path / "0.reserve").stat()
    assert (state.st_size, state.st_mode & 0o777) == (MIB, 0o644 & ~_umask() & 0o777)
    assert state.st_blocks * 512 >= MIB
    assert reserve.give_up()
    assert not reserve.give_up()
    assert list(tmp_path.iterdir()) == []


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.parametrize(("number", "made"), [(errno.EOPNOTSUPP, True), (errno.ENOSPC, False)])
def test_a_file_system_that_cannot_allocate_is_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, made: bool
) -> None:
    def refuse(*_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("gateway.queue.disk.os.posix_fallocate", refuse)
    reserve = Reserve(tmp_path / "0.reserve", Disk())
    reserve.octets = MIB
    if made:
        reserve.make()
        assert (tmp_path / "0.reserve").stat().st_blocks * 512 >= MIB
    else:
        with pytest.raises(OSError, match="No space"):
            reserve.make()
        assert list(tmp_path.iterdir()) == []
    assert reserve.stands is made


async def test_free_pages_that_cannot_be_counted_do_not_refuse_what_is_committed(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are counted behind the commit: a client that heard 451 would send the mail again."""

    def fail(connection: object) -> int:
        raise sync_failed()

    await small(rig, 5 * MIB)
    monkeypatch.setattr(upkeep, "free_inside", fail)
    assert not rig.queue.pressure()
    await rig.queue.accept(transaction(), ACCEPT)
    await until(lambda: rig.events.troubles)
    assert any("free pages" in trouble for trouble in rig.events.troubles)
    monkeypatch.undo()
    await rig.queue.accept(transaction(), ACCEPT)
    assert len(await rig.queue.find(Selector(), 10)) == 2


class NoRoom(FailingDisk):
    """The database can be opened only while the reserve takes no room."""

    def __init__(self, reserve: Path, opened: int) -> None:
        super().__init__()
        self.reserve = reserve
        self.opened = opened

    def connect(self, path: Path, *, readonly: bool = False) -> Connection:
        self.opened -= 1
        if self.opened < 0 and self.reserve.exists():
            raise no_room_for_index()
        return super().connect(path, readonly=readonly)


@pytest.mark.parametrize("opened", [0, 1, 2], ids=["looked-at", "mended", "used"])
async def test_a_start_on_a_full_disk_uses_the_reserve_of_a_killed_process(rig: Rig, opened: int) -> None:
    """Its blocks are the only room there is, and without it the outcomes of what is queued could make none."""
    await rig.open()
    await rig.queue.accept(transaction(), ACCEPT)
    await rig.queue.close()
    reserve(rig).write_bytes(bytes(1000))
    rig.disk = NoRoom(reserve(rig), opened)
    await small(rig, 100)
    assert not reserve(rig).exists()
    assert rig.queue.pressure()
    (job,) = await jobs(rig)
    await rig.queue.settle(job, [(job.recipients[0], DELIVERED)])


async def test_a_start_on_a_full_disk_without_reserve_is_a_fault(rig: Rig) -> None:
    await rig.open()
    await rig.queue.close()
    rig.disk = NoRoom(rig.path, 0)
    with pytest.raises(DatabaseError):
        await rig.open()
