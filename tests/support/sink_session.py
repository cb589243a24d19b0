# SPDX-License-Identifier: Apache-2.0
"""The sessions of the scripted sink: what an address asks for, and one connection that obeys it.

Not here: the server, its scripts and its process form (`tests/support/sink.py`, where the behaviours are listed).
"""

import asyncio
import re
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.support.sink import Sink

Action = tuple[str, str]  # ("reply", "451"), ("hang", ""), ("drop", ""), ("garbage", "") …

_CODE = re.compile(r"(\d{3})-(?:at|in)-([a-z]+)")
_VERB = re.compile(r"(hang|drop|garbage|extra|endless|multiline)-(?:in|at)-([a-z]+)")
STAGES = {"connect": "greeting", "banner": "greeting", "helo": "ehlo", "end": "dot"}
_STYLES = {"garbage-reply": "garbage", "extra-reply": "extra", "endless-reply": "endless", "multiline": "multiline"}
_POSITIVE = {"greeting": 220, "starttls": 220, "data": 354, "quit": 221}


@dataclass(frozen=True, slots=True)
class Received:
    """One message that the sink took (also one whose 250 was withheld after the dot)."""

    sender: str
    recipients: tuple[str, ...]
    content: bytes  # dots un-stuffed; of BDAT as it came
    tls: bool
    helo: str
    connection: int  # 1 for the first connection
    mail_line: bytes  # MAIL with its parameters, without CRLF
    rcpt_lines: tuple[bytes, ...]


def parse_behaviour(word: str, own: str) -> tuple[str, Action] | None:
    """One behaviour as (stage, action); `own` is the stage of the command whose address it stood in."""
    if word in _STYLES:
        return own, (_STYLES[word], "")
    if word in {"drop-mid-body", "drop-before-dot", "drop-after-dot"}:
        return word.removeprefix("drop-"), ("drop", "")
    if found := re.fullmatch(r"(\d{3})-after-data", word):
        return "dot", ("reply", found[1])
    if found := _CODE.fullmatch(word):
        return STAGES.get(found[2], found[2]), ("reply", found[1])
    if found := _VERB.fullmatch(word):
        return STAGES.get(found[2], found[2]), (found[1], "")
    return None


def behaviours_of(address: str, own: str) -> list[tuple[str, Action]]:
    """All behaviours in the local part of an address."""
    if "+" not in address:
        return []
    words = address.rpartition("@")[0].split("+")[1:]
    return [parsed for word in words if (parsed := parse_behaviour(word, own))]


class Connection(asyncio.Protocol):
    """One session, driven by what comes in; nothing in it waits."""

    def __init__(self, sink: "Sink", loop: asyncio.AbstractEventLoop) -> None:
        self.sink, self.loop = sink, loop
        self.transport: asyncio.Transport
        self.buffer = bytearray()
        self.number = 0
        self.secure = False
        self.hanging: Callable[[], None] | None = None
        self.in_data = False
        self.chunk: tuple[int, bool] | None = None  # octets of a BDAT to come, and whether it is the last
        self.scan = 0
        self.helo = ""
        self.task: asyncio.Task[None] | None = None
        self.reset()

    def reset(self) -> None:
        self.mail_line = b""
        self.rcpt_lines: list[bytes] = []
        self.own: list[tuple[str, Action]] = []
        self.chunks: list[bytes] = []

    # --- the connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        first = self.number == 0
        self.transport = transport  # type: ignore[assignment]
        if not first:
            return  # again after STARTTLS
        self.sink.connections += 1
        self.number = self.sink.connections
        self.sink._open.add(self)
        self.sink.changed()
        if self.sink.connections_max and len(self.sink._open) > self.sink.connections_max:
            self.write("421 4.7.0 too many connections")
            self.transport.close()
            return
        self.answer("greeting", f"{self.sink.name} ESMTP")

    def connection_lost(self, exc: Exception | None) -> None:
        self.sink._open.discard(self)
        if self in self.sink._hung:
            self.sink._hung.remove(self)
        self.sink.changed()

    def abort(self) -> None:
        self.transport.abort()

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        self.work()

    def work(self) -> None:
        """Handle all that is complete in the buffer."""
        while self.hanging is None and self.task is None and not self.transport.is_closing():
            take = self.take_chunk if self.chunk is not None else self.take_content if self.in_data else self.take_line
            if not take():
                return

    def take_line(self) -> bool:
        end = self.buffer.find(b"\n")
        if end < 0:
            return False
        line = bytes(self.buffer[:end]).rstrip(b"\r")
        del self.buffer[: end + 1]
        if not self.sink.count_only:
            self.sink.commands.append((self.number, line))
        verb = line[:4].upper()
        handler = _HANDLERS.get(verb)
        if handler is None:
            self.write("500 5.5.2 what?")
        else:
            handler(self, line)
        if self.sink._waiters:
            self.sink.changed()
        return True

    # --- replies

    def write(self, text: str) -> None:
        self.transport.write(text.encode() + b"\r\n")

    def answer(self, stage: str, text: str, then: Callable[[], None] | None = None) -> None:
        """The reply of a stage, right or as scripted; `then` runs if it was right."""
        action = self.sink.action(stage, self.own)
        if action is None:
            self.right(stage, text, then)
        elif action[0] == "hang":
            self.hanging = lambda: self.right(stage, text, then)
            self.sink._hung.append(self)
            self.sink.changed()
        else:
            self.misbehave(action, stage, text, then)

    def right(self, stage: str, text: str, then: Callable[[], None] | None) -> None:
        code = _POSITIVE.get(stage, 250)
        if stage == "ehlo" and "\n" in text:
            *lines, last = text.split("\n")
            self.transport.write("".join(f"250-{line}\r\n" for line in lines).encode() + f"250 {last}\r\n".encode())
        else:
            self.write(f"{code} {text}")
        if then:
            then()

    def misbehave(self, action: Action, stage: str, text: str, then: Callable[[], None] | None) -> None:
        kind, code = action
        positive = _POSITIVE.get(stage, 250)
        if kind == "reply":
            self.write(f"{code} {code[0]}.0.0 as told at {stage}" if code[0] in "245" else f"{code} as told at {stage}")
            if code[0] == str(positive)[0] and then:  # another way to say yes
                then()
            elif code == "421":
                self.transport.close()
        elif kind == "drop":
            self.abort()
        elif kind == "garbage":
            self.transport.write(b"\x00\xff\x80garbage without a code\r\n")
        elif kind == "endless":
            self.transport.write(f"{positive}-".encode() + b"x" * (1 << 20))
        elif kind == "extra":
            self.transport.write(f"{positive} {text}\r\n550 5.0.0 a reply too much\r\n".encode())
            if then:
                then()
        elif kind == "multiline":
            lines = "".join(f"{positive}-line {at}\r\n" for at in range(3))
            self.transport.write(lines.encode() + f"{positive} {text}\r\n".encode())
            if then:
                then()

    def resume(self) -> None:
        hanging, self.hanging = self.hanging, None
        if hanging and not self.transport.is_closing():
            hanging()
            self.work()

    # --- commands

    def do_ehlo(self, line: bytes) -> None:
        if not self.sink.esmtp:
            self.write("502 5.5.1 what is that?")
            return
        words = [self.sink.name, *self.sink.extensions, *(self.sink.secure_extensions if self.secure else ())]
        if self.sink.tls and not self.secure:
            words.append("STARTTLS")
        self.greet(line, "\n".join(words))

    def do_helo(self, line: bytes) -> None:
        self.greet(line, self.sink.name)

    def greet(self, line: bytes, text: str) -> None:
        self.reset()
        self.helo = line[5:].decode("utf-8", "replace")
        self.answer("ehlo", text)

    def do_starttls(self, _line: bytes) -> None:
        if not self.sink.tls or self.secure:
            self.write("502 5.5.1 no TLS here")
            return
        self.answer("starttls", "go ahead", self.start_tls)

    def start_tls(self) -> None:
        self.transport.pause_reading()
        self.buffer.clear()
        self.task = self.loop.create_task(self.handshake(), name="sink handshake")

    async def handshake(self) -> None:
        assert self.sink.tls
        try:
            transport = await self.loop.start_tls(self.transport, self, self.sink.tls, server_side=True)
        except (OSError, ssl.SSLError):
            self.abort()
            return
        if transport is None:
            return
        self.transport = transport
        self.secure = True
        self.reset()
        self.task = None
        self.work()

    def do_mail(self, line: bytes) -> None:
        if self.mail_line:
            self.write("503 5.5.1 nested MAIL")
            return
        self.own = behaviours_of(_address(line), "mail")

        def then() -> None:
            self.mail_line = line

        self.answer("mail", "2.1.0 sender ok", then)

    def do_rcpt(self, line: bytes) -> None:
        if not self.mail_line:
            self.write("503 5.5.1 MAIL first")
            return
        if self.sink.recipients_max and len(self.rcpt_lines) >= self.sink.recipients_max:
            self.write("452 4.5.3 too many recipients")
            return
        own = behaviours_of(_address(line), "rcpt")
        before, self.own = self.own, [*own, *self.own]
        self.answer("rcpt", "2.1.5 recipient ok", lambda: self.rcpt_lines.append(line))
        # what a recipient wants at RCPT is only about itself; the rest holds for the transaction
        self.own = [*before, *(item for item in own if item[0] != "rcpt")]

    def do_data(self, _line: bytes) -> None:
        if not self.rcpt_lines and not self.sink.careless:
            self.write("554 5.5.1 no valid recipients")
            return
        self.answer("data", "go ahead", self.begin_content)

    def begin_content(self) -> None:
        self.in_data = True
        self.scan = 0

    def take_content(self) -> bool:
        """Look for the final dot; the empty content (a dot at once) has no CRLF before it."""
        if self.buffer and self.sink.action("mid-body", self.own):
            self.abort()
            return False
        if self.buffer.startswith(b".\r\n"):
            content, end = b"", 3
        else:
            at = self.buffer.find(b"\r\n.\r\n", max(0, self.scan - 4))
            if at < 0:
                self.scan = len(self.buffer)
                return False
            content, end = bytes(self.buffer[: at + 2]), at + 5
        del self.buffer[:end]
        self.in_data = False
        if not self.sink.count_only and (b"\r\n." in content or content[:1] == b"."):
            content = (b"\r\n" + content).replace(b"\r\n.", b"\r\n")[2:]
        self.end_of_content(content)
        return True

    def do_bdat(self, line: bytes) -> None:
        """RFC 3030 §2: the octets follow the command at once, wanted or not."""
        _, size, *last = line.split()
        self.chunk = int(size), bool(last)

    def take_chunk(self) -> bool:
        """All octets of a BDAT; they are counted, not looked at."""
        assert self.chunk is not None
        size, last = self.chunk
        if self.buffer and self.sink.action("mid-body", self.own):
            self.abort()
            return False
        if len(self.buffer) < size:
            return False
        self.chunks.append(bytes(self.buffer[:size]))
        del self.buffer[:size]
        self.chunk = None
        if not self.rcpt_lines:
            self.write("503 5.5.1 no valid recipients")
        elif last:
            self.end_of_content(b"".join(self.chunks))
        else:
            self.answer("bdat", f"2.0.0 {size} octets")
        return True

    def end_of_content(self, content: bytes) -> None:
        if self.sink.action("before-dot", self.own):
            self.abort()
            return
        if self.sink.action("after-dot", self.own):
            self.keep(content)
            self.abort()
            return
        action = self.sink.action("dot", self.own)
        if action is None:  # keep it first: the log line must be there before the 250 can be seen
            self.keep(content)
            self.right("dot", "2.0.0 taken", self.reset)
        elif action[0] == "hang":
            self.hanging = lambda: self.keep_late(content)
            self.sink._hung.append(self)
            self.sink.changed()
        else:
            if action[0] in {"extra", "multiline"} or action[1] == "250":
                self.keep(content)
            else:
                self.sink.refused += 1
            self.misbehave(action, "dot", "2.0.0 taken", None)
            self.reset()

    def keep_late(self, content: bytes) -> None:
        """A hang at the dot is over."""
        self.keep(content)
        self.right("dot", "2.0.0 taken", self.reset)

    def keep(self, content: bytes) -> None:
        sink = self.sink
        if not sink.count_only:
            received = Received(
                _address(self.mail_line),
                tuple(_address(line) for line in self.rcpt_lines),
                content,
                self.secure,
                self.helo,
                self.number,
                self.mail_line,
                tuple(self.rcpt_lines),
            )
            if sink.taken:
                sink.taken(received)
            else:
                sink.messages.append(received)
        sink.count += 1
        sink.changed()

    def do_rset(self, _line: bytes) -> None:
        self.reset()
        self.answer("rset", "2.0.0 ok")

    def do_noop(self, _line: bytes) -> None:
        self.write(f"250 2.0.0 {self.sink.count} messages")

    def do_quit(self, _line: bytes) -> None:
        self.answer("quit", "2.0.0 bye")
        if self.hanging is None:
            self.transport.close()


_HANDLERS: dict[bytes, Callable[[Connection, bytes], None]] = {
    b"EHLO": Connection.do_ehlo,
    b"HELO": Connection.do_helo,
    b"STAR": Connection.do_starttls,
    b"MAIL": Connection.do_mail,
    b"RCPT": Connection.do_rcpt,
    b"DATA": Connection.do_data,
    b"BDAT": Connection.do_bdat,
    b"RSET": Connection.do_rset,
    b"NOOP": Connection.do_noop,
    b"QUIT": Connection.do_quit,
}


def _address(line: bytes) -> str:
    """What stands between the angle brackets of MAIL or RCPT."""
    start, end = line.find(b"<"), line.rfind(b">")
    return line[start + 1 : end].decode("utf-8", "surrogateescape")
