# SPDX-License-Identifier: Apache-2.0
"""`gateway user`: the file of users from the shell's side."""

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from gateway.cli.main import cli
from gateway.infra import passwords, userfile
from tests.support.logins import line

Gateway = Callable[..., Result]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "users"


@pytest.fixture
def gateway(path: Path) -> Gateway:
    def call(command: str, *arguments: str, stdin: str = "") -> Result:
        return CliRunner().invoke(cli, ["user", command, "--file", str(path), *arguments], input=stdin)

    return call


def test_a_user_from_the_first_day_to_the_last(gateway: Gateway, path: Path) -> None:
    done = gateway(
        "add", "ann", "--address", "ann@b.example", "--address", "@ann.example", "--password-stdin", stdin="sesame\n"
    )
    assert done.exit_code == 0, done.output
    ann = userfile.read(path).users["ann"]
    assert ann.addresses == ("ann@b.example", "@ann.example")
    assert passwords.matches(ann.hash, "sesame")
    assert gateway("passwd", "ANN", "--password-stdin", stdin="rosebud").exit_code == 0
    assert passwords.matches(userfile.read(path).users["ann"].hash, "rosebud")
    assert gateway("addresses", "ann", "ann@c.example").exit_code == 0
    ann = userfile.read(path).users["ann"]
    assert ann.addresses == ("ann@c.example",)
    assert passwords.matches(ann.hash, "rosebud")
    assert gateway("remove", "ann").exit_code == 0
    assert path.read_bytes() == b""


def test_a_name_that_is_an_address_needs_no_other(gateway: Gateway, path: Path) -> None:
    assert gateway("add", "ann@b.example", "--password-stdin", stdin="sesame\r\n").exit_code == 0
    assert userfile.read(path).users["ann@b.example"].addresses == ("ann@b.example",)
    done = gateway("add", "bob", "--password-stdin", stdin="sesame\n")
    assert done.exit_code == 2
    assert "give --address" in done.output


@pytest.mark.parametrize(
    ("arguments", "stdin", "why"),
    [
        (("a b@c.example", "--address", "a@c.example"), "sesame\n", "blank or a control"),
        (("#ann", "--address", "a@c.example"), "sesame\n", "begins with"),
        (("ann", "--address", "a@@c.example"), "sesame\n", "neither an address nor @domain"),
        (("ann@b.example",), "\n", "empty password"),
        (("ann@b.example",), "", "empty password"),
        (("ann@b.example",), "a\tb\n", "control character"),
        (("ann@b.example",), "x" * 2000 + "\n", "longer than 1024"),
    ],
)
def test_what_cannot_be_a_user_exits_2_and_writes_nothing(
    gateway: Gateway, path: Path, arguments: tuple[str, ...], stdin: str, why: str
) -> None:
    done = gateway("add", *arguments, "--password-stdin", stdin=stdin)
    assert done.exit_code == 2
    assert why in done.output
    assert not path.exists()


def test_who_is_there_already_and_who_is_not_exits_1(gateway: Gateway, path: Path) -> None:
    path.write_text(line("ann", "sesame", ["ann@b.example"]))
    before = path.read_bytes()
    done = gateway("add", "Ann", "--address", "x@b.example", "--password-stdin", stdin="x\n")
    assert done.exit_code == 1
    assert "gateway user passwd" in done.output
    for command in (("passwd", "bob", "--password-stdin"), ("remove", "bob"), ("addresses", "bob", "bob@b.example")):
        done = gateway(*command, stdin="x\n")
        assert done.exit_code == 1
        assert "bob is not in" in done.output
    assert path.read_bytes() == before


def test_without_a_terminal_the_password_must_come_by_stdin(gateway: Gateway, path: Path) -> None:
    done = gateway("add", "ann@b.example", stdin="sesame\n")
    assert done.exit_code == 2
    assert "--password-stdin" in done.output
    assert not path.exists()


def test_comments_and_bad_lines_stay(gateway: Gateway, path: Path) -> None:
    path.write_bytes(b"# mine\nbad\xff\n" + line("ann", "sesame", ["ann@b.example"]).encode() + b"bob:oops\n")
    assert gateway("add", "eve@b.example", "--password-stdin", stdin="x\n").exit_code == 0
    assert gateway("remove", "ann").exit_code == 0
    lines = path.read_bytes().split(b"\n")
    assert lines[:3] == [b"# mine", b"bad\xff", b"bob:oops"]
    assert lines[3].startswith(b"eve@b.example:$argon2id$")
    done = gateway("passwd", "bob", "--password-stdin", stdin="x\n")
    assert done.exit_code == 1
    assert f"{path}:3: the line of bob is bad" in done.output
    assert gateway("remove", "bob").exit_code == 0, "but it can be taken away"


def test_the_list_for_people_and_for_scripts(gateway: Gateway, path: Path) -> None:
    path.write_text(
        "bad\n" + line("bob", "rosebud", ["bob@b.example"]) + line("ann", "sesame", ["ann@b.example", "@ann.example"])
    )
    done = gateway("list", "--json")
    assert done.exit_code == 0
    assert json.loads(done.stdout) == [
        {"name": "ann", "addresses": ["ann@b.example", "@ann.example"], "old_hash": True},
        {"name": "bob", "addresses": ["bob@b.example"], "old_hash": True},
    ]
    done = gateway("list")
    assert [row.split()[0] for row in done.stdout.splitlines()] == ["USER", "ann", "bob"]
    assert f"left out: {path}:1: " in done.stderr
    assert "$argon2" not in done.output


@pytest.mark.parametrize("command", [("list",), ("list", "--json")])
def test_a_file_that_is_not_there_exits_2(gateway: Gateway, command: tuple[str, ...]) -> None:
    done = gateway(*command)
    assert done.exit_code == 2
    assert "gateway user add" in done.output


def test_a_folder_that_is_not_there_exits_2(tmp_path: Path) -> None:
    done = CliRunner().invoke(
        cli, ["user", "add", "a@b.example", "--file", str(tmp_path / "no/users"), "--password-stdin"], input="x\n"
    )
    assert done.exit_code == 2
    assert "No such file" in done.output or "does not exist" in done.output


def test_a_file_made_before_the_data_directory_is_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The group of data_dir is the daemon's: without it a file that root makes might be closed to the daemon."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    config = tmp_path / "gateway.toml"
    config.write_text(f'hostname = "a.example"\ndata_dir = "{tmp_path}/data"\n[submission]\nusers = "{tmp_path}/users"\n')
    arguments = ["user", "add", "-c", str(config), "ann@b.example", "--password-stdin"]
    done = CliRunner().invoke(cli, arguments, input="sesame\n")
    assert done.exit_code == 0, done.output
    assert "chgrp" in done.stderr
    (tmp_path / "data").mkdir()
    (tmp_path / "users").unlink()
    assert "chgrp" not in CliRunner().invoke(cli, arguments, input="sesame\n").stderr


def test_the_configuration_says_where_the_file_is(tmp_path: Path, path: Path) -> None:
    config = tmp_path / "g.toml"
    config.write_text(f'hostname = "mx.test"\ndata_dir = "{tmp_path}/data"\n[submission]\nusers = "{path}"\n')
    done = CliRunner().invoke(cli, ["user", "add", "ann@b.example", "-c", str(config), "--password-stdin"], input="sesame\n")
    assert done.exit_code == 0, done.output
    assert "ann@b.example" in userfile.read(path).users
    config.write_text("nonsense")
    assert CliRunner().invoke(cli, ["user", "list", "-c", str(config)]).exit_code == 2


def test_on_a_terminal_it_asks_twice_and_shows_nothing(path: Path) -> None:
    """A real terminal: what is typed does not come back."""
    manager, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "gateway", "user", "add", "ann@b.example", "--file", str(path)],
        stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True,
        preexec_fn=lambda: os.close(os.open(os.ttyname(0), os.O_RDWR)),  # makes it the controlling one
    )  # fmt: skip
    os.close(terminal)
    shown = b""
    for prompt, typed in (
        (b"Password:", b"sesame\n"),
        (b"Again:", b"sesam\n"),
        (b"Password:", b"rosebud\n"),
        (b"Again:", b"rosebud\n"),
    ):
        at = len(shown)
        while prompt not in shown[at:]:
            shown += os.read(manager, 1024)
        os.write(manager, typed)
    try:
        while chunk := os.read(manager, 1024):
            shown += chunk
    except OSError:  # the other end is closed
        pass
    assert process.wait(timeout=30) == 0, shown
    os.close(manager)
    assert b"rosebud" not in shown
    assert b"sesam" not in shown
    assert passwords.matches(userfile.read(path).users["ann@b.example"].hash, "rosebud")
