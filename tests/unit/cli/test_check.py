# SPDX-License-Identifier: Apache-2.0
"""`gateway check`, `gateway docs`, `gateway --version` and unusable arguments, from the shell's side."""

import json
import subprocess
import sys
from pathlib import Path

from gateway import __version__


def gateway(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-m", "gateway", *arguments], capture_output=True, text=True, timeout=60)


def test_a_good_configuration_exits_0_and_touches_nothing(tmp_path: Path) -> None:
    path = tmp_path / "g.toml"
    path.write_text(f'hostname = "mx.test"\ndata_dir = "{tmp_path}/data"\n[[listener]]\naddress = "127.0.0.1:2525"\n')
    done = gateway("check", "-c", str(path))
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == [path]


def test_a_bad_one_exits_2_with_every_fault(tmp_path: Path) -> None:
    path = tmp_path / "g.toml"
    path.write_text('hostname = "mx.test"\nbogus = 1\n[queue]\nexpire = "later"\n')
    done = gateway("check", "-c", str(path))
    assert done.returncode == 2
    assert f"{path}: bogus = 1: unknown key" in done.stderr
    assert f'{path}: queue.expire = "later": ' in done.stderr
    as_json = gateway("check", "-c", str(path), "--json")
    assert as_json.returncode == 2
    assert {fault["key"] for fault in json.loads(as_json.stdout)["faults"]} == {"bogus", "queue.expire"}


def test_without_a_listener_there_is_nothing_to_serve(tmp_path: Path) -> None:
    path = tmp_path / "g.toml"
    path.write_text(f'hostname = "mx.test"\ndata_dir = "{tmp_path}/data"\n')
    for command in ("check", "serve"):
        done = gateway(command, "-c", str(path))
        assert done.returncode == 2
        assert "[[listener]]" in done.stderr


def test_an_address_in_use_is_named(tmp_path: Path) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        path = tmp_path / "g.toml"
        path.write_text(f'hostname = "mx.test"\ndata_dir = "{tmp_path}/data"\n[[listener]]\naddress = "127.0.0.1:{port}"\n')
        done = gateway("serve", "-c", str(path))
    assert done.returncode == 2
    assert "listener[0].address" in done.stderr
    assert "another process listens there" in done.stderr


def test_version_and_help() -> None:
    assert gateway("--version").stdout.strip() == f"gateway {__version__}"
    shown = gateway("--help")
    assert shown.returncode == 0
    assert "explain" in shown.stdout


def test_an_unknown_command_exits_2() -> None:
    assert gateway("frobnicate").returncode == 2


def test_reference_pages_are_printed() -> None:
    assert "#message_size" in gateway("docs", "config").stdout
    assert "gateway_messages_accepted_total" in gateway("docs", "metrics").stdout
    assert "spf" in gateway("docs", "filters").stdout
