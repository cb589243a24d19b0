# SPDX-License-Identifier: Apache-2.0
"""Large messages go to a file, and a disk that refuses never makes a half message."""

import asyncio
import errno
import stat
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gateway.edge.content import ContentLimits, DataReader
from gateway.edge.incoming import Incoming
from gateway.edge.spool import SpoolFile
from gateway.mail import reply
from gateway.mail.message import FileBody
from gateway.mail.reply import MailError

LIMITS = ContentLimits(size=0, line=0, header=1 << 20)
LARGE = b"A: 1\r\n\r\n" + b"0123456789abcd\r\n" * 40_000


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as threads:
        yield threads


async def feed(incoming: Incoming, raw: bytes, size: int = 65536) -> None:
    for at in range(0, len(raw), size):
        incoming.reader.feed(raw[at : at + size])
        while incoming.wants_storing:
            await incoming.store()


async def test_a_small_message_makes_no_file(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    incoming = Incoming(DataReader(LIMITS), tmp_path, "x", pool)
    await feed(incoming, b"A: 1\r\n\r\nbody\r\n.\r\n")
    message = await incoming.finish()
    assert message.read() == b"A: 1\r\n\r\nbody\r\n"
    assert not incoming.on_disk
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("size", [4096, 65536, 1 << 20])
async def test_a_large_message_comes_back_from_its_file(tmp_path: Path, pool: ThreadPoolExecutor, size: int) -> None:
    path = tmp_path / "x.tmp"
    incoming = Incoming(DataReader(LIMITS), path.parent, path.stem, pool)
    await feed(incoming, LARGE + b".\r\n", size)
    message = await incoming.finish()
    assert isinstance(message.body, FileBody)
    assert message.header == b"A: 1\r\n"
    assert message.read() == LARGE
    assert stat.S_IMODE(path.stat().st_mode) == 0o600  # nobody else reads our mail
    await incoming.remove()
    assert not path.exists()


async def test_memory_stays_bounded_while_it_comes(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    incoming = Incoming(DataReader(LIMITS), tmp_path, "x", pool)
    for _ in range(40):
        await feed(incoming, LARGE)
        assert incoming.reader.held < Incoming.STORE_FROM + 65536
    await incoming.remove()


@pytest.mark.parametrize(
    ("number", "answer"), [(errno.ENOSPC, reply.NO_SPACE), (errno.EDQUOT, reply.NO_SPACE), (errno.EIO, reply.QUEUE_WRITE)]
)
@pytest.mark.parametrize("nth", [1, 2, 3])
async def test_a_disk_that_refuses_is_told_at_the_end(
    tmp_path: Path, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch, number: int, answer: reply.Reply, nth: int
) -> None:
    """Whichever write fails: the rest is read and forgotten, and the sender hears a temporary no."""
    real, count = SpoolFile._write, 0

    def failing(self: SpoolFile, data: bytes) -> None:
        nonlocal count
        count += 1
        if count == nth:
            raise OSError(number, "the disk says no")
        real(self, data)

    monkeypatch.setattr(SpoolFile, "_write", failing)
    incoming = Incoming(DataReader(LIMITS), tmp_path, "x", pool)
    await feed(incoming, LARGE + b".\r\n")
    assert incoming.reader.ended
    with pytest.raises(MailError) as caught:
        await incoming.finish()
    assert caught.value.reply is answer
    assert "the disk says no" in caught.value.detail
    await incoming.remove()
    assert not list(tmp_path.iterdir())


async def test_a_missing_directory_is_our_trouble(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    incoming = Incoming(DataReader(LIMITS), tmp_path / "gone", "x", pool)
    await feed(incoming, LARGE + b".\r\n")
    with pytest.raises(MailError) as caught:
        await incoming.finish()
    assert caught.value.reply is reply.QUEUE_WRITE


async def test_a_foreign_file_of_that_name_is_neither_written_nor_removed(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    path = tmp_path / "x.tmp"
    path.write_text("someone else's")
    incoming = Incoming(DataReader(LIMITS), path.parent, path.stem, pool)
    await feed(incoming, LARGE + b".\r\n")
    with pytest.raises(MailError):
        await incoming.finish()
    await incoming.remove()
    assert path.read_text() == "someone else's"


async def test_a_removed_file_stays_removed_though_a_write_was_under_way(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    """The session is cancelled while a thread is about to open the file."""
    path, may_go = tmp_path / "x.tmp", threading.Event()
    file = SpoolFile(path, pool)
    blockers = [pool.submit(may_go.wait) for _ in range(2)]  # both threads are busy
    write = asyncio.create_task(file.write(b"x"))
    await asyncio.sleep(0)
    remove = asyncio.create_task(file.remove())
    await asyncio.sleep(0)
    write.cancel()
    may_go.set()
    await asyncio.gather(write, remove, return_exceptions=True)
    await asyncio.gather(*map(asyncio.wrap_future, blockers))
    assert not path.exists()
