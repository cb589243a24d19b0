# SPDX-License-Identifier: Apache-2.0
"""Implicit TLS (RFC 8314 §3): the handshake comes before the first word of SMTP.

Promises: a connection is counted, and refused if there are too many, before its handshake, so that handshakes which
never end are bounded too; running out of descriptors pauses accepting and does not spin.
Not here: STARTTLS (`edge/session.py`).

`create_server(ssl=…)` would tell us of a connection only after its handshake; so we accept by ourselves.
"""

import asyncio
import socket
from collections.abc import Callable

from gateway.edge.connection import TLS_SHUTDOWN
from gateway.edge.desk import LOCAL, Desk, End, peer
from gateway.edge.place import BACKLOG
from gateway.edge.session import SmtpSession

RESPITE = 1.0  # seconds until we try again after accept() failed; asyncio's own servers wait as long


class ImplicitServer:
    """Accepts on one socket until it is closed."""

    def __init__(self, sock: socket.socket, desk: Desk, factory: Callable[[End | None], SmtpSession]) -> None:
        sock.setblocking(False)
        sock.listen(BACKLOG)
        self._sock = sock
        self._desk = desk
        self._factory = factory
        self._handshakes: set[asyncio.Task[None]] = set()
        self._accepting = asyncio.get_running_loop().create_task(self._accept())

    async def close(self) -> None:
        """Accept nothing more; who is still shaking hands has said nothing yet and is cut off."""
        tasks = [self._accepting, *self._handshakes]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._sock.close()

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, name = await loop.sock_accept(self._sock)
            except OSError as err:  # EMFILE, ENFILE, ENOBUFS; or the client went away
                self._desk.trouble(err, "accept")
                await self._desk.clock.sleep(RESPITE)
                continue
            task = loop.create_task(self._welcome(sock, name))
            self._handshakes.add(task)
            task.add_done_callback(self._handshakes.discard)

    async def _welcome(self, sock: socket.socket, name: object) -> None:
        desk, settings = self._desk, self._desk.setup.settings
        other = LOCAL if self._sock.family == socket.AF_UNIX else peer(name)
        if other is None:
            sock.close()
            return
        ip, _ = other
        if not desk.admission.enter(ip, settings.limits, trusted=settings.trusts(ip)):
            sock.close()  # a 421 could be said only after the handshake that we want to spare
            return
        session = self._factory(other)  # counted and let in under one name: the transport may have lost it by then
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: session,
                sock,
                ssl=settings.tls_context,
                ssl_handshake_timeout=settings.limits.handshake_timeout,
                ssl_shutdown_timeout=TLS_SHUTDOWN,
            )
        except OSError:  # no TLS, no session: nothing that the log needs for each port scanner
            pass
        finally:
            if session.transport is None:  # it never became a session, which would have counted it out at its end
                desk.admission.leave(ip)
