# SPDX-License-Identifier: Apache-2.0
"""Who it is: the file is read again, passwords are judged a few at a time, and a stranger learns nothing from the clock."""

import asyncio
import os
import threading
from pathlib import Path

import pytest

from gateway.infra import passwords, users
from gateway.infra.users import THREADS, WAITING, Unavailable, Users
from gateway.mail.events import Trouble
from tests.support.clock import FakeClock
from tests.support.fakes import Events
from tests.support.logins import cheap, line, made, write


def troubles(events: Events) -> list[str]:
    assert all(each.area == "users" for each in events.of(Trouble))
    return [each.detail for each in events.of(Trouble)]


async def test_the_right_password_gives_the_user(tmp_path: Path) -> None:
    them = made(tmp_path / "users", "ann sesame ann@b.example", "bob rosebud bob@b.example")
    found = await them.verify("ANN", "sesame")
    assert found is not None
    assert found.name == "ann"
    for name, password in [("ann", "rosebud"), ("ann", ""), ("nobody", "sesame"), ("a b", "sesame"), ("", "sesame")]:
        assert await them.verify(name, password) is None
    them.close()


async def test_a_changed_file_is_read_again_but_looked_at_once_a_second(tmp_path: Path) -> None:
    clock, path = FakeClock(), tmp_path / "users"
    them = made(path, "ann sesame ann@b.example", clock=clock)
    assert await them.verify("ann", "sesame")
    write(path, "ann another ann@b.example")
    assert await them.verify("ann", "sesame"), "not looked at yet"
    await clock.advance(users.LOOK_PERIOD)
    assert not await them.verify("ann", "sesame")
    assert await them.verify("ann", "another")
    them.close()


async def test_a_change_within_one_tick_of_the_file_system_is_seen(tmp_path: Path) -> None:
    """Same size, same inode, same time stamp: the file was too young for its stamp to be believed."""
    path = tmp_path / "users"
    path.write_text(line("ann", "sesame", ["ann@b.example"]))
    clock = FakeClock(path.stat().st_mtime)
    them = Users(path, clock, Events())
    assert await them.verify("ann", "sesame")
    before = path.stat()
    path.write_text(line("ann", "rosebud", ["ann@b.example"]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    await clock.advance(1)
    assert await them.verify("ann", "rosebud")
    them.close()


async def test_an_unchanged_file_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "users"
    path.write_text(line("ann", "sesame", ["ann@b.example"]))
    clock = FakeClock(path.stat().st_mtime + 60)
    them = Users(path, clock, Events())
    assert await them.verify("ann", "sesame")
    monkeypatch.setattr(users.userfile, "read", lambda path: pytest.fail("it was read"))
    await clock.advance(5)
    assert await them.verify("ann", "sesame")
    them.close()


async def test_a_file_that_goes_away_leaves_its_users_and_is_told_once(tmp_path: Path) -> None:
    clock, events, path = FakeClock(), Events(), tmp_path / "users"
    them = made(path, "ann sesame ann@b.example", clock=clock, events=events)
    assert await them.verify("ann", "sesame")
    path.unlink()
    for _ in range(3):
        await clock.advance(2)
        assert await them.verify("ann", "sesame")
    assert troubles(events) == [f"{path} cannot be read: No such file or directory; the users who were in it stay"]
    write(path, "bob rosebud bob@b.example")
    await clock.advance(2)
    assert await them.verify("bob", "rosebud")
    assert not await them.verify("ann", "sesame")
    them.close()


async def test_without_a_file_nothing_can_be_said(tmp_path: Path) -> None:
    events = Events()
    them = made(tmp_path / "users", events=events)
    with pytest.raises(Unavailable, match="No such file"):
        await them.verify("ann", "sesame")
    assert len(troubles(events)) == 1
    them.close()


async def test_bad_lines_are_told_once_and_without_their_text(tmp_path: Path) -> None:
    clock, events, path = FakeClock(), Events(), tmp_path / "users"
    path.write_text(f"eve {cheap('x')}\n" * 30 + line("ann", "sesame", ["ann@b.example"]))
    them = Users(path, clock, events)
    for _ in range(3):
        await clock.advance(2)
        assert await them.verify("ann", "sesame")
    told = troubles(events)
    assert told[0] == f"{path}:1: the line is not of the form name:hash:addresses"
    assert told[-1] == f"{path}: 10 more lines are bad"
    assert len(told) == users.FAULTS_TOLD + 1
    assert "$" not in "".join(told)
    them.close()


async def test_a_reload_reads_the_file_that_is_named_now(tmp_path: Path) -> None:
    clock = FakeClock()
    them = made(tmp_path / "users", "ann sesame ann@b.example", clock=clock)
    assert await them.verify("ann", "sesame")
    write(tmp_path / "others", "bob rosebud bob@b.example")
    them.reload(tmp_path / "others")
    assert not await them.verify("ann", "sesame")
    assert await them.verify("bob", "rosebud")
    write(tmp_path / "others", "bob lilac bob@b.example")
    them.reload(tmp_path / "others")
    assert await them.verify("bob", "lilac"), "a reload looks at once"
    them.close()


async def test_a_name_that_nobody_has_costs_a_judgement_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the time of the answer would tell which names there are."""
    judged: list[str] = []
    monkeypatch.setattr(passwords, "matches", lambda stored, password: bool(judged.append(stored)))
    them = made(tmp_path / "users", "ann sesame ann@b.example", "bob rosebud bob@b.example")
    for name in ("ann", "nobody", "nobody", "a b", "other"):
        assert not await them.verify(name, "x")
    assert len(judged) == 5
    assert judged[1] == judged[2], "the same name always takes the same time"
    assert set(judged) <= {cheap("sesame"), cheap("rosebud")}, "and as long as for somebody"
    (tmp_path / "users").write_text("")
    them.reload(tmp_path / "users")
    await them.verify("nobody", "x")
    assert judged[-1] == passwords.decoy()
    them.close()


async def test_a_decoy_never_lets_anyone_in(tmp_path: Path) -> None:
    """Its password is that of some user."""
    them = made(tmp_path / "users", "ann sesame ann@b.example")
    assert await them.verify("nobody", "sesame") is None
    them.close()


async def test_few_passwords_at_a_time_and_few_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand at once: two are judged, a bounded number waits, the rest hears at once that it cannot be said."""
    gate, lock, now, most = threading.Event(), threading.Lock(), [0], [0]

    def slow(stored: str, password: str) -> bool:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        gate.wait(30)
        with lock:
            now[0] -= 1
        return True

    monkeypatch.setattr(passwords, "matches", slow)
    them = made(tmp_path / "users", "ann sesame ann@b.example")
    await them.refresh()
    tries = [asyncio.create_task(them.verify("ann", "sesame")) for _ in range(1000)]
    refused = 0
    async with asyncio.timeout(30):
        while refused < 1000 - THREADS - WAITING:
            await asyncio.sleep(0)
            refused = sum(each.done() for each in tries)
    gate.set()
    answers = await asyncio.gather(*tries, return_exceptions=True)
    assert sum(isinstance(each, Unavailable) for each in answers) == 1000 - THREADS - WAITING
    assert sum(not isinstance(each, BaseException) for each in answers) == THREADS + WAITING
    assert most[0] <= THREADS
    assert await them.verify("ann", "sesame"), "the places are free again"
    them.close()


async def test_who_does_not_wait_gives_his_place_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = threading.Event()
    monkeypatch.setattr(passwords, "matches", lambda stored, password: gate.wait(30))
    them = made(tmp_path / "users", "ann sesame ann@b.example")
    await them.refresh()
    for _ in range(5 * WAITING):
        impatient = asyncio.create_task(them.verify("ann", "sesame"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        impatient.cancel()
        await asyncio.gather(impatient, return_exceptions=True)
    waiting = asyncio.create_task(them.verify("ann", "sesame"))
    await asyncio.sleep(0)
    gate.set()
    assert await waiting
    them.close()


async def test_want_of_memory_is_not_a_wrong_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(stored: str, password: str) -> bool:
        raise passwords.Argon2Error("Memory allocation error")

    monkeypatch.setattr(passwords, "matches", fails)
    them = made(tmp_path / "users", "ann sesame ann@b.example")
    with pytest.raises(Unavailable, match="Memory allocation"):
        await them.verify("ann", "sesame")
    them.close()


def test_what_check_says_about_a_file(tmp_path: Path) -> None:
    path = tmp_path / "users"
    assert "gateway user add" in users.readable(path)
    path.write_text("")
    assert not users.readable(path)
    assert users.faults(path) == ["has no user; write one with `gateway user add`"]
    path.write_text("eve\n" + line("ann", "sesame", ["ann@b.example"]))
    assert users.faults(path) == ["line 1: the line is not of the form name:hash:addresses"]
    assert users.readable(tmp_path) == "is not a file"
