# SPDX-License-Identifier: Apache-2.0
"""The file of users: who may log in, and which addresses are theirs.

    # name:hash:addresses, the addresses separated by blanks; "@example.org" is every address of that domain
    ann:$argon2id$v=19$m=65536,t=3,p=4$…$…:ann@example.org ann.smith@example.org @ann.example

Promises: a bad line costs its own user only, and is told with file, line and reason, never with its text (it may hold a
hash); an edit leaves every other line as it is, and is there as a whole or not at all, also after a crash.
Fails with: `OSError` for the file, `UserFileError` for one that cannot be a file of users or an edit that cannot be made.
RFCs: 8265 §3.3 (names that are one name), 5321 §2.4 (but see `User.owns`).
Not here: when it is read again (`infra/users.py`), hashes (`infra/passwords.py`).
"""

import contextlib
import fcntl
import os
import tempfile
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from gateway.infra.passwords import check_hash
from gateway.mail.address import Address, AddressError, parse_domain, parse_mailbox, to_ascii

FILE_MAX = 64 << 20  # octets: some 400,000 users
NAME_MAX = 255  # octets of UTF-8; RFC 4616 §2 has no limit, and this is the one that it had before
MODE = 0o640

Lines = list[bytes]


class UserFileError(Exception):
    """The text says what is wrong."""


@dataclass(frozen=True, slots=True)
class BadLine:
    """One line that is left out, and why."""

    file: str
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.reason}"


@dataclass(frozen=True, slots=True)
class User:
    """One good line. `addresses` are as written."""

    name: str
    hash: str = field(repr=False)
    addresses: tuple[str, ...] = ()
    _owned: frozenset[tuple[str, str]] = field(default=frozenset(), repr=False)

    def owns(self, address: Address) -> bool:
        """May the user send under this address?

        Deviates: local parts are compared without regard to case. RFC 5321 §2.4 leaves that to the host that has the
        mailboxes, and here that is this file.
        """
        local, domain = _key(address)
        return (local, domain) in self._owned or ("", domain) in self._owned


@dataclass(frozen=True, slots=True)
class UserList:
    """A file as read. `users` are found by `name_key`."""

    users: dict[str, User]
    faults: tuple[BadLine, ...] = ()


def name_key(name: str) -> str:
    """What two spellings of one name have in common. Raises ValueError for what cannot be a name."""
    if (
        len(name.encode("utf-8", "surrogatepass")) > NAME_MAX
    ):  # first: the time to normalise grows with the square of the length
        raise ValueError(f"the name is longer than {NAME_MAX} octets")
    key = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    if not key:
        raise ValueError("the name is empty")
    if not (name + key).isprintable() or any(char.isspace() for char in name + key):
        raise ValueError("the name has a blank or a control character")
    if ":" in name or name.startswith("#"):
        raise ValueError('the name has a ":" or begins with "#"')
    return key


def make_user(name: str, stored: str, addresses: Iterable[str]) -> User:
    """A user of these parts. Raises ValueError for the first that is bad."""
    name_key(name)
    check_hash(stored)
    written = tuple(addresses)
    return User(name, stored, written, frozenset(map(_owned, written)))


def line_of(user: User) -> bytes:
    """The line of a user, without its end."""
    return f"{user.name}:{user.hash}:{' '.join(user.addresses)}".encode()


def parse(text: bytes, file: str) -> UserList:
    """The users of a file with the faults of its other lines. Of two lines for one name the first counts."""
    users: dict[str, User] = {}
    faults: list[BadLine] = []
    for number, line in enumerate(text.split(b"\n"), 1):
        try:
            user = _read_line(line)
            if user is None:
                continue
            key = name_key(user.name)
            if key in users:
                raise ValueError(f"the user {user.name} has a line already")
            users[key] = user
        except ValueError as err:
            faults.append(BadLine(file, number, str(err)))
    return UserList(users, tuple(faults))


def read(path: Path) -> UserList:
    """Read a file. Raises OSError, or UserFileError for one that is far too large."""
    return parse(_octets(path), str(path))


def edit(path: Path, change: Callable[[Lines], Lines], *, group: int = -1) -> None:
    """Replace the lines of a file by what `change` makes of them; a file that is not there has none, and is made.

    Owner and group are kept, the mode becomes 0640; a new file gets `group` (-1: our own). Two edits at a time wait for
    each other. Blocks on the disk. Raises OSError, UserFileError, and what `change` raises; nothing has changed then.
    """
    path = path.resolve()  # of a symbolic link the file is replaced, not the link
    with _locked(path.parent):
        try:
            owner = path.stat()
            lines = _octets(path).split(b"\n")
        except FileNotFoundError:
            owner, lines = None, []
        while lines and not lines[-1]:
            lines.pop()
        text = b"".join(line + b"\n" for line in change(lines))
        uid, gid = (owner.st_uid, owner.st_gid) if owner else (-1, group)
        _replace(path, text, uid, gid)


def find_line(lines: Lines, name: str) -> int | None:
    """Which line is about that user, good or bad; None if no one is. Raises ValueError for what cannot be a name."""
    wanted = name_key(name)
    for at, line in enumerate(lines):
        before, colon, _ = line.partition(b":")
        with contextlib.suppress(ValueError):  # UnicodeDecodeError is one
            if colon and name_key(before.decode()) == wanted:
                return at
    return None


# --- parts of them


def _read_line(line: bytes) -> User | None:
    """The user of a line; None for an empty one or a comment. Raises ValueError."""
    try:
        text = line.decode("utf-8").rstrip("\r")
    except UnicodeDecodeError as err:
        raise ValueError("the line is not UTF-8") from err
    if not text.strip() or text.startswith("#"):
        return None
    parts = text.split(":", 2)  # the last field may hold a colon: a@[IPv6:2001:db8::1]
    if len(parts) != 3:
        raise ValueError("the line is not of the form name:hash:addresses")
    return make_user(parts[0], parts[1], parts[2].split())


def _owned(written: str) -> tuple[str, str]:
    try:
        if written.startswith("@"):
            return "", to_ascii(parse_domain(written[1:].encode()))
        return _key(parse_mailbox(written.encode()))
    except AddressError as err:
        raise ValueError(f"{written!r} is neither an address nor @domain: {err}") from err


def _key(address: Address) -> tuple[str, str]:
    return unicodedata.normalize("NFC", address.plain_local).lower(), address.ascii_domain


def _octets(path: Path) -> bytes:
    with path.open("rb") as file:
        text = file.read(FILE_MAX + 1)
    if len(text) > FILE_MAX:
        raise UserFileError(f"{path} is larger than {FILE_MAX >> 20} MiB: it cannot be a file of users")
    return text


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """The lock is on the folder: the file itself is another one after each edit."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
        os.fsync(descriptor)  # the rename
    finally:
        os.close(descriptor)


def _replace(path: Path, text: bytes, uid: int, gid: int) -> None:
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    fresh = Path(name)
    try:
        with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor, which is open already
            if (uid, gid) != (-1, -1):
                os.fchown(file.fileno(), uid, gid)
            os.fchmod(file.fileno(), MODE)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise
