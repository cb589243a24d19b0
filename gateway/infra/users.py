# SPDX-License-Identifier: Apache-2.0
"""Who is it? The users of the daemon: their file, read again when it changes, and their passwords.

Promises: passwords are judged in threads of their own, few at a time, with few waiting; a name that nobody has costs the
same time as one that somebody has; a file that cannot be read any more leaves the users who were in it; no password, hash
or line of the file is told to anyone.
Fails with: `Unavailable`, if nothing can be said about a password now.
Not here: the form of the file (`infra/userfile.py`), how often one may guess (`edge/lockout.py`).
"""

import asyncio
import contextlib
import hashlib
import os
import secrets
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from gateway.infra import passwords, userfile
from gateway.infra.userfile import User, UserFileError, UserList, name_key
from gateway.mail.events import Trouble
from gateway.ports import Clock, EventSink

LOOK_PERIOD = 1.0  # seconds between two looks at the file's times
SETTLED = 2.0  # seconds after which a file system's time stamp shows any further change
THREADS = 2  # passwords that are judged at a time: each takes 64 MiB
NICE = 10  # how far they stand back: guesses by the hundred must not slow down those who are let in
WAITING = 64  # and those that wait for it: a few seconds' worth
FAULTS_TOLD = 20  # bad lines that are told one by one


class Unavailable(Exception):
    """Nothing can be said about the password now; the text says why."""


@dataclass(frozen=True, slots=True)
class _Look:
    """What the file system said of the file: equal, and old enough, means unchanged."""

    device: int
    inode: int
    size: int
    changed: int  # nanoseconds

    @classmethod
    def at(cls, path: Path) -> "_Look":
        found = path.stat()
        return cls(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


class Users:
    """One for the life of the process; `close` it in the end."""

    def __init__(self, path: Path, clock: Clock, events: EventSink) -> None:
        """Reads nothing yet: the first password does, or `refresh`."""
        self._path = path
        self._clock = clock
        self._events = events
        self._table: UserList | None = None
        self._hashes: tuple[str, ...] = ()  # of that table
        self._seen: _Look | None = None
        self._looked = float("-inf")
        self._looking = asyncio.Lock()
        self._fault = ""  # why the file cannot be read, told once
        self._waiting = 0
        self._secret = secrets.token_bytes(16)
        self._pool = ThreadPoolExecutor(THREADS, "password", _step_back)  # its threads start with the first login

    async def verify(self, name: str, password: str) -> User | None:
        """The user of that name if it is his password; None if not, or if there is none. Raises Unavailable."""
        table = await self._known()
        user = _find(table, name)
        stored = user.hash if user else self._decoy(name)
        return user if await self._judge(stored, password) and user else None

    async def find(self, name: str) -> User | None:
        """The user of that name, as the file says now; None if it has none. Raises Unavailable if nobody knows what it says."""
        return _find(await self._known(), name)

    async def refresh(self) -> None:
        """Look at the file if the last look is long enough ago, and read it if it has changed. Faults are told, not raised."""
        async with self._looking:
            if self._clock.monotonic() - self._looked < LOOK_PERIOD:
                return
            path, seen = self._path, self._seen
            try:
                look, table = await asyncio.to_thread(_read, path, seen)
            except (OSError, UserFileError) as err:
                look, table = None, None
                self._tell_unreadable(getattr(err, "strerror", None) or str(err))
            if path != self._path:  # reloaded meanwhile
                return
            self._looked = self._clock.monotonic()
            if look is not None:
                self._fault = ""
                self._seen = look if self._clock.now() - look.changed / 1e9 > SETTLED else None
            if table is not None:
                self._take(table)

    def reload(self, path: Path) -> None:
        """The configuration was read again: the next login looks at the file, wherever it is now."""
        if path != self._path:
            self._table = None
        self._path, self._seen, self._looked, self._fault = path, None, float("-inf"), ""

    def close(self) -> None:
        """Let the threads end."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    # --- inside

    async def _known(self) -> UserList:
        """The users, after a look at the file. Raises Unavailable if it could never be read."""
        if not self._looking.locked() or self._table is None:  # who comes while another looks takes what is known
            await self.refresh()
        if self._table is None:
            raise Unavailable(f"the file of users cannot be read: {self._fault}")
        return self._table

    def _take(self, table: UserList) -> None:
        """These are the users now; what is wrong with the file is told once, not each time that it is read."""
        told = self._table.faults if self._table else ()
        self._table, self._hashes = table, tuple(user.hash for user in table.users.values())
        if table.faults == told:
            return
        for fault in table.faults[:FAULTS_TOLD]:
            self._trouble(str(fault))
        if len(table.faults) > FAULTS_TOLD:
            self._trouble(f"{self._path}: {len(table.faults) - FAULTS_TOLD} more lines are bad")

    def _tell_unreadable(self, why: str) -> None:
        if why != self._fault:
            kept = "; the users who were in it stay" if self._table else ""
            self._trouble(f"{self._path} cannot be read: {why}{kept}")
        self._fault = why

    def _trouble(self, detail: str) -> None:
        self._events.emit(Trouble(time=self._clock.now(), area="users", detail=detail))

    def _decoy(self, name: str) -> str:
        """The hash to judge a password by for a name that nobody has: some user's, always the same one for a name, so that
        the time it takes says nothing even where hashes have different costs. The answer is thrown away."""
        if not self._hashes:
            return passwords.decoy()
        digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), key=self._secret, digest_size=8).digest()
        return self._hashes[int.from_bytes(digest) % len(self._hashes)]

    async def _judge(self, stored: str, password: str) -> bool:
        if self._waiting >= THREADS + WAITING:
            raise Unavailable("too many passwords are waiting to be judged")
        loop = asyncio.get_running_loop()
        self._waiting += 1
        work = self._pool.submit(passwords.matches, stored, password)

        def done(_: object) -> None:  # the thread's end counts, not that of a session which did not wait for it
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(self._done)

        work.add_done_callback(done)
        try:
            return await asyncio.wrap_future(work)
        except (MemoryError, passwords.Argon2Error) as err:
            raise Unavailable(f"the password cannot be judged: {type(err).__name__}: {err}") from err

    def _done(self) -> None:
        self._waiting -= 1


def _find(table: UserList, name: str) -> User | None:
    try:
        return table.users.get(name_key(name))
    except ValueError:
        return None


def _step_back() -> None:
    """A thread that judges passwords, and those that argon2 starts from it, leave the cores to the mail."""
    with contextlib.suppress(OSError):  # a sandbox may forbid it
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)


def _read(path: Path, seen: _Look | None) -> tuple[_Look, UserList | None]:
    """What the file looks like, and the users in it if it does not look as it did. For a thread."""
    look = _Look.at(path)
    if look == seen:
        return look, None
    return look, userfile.read(path)


def faults(path: Path) -> list[str]:
    """Why users of a file that is `readable` may be unable to log in: bad lines, nobody at all."""
    try:
        table = userfile.read(path)
    except UserFileError as err:
        return [str(err)]
    except OSError:  # `readable` has it
        return []
    found = [f"line {fault.line}: {fault.reason}" for fault in table.faults]
    return found or ([] if table.users else ["has no user; write one with `gateway user add`"])


def unreadable(err: OSError | UserFileError) -> str:
    """Why a file of users cannot be used, and what to do."""
    if isinstance(err, FileNotFoundError):
        return "does not exist; `gateway user add NAME` makes it"
    return f"cannot be read by this user: {err.strerror}" if isinstance(err, OSError) else str(err)


def readable(path: Path) -> str:
    """Why the daemon could not read the file; empty if it can. Looks, changes nothing."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return "is not a file"
        os.close(os.open(path, os.O_RDONLY))
    except OSError as err:
        return unreadable(err)
    return ""
