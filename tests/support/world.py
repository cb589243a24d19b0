# SPDX-License-Identifier: Apache-2.0
"""Sink and DNS server in a thread with a loop of its own, and a client of plain octets: for tests that block.

    with World() as world:
        with Daemon(tmp_path, world.tables()) as daemon, Wire(daemon.smtp_port) as client:
            …

Not here: the servers themselves (`sink.py`, `dnsserver.py`), the daemon (`daemon.py`).
"""

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from tests.support.dnsserver import DnsServer
from tests.support.sink import Sink
from tests.support.sink_session import Received

T = TypeVar("T")


class World:
    """Everything around the gateway. `sink` and `dns` may be read from the test's thread; change them through `call`."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="world", daemon=True)
        self.sink = Sink()
        self.dns = DnsServer()

    def __enter__(self) -> "World":
        self._thread.start()
        self.run(self.sink.start())
        self.run(self.dns.start())
        return self

    def __exit__(self, *_: object) -> None:
        self.run(self.sink.stop())
        self.run(self.dns.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def run(self, work: Coroutine[Any, Any, T], timeout: float = 60.0) -> T:
        """Run a coroutine in the servers' loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout)

    def call(self, function: Callable[..., T], *arguments: Any) -> T:
        """Call a function in the servers' loop."""

        async def work() -> T:
            return function(*arguments)

        return self.run(work())

    def arrived(self, subject: str, timeout: float = 30.0) -> Received:
        """The first message with that Subject, when it has come."""
        wanted = f"Subject: {subject}\r\n".encode()
        return self.received(lambda copy: wanted in copy.content, timeout)

    def received(self, wanted: Callable[[Received], bool], timeout: float = 30.0) -> Received:
        """The first message that is wanted, when it has come."""
        self.run(self.sink.until(lambda: any(map(wanted, self.sink.messages)), timeout))
        return next(filter(wanted, self.sink.messages))

    def tables(self, extra: str = "", *, networks: str = "", retry: str = '"1s"', route: str = "", dns: str = "") -> str:
        """TOML for `Daemon`: dest.example and origin.example go to the sink."""
        return f"""
[relay]
domains = ["dest.example", ".mx.example"]
networks = [{networks}]
{route}
[[route]]
domains = ["dest.example", "origin.example"]
to = "smtp://127.0.0.1:{self.sink.port}"
[dns]
nameservers = ["{self.dns.address}"]
{dns}
[queue]
retry = [{retry}]
{extra}
"""


class Wire:
    """A client that sends the octets it is told to."""

    def __init__(self, port: int, *, host: str = "127.0.0.1", source: str = "", banner: bool = True) -> None:
        self.socket = socket.create_connection((host, port), timeout=30, source_address=(source, 0) if source else None)
        self._buffer = b""
        if banner:
            self.banner = self.reply()

    def __enter__(self) -> "Wire":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def reply(self) -> bytes:
        """The next reply, all its lines; empty at the end of the connection."""
        while True:
            lines = self._buffer.split(b"\r\n")
            for at, line in enumerate(lines[:-1]):
                if line[3:4] != b"-":
                    self._buffer = b"\r\n".join(lines[at + 1 :])
                    return b"\r\n".join(lines[: at + 1])
            try:
                data = self.socket.recv(65536)
            except ConnectionError:
                return b""
            if not data:
                return b""
            self._buffer += data

    def ask(self, line: bytes) -> bytes:
        """A command and its reply."""
        self.send(line + b"\r\n")
        return self.reply()

    def rest(self) -> bytes:
        """All that comes until the server closes."""
        taken, self._buffer = self._buffer, b""
        while True:
            try:
                data = self.socket.recv(65536)
            except ConnectionError:
                return taken
            if not data:
                return taken
            taken += data

    def envelope(self, *recipients: str, sender: str = "a@origin.example", helo: str = "client.example") -> None:
        """EHLO … DATA, all accepted."""
        replies = [self.ask(f"EHLO {helo}".encode()), self.ask(f"MAIL FROM:<{sender}>".encode())]
        replies += [self.ask(f"RCPT TO:<{each}>".encode()) for each in recipients or ("box@dest.example",)]
        assert all(each.startswith(b"250") for each in replies), replies
        assert self.ask(b"DATA").startswith(b"354")

    def message(self, stuffed: bytes, *recipients: str, **envelope: str) -> bytes:
        """A whole transaction; `stuffed` goes out as it is, the end of data behind it. The final reply."""
        self.envelope(*recipients, **envelope)
        self.send(stuffed + b".\r\n")
        return self.reply()


def until(what: str, condition: Callable[[], Any], patience: float = 30.0) -> Any:
    """Wait for a fact that only polling shows; the fact."""
    deadline = time.monotonic() + patience
    while not (fact := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {patience:g} s: {what}")
        time.sleep(0.05)
    return fact
