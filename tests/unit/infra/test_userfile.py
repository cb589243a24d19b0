# SPDX-License-Identifier: Apache-2.0
"""The file of users: strict line by line, forgiving as a whole, edited as a whole or not at all."""

import os
import stat
import threading
import unicodedata
from pathlib import Path

import pytest

from gateway.infra import userfile
from gateway.infra.userfile import UserFileError, find_line, name_key, parse
from gateway.mail.address import parse_mailbox
from tests.support.logins import cheap, line

HASH = cheap("sesame")
ANN = line("ann", "sesame", ["ann@b.example"]).encode()


def test_a_line_is_a_name_a_hash_and_addresses() -> None:
    found = parse(f"# who may log in\n\nann:{HASH}:ann@b.example  @ann.example\r\nbob@x.example:{HASH}:\n".encode(), "users")
    assert not found.faults
    ann, bob = found.users.values()
    assert (ann.name, ann.hash, ann.addresses) == ("ann", HASH, ("ann@b.example", "@ann.example"))
    assert (bob.name, bob.addresses) == ("bob@x.example", ())


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (b"ann", "not of the form"),
        (f"ann:{HASH}".encode(), "not of the form"),
        (b"ann:sesame:ann@b.example", "not an argon2id hash"),
        (b"ann::ann@b.example", "not an argon2id hash"),
        (f":{HASH}:a@b.example".encode(), "name is empty"),
        (f"an n:{HASH}:a@b.example".encode(), "blank or a control"),
        (f"an\tn:{HASH}:a@b.example".encode(), "blank or a control"),
        (f"an\x1bn:{HASH}:a@b.example".encode(), "blank or a control"),
        (f"an\u00a0n:{HASH}:a@b.example".encode(), "blank or a control"),
        (f"an\u202en:{HASH}:a@b.example".encode(), "blank or a control"),
        (f"{'x' * 256}:{HASH}:a@b.example".encode(), "longer than 255"),
        (b"an\xffn:x:y", "not UTF-8"),
        (f"eve:{HASH}:eve".encode(), "'eve' is neither an address nor @domain"),
        (f"eve:{HASH}:eve@".encode(), "neither an address nor @domain"),
        (f"eve:{HASH}:@".encode(), "neither an address nor @domain"),
        (f"eve:{HASH}:@a..b".encode(), "neither an address nor @domain"),
        (f"eve:{HASH}:a@b.example,c@d.example".encode(), "neither an address nor @domain"),
        (f"DAN:{HASH}:dan@b.example".encode(), "has a line already"),
    ],
    ids=lambda each: each if isinstance(each, str) else "line",  # a hash has another salt in each process
)
def test_a_bad_line_costs_its_own_user_only(bad: bytes, why: str) -> None:
    text = line("dan", "sesame", ["dan@b.example"]).encode() + bad + b"\n" + line("zoe", "rosebud", ["zoe@b.example"]).encode()
    found = parse(text, "/etc/users")
    assert sorted(found.users) == ["dan", "zoe"]
    (fault,) = found.faults
    assert why in fault.reason
    assert str(fault).startswith("/etc/users:2: ")
    assert "$" not in str(fault)


@pytest.mark.parametrize(
    ("one", "other"), [("ann", "ANN"), ("caf\u00e9", "CAFE\u0301"), ("stra\u00dfe", "STRASSE"), ("\uff41nn", "ann")]
)
def test_spellings_of_one_name(one: str, other: str) -> None:
    assert name_key(one) == name_key(other)


@pytest.mark.parametrize("name", ["", "#ann", "a:b", "a b", "a\x00", "\u3000", "a\u2028", "\ud800"])
def test_what_cannot_be_a_name(name: str) -> None:
    with pytest.raises(ValueError):
        name_key(name)


@pytest.mark.parametrize(
    ("address", "his"),
    [
        ("ann@b.example", True),
        ("ANN@B.Example", True),
        ('"ann"@b.example', True),
        ("bob@b.example", False),
        ("ann@sub.b.example", False),
        ("ann@bb.example", False),
        ("anyone@ann.example", True),
        ("ann@xn--bcher-kva.example", True),
        ("ann@b\u00fccher.example", True),
        ("ren\u00e9@b.example", True),
        ("rene\u0301@b.example", True),
        ("stra\u00dfe@b.example", True),
        ("strasse@b.example", False),
        ("a@[IPv6:2001:db8::1]", True),
        ("a@[192.0.2.1]", False),
    ],
)
def test_whose_address_it_is(address: str, his: bool) -> None:
    owned = "ann@b.example @ann.example ann@b\u00fccher.example ren\u00e9@b.example stra\u00dfe@b.example a@[IPv6:2001:db8::1]"
    ann = userfile.make_user("ann", HASH, owned.split())
    assert ann.owns(parse_mailbox(address.encode())) is his


def test_repr_does_not_show_the_hash() -> None:
    assert HASH not in repr(parse(ANN, "users"))


# --- edits


def test_an_edit_leaves_the_other_lines_alone(tmp_path: Path) -> None:
    path = tmp_path / "users"
    path.write_bytes(b"# mine\n\nbad line \xff\n" + ANN)
    userfile.edit(path, lambda lines: [*lines, b"new"])
    assert path.read_bytes() == b"# mine\n\nbad line \xff\n" + ANN + b"new\n"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_is_not_there_is_made_for_owner_and_group_only(tmp_path: Path) -> None:
    path = tmp_path / "users"
    userfile.edit(path, lambda lines: [*lines, b"x"])
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_mode_and_owner_after_an_edit(tmp_path: Path) -> None:
    path = tmp_path / "users"
    path.write_bytes(ANN)
    path.chmod(0o666)
    if os.geteuid() == 0:
        os.chown(path, 4711, 4712)
    before = path.stat()
    userfile.edit(path, lambda lines: lines)
    after = path.stat()
    assert stat.S_IMODE(after.st_mode) == 0o640
    assert (after.st_uid, after.st_gid) == (before.st_uid, before.st_gid)


def test_of_a_symbolic_link_the_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(ANN)
    (tmp_path / "users").symlink_to("real")
    userfile.edit(tmp_path / "users", lambda lines: [])
    assert (tmp_path / "users").is_symlink()
    assert (tmp_path / "real").read_bytes() == b""


@pytest.mark.parametrize("step", ["write", "fsync", "rename"])
def test_an_edit_that_fails_changes_nothing_and_leaves_nothing(
    tmp_path: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "users"
    path.write_bytes(ANN)

    def fails(*_: object) -> None:
        raise OSError(28, "No space left on device")

    match step:
        case "write":
            monkeypatch.setattr(os, "fchmod", fails)
        case "fsync":
            monkeypatch.setattr(os, "fsync", fails)
        case "rename":
            monkeypatch.setattr(Path, "replace", fails)
    with pytest.raises(OSError, match="No space"):
        userfile.edit(path, lambda lines: [])
    assert path.read_bytes() == ANN
    assert list(tmp_path.iterdir()) == [path]


def test_edits_at_the_same_time_are_all_made(tmp_path: Path) -> None:
    path = tmp_path / "users"
    threads = [threading.Thread(target=userfile.edit, args=(path, lambda lines, n=n: [*lines, b"%d" % n])) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(int, path.read_bytes().split())) == list(range(20))


def test_what_is_no_file_of_users_is_not_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "users"
    with path.open("wb") as file:
        file.truncate(userfile.FILE_MAX + 1)
    with pytest.raises(UserFileError, match="cannot be a file of users"):
        userfile.read(path)


def test_a_line_is_found_in_any_spelling_good_or_bad() -> None:
    lines = [b"# ann: me", b"\xff:x", b"ann:bad", b"bob"]
    assert find_line(lines, "ANN") == 2
    assert find_line(lines, "bob") is None


def test_a_name_that_is_too_long_is_not_normalised(monkeypatch: pytest.MonkeyPatch) -> None:
    """Accents in the wrong order: the time goes with the square of their number, 0.1 s for one line of AUTH."""
    asked: list[int] = []
    monkeypatch.setattr(unicodedata, "normalize", lambda form, text: asked.append(len(text)) or text)
    with pytest.raises(ValueError, match="longer than 255 octets"):
        userfile.name_key("a" + "\u0345" * 2000 + "\u0334" * 2000)
    assert not asked
