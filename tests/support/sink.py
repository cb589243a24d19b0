# SPDX-License-Identifier: Apache-2.0
"""A scripted SMTP server for tests: it keeps what it is given, octet for octet, and misbehaves on demand.

    async with Sink() as sink:
        … deliver to 127.0.0.1:sink.port …
        await sink.wait(1)
        assert sink.messages[0].content == content

Behaviour is written into addresses, between plus signs of the local part: `ann+451-after-data@dest.example`. An address
acts from its own command on: a sender's from MAIL, a recipient's from RCPT. `sink.behaviours` acts on every connection,
which is the only way to reach the stages before MAIL.

    CODE-at-STAGE          reply CODE instead (any three digits; 421 also closes)
    CODE-after-data        the same at the final dot
    hang-in-STAGE          no reply, until `sink.resume()`
    drop-at-STAGE          close without a reply
    drop-mid-body          close at the first octets of content
    drop-before-dot        close at the end of content, the message not kept
    drop-after-dot         keep the message, then close without a reply
    garbage-reply, extra-reply, endless-reply, multiline
                           how the reply to this very command is written; `garbage-at-STAGE` … elsewhere

STAGE is greeting (or connect), ehlo, helo, starttls, mail, rcpt, data, dot, rset, quit. The last BDAT of a message is its dot,
one before it is bdat; BDAT is understood whether CHUNKING is offered or not.
Process form: `python -m tests.support.sink --port P --log FILE` appends one JSON line a message before its 250.
"""

import argparse
import asyncio
import base64
import contextlib
import hashlib
import json
import os
import signal
import ssl
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.sink_session import STAGES, Action, Connection, Received, parse_behaviour

DEFAULT_EXTENSIONS = ("8BITMIME", "SMTPUTF8", "SIZE 104857600", "PIPELINING", "ENHANCEDSTATUSCODES")


@dataclass(slots=True)
class _Script:
    """A failure that the next `left` arrivals at a stage meet."""

    left: int
    stage: str
    action: Action


@dataclass(slots=True, eq=False)
class Sink:
    """The server. Set attributes before or while it runs; they act on what comes next."""

    tls: ssl.SSLContext | None = None
    extensions: tuple[str, ...] = DEFAULT_EXTENSIONS
    secure_extensions: tuple[str, ...] = ()  # offered under TLS only, besides the others
    behaviours: set[str] = field(default_factory=set)
    host: str = "127.0.0.1"
    port: int = 0
    name: str = "sink.example"
    esmtp: bool = True  # False: EHLO is answered with 502
    recipients_max: int = 0  # a transaction; 452 beyond; 0 is no limit
    connections_max: int = 0  # at one time; 421 beyond
    careless: bool = False  # True: DATA is answered 354 although nobody was accepted
    taken: Callable[[Received], None] | None = None  # called before the 250
    count_only: bool = False
    messages: list[Received] = field(default_factory=list)
    commands: list[tuple[int, bytes]] = field(default_factory=list)  # (connection, line) of everything said
    connections: int = 0
    count: int = 0
    refused: int = 0  # messages that came to their end and were not taken
    _server: asyncio.Server | None = None
    _open: "set[Connection]" = field(default_factory=set)
    _hung: "list[Connection]" = field(default_factory=list)
    _scripts: list[_Script] = field(default_factory=list)
    _waiters: list[tuple[Callable[[], bool], "asyncio.Future[None]"]] = field(default_factory=list)

    async def __aenter__(self) -> "Sink":
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen. After `stop` the same port is used again."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Connection(self, loop), self.host, self.port, reuse_address=True)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Stop listening and abort every connection: the host is down."""
        if self._server:
            self._server.close()
            self._server = None
        self.drop_all()
        await asyncio.sleep(0)

    @property
    def address(self) -> str:
        """host:port, as in a route."""
        return f"{self.host}:{self.port}" if ":" not in self.host else f"[{self.host}]:{self.port}"

    @property
    def open_connections(self) -> int:
        return len(self._open)

    @property
    def hung(self) -> int:
        """Connections that wait for `resume`."""
        return len(self._hung)

    def drop_all(self) -> None:
        """Abort every open connection."""
        for connection in list(self._open):
            connection.abort()

    def fail_next(self, times: int, code: int, stage: str) -> None:
        """Answer the next `times` arrivals at `stage` with `code`, then behave again."""
        self._scripts.append(_Script(times, STAGES.get(stage, stage), ("reply", str(code))))

    def do_next(self, times: int, behaviour: str) -> None:
        """Misbehave in a way written as in an address ("drop-mid-body") at the next `times` arrivals there."""
        parsed = parse_behaviour(behaviour, "rcpt")
        if parsed is None:
            raise ValueError(f"unknown behaviour {behaviour!r}")
        self._scripts.append(_Script(times, *parsed))

    def resume(self) -> None:
        """Let everything that hangs go on as if nothing had been."""
        hung, self._hung = self._hung, []
        for connection in hung:
            connection.resume()

    async def wait(self, messages: int, timeout: float = 20.0) -> list[Received]:
        """Until that many messages were taken."""
        await self.until(lambda: self.count >= messages, timeout)
        return self.messages

    async def wait_hung(self, connections: int = 1, timeout: float = 20.0) -> None:
        """Until that many connections hang."""
        await self.until(lambda: len(self._hung) >= connections, timeout)

    async def until(self, condition: Callable[[], bool], timeout: float = 20.0) -> None:
        """Until `condition` holds; it is asked after everything that happens here."""
        if condition():
            return
        future = asyncio.get_running_loop().create_future()
        self._waiters.append((condition, future))
        await asyncio.wait_for(future, timeout)

    def changed(self) -> None:
        """Something happened: see who waited for it."""
        if not self._waiters:
            return
        for waiter in list(self._waiters):
            if waiter[0]():
                self._waiters.remove(waiter)
                if not waiter[1].done():
                    waiter[1].set_result(None)

    def action(self, stage: str, own: "list[tuple[str, Action]]") -> Action | None:
        """What to do at a stage other than the right thing."""
        for script in self._scripts:
            if script.stage == stage and script.left > 0:
                script.left -= 1
                return script.action
        for at, action in own:
            if at == stage:
                return action
        for word in self.behaviours:
            parsed = parse_behaviour(word, "")
            if parsed and parsed[0] == stage:
                return parsed[1]
        return None


# --- the process form


def log_line(received: Received, *, content: bool) -> bytes:
    """One message as a JSON line."""
    header, _, _ = received.content.partition(b"\r\n\r\n")
    fields: dict[str, list[str]] = {}
    for line in header.replace(b"\r\n ", b" ").replace(b"\r\n\t", b" ").split(b"\r\n"):
        name, colon, value = line.partition(b":")
        if colon:
            fields.setdefault(name.decode("latin-1").lower(), []).append(value.strip().decode("utf-8", "replace"))
    record: dict[str, object] = {
        "sender": received.sender,
        "recipients": received.recipients,
        "size": len(received.content),
        "sha256": hashlib.sha256(received.content).hexdigest(),
        "tls": received.tls,
        "helo": received.helo,
        "connection": received.connection,
        "time": time.time(),
        "headers": fields,
    }
    if content:
        record["content"] = base64.b64encode(received.content).decode()
    return json.dumps(record, ensure_ascii=True).encode() + b"\n"


def read_log(path: Path) -> list[dict[str, object]]:
    """The messages in a log of the process form; a torn last line is left out."""
    lines = path.read_bytes().split(b"\n") if path.exists() else []
    return [json.loads(line) for line in lines[:-1]]


def _arguments(argv: Iterable[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.support.sink", description="An SMTP server that takes everything.")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--log", type=Path, help="append one JSON line a message here, before its 250")
    parser.add_argument("--content", action="store_true", help="put the content into the log, in base64")
    parser.add_argument("--count-only", action="store_true", help="keep nothing, only count; the fastest")
    parser.add_argument("--behaviour", action="append", default=[], help="acts on every connection; may be repeated")
    parser.add_argument("--no-extension", action="append", default=[], help="an EHLO keyword that is not offered")
    return parser.parse_args(list(argv) if argv is not None else None)


async def _serve(options: argparse.Namespace) -> None:
    sink = Sink(host=options.host, port=options.port, behaviours=set(options.behaviour), count_only=options.count_only)
    sink.extensions = tuple(word for word in DEFAULT_EXTENSIONS if word.split()[0] not in options.no_extension)
    descriptor = -1
    if options.log:
        descriptor = os.open(options.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

        def log(received: Received) -> None:
            os.write(descriptor, log_line(received, content=options.content))

        sink.taken = log
    else:
        sink.count_only = True
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    async with sink:
        print(f"ready {sink.port}", flush=True)
        await stopped.wait()
    if descriptor >= 0:
        os.close(descriptor)
    print(json.dumps({"count": sink.count, "connections": sink.connections, "refused": sink.refused}), flush=True)


def main(argv: Iterable[str] | None = None) -> None:
    """Serve until SIGTERM; prints `ready PORT` first and the counts last."""
    options = _arguments(argv)
    with contextlib.suppress(ImportError):
        import uvloop

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(options))
        return
    asyncio.run(_serve(options))


if __name__ == "__main__":
    main(sys.argv[1:])
