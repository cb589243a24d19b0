# SPDX-License-Identifier: Apache-2.0
"""Group commit: who shares a sync, who shares a fate, and who does not."""

import asyncio
import threading
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest

from gateway.mail import reply
from gateway.mail.reply import MailError
from gateway.queue import store
from gateway.queue.database import prepare
from gateway.queue.disk import Connection
from gateway.queue.store import Request, Store
from tests.support.disk import FailingDisk


class Writing:
    def __init__(self, path: Path) -> None:
        self.disk = FailingDisk()
        self.path = path
        self.troubles: list[str] = []
        prepare(path, self.disk, 0.0)
        self.store = Store(partial(self.disk.connect, path), self.troubles.append)
        self.store.start()

    def put(self, number: int, *, quick: bool = False) -> "asyncio.Future[None]":
        done = asyncio.get_running_loop().create_future()
        self.store.submit(Request(partial(insert, number=number), done.set_result, done.set_exception, quick=quick))
        return done

    def block(self) -> threading.Event:
        """The writer thread waits in an operation until the event is set."""
        go_on = threading.Event()
        self.store.submit(Request(lambda _: go_on.wait(10), lambda _: None, lambda _: None, writes=False))
        return go_on

    async def numbers(self) -> list[int]:
        def read(connection: Connection) -> list[int]:
            return [n for (n,) in connection.execute("SELECT n FROM contents ORDER BY n")]

        return await self.store.run(read, writes=False)


def insert(connection: Connection, number: int) -> None:
    """The second half of a bad operation fails, so that its first half must be undone."""
    connection.execute("INSERT INTO contents VALUES (?, 0, x'', x'', 0)", (abs(number),))
    if number < 0:
        raise ValueError("a bug")


@pytest.fixture
async def writing(tmp_path: Path) -> AsyncIterator[Writing]:
    writing = Writing(tmp_path / "0.sqlite")
    yield writing
    writing.disk.heal()
    await writing.store.close()


@pytest.mark.parametrize("quick", [False, True])
async def test_operations_that_wait_share_one_commit(writing: Writing, quick: bool) -> None:
    go_on = writing.block()
    await asyncio.sleep(0)  # the blocked flight is off
    done = [writing.put(n, quick=quick) for n in range(1, 51)]
    go_on.set()
    await asyncio.gather(*done)
    assert 1 <= writing.store.work["commits"] <= 2
    assert writing.store.work["operations"] == 51
    assert await writing.numbers() == list(range(1, 51))


async def test_under_load_the_next_sync_waits_for_more(writing: Writing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "GATHER", 0.5)
    await asyncio.gather(*(writing.put(n) for n in range(store.CROWD)))
    later = []
    for n in range(store.CROWD, store.CROWD + 3):
        later.append(writing.put(n))
        for _ in range(5):  # turns of the loop in which a flight would go
            await asyncio.sleep(0)
    await asyncio.gather(*later)
    assert writing.store.work["commits"] == 2


async def test_without_load_no_operation_waits(writing: Writing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "GATHER", 3600.0)
    async with asyncio.timeout(30):
        for n in range(5):
            await writing.put(n)


@pytest.mark.parametrize("quick", [False, True])
async def test_a_bad_operation_does_not_spoil_the_others(writing: Writing, quick: bool) -> None:
    done = [writing.put(n, quick=quick) for n in (1, 2, -3, 2, 4)]
    results = await asyncio.gather(*done, return_exceptions=True)
    assert [isinstance(result, MailError) for result in results] == [False, False, True, True, False]
    assert await writing.numbers() == [1, 2, 4]
    assert writing.store.work["commits"] == 1
    assert writing.disk.connections == 2  # one made the file; a bug is no reason for a new connection


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("quick", [False, True])
async def test_a_failed_commit_fails_its_flight_and_the_next_one_is_new(writing: Writing, quick: bool, full: bool) -> None:
    writing.disk.fail(0, on="commit", full=full)
    results = await asyncio.gather(*[writing.put(n, quick=quick) for n in (1, 2, 3)], return_exceptions=True)
    expected = reply.NO_SPACE if full else reply.QUEUE_WRITE
    assert [result.reply for result in results if isinstance(result, MailError)] == [expected] * 3
    assert len(writing.troubles) == 1
    assert "3 operations failed" in writing.troubles[0]
    await writing.put(4, quick=quick)
    assert await writing.numbers() == [4]
    assert writing.disk.connections == (2 if full else 3)  # after a fault the old one is not trusted


async def test_a_begin_that_fails_on_the_loop_is_told_to_the_waiter(writing: Writing) -> None:
    writing.disk.fail(0, on="begin", for_ever=True)
    with pytest.raises(MailError):
        await writing.put(1, quick=True)
    writing.disk.heal()
    await writing.put(2, quick=True)
    assert await writing.numbers() == [2]


async def test_an_error_under_a_statement_costs_the_operation_and_the_connection(writing: Writing) -> None:
    writing.disk.fail(1, on="statement")  # in the flight, and again when it is looked for: act 1 is the second operation
    results = await asyncio.gather(*[writing.put(n) for n in (1, 2, 3)], return_exceptions=True)
    assert results == [None, None, None]  # it failed once only: the flight was done again and is whole
    writing.disk.fail(0, on="statement", for_ever=True)
    with pytest.raises(MailError):
        await writing.put(5)
    writing.disk.heal()
    await writing.put(6)
    assert await writing.numbers() == [1, 2, 3, 6]
    assert writing.disk.connections == 3


async def test_what_follows_a_commit_is_done_in_the_order_of_commits_whoever_was_cancelled(writing: Writing) -> None:
    order: list[int] = []
    go_on = writing.block()
    await asyncio.sleep(0)
    tasks = [
        asyncio.ensure_future(writing.store.run(partial(insert, number=n), then=lambda _, n=n: order.append(n)))
        for n in (3, 1, 2)
    ]
    await asyncio.sleep(0)
    tasks[1].cancel()
    go_on.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [isinstance(result, asyncio.CancelledError) for result in results] == [False, True, False]
    assert order == [3, 1, 2]


async def test_close_does_what_waits_and_then_refuses(writing: Writing) -> None:
    done = [writing.put(n) for n in range(1, 10)]
    await writing.store.close()
    assert all(each.done() and each.exception() is None for each in done)
    with pytest.raises(MailError) as failure:
        await writing.put(10)
    assert failure.value.reply == reply.QUEUE_WRITE
    assert [path.name for path in writing.path.parent.iterdir()] == ["0.sqlite"]  # the log is in the database
    assert not any(thread.name == "queue-writer" for thread in threading.enumerate())


async def test_the_log_is_written_back_before_it_grows_without_end(writing: Writing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.queue.store.CHECKPOINT_OCTETS", 1 << 20)
    for n in range(1, 101):
        await writing.put(n)
    assert writing.path.with_name("0.sqlite-wal").stat().st_size < 2 << 20


class Full:
    """A disk that is full as often as is said; `given_up` counts how often the reserve was asked for."""

    def __init__(self, log: int = 32 << 20) -> None:
        self.log = log
        self.tight = True
        self.inside = 0
        self.copy_max = 0
        self.given_up = 0

    def give_up(self) -> bool:
        self.given_up += 1
        return self.given_up == 1


def submit(store: Store, number: int, *, insists: bool, octets: int = 0) -> "asyncio.Future[None]":
    done = asyncio.get_running_loop().create_future()
    operation = partial(insert, number=number)
    store.submit(Request(operation, done.set_result, done.set_exception, insists=insists, octets=octets))
    return done


@pytest.mark.parametrize(
    ("failures", "recorded", "reserve"),
    [(1, [1, 2, 3], 0), (2, [1, 2, 3], 1), (3, [1, 2, 3], 1), (4, [], 1), (100, [], 1)],
    ids=["log", "reserve", "alone", "none", "never"],
)
async def test_what_insists_is_tried_in_ever_smaller_flights(
    writing: Writing, monkeypatch: pytest.MonkeyPatch, failures: int, recorded: list[int], reserve: int
) -> None:
    """In the log as it is, with the reserve, then alone until one fails. What does not insist is refused at once."""
    room = Full()
    monkeypatch.setattr(writing.store, "_room", room)
    writing.disk.fail(0, on="commit", full=True, times=failures)
    done = [submit(writing.store, n, insists=n < 4) for n in (4, 3, 2, 1)]
    results = await asyncio.gather(*done, return_exceptions=True)
    assert isinstance(results[0], MailError)
    assert [result is None for result in results[1:]] == [n in recorded for n in (3, 2, 1)]
    assert room.given_up == reserve
    assert writing.troubles[0].startswith("commit: ")
    assert len(writing.troubles) == 1
    writing.disk.heal()
    assert await writing.numbers() == recorded
    assert writing.disk.connections == 2


async def test_a_flight_is_no_larger_than_the_log_may_be(writing: Writing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing.store, "_room", Full(log=1000))
    go_on = writing.block()
    await asyncio.sleep(0)
    done = [submit(writing.store, n, insists=False, octets=octets) for n, octets in enumerate((400, 400, 400, 5000, 100), 1)]
    go_on.set()
    await asyncio.gather(*done)
    assert writing.store.work["commits"] == 4  # 800, 400, 5000 alone, 100
