# SPDX-License-Identifier: Apache-2.0
"""A TLS client that owns its records: what is sent in which packet, and how the connection ends, is up to the test."""

import asyncio
import contextlib
import ssl

from tests.support.edges import reset

NAME = "mx.example.test"


class RawTls:
    """The client's side of TLS over streams that stay in clear underneath."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, context: ssl.SSLContext) -> None:
        self.reader = reader
        self.writer = writer
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_hostname=NAME)
        self._heard = b""

    def hello(self) -> bytes:
        """The first flight, not sent."""
        with contextlib.suppress(ssl.SSLWantReadError):
            self._tls.do_handshake()
        return self._out.read()

    async def handshake(self, *, hello: bool = True, send_last: bool = True) -> bytes:
        """Do it. With `send_last` False the last flight is handed out, so that more can stand in its packet."""
        if hello:
            self.writer.write(self.hello())
        while True:
            try:
                self._tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                await self._more()
        last = self._out.read()
        if send_last:
            self.writer.write(last)
            return b""
        return last

    def record(self, plain: bytes) -> bytes:
        """Records that say this, not sent."""
        self._tls.write(plain)
        return self._out.read()

    def say(self, plain: bytes) -> None:
        self.writer.write(self.record(plain))

    def close_notify(self) -> bytes:
        """Not sent either."""
        with contextlib.suppress(ssl.SSLError):
            self._tls.unwrap()
        return self._out.read()

    async def line(self) -> bytes:
        """The last line of the next reply."""
        while True:
            end = self._heard.find(b"\r\n")
            if end < 0:
                await self._read()
                continue
            line, self._heard = self._heard[: end + 2], self._heard[end + 2 :]
            if line[3:4] != b"-":
                return line

    async def to_the_end(self) -> tuple[bytes, bool]:
        """All that is still said, and whether it ended with close_notify (and not just so)."""
        try:
            while True:
                await self._read()
        except ssl.SSLZeroReturnError:
            return self._heard, True
        except EOFError:
            return self._heard, False

    async def _read(self) -> None:
        while True:
            try:
                if not (plain := self._tls.read(1 << 16)):
                    raise ssl.SSLZeroReturnError
                self._heard += plain
                return
            except ssl.SSLWantReadError:
                await self._more()

    async def _more(self) -> None:
        octets = await self.reader.read(1 << 16)
        if not octets:
            raise EOFError
        self._in.write(octets)

    def vanish(self) -> None:
        reset(self.writer)
