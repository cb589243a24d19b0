# SPDX-License-Identifier: Apache-2.0
"""Load that is too much, against a real daemon: what is refused, what goes on, and that it passes by itself."""

import contextlib
import json
import os
import signal
import urllib.error
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import Daemon, free_ports
from tests.support.world import Wire, World, until

HEAD = b"From: a@origin.example\r\nSubject: %b\r\n\r\nx\r\n"


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with World() as instance:
        yield instance


def send(daemon: Daemon, subject: str) -> bytes:
    with Wire(daemon.smtp_port) as client:
        return client.message(HEAD.replace(b"%b", subject.encode()))


def at_mail(daemon: Daemon) -> bytes:
    with Wire(daemon.smtp_port) as client:
        client.ask(b"EHLO client.example")
        return client.ask(b"MAIL FROM:<a@origin.example>")


def readiness(daemon: Daemon) -> list[str]:
    try:
        return list(json.loads(daemon.get("/readyz"))["reasons"])
    except urllib.error.HTTPError as err:
        with err:
            return list(json.loads(err.read())["reasons"])


def steps(daemon: Daemon) -> list[str]:
    return [row["what"] for row in daemon.log() if row["event"] == "lifecycle" and row["what"] in ("shedding", "relieved")]


def reload(daemon: Daemon, tables: str) -> None:
    assert daemon.process
    daemon.write_config(tables)
    daemon.process.send_signal(signal.SIGHUP)


def test_a_queue_that_is_too_long_takes_no_more_until_it_has_drained(world: World, tmp_path: Path) -> None:
    up = world.tables("[limits]\nqueued = 3", retry='"1h"')
    (nowhere,) = free_ports(1)
    down = up.replace(f"127.0.0.1:{world.sink.port}", f"127.0.0.1:{nowhere}")
    with Daemon(tmp_path, down) as daemon:
        for number in range(3):
            assert send(daemon, f"queued {number}").startswith(b"250 ")
        until("it is felt", lambda: daemon.metric("gateway_shedding") == 1)  # the page reads the queue
        assert at_mail(daemon) == b"452 4.3.1 Insufficient storage, try again later"
        assert readiness(daemon) == ["too much mail waits"]
        assert b'gateway_shedding{reason="queue"} 1.0' in daemon.get("/metrics")
        assert b'gateway_shed_total{reason="queue",what="mail"} 1.0' in daemon.get("/metrics")
        reload(daemon, up)
        until("the route is there", lambda: "reloaded" in daemon.log_path.read_text())
        assert daemon.command("queue", "retry", "--domain", "dest.example").returncode == 0
        for number in range(3):
            world.arrived(f"queued {number}")
        until("it has passed", lambda: daemon.metric("gateway_shedding") == 0)
        assert readiness(daemon) == []
        assert send(daemon, "taken again").startswith(b"250 ")
        assert steps(daemon) == ["shedding", "relieved"]


def test_memory_that_runs_out_refuses_clients_while_delivery_goes_on(world: World, tmp_path: Path) -> None:
    roomy = world.tables()
    with Daemon(tmp_path, roomy) as daemon, Wire(daemon.smtp_port) as inside, Wire(daemon.smtp_port) as idle:
        inside.envelope()
        assert send(daemon, "before").startswith(b"250 ")
        reload(daemon, world.tables('[limits]\nmemory = "1MiB"'))
        until("it is felt", lambda: daemon.metric("gateway_shedding") == 1)  # the page looks at the memory
        assert idle.reply() == b"421 4.3.2 Too busy, try again later"
        with Wire(daemon.smtp_port) as client:
            assert client.banner == b"421 4.3.2 Too busy, try again later"
        assert readiness(daemon) == ["too little memory for new mail"]
        inside.send(HEAD.replace(b"%b", b"under way") + b".\r\n")
        assert inside.reply().startswith(b"250 ")
        assert inside.ask(b"MAIL FROM:<a@origin.example>")[:9] in (b"421 4.3.2", b"452 4.3.1")
        world.arrived("under way")
        page = daemon.get("/metrics")
        assert b'gateway_shedding{reason="memory"} 1.0' in page
        assert b'gateway_shed_total{reason="memory",what="connection"} 1.0' in page
        assert b'gateway_shed_total{reason="memory",what="session"}' in page
        reload(daemon, roomy)
        until("mail is taken", lambda: readiness(daemon) == [])
        assert send(daemon, "after").startswith(b"250 ")
        assert daemon.stop() == 0
        assert steps(daemon) == ["shedding", "relieved"]


def let_in(stack: contextlib.ExitStack, daemon: Daemon, count: int, source: str = "127.0.0.1") -> int:
    """How many of so many connections are greeted; these stay open."""
    wires = [stack.enter_context(Wire(daemon.smtp_port, source=source)) for _ in range(count)]
    assert all(wire.banner[:9] in (b"220 mx.ga", b"421 4.7.0") for wire in wires), [wire.banner for wire in wires]
    return sum(wire.banner.startswith(b"220 ") for wire in wires)


def sessions(daemon: Daemon) -> float:
    return daemon.metric("gateway_connections")


def test_caps_hold_over_all_workers_and_the_dead_do_not_count(world: World, tmp_path: Path) -> None:
    tables = world.tables("[limits]\nconnections_per_client = 6\nconnections = 14")
    with Daemon(tmp_path, tables, workers=2) as daemon, contextlib.ExitStack() as stack:
        with contextlib.ExitStack() as first:
            assert let_in(first, daemon, 20) == 6
            assert let_in(first, daemon, 10, "127.0.0.2") == 6
            assert let_in(first, daemon, 10, "127.0.0.3") == 2, "fourteen in all"
        until("they are gone", lambda: sessions(daemon) == 0)
        assert let_in(stack, daemon, 9) == 6
        status = json.loads(daemon.get("/api/v1/status"))["workers"]
        for each in status:
            os.kill(each["pid"], signal.SIGKILL)
        pids = {each["pid"] for each in status}

        def replaced() -> bool:
            now = json.loads(daemon.get("/api/v1/status"))["workers"]
            return all(each["ready"] and each["pid"] not in pids for each in now)

        until("others are there", replaced)
        assert let_in(stack, daemon, 9) == 6
