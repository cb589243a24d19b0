# SPDX-License-Identifier: Apache-2.0
"""What the way in costs, beside stock aiosmtpd in the same run, on the same machine, with the same client.

    python -m tests.bench.edge [--messages 4000] [--rounds 3] [--idle 2000] [--loop uvloop] [--json]

Each contestant is a process of its own that accepts everything and forgets it; CPU is that process's own time, so the
client, which shares the machine, does not count. Contestants take turns, `rounds` times; the median counts.

    messages     4 KiB each, 20 sessions; 1 and 50 messages a connection: every reply awaited, and as real clients do, who send
                 MAIL, RCPT and DATA together where EHLO offers PIPELINING
    content      one message of 10 MiB; by BDAT too where EHLO offers CHUNKING (compared with stock's DATA)
    idle         resident memory of sessions that have said EHLO, in clear and under implicit TLS
"""

import argparse
import asyncio
import gc
import json
import platform
import resource
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import uvloop

from tests.bench.relay import machine
from tests.support import certificates

SESSIONS = 20
PATIENCE = 120.0  # seconds for one round
LINE = b"0123456789" * 7 + b"abcdef\r\n"
MESSAGE = b"Subject: bench\r\n\r\n" + LINE * (4096 // len(LINE))
LARGE = b"Subject: bench\r\n\r\n" + LINE * ((10 << 20) // len(LINE))
NAME = "mx.example.test"


# --- the servers, each in its own process


class Null:
    """A policy, an intake and a sink that want nothing and keep nothing."""

    def __init__(self) -> None:
        from gateway.mail.verdict import ACCEPT

        self._accept = ACCEPT

    async def decide(self, phase: object, tx: object) -> Any:
        return self._accept

    async def accept(self, tx: Any, verdict: object) -> Any:
        from gateway.mail.message import FileBody

        if isinstance(tx.message.body, FileBody):
            tx.message.body.path.unlink()
        return tx.id

    def pressure(self) -> bool:
        return False

    def emit(self, event: object) -> None:
        pass


async def serve_gateway(sockets: list[socket.socket], tls: ssl.SSLContext, folder: Path) -> None:
    from gateway.edge.listener import Edge, EdgeSettings
    from gateway.edge.options import LimitsOptions, ListenerOptions
    from gateway.infra.clock import SystemClock

    null = Null()
    limits = LimitsOptions(connections=0, connections_per_client=0, commands=0)
    settings = EdgeSettings(hostname=NAME, limits=limits, tls_context=tls, spool_directory=folder)
    edge = Edge(settings, null, null, SystemClock(), null)  # type: ignore[arg-type]
    for sock, mode in zip(sockets, ("none", "implicit"), strict=True):
        await edge.serve(sock, ListenerOptions.model_validate({"address": "127.0.0.1:0", "tls": mode}))


async def serve_stock(sockets: list[socket.socket], tls: ssl.SSLContext, folder: Path) -> None:
    from aiosmtpd.smtp import SMTP

    class Discard:
        async def handle_DATA(self, server: object, session: object, envelope: object) -> str:
            return "250 OK"

    loop = asyncio.get_running_loop()

    def factory() -> SMTP:
        return SMTP(Discard(), hostname=NAME, loop=loop, enable_SMTPUTF8=True, data_size_limit=50 << 20)

    await loop.create_server(factory, sock=sockets[0], backlog=1024)
    await loop.create_server(factory, sock=sockets[1], backlog=1024, ssl=tls)


SERVERS = {"gateway": serve_gateway, "aiosmtpd": serve_stock}


def server_process(name: str, loop: str, certificate: str, key: str) -> None:
    """Serve until stdin ends; each line on it is answered with CPU seconds and resident octets."""
    from gateway.app import GC_THRESHOLDS
    from gateway.infra.tls import server_context

    raise_descriptors()
    sockets = [socket.create_server(("127.0.0.1", 0), backlog=1024) for _ in range(2)]
    tls = server_context(Path(certificate), Path(key))

    async def main() -> None:
        ended, running = asyncio.Event(), asyncio.get_running_loop()
        with tempfile.TemporaryDirectory(prefix="edge-bench-") as folder:
            await SERVERS[name](sockets, tls, Path(folder))
            gc.freeze()  # as the daemon does, for both
            gc.set_threshold(*GC_THRESHOLDS)
            threading.Thread(target=answer, args=(lambda: running.call_soon_threadsafe(ended.set),), daemon=True).start()
            print(*(sock.getsockname()[1] for sock in sockets), flush=True)
            await ended.wait()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop if loop == "uvloop" else None) as runner:
        runner.run(main())


def answer(end: Callable[[], object]) -> None:
    """In a thread, so that asking costs the loop nothing."""
    process = psutil.Process()
    for _ in sys.stdin:
        gc.collect()
        print(json.dumps([time.process_time(), process.memory_info().rss]), flush=True)
    end()


class Server:
    """One contestant as seen from outside."""

    def __init__(self, name: str, loop: str, made: certificates.Certificate) -> None:
        command = [sys.executable, "-m", "tests.bench.edge", "--serve", name, "--loop", loop]
        pair = ["--certificate", str(made.certificate), "--key", str(made.key)]
        self._process = subprocess.Popen([*command, *pair], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout
        self.port, self.tls_port = map(int, self._process.stdout.readline().split())

    def usage(self) -> tuple[float, int]:
        """CPU seconds so far, and resident octets now."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        cpu, rss = json.loads(self._process.stdout.readline())
        return cpu, rss

    def close(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


# --- the client


@dataclass(slots=True)
class Talk:
    """One connection that waits for each reply."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def ask(self, said: bytes, code: bytes) -> bytes:
        self.writer.write(said)
        whole = b""
        while True:
            line = await self.reader.readline()
            whole += line
            if line[3:4] != b"-":
                break
        if not line.startswith(code):
            raise SystemExit(f"{said[:40]!r} was answered with {line!r}")
        return whole

    async def begin(self) -> bytes:
        await self.ask(b"", b"220")
        return await self.ask(b"EHLO client.example\r\n", b"250")

    async def group(self, content: bytes) -> None:
        """A message whose envelope goes out in one piece (RFC 2920 §3.1)."""
        self.writer.write(b"MAIL FROM:<a@origin.example>\r\nRCPT TO:<b@dest.example>\r\nDATA\r\n")
        for code in (b"250", b"250", b"354"):
            await self.ask(b"", code)
        await self.ask(content + b".\r\n", b"250")

    async def message(self, content: bytes, *, chunked: bool = False) -> None:
        await self.ask(b"MAIL FROM:<a@origin.example>\r\n", b"250")
        await self.ask(b"RCPT TO:<b@dest.example>\r\n", b"250")
        if chunked:
            await self.ask(b"BDAT %d LAST\r\n%b" % (len(content), content), b"250")
            return
        await self.ask(b"DATA\r\n", b"354")
        await self.ask(content + b".\r\n", b"250")

    async def end(self) -> None:
        await self.ask(b"QUIT\r\n", b"221")
        self.writer.close()


async def open_talk(port: int) -> Talk:
    return Talk(*await asyncio.open_connection("127.0.0.1", port, limit=1 << 20))


async def send(port: int, messages: int, each: int, *, pipelined: bool = False) -> None:
    """So many messages over `SESSIONS` connections at a time, `each` over one connection."""
    left = messages

    async def session() -> None:
        nonlocal left
        while left > 0:
            share = min(each, left)
            left -= share
            talk = await open_talk(port)
            grouped = b"PIPELINING" in await talk.begin() and pipelined
            for _ in range(share):
                await (talk.group(MESSAGE) if grouped else talk.message(MESSAGE))
            await talk.end()

    async with asyncio.TaskGroup() as group:
        for _ in range(SESSIONS):
            group.create_task(session())


async def send_large(port: int, times: int, *, chunked: bool) -> bool:
    """The large message over and over. False if BDAT is wanted and not offered."""
    talk = await open_talk(port)
    offers = await talk.begin()
    if chunked and b"CHUNKING" not in offers:
        await talk.end()
        return False
    for _ in range(times):
        await talk.message(LARGE, chunked=chunked)
    await talk.end()
    return True


def idle(stack: ExitStack, port: int, count: int, context: ssl.SSLContext | None) -> None:
    """Sessions that have said EHLO and say no more, one after the other and without a loop: the client must stay small."""
    for _ in range(count):
        sock = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        if context is not None:
            sock = context.wrap_socket(sock, server_hostname=NAME)
        stack.callback(sock.close)
        read_reply(sock)
        sock.sendall(b"EHLO client.example\r\n")
        read_reply(sock)


def read_reply(sock: socket.socket) -> None:
    heard = b""
    while not (heard.endswith(b"\r\n") and heard.splitlines()[-1][3:4] == b" "):
        if not (more := sock.recv(4096)):
            raise SystemExit(f"the server closed after {heard!r}")
        heard += more


# --- measuring


def cost(server: Server, work: Callable[[], Awaitable[object]]) -> tuple[float, object]:
    """CPU seconds of the server for this work, and what the work came to."""

    async def bounded() -> object:
        return await asyncio.wait_for(work(), PATIENCE)  # type: ignore[arg-type]

    before, _ = server.usage()
    result = uvloop.run(bounded())
    return server.usage()[0] - before, result


def measure_rates(server: Server, messages: int) -> dict[str, float]:
    figures = {}
    for each, share in ((1, messages // 4), (50, messages)):
        for pipelined, way in ((False, "each reply awaited"), (True, "pipelined where offered")):
            work = partial(send, server.port, share, each, pipelined=pipelined)
            figures[f"messages a second of CPU, {each} a connection, {way}"] = share / cost(server, work)[0]
    return figures


def measure_content(server: Server) -> dict[str, float]:
    figures, times = {}, 5
    for chunked, name in ((False, "DATA"), (True, "BDAT")):
        cpu, done = cost(server, lambda chunked=chunked: send_large(server.port, times, chunked=chunked))  # type: ignore[misc]
        if done:
            figures[f"MB a second of CPU, {name} of 10 MiB"] = times * len(LARGE) / 1e6 / cpu
    return figures


def measure_idle(server: Server, count: int, context: ssl.SSLContext) -> dict[str, float]:
    """In a fresh process: what was used before would be used again, and cost nothing."""
    figures = {}
    for name, port, tls in (("plain", server.port, None), ("TLS", server.tls_port, context)):
        with ExitStack() as stack:
            idle(stack, port, 20, tls)
            before = server.usage()[1]
            idle(stack, port, count, tls)
            figures[f"KiB an idle session, {name}"] = (server.usage()[1] - before) / 1024 / count
    return figures


def measure(name: str, options: argparse.Namespace, made: certificates.Certificate) -> dict[str, float]:
    """One round of one contestant."""
    figures: dict[str, float] = {}
    with ExitStack() as stack:
        server = Server(name, options.loop, made)
        stack.callback(server.close)
        cost(server, lambda: send(server.port, 200, 10))  # warm
        figures |= measure_rates(server, options.messages)
        figures |= measure_content(server)
    context = ssl.create_default_context(cafile=str(made.authority))
    for _ in range(1 if options.idle else 0):
        with ExitStack() as stack:
            server = Server(name, options.loop, made)
            stack.callback(server.close)
            figures |= measure_idle(server, options.idle, context)
    return figures


def raise_descriptors() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=4000, help="at 50 a connection; a quarter of them at one a connection")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--idle", type=int, default=2000, help="sessions; 0 leaves memory out")
    parser.add_argument("--loop", choices=("uvloop", "asyncio"), default="uvloop")
    parser.add_argument("--only", choices=tuple(SERVERS), default=None)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--serve", choices=tuple(SERVERS), help=argparse.SUPPRESS)
    parser.add_argument("--certificate", help=argparse.SUPPRESS)
    parser.add_argument("--key", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        server_process(options.serve, options.loop, options.certificate, options.key)
        return
    raise_descriptors()
    rows: dict[str, dict[str, list[float]]] = {name: {} for name in SERVERS if options.only in (None, name)}
    with tempfile.TemporaryDirectory(prefix="edge-bench-") as folder:
        made = certificates.make(Path(folder), NAME)
        for _ in range(options.rounds):
            for name, figures in rows.items():
                for what, value in measure(name, options, made).items():
                    figures.setdefault(what, []).append(value)
    report({name: {what: statistics.median(each) for what, each in row.items()} for name, row in rows.items()}, options)


def report(figures: dict[str, dict[str, float]], options: argparse.Namespace) -> None:
    """A Markdown table of medians, or JSON."""
    if options.json:
        facts = {"machine": machine(), "loop": options.loop, "rounds": options.rounds, "figures": figures}
        print(json.dumps(facts, indent=1))
        return
    ours, stock = figures.get("gateway", {}), figures.get("aiosmtpd", {})
    print(f"\n{machine()}, {options.loop}, {platform.system()}; {options.rounds} rounds, {options.messages} messages\n")
    print("| | gateway | aiosmtpd | ratio |\n|---|---|---|---|")
    for what in ours or stock:
        mine, theirs = ours.get(what), stock.get(what.replace("BDAT", "DATA"))
        cells = [f"{each:.0f}" if each else "–" for each in (mine, theirs)]
        ratio = f"{mine / theirs:.2f}" if mine and theirs else "–"
        print(f"| {what} | {cells[0]} | {cells[1]} | {ratio} |")


if __name__ == "__main__":
    main()
