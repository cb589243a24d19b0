# SPDX-License-Identifier: Apache-2.0
"""What all sessions of one Edge share: settings, policy, intake, the spool's threads, and tasks that outlive a session.

Promises: a task given to `own` is awaited before the Edge is gone; a session keeps the `Setup` it took until its
transaction is over, so a reload changes nothing under it.
Not here: sockets (`edge/listener.py`).
"""

import asyncio
import random
from collections.abc import Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from gateway.edge.admission import Admission
from gateway.edge.lockout import Lockout
from gateway.edge.options import LimitsOptions, SubmissionOptions
from gateway.edge.shedding import Marks, Shedding
from gateway.infra.options import IPNetwork, among
from gateway.infra.users import Users
from gateway.mail.envelope import IP
from gateway.mail.events import Trouble
from gateway.mail.job import QueueId, make_queue_id
from gateway.ports import Clock, EventSink, Intake, Policy

if TYPE_CHECKING:
    from ssl import SSLContext

    from gateway.edge.arrival import Arrival

T = TypeVar("T")
End = tuple[IP, int]  # address and port of the other end of a connection

LOCAL: End = (ip_address("127.0.0.1"), 0)  # who comes by a unix socket has neither, and is a client on this machine

SPOOL_THREADS = 4  # a disk does not get faster by more; the wait for one of them is what holds back clients


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeSettings:
    """What the edge needs of the configuration; replaced as a whole by a reload. `spool_directory` must exist."""

    hostname: str
    limits: LimitsOptions
    trusted: Sequence[IPNetwork] = ()
    tls_context: "SSLContext | None" = None
    spool_directory: Path
    shard: int = 0
    users: Users | None = None  # who may log in; None where nobody can
    submission: SubmissionOptions = field(default_factory=SubmissionOptions)
    marks: Marks = field(default_factory=Marks)  # where load is shed
    binary: bool = False  # the way on takes BINARYMIME (RFC 3030 §3)

    def trusts(self, ip: IP) -> bool:
        """True for a client that may relay."""
        return among(ip, self.trusted)


@dataclass(frozen=True, slots=True)
class Setup:
    """What a transaction runs under."""

    settings: EdgeSettings
    policy: Policy


class Desk:
    """Shared by the sessions of one Edge."""

    def __init__(self, setup: Setup, intake: Intake, clock: Clock, events: EventSink, admission: Admission) -> None:
        self.setup = setup
        self.intake = intake
        self.clock = clock
        self.events = events
        self.admission = admission
        self.shedding = Shedding(lambda: self.setup.settings.marks, intake, clock, events)
        self.lockout = Lockout()
        self.draining = False
        self.sessions: set[Arrival] = set()
        self.threads = ThreadPoolExecutor(SPOOL_THREADS, thread_name_prefix="spool")  # threads start with the first large mail
        self._empty: asyncio.Event | None = None
        self._tasks: set[asyncio.Task[Any]] = set()

    async def emptied(self, seconds: float) -> bool:
        """Wait until no session is left; False if the time is up first."""
        if not self.sessions:
            return True
        self._empty = asyncio.Event()
        try:
            await asyncio.wait_for(self._empty.wait(), seconds)
        except TimeoutError:
            return not self.sessions
        return True

    def forget(self, session: "Arrival") -> bool:
        """A session has ended; False if it was never counted."""
        if session not in self.sessions:
            return False
        self.sessions.discard(session)
        self.admission.leave(session.counted)
        if not self.sessions and self._empty is not None:
            self._empty.set()
        return True

    def own(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run something to its end, even if the session that wanted it is gone. `work` deals with its own exceptions."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def hold(self, task: asyncio.Task[Any]) -> None:
        """`finish` waits for this task too, until `release`: it stores a message."""
        self._tasks.add(task)

    def release(self, task: asyncio.Task[Any]) -> None:
        """It stores no more."""
        self._tasks.discard(task)

    async def finish(self, seconds: float) -> None:
        """Wait for what is owned or held, and cancel what is not done in time."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=seconds)
        left = list(self._tasks)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    def new_id(self) -> QueueId:
        return make_queue_id(int(self.clock.now() * 1e6), random.getrandbits(25))

    def trouble(self, err: BaseException, what: str, *, session: str = "", queue_id: QueueId | None = None) -> None:
        """Tell the operator about a fault of ours."""
        detail = f"{what}: {type(err).__name__}: {err}"
        self.events.emit(Trouble(time=self.clock.now(), area="edge", detail=detail, id=queue_id, session=session))


def peer(name: object) -> End | None:
    """The other end of a TCP connection by its socket name. None if it has none: a client that was gone before we asked."""
    return (_ip(str(name[0])), int(name[1])) if isinstance(name, tuple) else None


@lru_cache(maxsize=4096)
def _ip(text: str) -> IP:
    ip = ip_address(text.partition("%")[0])
    return getattr(ip, "ipv4_mapped", None) or ip  # one client, one name, whichever socket it came in by
