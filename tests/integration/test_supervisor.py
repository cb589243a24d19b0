# SPDX-License-Identifier: Apache-2.0
"""Workers are replaced on the configuration that was approved; systemd's sockets are all served; drains begin nothing new."""

import asyncio
import json
import os
import signal
import smtplib
import socket
import subprocess
import sys
from pathlib import Path

from tests.support.daemon import Daemon

TABLES = """
[relay]
domains = ["dest.example"]
[[route]]
domains = ["*"]
to = "discard:"
[filters]
mode = "off"
"""


def submit(port: int, host: str = "127.0.0.1") -> int:
    with smtplib.SMTP(host, port, local_hostname="client.example", timeout=30) as client:
        client.ehlo()
        client.mail("a@origin.example")
        client.rcpt("box@dest.example")
        return client.data(b"From: a@origin.example\r\nSubject: x\r\n\r\nhello\r\n")[0]


def workers(daemon: Daemon) -> list[dict[str, object]]:
    status: list[dict[str, object]] = json.loads(daemon.get("/api/v1/status"))["workers"]
    return status


async def replace_all(daemon: Daemon) -> None:
    """Kill each worker and wait until another is ready in its place."""
    before = {int(str(each["pid"])) for each in workers(daemon)}
    for pid in before:
        os.kill(pid, signal.SIGKILL)

    def replaced() -> bool:
        return all(each["ready"] and each["pid"] not in before for each in workers(daemon))

    await daemon.until("all are replaced", replaced)


async def test_a_replaced_worker_runs_on_what_was_approved_not_on_what_lies_on_disk(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path, TABLES, workers=2)
    await asyncio.to_thread(daemon.start)
    try:
        daemon.config_path.write_text("half a fi")
        await replace_all(daemon)
        assert await asyncio.to_thread(submit, daemon.smtp_port) == 250
    finally:
        daemon.close()


async def test_a_replaced_worker_keeps_the_data_directory_that_is_locked(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path, TABLES, workers=2)
    await asyncio.to_thread(daemon.start)
    try:
        text = daemon.config_path.read_text()
        daemon.config_path.write_text(text.replace(str(daemon.data_dir), str(tmp_path / "other")))
        assert daemon.process
        daemon.process.send_signal(signal.SIGHUP)
        await daemon.until("it is said", lambda: "data_dir: a change needs a restart" in daemon.log_path.read_text())
        await replace_all(daemon)
        assert await asyncio.to_thread(submit, daemon.smtp_port) == 250
        assert not (tmp_path / "other").exists()
    finally:
        daemon.close()


async def test_records_name_the_worker_that_wrote_them(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path, TABLES, workers=2)
    await asyncio.to_thread(daemon.start)
    try:
        entries = [json.loads(line) for line in daemon.log_path.read_text().splitlines()]
        ready = [entry.get("worker") for entry in entries if entry.get("what") == "ready"]
        assert sorted(ready, key=str) == [0, 1, None], "the last one is the supervisor's"
    finally:
        daemon.close()


async def test_a_hangup_for_a_worker_does_not_end_it(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path, TABLES, workers=2)
    await asyncio.to_thread(daemon.start)
    try:
        before = [each["pid"] for each in workers(daemon)]
        for pid in before:
            os.kill(int(str(pid)), signal.SIGHUP)
        assert await asyncio.to_thread(submit, daemon.smtp_port) == 250
        assert [each["pid"] for each in workers(daemon)] == before
    finally:
        daemon.close()


async def test_a_worker_that_died_is_not_replaced_while_the_daemon_stops(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path, TABLES, workers=2)
    await asyncio.to_thread(daemon.start)
    try:
        assert daemon.process
        busy = smtplib.SMTP("127.0.0.1", daemon.smtp_port, local_hostname="client.example", timeout=30)
        busy.ehlo()
        busy.mail("a@origin.example")
        busy.rcpt("box@dest.example")
        assert busy.docmd("DATA")[0] == 354  # keeps one worker in its drain
        started = daemon.log_path.read_text().count('"started"')
        idle = 1 - await serving(daemon)
        os.kill(int(str(workers(daemon)[idle]["pid"])), signal.SIGKILL)
        daemon.process.send_signal(signal.SIGTERM)
        busy.send(b"Subject: x\r\n\r\nlast\r\n.\r\n")
        assert (await asyncio.to_thread(busy.getreply))[0] == 250
        assert await asyncio.to_thread(daemon.process.wait, 60) == 0
        assert daemon.log_path.read_text().count('"started"') == started
    finally:
        daemon.close()


async def worker_status(daemon: Daemon, index: int) -> bytes:
    reader, writer = await asyncio.open_unix_connection(daemon.data_dir / f"run/worker-{index}.sock")
    writer.write(b"GET /api/v1/status HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    text = await reader.read()
    writer.close()
    return text


async def serving(daemon: Daemon) -> int:
    """The worker that has a session."""
    told = [await worker_status(daemon, index) for index in (0, 1)]
    return next(index for index, text in enumerate(told) if b'"sessions": 1' in text)


def test_all_sockets_of_a_systemd_name_are_served(tmp_path: Path) -> None:
    sockets = [socket.socket(family) for family in (socket.AF_INET, socket.AF_INET6)]
    sockets[1].setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    sockets[0].bind(("127.0.0.1", 0))
    sockets[1].bind(("::1", 0))
    for each in sockets:
        each.listen()
    daemon = Daemon(tmp_path, TABLES, workers=2)
    text = daemon.config_path.read_text().replace(f"127.0.0.1:{daemon.smtp_port}", "systemd:smtp")
    daemon.config_path.write_text(text)
    # systemd passes descriptors from 3 on, and names the process they are for.
    first, second = (each.fileno() for each in sockets)
    script = f'exec 3<&{first} 4<&{second}; LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=smtp:smtp exec "$@"'
    command = [sys.executable, "-m", "gateway", "serve", "-c", str(daemon.config_path)]
    with daemon.log_path.open("ab") as log:
        high = [os.dup2(each.fileno(), 100 + number) for number, each in enumerate(sockets)]
        script = script.replace(f"<&{first} ", f"<&{high[0]} ").replace(f"<&{second};", f"<&{high[1]};")
        daemon.process = subprocess.Popen(
            ["bash", "-c", script, "sh", *command], stderr=log, pass_fds=high, start_new_session=True
        )
    try:
        daemon.wait_ready()
        assert submit(sockets[0].getsockname()[1]) == 250
        assert submit(sockets[1].getsockname()[1], "::1") == 250
        assert daemon.stop() == 0
    finally:
        daemon.close()
        for each in sockets:
            each.close()
        for descriptor in high:
            os.close(descriptor)
