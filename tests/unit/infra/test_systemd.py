# SPDX-License-Identifier: Apache-2.0
"""Notifications arrive on real sockets; inherited sockets are found by name; without systemd nothing happens."""

import contextlib
import os
import re
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.infra import systemd


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as link:
        link.bind(str(tmp_path / "notify"))
        link.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield link


def test_state_arrives_as_one_datagram(manager: socket.socket) -> None:
    assert systemd.notify("READY=1\nSTATUS=Taking mail")
    assert manager.recv(1000) == b"READY=1\nSTATUS=Taking mail"


def test_reload_carries_the_monotonic_time(manager: socket.socket) -> None:
    before = time.monotonic_ns() // 1000
    assert systemd.notify_reloading()
    found = re.fullmatch(rb"RELOADING=1\nMONOTONIC_USEC=(\d+)", manager.recv(1000))
    assert found
    assert before <= int(found[1]) <= time.monotonic_ns() // 1000


def test_abstract_sockets_are_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"gateway-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as link:
        link.bind(f"\0{name}")
        link.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
        assert systemd.notify("WATCHDOG=1")
        assert link.recv(100) == b"WATCHDOG=1"


@pytest.mark.parametrize("address", ["", "relative/path", "vsock:2:1234", "/nonexistent/notify"])
def test_nobody_to_tell_is_no_fault(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    assert not systemd.notify("READY=1")


def test_a_manager_that_does_not_read_does_not_hold_us_up(manager: socket.socket) -> None:
    sent = 0
    while systemd.notify("STATUS=" + "x" * 1000):
        sent += 1
        assert sent < 100_000
    assert sent > 0


def test_watchdog_time_is_for_this_process_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    assert systemd.watchdog_seconds() == 0
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    assert systemd.watchdog_seconds() == 30
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    assert systemd.watchdog_seconds() == 30
    monkeypatch.setenv("WATCHDOG_PID", "1")
    assert systemd.watchdog_seconds() == 0
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    monkeypatch.setenv("WATCHDOG_USEC", "soon")
    assert systemd.watchdog_seconds() == 0


def test_sockets_for_another_process_are_left_alone_but_not_passed_on() -> None:
    environ = {"LISTEN_PID": "1", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "smtp", "HOME": "/"}
    assert systemd.listen_sockets(environ) == {}
    assert environ == {"HOME": "/"}


def test_inherited_sockets_are_found_by_name() -> None:
    """A child is started as systemd starts one: descriptors from 3 on, its own pid in LISTEN_PID."""
    child = textwrap.dedent(
        """
        import os, sys
        first, second, third = (int(each) for each in sys.argv[1:])
        for target, source in ((103, first), (104, second), (105, third)):
            os.dup2(source, target)
        for at, source in enumerate((103, 104, 105)):
            os.dup2(source, 3 + at)
        os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="3", LISTEN_FDNAMES="smtp:submission:smtp")
        from gateway.infra.systemd import listen_sockets
        found = listen_sockets()
        print({name: [each.getsockname()[1] for each in sockets] for name, sockets in found.items()})
        print([os.get_inheritable(each.fileno()) for sockets in found.values() for each in sockets])
        print("LISTEN_FDS" in os.environ, listen_sockets())
        """
    )
    with contextlib.ExitStack() as stack:
        listeners = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(3)]
        numbers = [each.fileno() for each in listeners]
        ports = [each.getsockname()[1] for each in listeners]
        output = subprocess.run(
            [sys.executable, "-c", child, *map(str, numbers)], pass_fds=numbers, check=True, capture_output=True, text=True
        ).stdout.splitlines()
    assert output == [
        str({"smtp": [ports[0], ports[2]], "submission": [ports[1]]}),
        "[False, False, False]",
        "False {}",
    ]
