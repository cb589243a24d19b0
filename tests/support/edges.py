# SPDX-License-Identifier: Apache-2.0
"""A running Edge on loopback with fake neighbours, on either event loop."""

import asyncio
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import uvloop

from gateway.edge.listener import Edge, EdgeSettings, bind
from gateway.edge.options import LimitsOptions, ListenerOptions
from gateway.infra.clock import SystemClock
from gateway.infra.tls import server_context
from tests.support import certificates
from tests.support.fakes import Events, FakeIntake, FakePolicy

T = TypeVar("T")
LOOPS = ("asyncio", "uvloop")
HOSTNAME = "mx.example.test"
GREET = b"EHLO client.example\r\n"
MAIL = b"MAIL FROM:<a@b.example>\r\nRCPT TO:<c@dest.example>\r\nDATA\r\n"
CONTENT = b"Subject: x\r\n\r\nbody\r\n.\r\n"


def run(loop: str, main: Coroutine[Any, Any, T]) -> T:
    """Run on a loop of that kind; whatever the loop reports as unhandled fails the test."""
    unhandled: list[dict[str, Any]] = []

    async def watched() -> T:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: unhandled.append(context))
        return await asyncio.wait_for(main, 60)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop if loop == "uvloop" else None) as runner:
        result = runner.run(watched())
    assert not unhandled, unhandled
    return result


@dataclass(frozen=True)
class Sides:
    """The two ends of TLS: a server that is mx.example.test, and a client that trusts it."""

    server: ssl.SSLContext
    client: ssl.SSLContext

    @classmethod
    def made(cls, folder: Path) -> "Sides":
        made = certificates.make(folder, HOSTNAME)
        return cls(server_context(made.certificate, made.key), ssl.create_default_context(cafile=str(made.authority)))


@dataclass(slots=True)
class Place:
    """A running edge and what stands around it."""

    edge: Edge
    settings: EdgeSettings
    policy: FakePolicy
    intake: FakeIntake
    events: Events
    port: int
    spool: Path
    draining: asyncio.Task[None] | None = None  # started by the test

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 24)
        sock: socket.socket = writer.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return reader, writer

    async def talk(self, *said: bytes, eof: bool = False) -> bytes:
        """Say everything at once, and all that comes back until the server closes."""
        reader, writer = await self.connect()
        writer.write(b"".join(said))
        if eof:
            writer.write_eof()
        heard = await reader.read()
        writer.close()
        return heard


@asynccontextmanager
async def running(
    spool: Path,
    *,
    limits: LimitsOptions | None = None,
    listener: ListenerOptions | None = None,
    policy: FakePolicy | None = None,
    intake: FakeIntake | None = None,
    tls: ssl.SSLContext | None = None,
    more: dict[str, Any] | None = None,
) -> AsyncIterator[Place]:
    """An Edge that is drained at the end, whatever became of it. `more` are fields of its settings."""
    events, policy, intake = Events(), policy or FakePolicy(), intake or FakeIntake()
    fields = {"spool_directory": spool} | (more or {})
    settings = EdgeSettings(hostname=HOSTNAME, limits=limits or LimitsOptions(), tls_context=tls, **fields)
    edge = Edge(settings, policy, intake, SystemClock(), events)
    sock = bind("127.0.0.1:0")
    port = sock.getsockname()[1]
    await edge.serve(sock, listener or ListenerOptions(address="127.0.0.1:0"))
    place = Place(edge, settings, policy, intake, events, port, spool)
    try:
        yield place
    finally:
        await (place.draining or edge.drain(0))


async def until(condition: Callable[[], object]) -> None:
    """Wait for something that has no event of its own; the test's own time limit bounds it."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.001)


async def next_reply(reader: asyncio.StreamReader) -> bytes:
    """The last line of the next reply."""
    while (line := await reader.readline())[3:4] == b"-":
        pass
    return line


async def in_data(place: Place) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A session that has got as far as 354."""
    reader, writer = await place.connect()
    writer.write(GREET + MAIL)
    for code in (b"220", b"250", b"250", b"250", b"354"):
        assert (await next_reply(reader)).startswith(code)
    return reader, writer


def reset(writer: asyncio.StreamWriter) -> None:
    """Vanish with a RST, as a client that crashed."""
    sock: socket.socket = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
