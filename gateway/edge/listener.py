# SPDX-License-Identifier: Apache-2.0
"""The way in: listening sockets, the sessions on them, reload and drain.

Promises: a session that began is finished or told 421, and a message whose storing began is stored or refused, before
`drain` returns; what a reload changes holds for the next transaction, new limits of connections at once.
Fails with: `ValueError` for a listener that the settings cannot serve, `OSError` from the socket.
RFCs: 5321 §3.8 (a server says 421 before it goes).
Not here: one session (`edge/session.py`); binding (`edge/place.py`).
"""

import asyncio
import socket

from gateway.edge.admission import Admission
from gateway.edge.desk import LOCAL, Setup
from gateway.edge.desk import Desk as _Desk
from gateway.edge.desk import EdgeSettings as EdgeSettings
from gateway.edge.options import ListenerOptions
from gateway.edge.place import BACKLOG
from gateway.edge.place import bind as bind
from gateway.edge.session import SmtpSession
from gateway.edge.shedding import Shedding
from gateway.ports import Clock, EventSink, Intake, Policy

ACCEPT_BATCH = 16  # asyncio takes its `backlog` for this too, and when descriptors run out it complains as many times a second
STORING = 10.0  # seconds that a drain waits for the queue when it has cut everything else


class Edge:
    """All listeners of one process."""

    def __init__(
        self,
        settings: EdgeSettings,
        policy: Policy,
        intake: Intake,
        clock: Clock,
        events: EventSink,
        *,
        admission: Admission | None = None,
    ) -> None:
        self._desk = _Desk(Setup(settings, policy), intake, clock, events, admission or Admission())
        self._servers: list[asyncio.AbstractServer] = []

    @property
    def sessions(self) -> int:
        """Connections that are open now."""
        return len(self._desk.sessions)

    @property
    def shedding(self) -> Shedding:
        """What is refused for want of room, and how much of it."""
        return self._desk.shedding

    def feel(self, queued: int) -> None:
        """So many recipients wait in the queue. Where memory runs out, who is idle is sent away."""
        shedding = self._desk.shedding
        shedding.feel(queued)
        if shedding.desperate:
            for session in list(self._desk.sessions):
                session.send_away()

    async def serve(self, sock: socket.socket, options: ListenerOptions) -> None:
        """Accept connections on a bound socket, which is ours from now on. Raises ValueError for TLS without certificate."""
        if options.tls != "none" and self._desk.setup.settings.tls_context is None:
            raise ValueError(f'listener {options.address}: tls = "{options.tls}" needs a certificate')
        loop, desk = asyncio.get_running_loop(), self._desk

        # That a client is local follows from the socket that we listen on. A missing name says nothing: a reset takes it away.
        known = LOCAL if sock.family == socket.AF_UNIX else None

        def factory() -> SmtpSession:
            return SmtpSession(loop, desk, options, known)

        if sock.family == socket.AF_UNIX:
            self._servers.append(await loop.create_unix_server(factory, sock=sock, backlog=ACCEPT_BATCH))
        else:
            self._servers.append(await loop.create_server(factory, sock=sock, backlog=ACCEPT_BATCH))
        sock.listen(BACKLOG)

    def reload(self, settings: EdgeSettings, policy: Policy) -> None:
        """From now on transactions begin under these."""
        self._desk.setup = Setup(settings, policy)

    async def drain(self, seconds: float) -> None:
        """Accept nothing more; let running transactions finish for so long; return when no session is left."""
        desk = self._desk
        desk.draining = True  # for what the kernel had accepted already
        for server in self._servers:
            server.close()
        for session in list(desk.sessions):
            session.leave()
        if not await desk.emptied(seconds):
            for session in list(desk.sessions):
                session.cut()
            await desk.finish(STORING)  # those that are storing are cut off when that is done
            await desk.emptied(seconds=STORING)
        await desk.finish(STORING)
        await asyncio.get_running_loop().run_in_executor(None, desk.threads.shutdown)
