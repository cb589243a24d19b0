# SPDX-License-Identifier: Apache-2.0
"""The trace of each message is found by its id, at once and later, from any process; and it costs the mail nothing."""

import asyncio
import json
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway.mail.events import Held, Operated, Trouble
from gateway.mail.job import QueueId
from gateway.ops import trace as module
from gateway.ops.trace import TraceOptions, TraceRecorder, find_in
from gateway.ops.tracefile import TraceFile, read
from tests.support.clock import FakeClock
from tests.unit.ops import kit

Recorder = Callable[..., TraceRecorder]


@pytest.fixture
def recorder(tmp_path: Path) -> Iterator[Recorder]:
    made: list[TraceRecorder] = []

    def make(name: str = "0.sqlite", clock: FakeClock | None = None, **options: Any) -> TraceRecorder:
        made.append(TraceRecorder(tmp_path / "trace" / name, TraceOptions(**options), clock or FakeClock(kit.NOW)))
        return made[-1]

    yield make
    for each in made:
        each.close()


def kinds(trace: Mapping[str, Any] | None) -> list[str]:
    assert trace is not None
    return [entry["event"] for entry in trace["events"]]


async def test_a_message_is_found_from_acceptance_to_the_end_before_anything_is_written(recorder: Recorder) -> None:
    trace = recorder()
    for event in (
        kit.accepted(findings=(kit.SPF, kit.SIZE)),
        kit.attempted(kit.deferred(), due=kit.NOW + 60),
        kit.attempted(kit.failed(), attempts=1),
        kit.bounced(),
        kit.finished(),
    ):
        trace.emit(event)
    found = await trace.find(kit.ID)
    assert kinds(found) == ["accepted", "attempted", "attempted", "bounced", "finished"]
    assert found is not None
    spf, size = found["events"][0]["findings"]
    assert spf == {
        "filter": "spf",
        "phase": "mail",
        "mode": "enforce",
        "verdict": "reject",
        "rule": "spf.fail",
        "seconds": 0.012,
        "symbols": [{"name": "SPF_FAIL", "score": 4.0, "detail": "by -all"}],
        "facts": {"domain": "b.example", "mechanism": "-all"},
        "lookups": [{"name": "b.example", "type": "TXT", "status": "ok", "answer": ["v=spf1 -all"], "seconds": 0.011}],
        "reply": "550 5.7.23 SPF check failed",
    }
    assert size["filter"] == "size"
    json.dumps(found)


async def test_a_refused_message_is_found_with_the_recipients_refused_before_it(recorder: Recorder) -> None:
    trace = recorder()
    trace.emit(kit.refused_recipient(findings=(kit.SPF,)))
    trace.emit(kit.refused_message(findings=(kit.SPF, kit.SIZE)))
    found = await trace.find(kit.ID)
    assert found is not None
    first, last = found["events"]
    assert (first["recipient"], last["disposition"]) == ("nobody@dest.example", True)
    assert [[each["filter"] for each in entry["findings"]] for entry in (first, last)] == [["spf"], ["size"]], "told once each"


async def test_what_operators_and_troubles_did_to_a_message_is_part_of_it(recorder: Recorder) -> None:
    trace = recorder()
    trace.emit(Held(time=kit.NOW, id=kit.ID, reason="spam"))
    trace.emit(Operated(time=kit.NOW + 1, id=kit.ID, command="release"))
    trace.emit(Trouble(time=kit.NOW + 2, area="filter.spf", detail="timeout", id=kit.ID))
    trace.emit(Trouble(time=kit.NOW, area="queue", detail="about no message"))
    trace.emit(kit.connected())
    assert kinds(await trace.find(kit.ID)) == ["held", "operated", "trouble"]


async def test_an_unknown_id_is_none(recorder: Recorder) -> None:
    trace = recorder()
    assert await trace.find(kit.ID) is None
    trace.emit(kit.accepted())
    assert await trace.find(kit.queue_id(99)) is None


async def test_the_trace_outlives_the_process_that_wrote_it(recorder: Recorder, tmp_path: Path) -> None:
    first = recorder()
    first.emit(kit.accepted())
    first.close()
    assert kinds(await recorder().find(kit.ID)) == ["accepted"]
    again = recorder()
    again.emit(kit.finished())
    assert kinds(await again.find(kit.ID)) == ["accepted", "finished"]
    assert kinds(find_in(tmp_path / "trace", kit.ID)) == ["accepted", "finished"]


async def test_another_process_reads_while_this_one_writes(recorder: Recorder, tmp_path: Path) -> None:
    trace = recorder()
    trace.emit(kit.accepted())
    await trace.find(kit.ID)  # flushed, file open
    code = (
        "import sys, pathlib; from gateway.ops.tracefile import find_in;"
        "print(len(find_in(pathlib.Path(sys.argv[1]), sys.argv[2])['events']))"
    )
    output = await asyncio.to_thread(
        subprocess.check_output, [sys.executable, "-c", code, str(tmp_path / "trace"), kit.ID], text=True
    )
    assert output == "1\n"
    trace.emit(kit.finished())
    assert len((await trace.find(kit.ID) or {})["events"]) == 2


async def test_a_message_that_two_workers_had_is_told_in_the_order_of_time(recorder: Recorder, tmp_path: Path) -> None:
    """A worker's shard may be adopted by another one: acceptance and delivery then lie in two files."""
    adopted, former = recorder("0.sqlite"), recorder("7.sqlite")
    former.emit(kit.accepted())
    adopted.emit(kit.attempted(kit.delivered()))
    adopted.emit(kit.finished())
    adopted.close()
    former.close()
    assert kinds(find_in(tmp_path / "trace", kit.ID)) == ["accepted", "attempted", "finished"]


async def test_old_traces_go_and_young_ones_stay(recorder: Recorder) -> None:
    clock = FakeClock(kit.NOW)
    trace = recorder(clock=clock, keep="1d")
    trace.emit(kit.accepted())
    assert await trace.find(kit.ID)
    await clock.advance(86400 + 60)
    late = kit.queue_id(1, clock.now())
    trace.emit(kit.accepted(late))
    assert await trace.find(late)
    assert await trace.find(kit.ID) is None


async def test_size_is_capped_and_the_oldest_go_first(
    recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BATCH_MAX", 100_000)
    trace = recorder(max_size="1MiB")
    total = 2000
    for number in range(total):
        trace.emit(kit.accepted(kit.queue_id(number), (kit.SPF,) * 3))
    assert await trace.find(kit.queue_id(total - 1)), "the newest is kept"
    assert await trace.find(kit.queue_id(0)) is None, "the oldest is gone"
    trace.close()
    file = TraceFile(tmp_path / "trace" / "0.sqlite", 1 << 20)
    assert file.size() <= 1 << 20
    kept = sum(bool(read(tmp_path / "trace" / "0.sqlite", kit.queue_id(number))) for number in range(total))
    assert kept > 200, "no more is removed than must be"
    file.close()
    assert trace.dropped == 0


async def test_keep_zero_records_nothing(recorder: Recorder, tmp_path: Path) -> None:
    trace = recorder(keep="0s")
    trace.emit(kit.accepted())
    assert await trace.find(kit.ID) is None
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b"this is not a database" * 1000),
        lambda path: path.write_bytes(path.read_bytes()[:20] + b"\xff" * 5000),
        lambda path: foreign(path),
    ],
    ids=["foreign text", "overwritten", "another version"],
)
async def test_a_broken_file_is_put_aside_and_a_new_one_begun(
    recorder: Recorder, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    path = tmp_path / "trace" / "0.sqlite"
    first = recorder()
    first.emit(kit.accepted())
    first.close()
    damage(path)
    trace = recorder()
    trace.emit(kit.finished())
    assert kinds(await trace.find(kit.ID)) == ["finished"]
    assert trace.dropped == 0
    assert path.with_name("0.sqlite.broken").exists()


def foreign(path: Path) -> None:
    path.unlink()
    connection = sqlite3.connect(path)
    connection.executescript("PRAGMA user_version = 99; CREATE TABLE event (something)")
    connection.close()


async def test_a_file_found_broken_while_it_is_open_is_replaced_and_the_batch_kept(
    recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = recorder()
    trace.emit(kit.accepted())
    assert await trace.find(kit.ID)
    write = TraceFile.write

    def fail_once(self: TraceFile, rows: Any) -> None:
        monkeypatch.setattr(TraceFile, "write", write)
        raise sqlite3.DatabaseError("database disk image is malformed")

    monkeypatch.setattr(TraceFile, "write", fail_once)
    trace.emit(kit.finished())
    assert kinds(await trace.find(kit.ID)) == ["finished"]
    assert trace.dropped == 0
    assert kinds({"events": read(tmp_path / "trace" / "0.sqlite.broken", kit.ID)}) == ["accepted"]


async def test_a_full_disk_costs_that_batch_only(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    trace = recorder()
    write = TraceFile.write

    def full(self: TraceFile, rows: Any) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(TraceFile, "write", full)
    trace.emit(kit.accepted())
    assert await trace.find(kit.ID) is None
    assert trace.dropped == 1
    monkeypatch.setattr(TraceFile, "write", write)
    trace.emit(kit.finished())
    assert kinds(await trace.find(kit.ID)) == ["finished"]


async def test_a_directory_that_cannot_be_written_costs_the_trace_only(recorder: Recorder, tmp_path: Path) -> None:
    (tmp_path / "trace").write_text("a file where the directory should be")
    trace = recorder()
    trace.emit(kit.accepted())
    assert await trace.find(kit.ID) is None
    assert trace.dropped == 1
    (tmp_path / "trace").unlink()
    trace.emit(kit.accepted())
    assert await trace.find(kit.ID), "it works again once it can"


async def test_events_that_come_faster_than_they_can_be_kept_are_counted(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory stays bounded: each event weighs what it holds."""
    monkeypatch.setattr(module, "BACKLOG", 10)
    monkeypatch.setattr(TraceRecorder, "_start", lambda self: None)  # the thread gets no turn
    trace = recorder()
    for _ in range(3):
        trace.emit(kit.accepted())  # 1 + two recipients
    trace.emit(kit.finished())
    trace.emit(kit.finished())
    assert trace.dropped == 1


async def test_a_message_with_endless_attempts_keeps_a_bounded_trace_and_its_end(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "EVENTS_A_MESSAGE", 5)
    trace = recorder()
    for number in range(20):
        trace.emit(kit.attempted(kit.deferred(), attempts=number))
    trace.emit(kit.finished())
    assert kinds(await trace.find(kit.ID)) == ["attempted"] * 5 + ["finished"]


async def test_an_event_that_cannot_be_told_costs_itself_and_no_other(recorder: Recorder) -> None:
    trace = recorder()
    trace.emit(replace(kit.accepted(), size=object()))  # type: ignore[arg-type]
    trace.emit(kit.finished())
    assert sorted(kinds(await trace.find(kit.ID))) == ["finished", "unloggable"]


async def test_a_huge_entry_is_shortened(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BODY_MAX", 2000)
    trace = recorder()
    trace.emit(kit.accepted(findings=(kit.SPF,) * 300))
    found = await trace.find(kit.ID)
    assert found is not None
    (entry,) = found["events"]
    assert entry["shortened"] is True
    assert len(entry["findings"]) == 100
    assert entry["sender"] == "a@b.example"


def test_the_trace_is_for_its_owner_only(recorder: Recorder, tmp_path: Path) -> None:
    trace = recorder()
    trace.emit(kit.accepted())
    trace.close()
    assert (tmp_path / "trace" / "0.sqlite").stat().st_mode & 0o077 == 0
    assert (tmp_path / "trace").stat().st_mode & 0o077 == 0


def test_nothing_in_a_directory_that_is_empty_missing_or_full_of_rubbish(tmp_path: Path) -> None:
    assert find_in(tmp_path / "none", kit.ID) is None
    (tmp_path / "1.sqlite").write_bytes(b"rubbish")
    (tmp_path / "2.sqlite").write_bytes(b"")
    assert find_in(tmp_path, kit.ID) is None
    assert find_in(tmp_path, QueueId("' OR 1=1 --")) is None
