# SPDX-License-Identifier: Apache-2.0
"""Signals, kills and odd files around a live daemon under load: what got its 250 is delivered, and a new start succeeds."""

import os
import shutil
import signal
import socket
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.daemon import Daemon
from tests.support.world import Wire, World, until

pytestmark = pytest.mark.slow  # starts a daemon for nearly every test: too long for every run

HEAD = (
    b"From: a@origin.example\r\nTo: box@dest.example\r\nDate: Sun, 22 Nov 2026 08:00:00 +0000\r\n"
    b"Message-ID: <odd@origin.example>\r\nSubject: %b\r\n\r\nx\r\n"
)
WORKERS = pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.slow), 2])


@pytest.fixture
def world() -> Iterator[World]:
    with World() as instance:
        yield instance


class Load:
    """Sessions that send until they are told to stop or are cut off; `taken` are the subjects that got 250."""

    def __init__(self, daemon: Daemon, sessions: int = 20) -> None:
        self.daemon = daemon
        self.taken: list[str] = []
        self.tried: set[str] = set()
        self.odd: list[bytes] = []
        self.ended = threading.Event()
        self.threads = [threading.Thread(target=self._session, args=(n,), daemon=True) for n in range(sessions)]

    def __enter__(self) -> "Load":
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self.ended.set()
        for thread in self.threads:
            thread.join(60)

    def _session(self, number: int) -> None:
        count = 0
        while not self.ended.is_set():
            try:
                with Wire(self.daemon.smtp_port) as client:
                    client.ask(b"EHLO client.example")
                    while not self.ended.is_set():
                        count += 1
                        subject = f"load-{number}-{count}"
                        self._one(client, subject)
            except (OSError, EOFError):
                if self.ended.wait(0.02):
                    return

    def _one(self, client: Wire, subject: str) -> None:
        for line in (b"MAIL FROM:<a@origin.example>", b"RCPT TO:<box@dest.example>", b"DATA"):
            answer = client.ask(line)
            if answer[:1] not in (b"2", b"3"):
                self._no(answer)
        self.tried.add(subject)
        client.send(HEAD.replace(b"%b", subject.encode()) + b".\r\n")
        answer = client.reply()
        if not answer.startswith(b"250"):
            self._no(answer)
        self.taken.append(subject)

    def _no(self, answer: bytes) -> None:
        if answer and answer[:1] != b"4":
            self.odd.append(answer)
        raise EOFError


def subjects(world: World) -> Counter[str]:
    return Counter(copy.content.split(b"Subject: ", 1)[1].split(b"\r\n", 1)[0].decode() for copy in list(world.sink.messages))


def all_there(world: World, load: Load) -> Counter[str]:
    """Wait until everything that got its 250 has come."""
    until("all that was taken", lambda: not set(load.taken) - set(subjects(world)), patience=60)
    return subjects(world)


@WORKERS
def test_sigterm_under_load_loses_and_doubles_nothing(world: World, tmp_path: Path, workers: int) -> None:
    daemon = Daemon(tmp_path, world.tables(), workers=workers)
    with daemon:
        with Load(daemon) as load:
            until("it runs", lambda: len(load.taken) > 200)
            assert daemon.stop() == 0
        daemon.start()
        seen = all_there(world, load)
        until("the queue is empty", lambda: not daemon.queue())
        assert not load.odd
        assert max(seen.values()) == 1
        assert set(seen) <= load.tried


@WORKERS
def test_sighup_under_load_loses_and_doubles_nothing(world: World, tmp_path: Path, workers: int) -> None:
    with Daemon(tmp_path, world.tables(), workers=workers) as daemon:
        assert daemon.process
        with Load(daemon) as load:
            for round in range(5):
                until("it runs", lambda: len(load.taken) > 100 * (round + 1))  # noqa: B023
                daemon.process.send_signal(signal.SIGHUP)
        seen = all_there(world, load)
        assert not load.odd
        assert max(seen.values()) == 1
        until("all are counted", lambda: daemon.metric("gateway_recipients_delivered_total") == len(load.taken))
        assert daemon.metric("gateway_messages_accepted_total") == len(load.taken) == sum(seen.values())
        assert daemon.metric("gateway_messages_rejected_total") == 0
        assert daemon.stop() == 0
        assert sum(row.get("disposition") is True for row in daemon.log()) == len(load.taken)


def test_a_worker_killed_under_load_loses_nothing(world: World, tmp_path: Path) -> None:
    with Daemon(tmp_path, world.tables(), workers=2) as daemon:
        assert daemon.process
        with Load(daemon) as load:
            until("it runs", lambda: len(load.taken) > 200)
            victims = [child for child in psutil.Process(daemon.process.pid).children() if "gateway.worker" in child.cmdline()]
            assert len(victims) == 2
            victims[0].kill()
            now = len(load.taken)
            until("the other goes on", lambda: len(load.taken) > now + 100)
        all_there(world, load)
        assert not load.odd


def test_workers_of_a_killed_supervisor_end_and_a_new_daemon_starts(world: World, tmp_path: Path) -> None:
    with Daemon(tmp_path, world.tables(), workers=2) as daemon:
        assert daemon.process
        with Wire(daemon.smtp_port) as stalled:  # a transaction that does not end, and a next hop that does not answer
            stalled.envelope()
            with Wire(daemon.smtp_port) as client:
                assert client.message(HEAD.replace(b"%b", b"hung"), "x+hang-in-dot@dest.example").startswith(b"250")
            world.run(world.sink.wait_hung())
            with Load(daemon) as load:
                until("it runs", lambda: len(load.taken) > 100)
                children = psutil.Process(daemon.process.pid).children()
                os.kill(daemon.process.pid, signal.SIGKILL)
                daemon.process.wait()
                started = time.monotonic()
                daemon.start()
                assert time.monotonic() - started < 20
        assert not [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
        all_there(world, load)


ODD_FILES = {
    "zero": lambda path: path.write_bytes(b""),
    "truncated": lambda path: os.truncate(path, path.stat().st_size // 2),
    "foreign": lambda path: path.write_bytes(b"%PDF-1.7 not a queue" * 1000),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "noise": lambda path: path.write_bytes(os.urandom(65536)),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == "truncated" else pytest.mark.slow) for name in sorted(ODD_FILES)]
)
def test_a_broken_queue_file_is_put_aside_and_mail_flows(world: World, tmp_path: Path, name: str) -> None:
    with Daemon(tmp_path, world.tables()) as daemon:
        daemon.stop()
        path = daemon.data_dir / "queue" / "0.sqlite"
        ODD_FILES[name](path)
        (daemon.data_dir / "queue" / "notes.txt").write_text("not ours")
        (daemon.data_dir / "queue" / "0.spool" / "junk").write_text("not ours")
        shutil.copy(__file__, daemon.data_dir / "trace" / "0.sqlite")
        daemon.start()
        with Wire(daemon.smtp_port) as client:
            assert client.message(HEAD.replace(b"%b", b"after")).startswith(b"250")
        world.arrived("after")
        assert [entry.name for entry in (daemon.data_dir / "queue").iterdir() if "broken" in entry.name]
        assert daemon.log()
        assert daemon.stop() == 0


def test_a_newer_queue_file_is_left_alone(world: World, tmp_path: Path) -> None:
    with Daemon(tmp_path, world.tables()) as daemon:
        daemon.stop()
        path = daemon.data_dir / "queue" / "0.sqlite"
        database = sqlite3.connect(path)
        database.execute("PRAGMA user_version = 99")
        database.close()
        before = path.read_bytes()
        daemon.start(wait=False)
        assert daemon.process
        assert daemon.process.wait(30) == 2
        assert "99" in daemon.log_path.read_text()
        assert "Traceback" not in daemon.log_path.read_text()
        assert path.read_bytes() == before


@WORKERS
def test_stale_sockets_and_locks_stop_no_start(world: World, tmp_path: Path, workers: int) -> None:
    daemon = Daemon(tmp_path, world.tables(), workers=workers)
    run = daemon.data_dir / "run"
    run.mkdir(parents=True)
    for number in range(4):
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(str(run / f"worker-{number}.sock"))
    (daemon.data_dir / "lock").write_text("1\n")
    with daemon:
        assert daemon.queue() == []
        assert daemon.stop() == 0


def test_a_maildir_that_cannot_be_written_defers(world: World, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    route = f'[[route]]\ndomains = ["box.mx.example"]\nto = "maildir:{tmp_path}/file/box"'
    with Daemon(tmp_path, world.tables(route=route)) as daemon:
        with Wire(daemon.smtp_port) as client:
            assert client.message(HEAD.replace(b"%b", b"box"), "x@box.mx.example").startswith(b"250")
        until("an attempt", lambda: daemon.metric("gateway_recipients_deferred_total") >= 2)
        (tmp_path / "file").unlink()
        until("it is delivered", lambda: daemon.metric("gateway_recipients_delivered_total") == 1)
        assert len(list((tmp_path / "file/box/new").iterdir())) == 1
