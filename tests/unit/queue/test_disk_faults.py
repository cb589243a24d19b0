# SPDX-License-Identifier: Apache-2.0
"""The disk fails at its n-th act, for every n: either the client was told no, or the mail is there (RULES: never neither)."""

import asyncio
from pathlib import Path

import pytest

from gateway.mail import reply
from gateway.mail.events import Finished
from gateway.mail.job import Deferred, Delivered, Failed, Job
from gateway.mail.listing import Selector
from gateway.mail.message import FileBody, Message
from gateway.mail.reply import MailError
from gateway.mail.verdict import ACCEPT
from tests.unit.queue.build import HEADER, TRACE, content, queue_id, transaction, until
from tests.unit.queue.conftest import Rig

BIG = b"\r\n" + b"0123456789abcde\n" * (20 << 10)
DELIVERED = Delivered(reply=reply.OK)


async def claim(rig: Rig) -> Job:
    (job,) = await asyncio.wait_for(rig.queue.claim(1), 5)
    return job


def message(rig: Rig, *, big: bool, name: str) -> Message:
    if not big:
        return content()
    path = rig.queue.spool_directory / f"{name}.tmp"
    path.write_bytes(BIG)
    return Message(TRACE, HEADER, FileBody(path, 0, len(BIG)))


@pytest.mark.parametrize("late", [False, True], ids=["", "late"])
@pytest.mark.parametrize("full", [False, True], ids=["eio", "enospc"])
@pytest.mark.parametrize("big", [False, True], ids=["inline", "file"])
@pytest.mark.parametrize("for_ever", [False, True], ids=["once", "on"])
async def test_accept_when_any_act_of_the_disk_fails(rig: Rig, big: bool, full: bool, for_ever: bool, late: bool) -> None:
    """Walk n upward until accept needs no more acts. What was refused leaves no file; what was taken is there and whole."""
    await rig.open()
    refused = 0
    for at in range(100):
        name = queue_id()
        mail = message(rig, big=big, name=name)
        octets = mail.read()
        rig.disk.fail(at, full=full, for_ever=for_ever, late=late)
        (result,) = await asyncio.gather(rig.queue.accept(transaction(message=mail, id=name), ACCEPT), return_exceptions=True)
        taken = result == name
        assert taken or (isinstance(result, MailError) and result.reply == (reply.NO_SPACE if full else reply.QUEUE_WRITE))
        acts = len(rig.disk.acts)
        rig.disk.armed = False
        await rig.reopen()
        assert await rig.queue.content(name) == octets if taken else True
        if not taken and not late:
            assert await rig.queue.content(name) is None
            assert not (rig.queue.spool_directory / name).exists()
        refused += not taken
        if acts <= at:
            assert taken
            break
    assert refused >= (4 if big else 1)


async def test_a_large_body_is_synced_and_named_before_its_row_is_committed(rig: Rig) -> None:
    """After a power cut there may be a file without a row, never a row without its file."""
    await rig.open()
    name = queue_id()
    mail = message(rig, big=True, name=name)
    rig.disk.fail(-1)
    await rig.queue.accept(transaction(message=mail, id=name), ACCEPT)
    assert rig.disk.acts == ["sync", "rename", "directory", "begin", "statement", "statement", "statement", "commit"]
    job = await claim(rig)
    rig.disk.acts.clear()
    await rig.queue.settle(job, [(job.recipients[0], DELIVERED)])
    await rig.queue.close()
    assert rig.disk.acts == ["begin", "statement", "commit", "remove", "remove"]


async def test_a_sync_that_fails_but_was_done_makes_at_most_a_duplicate(rig: Rig) -> None:
    """The worst a disk can do: 451 was said and the mail is there all the same. The client sends it again."""
    await rig.open()
    tx = transaction()
    rig.disk.fail(0, on="commit", late=True)
    with pytest.raises(MailError):
        await rig.queue.accept(tx, ACCEPT)
    again = transaction()
    await rig.queue.accept(again, ACCEPT)
    await rig.reopen()
    assert {job.id for job in await rig.queue.claim(10)} <= {tx.id, again.id}


@pytest.mark.parametrize("late", [False, True], ids=["", "late"])
@pytest.mark.parametrize("outcome", ["delivered", "failed", "deferred"])
async def test_an_outcome_survives_a_disk_that_fails_for_a_while(rig: Rig, outcome: str, late: bool) -> None:
    """A delivered message that is not recorded would be sent twice: the queue keeps on, and the caller waits."""
    await rig.open()
    outcomes = {"delivered": DELIVERED, "failed": Failed(reply=reply.POLICY), "deferred": Deferred(reply=reply.INTERNAL)}
    tx = transaction("a@dest.example", "b@dest.example")
    await rig.queue.accept(tx, ACCEPT)
    job = await claim(rig)
    rig.disk.fail(0, on="commit", for_ever=True, late=late)
    settling = asyncio.ensure_future(rig.queue.settle(job, [(due, outcomes[outcome]) for due in job.recipients]))
    for _ in range(3):
        await until(lambda: rig.clock.sleepers > 0)
        assert not settling.done()
        assert rig.events.of(Finished) == []
        await rig.clock.advance(60)
    rig.disk.heal()
    await until(lambda: rig.clock.sleepers > 0 or settling.done())
    await rig.clock.advance(60)
    await asyncio.wait_for(settling, 5)
    assert "outcome not recorded" in "".join(rig.events.troubles)
    await rig.reopen()
    views = await rig.queue.find(Selector(), 10)
    if outcome == "delivered":
        assert views == []
    elif outcome == "failed":
        assert [(view.sender, len(view.recipients)) for view in views] == [("", 1)]
    else:
        assert [[each.attempts for each in view.recipients] for view in views] == [[1, 1]]


async def test_an_outcome_that_waits_survives_its_caller(rig: Rig) -> None:
    await rig.open()
    await rig.queue.accept(transaction(), ACCEPT)
    job = await claim(rig)
    rig.disk.fail(0, on="commit")
    settling = asyncio.ensure_future(rig.queue.settle(job, [(job.recipients[0], DELIVERED)]))
    await until(lambda: rig.clock.sleepers > 0)
    settling.cancel()
    await rig.clock.advance(60)
    await until(lambda: rig.events.of(Finished))
    assert await rig.queue.counts() == {"queued": 0, "deferred": 0, "held": 0}


async def test_nothing_more_is_given_out_while_many_outcomes_wait(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.queue.work.UNRECORDED_MAX", 2)
    await rig.open()
    for _ in range(3):
        await rig.queue.accept(transaction(), ACCEPT)
    jobs = await rig.queue.claim(2)
    rig.disk.fail(0, on="commit", for_ever=True)
    settling = [asyncio.ensure_future(rig.queue.settle(job, [(job.recipients[0], DELIVERED)])) for job in jobs]
    await until(lambda: rig.clock.sleepers >= 2)
    claiming = asyncio.ensure_future(rig.queue.claim(1))
    await asyncio.sleep(0)
    assert not claiming.done()
    rig.disk.heal()
    await rig.clock.advance(60)
    await asyncio.wait_for(asyncio.gather(*settling), 5)
    assert len(await asyncio.wait_for(claiming, 5)) == 1


async def test_close_gives_up_what_cannot_be_recorded_and_the_mail_stays(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.queue.shard.CLOSE_PATIENCE", 0.01)
    await rig.open()
    tx = transaction()
    await rig.queue.accept(tx, ACCEPT)
    job = await claim(rig)
    rig.disk.fail(0, on="commit", for_ever=True)
    settling = asyncio.ensure_future(rig.queue.settle(job, [(job.recipients[0], DELIVERED)]))
    await until(lambda: rig.clock.sleepers > 0)
    await rig.queue.close()
    with pytest.raises(MailError):
        await settling
    rig.disk.heal()
    await rig.open()
    assert (await claim(rig)).id == tx.id


async def test_a_full_database_answers_452_and_recovers(rig: Rig) -> None:
    """SQLITE_FULL by SQLite itself, through its page limit."""
    rig.disk.page_limit = 60
    await rig.open()
    taken = []
    with pytest.raises(MailError) as failure:
        for _ in range(100):
            taken.append(await rig.queue.accept(transaction(message=content(b"x" * 4000)), ACCEPT))
    assert failure.value.reply == reply.NO_SPACE
    assert 5 < len(taken) < 60
    for _ in taken:
        job = await claim(rig)
        await rig.queue.settle(job, [(job.recipients[0], DELIVERED)])
    await rig.queue.accept(transaction(message=content(b"x" * 4000)), ACCEPT)


async def test_a_full_database_spoils_only_the_operations_that_find_no_room(rig: Rig) -> None:
    rig.disk.page_limit = 60
    await rig.open()
    transactions = [transaction(message=content(b"x" * 4000)) for _ in range(100)]
    results = await asyncio.gather(*[rig.queue.accept(tx, ACCEPT) for tx in transactions], return_exceptions=True)
    taken = {result for result in results if isinstance(result, str)}
    assert {result.reply for result in results if isinstance(result, MailError)} == {reply.NO_SPACE}
    await rig.reopen()
    assert {view.id for view in await rig.queue.find(Selector(), 200)} == taken


async def test_little_free_space_refuses_mail_before_the_disk_is_full(rig: Rig) -> None:
    rig.options = rig.options.model_copy(update={"min_free": 1000})
    await rig.open()
    for space, pressure in [
        ((999, None), True),
        ((1100, 5000), True),
        ((1251, 5000), False),
        ((5000, 999), True),
        ((5000, 2000), False),
    ]:
        rig.disk.space = space
        await rig.clock.advance(1.1)
        assert rig.queue.pressure() is pressure
        rig.disk.space = (0, 0)
        assert rig.queue.pressure() is pressure  # asked once a second
        if pressure:
            with pytest.raises(MailError) as failure:
                await rig.queue.accept(transaction(), ACCEPT)
            assert failure.value.reply == reply.NO_SPACE


def test_the_real_disk_knows_its_free_space(tmp_path: Path, rig: Rig) -> None:
    octets, inodes = rig.disk.free(tmp_path)
    assert octets > 0
    assert inodes is None or inodes > 0
