# SPDX-License-Identifier: Apache-2.0
"""What stands behind sessions in memory: a Desk with fakes around it, whose threads do all at once.

So whatever a session does takes a bounded number of steps of the loop, and no time.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from gateway.edge.admission import Admission
from gateway.edge.desk import Desk, EdgeSettings, Setup
from gateway.edge.options import LimitsOptions, ListenerOptions
from gateway.edge.place import bind
from gateway.edge.session import SmtpSession
from gateway.infra.clock import SystemClock
from gateway.infra.users import Users
from gateway.mail.events import Trouble
from gateway.ports import Clock
from tests.support.fakes import Events, FakeIntake, FakePolicy
from tests.support.logins import write
from tests.support.memwire import CLIENT, Peer, Pipe


class StandingLoop(asyncio.SelectorEventLoop):
    """Its time passes when it is told to: add to `passed`."""

    passed = 0.0  # seconds

    def time(self) -> float:
        return 1000.0 + self.passed


class AtOnce(ThreadPoolExecutor):
    """A pool whose work is done when it is submitted."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        done: Future[Any] = Future()
        try:
            done.set_result(fn(*args, **kwargs))
        except BaseException as err:  # as a real pool has it  # noqa: BLE001
            done.set_exception(err)
        return done


class House:
    """What stands behind sessions: one Desk with fakes around it. Its threads, and those of the loop, do all at once."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        spool: Path,
        *,
        limits: LimitsOptions | None = None,
        listener: ListenerOptions | None = None,
        policy: FakePolicy | None = None,
        clock: Clock | None = None,
        **more: Any,
    ) -> None:
        loop.set_default_executor(AtOnce(1))
        self.loop = loop
        self.spool = spool
        self.listener = listener or ListenerOptions(address="127.0.0.1:0")
        self.events, self.policy, self.intake = Events(), policy or FakePolicy(), FakeIntake()
        settings = EdgeSettings(hostname="mx.example.test", limits=limits or LimitsOptions(), spool_directory=spool, **more)
        self.desk = Desk(Setup(settings, self.policy), self.intake, clock or SystemClock(), self.events, Admission())
        self.desk.threads.shutdown()
        self.desk.threads = AtOnce(1)

    def call(self, ip: str = CLIENT[0]) -> Peer:
        """A client connects."""
        session = SmtpSession(self.loop, self.desk, self.listener, (ip_address(ip), CLIENT[1]))
        return Peer(Pipe(self.loop, session, (ip, CLIENT[1])))

    async def serve(self) -> tuple[asyncio.AbstractServer, int]:
        """The same behind a real socket, and its port."""
        sock = bind("127.0.0.1:0")
        server = await self.loop.create_server(lambda: SmtpSession(self.loop, self.desk, self.listener), sock=sock)
        return server, sock.getsockname()[1]

    def troubles(self) -> list[Trouble]:
        return self.events.of(Trouble)

    @property
    def busy(self) -> bool:
        """True while there are sessions, or tasks that they left."""
        return bool(self.desk.sessions or self.desk._tasks)

    def leftovers(self) -> list[object]:
        """What must not be there when no client is: sessions, counted connections, files, unfinished tasks."""
        admission = self.desk.admission
        left: list[object] = [*self.desk.sessions, *self.desk._tasks, *self.spool.glob("*.tmp"), *admission._clients]
        return left + ([f"{admission._total} counted"] if admission._total else [])

    def forget(self) -> None:
        """Empty the fakes, which keep all."""
        self.events.all.clear()
        self.policy.asked.clear()
        self.intake.stored.clear()


def users(path: Path, *lines: str) -> Users:
    """Users in a file, whose passwords are judged at once."""
    write(path, *lines)
    made = Users(path, SystemClock(), Events())
    made._pool = AtOnce(1)
    return made
