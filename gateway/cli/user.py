# SPDX-License-Identifier: Apache-2.0
"""`gateway user`: write the file of those who may log in. A running daemon notices by itself.

Promises: a password is never an argument, never echoed, never printed; the file is replaced as a whole or not at all, and
what others wrote in it (comments, bad lines) stays.
Exit status: 1 if the user is there already (add) or not there (the others), 2 if the file or an argument cannot be used.
Not here: the form of the file (`infra/userfile.py`).
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn, TypeVar

import click

from gateway.cli.common import NOT_SO, UNUSABLE, config_option, json_option, load_or_exit
from gateway.cli.output import complain, print_json, table
from gateway.infra import passwords, userfile
from gateway.infra.userfile import Lines, User, UserFileError, UserList
from gateway.infra.users import unreadable

F = TypeVar("F", bound=Callable[..., object])


def file_options(function: F) -> F:
    """`-c FILE`, whose `submission.users` is the file, or `--file` for the file itself."""
    users_file = click.option(
        "--file", "file", type=click.Path(path_type=Path, dir_okay=False), help="The file of users; default submission.users."
    )
    return config_option(users_file(function))


def password_option(function: F) -> F:
    """`--password-stdin`."""
    return click.option("--password-stdin", "from_stdin", is_flag=True, help="Read the password from the first line of stdin.")(
        function
    )


@click.group()
def user() -> None:
    """Write the file of those who may log in to a submission listener; it is read again when it changes."""


@user.command()
@file_options
@click.option(
    "--address", "addresses", multiple=True, help="An address that is the user's, or @domain for all of it. Repeatable."
)
@password_option
@click.argument("name")
def add(config_path: Path | None, file: Path | None, *, name: str, addresses: tuple[str, ...], from_stdin: bool) -> None:
    """Add a user. Without --address, NAME has to be the user's address."""
    path = _path(config_path, file)
    owned = addresses or (name,)
    try:
        userfile.make_user(name, passwords.decoy(), owned)  # before anyone types a password
    except ValueError as err:
        raise click.UsageError(f"{err}" if addresses else f"{err}; give --address") from err
    if userfile.find_line(_lines(path), name) is not None:
        _exit_not_so(f"{name} is in {path} already; to change the password: gateway user passwd {name}")
    fresh = userfile.make_user(name, _new_hash(from_stdin=from_stdin), owned)

    def change(lines: Lines) -> Lines:
        if userfile.find_line(lines, name) is not None:
            _exit_not_so(f"{name} is in {path} already")
        return [*lines, userfile.line_of(fresh)]

    group, made = _daemon_group(config_path, file), not path.exists()
    _edit(path, change, group=group)
    click.echo(f"{name} may log in and send as {' '.join(owned)}")
    if made and group < 0 and os.geteuid() == 0:
        complain(f"warning: data_dir is not there yet to tell the daemon's group; let it read the file: chgrp gateway {path}")


@user.command()
@file_options
@password_option
@click.argument("name")
def passwd(config_path: Path | None, file: Path | None, *, name: str, from_stdin: bool) -> None:
    """Give a user another password; this also renews an old hash."""
    path = _path(config_path, file)
    _find(_lines(path), name, path)
    stored = _new_hash(from_stdin=from_stdin)
    _edit(path, lambda lines: _changed(lines, name, path, lambda old: (stored, old.addresses)))
    click.echo(f"{name} has another password")


@user.command("addresses")
@file_options
@click.argument("name")
@click.argument("addresses", nargs=-1, required=True, metavar="ADDRESS...")
def addresses_(config_path: Path | None, file: Path | None, *, name: str, addresses: tuple[str, ...]) -> None:
    """Say anew which addresses are a user's: all of them, in place of those before."""
    path = _path(config_path, file)
    try:
        userfile.make_user(name, passwords.decoy(), addresses)
    except ValueError as err:
        raise click.UsageError(str(err)) from err
    _edit(path, lambda lines: _changed(lines, name, path, lambda old: (old.hash, addresses)))
    click.echo(f"{name} may send as {' '.join(addresses)}")


@user.command()
@file_options
@click.argument("name")
def remove(config_path: Path | None, file: Path | None, *, name: str) -> None:
    """Take a user away. Who is logged in may go on until the daemon has read the file again."""
    path = _path(config_path, file)

    def change(lines: Lines) -> Lines:
        at = _find(lines, name, path)
        return lines[:at] + lines[at + 1 :]

    _edit(path, change)
    click.echo(f"{name} is no user any more")


@user.command("list")
@file_options
@json_option
def list_(config_path: Path | None, file: Path | None, *, as_json: bool) -> None:
    """The users, their addresses, and whose password hash is old."""
    path = _path(config_path, file)
    found = _read(path)
    for fault in found.faults:
        complain(f"left out: {fault}")
    users = sorted(found.users.values(), key=lambda each: each.name)
    if as_json:
        print_json(
            [{"name": each.name, "addresses": each.addresses, "old_hash": passwords.outdated(each.hash)} for each in users]
        )
        return
    if not users:
        complain(f"{path}: no users")
        return
    table(["USER", "HASH", "ADDRESSES"], [_row(each) for each in users])


def _row(each: User) -> list[str]:
    return [each.name, "old: passwd renews it" if passwords.outdated(each.hash) else "ok", " ".join(each.addresses)]


# --- the file


def _path(config_path: Path | None, file: Path | None) -> Path:
    if file is not None:
        return file
    config, _ = load_or_exit(config_path)
    return config.submission.users


def _read(path: Path) -> UserList:
    try:
        return userfile.read(path)
    except (OSError, UserFileError) as err:
        _exit_unusable(path, err)


def _lines(path: Path) -> Lines:
    """The lines as they are now; none if there is no file."""
    try:
        return path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    except OSError as err:
        _exit_unusable(path, err)


def _find(lines: Lines, name: str, path: Path) -> int:
    try:
        at = userfile.find_line(lines, name)
    except ValueError as err:
        raise click.UsageError(str(err)) from err
    if at is None:
        _exit_not_so(f"{name} is not in {path}")
    return at


def _changed(lines: Lines, name: str, path: Path, change: Callable[[User], tuple[str, tuple[str, ...]]]) -> Lines:
    """The lines with another hash and other addresses for one user."""
    at = _find(lines, name, path)
    old = next(iter(userfile.parse(lines[at], str(path)).users.values()), None)
    if old is None:
        _exit_not_so(f"{path}:{at + 1}: the line of {name} is bad; mend it, or remove the user and add it again")
    stored, owned = change(old)
    fresh = userfile.make_user(old.name, stored, owned)
    return [*lines[:at], userfile.line_of(fresh), *lines[at + 1 :]]


def _edit(path: Path, change: Callable[[Lines], Lines], *, group: int = -1) -> None:
    try:
        userfile.edit(path, change, group=group)
    except (OSError, UserFileError) as err:
        _exit_unusable(path, err)


def _daemon_group(config_path: Path | None, file: Path | None) -> int:
    """A new file that root makes belongs to the group of the daemon's own folder, or the daemon could not read it."""
    if os.geteuid() != 0:
        return -1
    folder = file.resolve().parent if file is not None else load_or_exit(config_path)[0].data_dir
    try:
        return folder.stat().st_gid
    except OSError:
        return -1


# --- the password, and the ends


def _new_hash(*, from_stdin: bool) -> str:
    try:
        return passwords.make(_password(from_stdin=from_stdin))
    except ValueError as err:
        raise click.UsageError(str(err)) from err


def _password(*, from_stdin: bool) -> str:
    if from_stdin:
        line = sys.stdin.buffer.readline(passwords.PASSWORD_MAX + 3)
        try:
            return line.rstrip(b"\r\n").decode("utf-8")
        except UnicodeDecodeError as err:
            raise click.UsageError("the password is not UTF-8") from err
    if not sys.stdin.isatty():
        raise click.UsageError("there is no terminal to ask for the password: use --password-stdin")
    return str(click.prompt("Password", hide_input=True, confirmation_prompt="Again"))


def _exit_not_so(why: str) -> NoReturn:
    complain(why)
    raise click.exceptions.Exit(NOT_SO)


def _exit_unusable(path: Path, err: OSError | UserFileError) -> NoReturn:
    if isinstance(err, FileNotFoundError) and not path.parent.exists():
        why = f"the folder {path.parent} does not exist"
    elif isinstance(err, UserFileError | FileNotFoundError):
        why = unreadable(err)
    else:
        why = f"cannot be used: {err.strerror}"
    complain(f"{path}: {why}")
    raise click.exceptions.Exit(UNUSABLE)
