# SPDX-License-Identifier: Apache-2.0
"""Scarcity: descriptors, connections, memory, disk. Some clients wait, nothing is lost, and it passes by itself."""

import contextlib
import json
import os
import signal
import subprocess
import threading
import urllib.error
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.daemon import Daemon
from tests.support.world import Wire, World, until

pytestmark = pytest.mark.slow  # starts a daemon for nearly every test: too long for every run

HEAD = (
    b"From: a@origin.example\r\nTo: box@dest.example\r\nDate: Sun, 22 Nov 2026 08:00:00 +0000\r\n"
    b"Message-ID: <odd@origin.example>\r\nSubject: %b\r\n\r\n"
)
FIVE = ("messages_accepted", "messages_rejected", "recipients_delivered", "recipients_deferred", "recipients_bounced")
WORKERS = pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.slow), 2])


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with World() as instance:
        yield instance


def send(daemon: Daemon, subject: str, *recipients: str) -> bytes:
    with Wire(daemon.smtp_port) as client:
        return client.message(HEAD.replace(b"%b", subject.encode()) + b"x\r\n", *recipients)


def readiness(daemon: Daemon) -> tuple[int, list[str]]:
    try:
        return 200, json.loads(daemon.get("/readyz"))["reasons"]
    except urllib.error.HTTPError as err:
        with err:
            return err.code, json.loads(err.read())["reasons"]


def at_mail(daemon: Daemon) -> bytes:
    with Wire(daemon.smtp_port) as client:
        client.ask(b"EHLO client.example")
        return client.ask(b"MAIL FROM:<a@origin.example>")


def is_welcome(daemon: Daemon) -> bool:
    with Wire(daemon.smtp_port) as client:
        return client.banner.startswith(b"220 ")


@pytest.mark.needs("prlimit")
def test_clients_cannot_use_up_the_descriptors(world: World, tmp_path: Path) -> None:
    daemon = Daemon(tmp_path, world.tables("[limits]\nconnections_per_client = 0"))
    daemon.start("prlimit", "--nofile=120:120")
    with contextlib.ExitStack() as stack:
        stack.callback(daemon.close)
        wires = [stack.enter_context(Wire(daemon.smtp_port)) for _ in range(150)]
        turned_away = [wire for wire in wires if wire.banner.startswith(b"421 4.7.0")]
        assert len(turned_away) == 90
        answer = wires[0].message(HEAD.replace(b"%b", b"exhausted") + b"y" * 900 + b"\r\n" + (b"z" * 998 + b"\r\n") * 400)
        assert answer.startswith(b"250"), answer
        world.arrived("exhausted")
        assert readiness(daemon) == (200, [])
        for wire in wires:
            wire.socket.close()
        until("a place is free", lambda: is_welcome(daemon))
        assert send(daemon, "later").startswith(b"250")
        assert daemon.stop() == 0
        assert not [row for row in daemon.log() if row["event"] == "trouble"]


def test_one_client_has_no_more_than_its_share(world: World, tmp_path: Path) -> None:
    with Daemon(tmp_path, world.tables("[limits]\nconnections_per_client = 5")) as daemon, contextlib.ExitStack() as stack:
        wires = [stack.enter_context(Wire(daemon.smtp_port)) for _ in range(8)]
        assert sorted(wire.banner[:4] for wire in wires) == [b"220 "] * 5 + [b"421 "] * 3
        with Wire(daemon.smtp_port, source="127.0.0.2") as other:
            assert other.banner.startswith(b"220 ")


def test_clients_that_hold_us_up_are_cut_off_and_others_served(world: World, tmp_path: Path) -> None:
    times = '[limits]\ncommand_timeout = "1s"\ndata_timeout = "1s"\ntransaction_timeout = "3s"\nconnections_per_client = 0'
    with Daemon(tmp_path, world.tables(times)) as daemon, contextlib.ExitStack() as stack:
        silent, half, stuck, drip = (stack.enter_context(Wire(daemon.smtp_port)) for _ in range(4))
        half.send(b"EHLO cli")
        stuck.envelope()
        stuck.send(b"Subject: stu")
        drip.envelope()

        def drop_by_drop() -> None:
            with contextlib.suppress(OSError):
                while not ended.wait(0.1):
                    drip.send(b"x" * 400)  # fast enough for data_timeout

        ended = threading.Event()
        dripping = threading.Thread(target=drop_by_drop)
        dripping.start()
        assert send(daemon, "served").startswith(b"250")
        assert silent.reply().startswith(b"421 4.4.2 ")
        assert half.reply().startswith(b"421 4.4.2 ")
        assert stuck.reply().startswith(b"421 4.4.2 ")
        assert drip.reply()[:10] in (b"421 4.4.2 ", b"")
        ended.set()
        dripping.join()
        assert not daemon.queue() or daemon.metric("gateway_messages_accepted_total") == 1


def test_the_five_counters_are_there_from_the_start(world: World, tmp_path: Path) -> None:
    with Daemon(tmp_path, world.tables(), workers=2) as daemon:
        page = daemon.get("/metrics").decode()
        for name in FIVE:
            assert f"\ngateway_{name}_total" in page
            assert daemon.metric(f"gateway_{name}_total") == 0
        for number in range(50):
            send(daemon, "labels", f"u{number}+550-at-rcpt@dest.example")
        until("all have bounced", lambda: daemon.metric("gateway_recipients_bounced_total") == 50)
        page = daemon.get("/metrics").decode()
        assert "dest.example" not in page
        assert "origin.example" not in page


def test_nonsense_at_the_admin_address_leaves_the_log_whole(world: World, tmp_path: Path) -> None:
    with Daemon(tmp_path, world.tables(), workers=2) as daemon:
        for nonsense in (b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\n\r\n", b"\0\xff\r\n\r\n", b"GET /metrics HTTP/9.9\r\n\r\n"):
            with Wire(daemon.admin_port, banner=False) as client:
                client.send(nonsense)
                assert client.socket.recv(4096).startswith(b"HTTP/1.")
        assert daemon.get("/healthz") == b"ok\n"
        assert daemon.stop() == 0
        assert daemon.log()  # every line is JSON


@WORKERS
def test_a_full_disk_is_told_and_passes(world: World, tmp_path: Path, workers: int) -> None:
    roomy = world.tables('min_free = "1KiB"')
    with Daemon(tmp_path, roomy, workers=workers) as daemon:
        assert daemon.process
        assert send(daemon, f"queued-{workers}", "x+hang-in-dot@dest.example").startswith(b"250")
        world.run(world.sink.wait_hung())
        daemon.write_config(roomy.replace("1KiB", "100000TiB"))
        daemon.process.send_signal(signal.SIGHUP)
        until("mail is refused", lambda: all(at_mail(daemon).startswith(b"452 4.3.1 ") for _ in range(5)))
        assert readiness(daemon)[0] == 503
        assert len(readiness(daemon)[1]) == workers
        world.call(world.sink.resume)
        world.arrived(f"queued-{workers}")  # what is in the queue goes on
        daemon.write_config(roomy)
        daemon.process.send_signal(signal.SIGHUP)
        until("mail is taken", lambda: readiness(daemon) == (200, []))
        assert send(daemon, "again").startswith(b"250")
        assert daemon.stop() == 0
        assert daemon.log()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "data"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip(f"needs mount: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(path: Path) -> None:
    """Nothing is left on the disk."""
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"z" * 65536)


@pytest.mark.needs("root")
@WORKERS
def test_a_disk_that_is_really_full_costs_no_mail(world: World, small_disk: Path, workers: int) -> None:
    world.call(world.sink.messages.clear)
    daemon = Daemon(small_disk.parent, world.tables('min_free = "4MiB"'), workers=workers)
    with daemon:
        for number in range(6):  # small and large, all refused at first
            body = b"z" * 998 + b"\r\n"
            with Wire(daemon.smtp_port) as client:
                content = HEAD.replace(b"%b", f"n{number}".encode()) + body * (400 if number % 2 else 1)
                assert client.message(content, "x+450-at-rcpt@dest.example").startswith(b"250")
        fill(small_disk / "ballast")
        taken: list[bytes] = []
        until("mail is refused", lambda: not any(fits(daemon, taken) for _ in range(5)))
        assert readiness(daemon)[0] == 503
        daemon.kill()  # and a start on a full disk
        daemon.start(wait=False)
        until("it answers", lambda: answers(daemon))
        assert at_mail(daemon).startswith(b"452 4.3.1")
        (small_disk / "ballast").unlink()
        until("mail is taken", lambda: readiness(daemon) == (200, []))
        assert send(daemon, "after").startswith(b"250")
        world.arrived("after")
        assert len(daemon.queue()) == 6 + len(taken)
        assert daemon.stop() == 0
        assert daemon.log()


def fits(daemon: Daemon, taken: list[bytes]) -> bool:
    """Send one more; there may be room for it in files that are long enough already. Every no is 452."""
    with Wire(daemon.smtp_port) as client:
        for line in (b"EHLO client.example", b"MAIL FROM:<a@origin.example>", b"RCPT TO:<x+450-at-rcpt@dest.example>", b"DATA"):
            answer = client.ask(line)
            if answer[:1] not in (b"2", b"3"):
                assert answer.startswith(b"452 4.3.1 "), answer
                return False
        client.send(HEAD.replace(b"%b", b"no") + b".\r\n")
        answer = client.reply()
        if answer.startswith(b"250 "):
            taken.append(answer)
        else:
            assert answer.startswith(b"452 4.3.1 "), answer
        return answer.startswith(b"250 ")


def answers(daemon: Daemon) -> bool:
    with contextlib.suppress(OSError):
        return at_mail(daemon) != b""
    return False


def test_ten_large_messages_at_once_take_little_memory(world: World, tmp_path: Path) -> None:
    world.call(setattr, world.sink, "count_only", True)
    before = world.sink.count
    body = (b"z" * 998 + b"\r\n") * (30 * 1024)
    with Daemon(tmp_path, world.tables()) as daemon:
        assert daemon.process
        process = psutil.Process(daemon.process.pid)
        small = process.memory_info().rss
        answers: list[bytes] = []

        def large() -> None:
            with Wire(daemon.smtp_port) as client:
                answers.append(client.message(HEAD.replace(b"%b", b"large") + body))

        threads = [threading.Thread(target=large) for _ in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert all(answer.startswith(b"250") for answer in answers)
        assert len(answers) == 10
        world.run(world.sink.until(lambda: world.sink.count == before + 10, 60))
        peak = int(
            next(line for line in Path(f"/proc/{process.pid}/status").read_text().splitlines() if "VmHWM" in line).split()[1]
        )
        assert peak * 1024 - small < 120 << 20
    world.call(setattr, world.sink, "count_only", False)


def test_a_path_for_an_id_is_refused(world: World, tmp_path: Path) -> None:
    daemon = Daemon(tmp_path, world.tables())
    for command in (["explain", "/etc/passwd"], ["queue", "show", "../../etc/passwd"], ["queue", "delete", "' OR 1=1"]):
        done = daemon.command(*command)
        assert done.returncode == 2
        assert not done.stdout
        assert "root:" not in done.stderr
    assert not os.path.lexists(daemon.data_dir)
