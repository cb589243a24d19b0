# SPDX-License-Identifier: Apache-2.0
"""A load of real SMTP sessions that remembers what was acknowledged, and survives a server that is killed."""

import asyncio
import contextlib
import hashlib
import itertools
import random
import re
from dataclasses import dataclass, field

REPLY_PATIENCE = 30.0  # seconds a client waits for a reply
QUEUED = re.compile(rb"250 2\.0\.0 Ok: queued as (\S+)")


@dataclass
class Load:
    """`sessions` clients send messages of `size` octets until `stop` is set or `limit` messages are begun."""

    port: int
    sessions: int = 20
    size: int = 4096
    limit: int = 100_000
    seed: int = 1
    sender: str = "load@origin.example"
    recipient: str = "box@dest.example"
    acknowledged: dict[str, str] = field(default_factory=dict)  # marker -> queue id
    digests: dict[str, str] = field(default_factory=dict)  # marker -> SHA-256 of the octets that were sent
    refused: int = 0
    broken: int = 0  # transactions that ended without a final reply
    stop: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self._numbers = itertools.count()
        self._random = random.Random(self.seed)

    async def run(self) -> None:
        """All sessions, until they end."""
        async with asyncio.TaskGroup() as tasks:
            for number in range(self.sessions):
                tasks.create_task(self._client(), name=f"client {number}")

    def message(self) -> tuple[str, bytes]:
        """A marker and the octets of a message that carries it; its body has lines that begin with dots."""
        number = next(self._numbers)
        marker = f"m{self.seed}-{number}"
        filler = self._random.randbytes(self.size // 2).hex()
        lines = [filler[at : at + 76] for at in range(0, max(0, self.size - 200), 76)]
        body = "\r\n".join(f".{line}" if index % 7 == 0 else line for index, line in enumerate(lines))
        head = (
            f"From: <{self.sender}>\r\nTo: <{self.recipient}>\r\nSubject: {marker}\r\nMessage-ID: <{marker}@origin.example>\r\n"
        )
        content = f"{head}Date: Sun, 22 Nov 2026 08:00:00 +0000\r\n\r\n{body}\r\n".encode()
        self.digests[marker] = hashlib.sha256(content).hexdigest()
        return marker, content

    async def _client(self) -> None:
        while not self.stop.is_set() and len(self.digests) < self.limit:
            try:
                await self._session()
            except (OSError, EOFError, TimeoutError):
                await asyncio.sleep(0.02)  # the server is down: try again soon

    async def _session(self) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            await self._reply(reader)
            await self._command(reader, writer, b"EHLO load.example")
            while not self.stop.is_set() and len(self.digests) < self.limit:
                await self._transaction(reader, writer)
            await self._command(reader, writer, b"QUIT")
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _transaction(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        marker, content = self.message()
        try:
            for command in (f"MAIL FROM:<{self.sender}>", f"RCPT TO:<{self.recipient}>", "DATA"):
                reply = await self._command(reader, writer, command.encode())
                if reply[:1] not in (b"2", b"3"):
                    self.refused += 1
                    return
            stuffed = content.replace(b"\r\n.", b"\r\n..")
            writer.write(stuffed + b".\r\n")
            await writer.drain()
            reply = await self._reply(reader)
        except (OSError, EOFError, TimeoutError):
            self.broken += 1
            raise
        if found := QUEUED.match(reply):
            self.acknowledged[marker] = found[1].decode()
        else:
            self.refused += 1

    async def _command(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, line: bytes) -> bytes:
        writer.write(line + b"\r\n")
        return await self._reply(reader)

    async def _reply(self, reader: asyncio.StreamReader) -> bytes:
        async with asyncio.timeout(REPLY_PATIENCE):
            while True:
                line = await reader.readline()
                if not line.endswith(b"\n"):
                    raise EOFError("connection closed")
                if line[3:4] != b"-":
                    return line
