# SPDX-License-Identifier: Apache-2.0
"""Traces take what mail does not need: none on a full disk, a share of a small one, and no more than their files are told."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from gateway.mail.events import Trouble
from gateway.ops import trace as module
from gateway.ops import traceroom
from gateway.ops.trace import TraceOptions, TraceRecorder
from gateway.ops.tracefile import TraceFile, read
from gateway.ops.traceroom import MARGIN, RELIEF, Room, measure
from tests.support.clock import FakeClock
from tests.unit.ops import kit

GIB, MIB = 1 << 30, 1 << 20


class FileSystem:
    """As large and as full as a test says; counts the looks at it."""

    def __init__(self, whole: int = 100 * GIB) -> None:
        self.free = self.whole = whole
        self.looks = 0
        self.fault: OSError | None = None

    def measure(self, directory: Path) -> tuple[int, int]:
        self.looks += 1
        if self.fault:
            raise self.fault
        return self.free, self.whole


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> FileSystem:
    system = FileSystem()
    monkeypatch.setattr(traceroom, "measure", system.measure)
    return system


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(kit.NOW)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "trace" / "0.sqlite"


@pytest.fixture
def room(disk: FileSystem, path: Path, clock: FakeClock) -> Room:
    return Room(path, GIB, clock)


def sizes(path: Path) -> dict[str, int]:
    """Of all files beside `path`, without the index of the log, which is memory that readers share."""
    return {each.name: each.stat().st_size for each in path.parent.iterdir() if not each.name.endswith("-shm")}


# --- the rule


@pytest.mark.parametrize(("whole", "margin"), [(100 * GIB, MARGIN), (5 * GIB, 5 * GIB // 10), (64 * MIB, 64 * MIB // 10)])
def test_the_margin_is_left_to_the_mail(disk: FileSystem, path: Path, clock: FakeClock, whole: int, margin: int) -> None:
    disk.whole = whole
    disk.free = margin
    assert Room(path, GIB, clock).take(0)
    disk.free = margin - 1
    short = Room(path, GIB, clock)
    assert not short.take(0)
    assert f"{margin - 1}B free" in short.short


async def test_traces_go_on_when_a_quarter_more_is_free(disk: FileSystem, room: Room, clock: FakeClock) -> None:
    disk.free = 0
    assert not room.take(0)
    for free, taken in ((MARGIN, False), (int(MARGIN * RELIEF) - 1, False), (int(MARGIN * RELIEF), True), (MARGIN, True)):
        disk.free = free
        await clock.advance(1)
        assert room.take(0) is taken, free
    assert room.short == ""


async def test_the_disk_is_looked_at_once_a_second(disk: FileSystem, room: Room, clock: FakeClock) -> None:
    for full in (False, True):
        disk.free = 0 if full else disk.whole
        await clock.advance(1)
        disk.looks = 0
        for _ in range(100):
            room.take(1000)
        assert disk.looks == 1, full


def test_a_burst_cannot_outrun_the_look(disk: FileSystem, room: Room) -> None:
    """What is written stands in the log and in the file."""
    disk.free = MARGIN + 10 * MIB
    for _ in range(20):
        if room.take(MIB):
            disk.free -= 2 * MIB
    assert disk.free == MARGIN


def test_the_traces_of_all_workers_share_a_tenth(disk: FileSystem, path: Path, clock: FakeClock) -> None:
    disk.whole = disk.free = GIB
    path.parent.mkdir()
    expected = {"0.sqlite": 1, "0.sqlite-wal": 1, "1.sqlite": 2, "1.sqlite-shm": 2, "1.sqlite.broken": 3, "offline.sqlite": 4}
    for name, files in expected.items():
        (path.parent / name).touch()
        room = Room(path, GIB, clock)
        assert room.take(0)
        assert room.most == GIB // 10 // files
    small = Room(path, MIB, clock)
    assert small.take(0)
    assert small.most == MIB


def test_a_disk_that_cannot_be_looked_at_is_for_the_write_to_find_out(disk: FileSystem, room: Room) -> None:
    disk.fault = OSError("no answer")
    assert room.take(MIB)
    assert room.most == GIB


def test_the_real_file_system_is_measured_before_the_directory_is_there(tmp_path: Path) -> None:
    state = os.statvfs(tmp_path)
    for directory in (tmp_path, tmp_path / "trace"):
        free, whole = measure(directory)
        assert whole == state.f_blocks * state.f_frsize
        assert 0 <= free <= whole
    with pytest.raises(FileNotFoundError):
        measure(tmp_path / "no" / "where")


# --- the recorder on such a disk


@pytest.fixture
def recorder(disk: FileSystem, path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> Iterator[TraceRecorder]:
    monkeypatch.setattr(module, "LINGER", 0.0)  # each `find` behind another one would wait for so long
    trace = TraceRecorder(path, TraceOptions(), clock)
    yield trace
    trace.close()


async def test_nothing_is_written_while_mail_needs_the_disk_and_then_it_goes_on(
    disk: FileSystem, recorder: TraceRecorder, path: Path, clock: FakeClock
) -> None:
    for event in (kit.accepted(), kit.attempted(kit.deferred())):
        recorder.emit(event)
        assert await recorder.find(kit.ID)
    assert sizes(path)["0.sqlite-wal"] > 0
    disk.free = 0
    await clock.advance(1)
    recorder.emit(kit.attempted(kit.delivered()))
    found = await recorder.find(kit.ID)
    assert found
    assert len(found["events"]) == 2, "what was written is still found"
    before = sizes(path)
    assert before.get("0.sqlite-wal", 0) == 0, "the space of the log is given back"
    for number in range(1, 4):
        recorder.emit(kit.accepted(kit.queue_id(number)))
    assert await recorder.find(kit.queue_id(3)) is None
    assert sizes(path) == before
    assert recorder.dropped == 4
    disk.free = disk.whole
    await clock.advance(1)
    recorder.emit(kit.finished())
    found = await recorder.find(kit.ID)
    assert found
    assert [entry["event"] for entry in found["events"]] == ["accepted", "attempted", "finished"]
    assert recorder.dropped == 4


async def test_findings_that_had_no_room_are_told_with_the_next_event(
    disk: FileSystem, recorder: TraceRecorder, clock: FakeClock
) -> None:
    disk.free = 0
    recorder.emit(kit.refused_recipient(findings=(kit.SPF,)))
    assert await recorder.find(kit.ID) is None
    disk.free = disk.whole
    await clock.advance(1)
    recorder.emit(kit.refused_message(findings=(kit.SPF, kit.SIZE)))
    found = await recorder.find(kit.ID)
    assert found
    assert [each["filter"] for each in found["events"][0]["findings"]] == ["spf", "size"]


async def test_the_log_is_emptied_once_a_minute(recorder: TraceRecorder, path: Path, clock: FakeClock) -> None:
    log = []
    for seconds in (0, 0, 59, 1):
        await clock.advance(seconds)
        recorder.emit(kit.accepted())
        await recorder.find(kit.ID)
        log.append(sizes(path)["0.sqlite-wal"] > 0)
    assert log == [False, True, True, False]


async def test_on_a_disk_that_is_full_from_the_start_not_even_the_directory_is_made(
    disk: FileSystem, recorder: TraceRecorder, path: Path
) -> None:
    disk.free = 0
    recorder.emit(kit.accepted())
    assert await recorder.find(kit.ID) is None
    assert not path.parent.exists()
    assert recorder.dropped == 1


async def test_it_is_told_once_that_traces_are_left_out_and_once_that_they_are_not(
    disk: FileSystem, recorder: TraceRecorder, clock: FakeClock
) -> None:
    told: list[str] = []

    def tell(detail: str) -> None:
        told.append(detail)
        recorder.emit(Trouble(time=clock.now(), area="trace", detail=detail))  # all sinks hear of it, and so does this one

    recorder.told = tell
    for free in (disk.whole, 0, 0, disk.whole, disk.whole):
        disk.free = free
        await clock.advance(1)
        for _ in range(2):
            recorder.emit(kit.finished())
            await recorder.find(kit.ID)
    assert len(told) == 2
    assert told[0].startswith("0B free")
    assert told[1] == ""


async def test_a_small_disk_has_small_traces(disk: FileSystem, recorder: TraceRecorder, path: Path) -> None:
    disk.whole = disk.free = 10 * MIB
    for number in range(3000):
        recorder.emit(kit.accepted(kit.queue_id(number), (kit.SPF,) * 3))
        if number % 200 == 0:
            await recorder.find(kit.ID)
            assert sum(sizes(path).values()) <= MIB
    assert await recorder.find(kit.queue_id(2999)), "the newest is kept"
    assert await recorder.find(kit.queue_id(0)) is None, "the oldest is gone"
    assert sum(sizes(path).values()) <= MIB
    assert recorder.dropped == 0


# --- sizes on the disk


def fill(file: TraceFile, first: int, count: int) -> None:
    for number in range(first, first + count):
        file.write([(kit.queue_id(number), '{"text":"' + "x" * 1000 + '"}')] * 32)


def test_the_log_is_bounded_while_the_file_is_open(path: Path) -> None:
    with closing(TraceFile(path, 2 * MIB)) as file:  # so the log has 128 KiB
        for number in range(50):
            fill(file, number, 1)
            assert sizes(path)["0.sqlite-wal"] <= 256 << 10
        assert sizes(path)["0.sqlite"] > MIB


def test_the_log_is_emptied_when_the_file_is_tidied(path: Path) -> None:
    with closing(TraceFile(path, GIB)) as file:
        fill(file, 0, 20)
        assert sizes(path)["0.sqlite-wal"] > 512 << 10
        file.empty_log()
        assert sizes(path)["0.sqlite-wal"] == 0
        assert read(path, kit.queue_id(0))


def test_a_reader_who_stays_holds_up_neither_the_log_nor_the_writer(path: Path) -> None:
    """The log grows behind him and is cut when he has gone."""
    with closing(TraceFile(path, MIB)) as file:
        fill(file, 0, 1)
        with closing(sqlite3.connect(path)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM event").fetchone()
            fill(file, 1, 20)
        assert sizes(path)["0.sqlite-wal"] > 256 << 10
        fill(file, 21, 2)
        assert sizes(path)["0.sqlite-wal"] <= 256 << 10


def test_what_is_forgotten_passes_through_the_log_in_portions(path: Path) -> None:
    with closing(TraceFile(path, 4 * MIB)) as file:
        fill(file, 0, 80)
        file.remove_before(kit.NOW + 3600)
        assert read(path, kit.queue_id(79)) == []
        assert sizes(path)["0.sqlite-wal"] <= MIB


def test_a_file_that_must_shrink_gives_its_pages_back(path: Path) -> None:
    with closing(TraceFile(path, GIB)) as file:
        fill(file, 0, 150)
        file.empty_log()
        assert sizes(path)["0.sqlite"] > 4 * MIB
        file.shrink(MIB)
        assert read(path, kit.queue_id(149)), "the newest is kept"
        assert not read(path, kit.queue_id(0))
        file.empty_log()
        assert sizes(path)["0.sqlite"] <= MIB
        file.shrink(0)
        file.empty_log()
        assert sizes(path)["0.sqlite"] <= 128 << 10, "the bare tables"


def test_pages_that_are_given_back_pass_through_the_log_in_portions(path: Path) -> None:
    with closing(TraceFile(path, GIB)) as file:
        fill(file, 0, 150)
        file.empty_log()
        file.shrink(4 * MIB)
        assert sizes(path)["0.sqlite-wal"] <= MIB
        file.empty_log()
        assert 2 * MIB < sizes(path)["0.sqlite"] <= 3 * MIB


def test_a_file_that_was_made_without_giving_back_is_used_as_it_is(path: Path) -> None:
    TraceFile(path, GIB).close()
    with closing(sqlite3.connect(path)) as old:
        old.executescript("PRAGMA journal_mode=DELETE; PRAGMA auto_vacuum=NONE; VACUUM")
        assert old.execute("PRAGMA auto_vacuum").fetchone() == (0,)
    with closing(TraceFile(path, GIB)) as file:
        fill(file, 0, 60)
        file.shrink(MIB)
        assert file.size() <= MIB
        assert read(path, kit.queue_id(59))
