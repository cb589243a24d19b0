# SPDX-License-Identifier: Apache-2.0
"""Conversations as files: read a `.smtp` file and hold it with a server, in three ways of cutting what the client says.

    # what this conversation shows                    comments; the first one names the test
    !limits message_size=1000 errors=3                the server's options for this file (also !listener, !policy, !intake)
    !listener xclient=127.0.0.0/8,::1/128             networks have commas between them
    !settings binary=true                             what else the assembly may tell it
    !submission check_from=true                       options of [submission]
    !user ann secret ann@b.example @c.example         someone who may log in: name, password, addresses; `!user` alone: no file
    !others 2                                         so many connections were greeted before ours, and stay
    !spool missing                                    the directory for large content is not there
    S: 220 *                                          a reply; its last line must match, * stands for anything
    S: 250-SIZE *                                     a line that must be among the earlier ones of the next reply
    C: EHLO client.example                            a command, CRLF is added
    C-raw: a\\nb\\x00                                   octets with Python's escapes, nothing is added
    C-many: 70000 x                                   the text so many times, nothing is added
    !starttls                                         the TLS handshake; what was said before is answered first
    !wait                                             the replies so far are read before more is sent
    !eof                                              the client half-closes
    !closed                                           the server has closed
    !drain                                            the server is told to stop
    !stored 1                                         so many messages were taken over
    !content Subject: x\\r\\n\\r\\nbody\\r\\n               the header and body of the last one

`!policy PHASE NAME` lets the policy answer with the reply of that name in `mail/reply.py`, with `defer` or `reject` that bring
no reply, or `crash`; `!policy rcpt NAME TEXT` only where TEXT is in the recipient. `!intake NAME` does the same for the queue;
`!intake full` is pressure.
"""

import asyncio
import fnmatch
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

_QUEUE_ID = re.compile(r"\b[0-9A-HJKMNP-TV-Z]{16}\b")
PIECE = 997  # octets of a large text that are sent at a time where small ones go one by one


class Cut(Enum):
    """How the client's octets are cut."""

    STEPS = "steps"  # command by command, each reply awaited
    WHOLE = "whole"  # all at once
    OCTETS = "octets"  # octet by octet


@dataclass(slots=True)
class Step:
    """One line of the file: `kind` is "S", "C" or the name of a directive."""

    kind: str
    text: str = ""
    octets: bytes = b""
    line: int = 0


@dataclass(slots=True)
class Dialogue:
    """A file as read."""

    name: str
    title: str
    setup: list[tuple[str, str]] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)


SETUP = {"limits", "listener", "settings", "policy", "intake", "submission", "user", "others", "spool"}
SYNCHRONOUS = {"starttls", "wait", "eof", "closed", "drain"}  # what was said before is answered first
ACTIONS = {*SYNCHRONOUS, "stored", "content"}


def parse(path: Path) -> Dialogue:
    """Read a file. Raises ValueError with its line for what is no dialogue."""
    dialogue = Dialogue(path.stem, "")
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        if not line.strip():
            continue
        if line.startswith("#"):
            dialogue.title = dialogue.title or line[1:].strip()
            continue
        step = _step(line, number, path)
        if step.kind in SETUP:
            dialogue.setup.append((step.kind, step.text))
        else:
            dialogue.steps.append(step)
    return dialogue


def _step(line: str, number: int, path: Path) -> Step:
    if line.startswith("!"):
        kind, _, text = line[1:].partition(" ")
        if kind not in SETUP | ACTIONS:
            raise ValueError(f"{path}:{number}: unknown directive {kind!r}")
        return Step(kind, text, line=number)
    kind, colon, text = line.partition(":")
    text = text.removeprefix(" ")
    if not colon:
        raise ValueError(f"{path}:{number}: neither comment, directive nor line of a conversation")
    match kind:
        case "S":
            return Step("S", text, line=number)
        case "C":
            return Step("C", octets=text.encode("utf-8") + b"\r\n", line=number)
        case "C-raw":
            return Step("C", octets=unescape(text), line=number)
        case "C-many":
            times, _, what = text.partition(" ")
            return Step("C", octets=unescape(what) * int(times), line=number)
    raise ValueError(f"{path}:{number}: who is {kind!r}?")


def unescape(text: str) -> bytes:
    """`\\r\\n\\x00` and the like as octets; what is not ASCII stands for its UTF-8."""
    return text.encode("utf-8").decode("unicode_escape").encode("latin-1")


class Talk:
    """A client that holds a dialogue. `secure` does the TLS handshake on the streams."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, cut: Cut) -> None:
        self.replies: list[str] = []
        self.cut = cut
        self._reader = reader
        self._writer = writer

    async def hold(self, dialogue: Dialogue, perform: Callable[[Step], None], context: object) -> None:
        """The whole conversation. `perform` does what concerns the server; raises AssertionError naming the line."""
        for part in _parts(dialogue.steps, self.cut):
            for step in part:
                if step.kind == "C":
                    await self._send(step.octets)
            for step in part:
                await self._do(step, dialogue, perform, context)

    async def _do(self, step: Step, dialogue: Dialogue, perform: Callable[[Step], None], context: object) -> None:
        where = f"{dialogue.name}.smtp:{step.line}"
        match step.kind:
            case "S":
                await self._expect(step.text, where)
            case "starttls":
                await self._writer.start_tls(context, ssl_handshake_timeout=10)  # type: ignore[arg-type]
            case "eof":
                self._writer.write_eof()
            case "closed":
                left = await self._reader.read()
                assert not left, f"{where}: the server said {left!r} before it closed"
            case "stored" | "content" | "drain":
                perform(step)

    async def _send(self, octets: bytes) -> None:
        size = len(octets) if self.cut is not Cut.OCTETS else 1 if len(octets) < 4 * PIECE else PIECE
        try:
            for at in range(0, len(octets), max(size, 1)):
                self._writer.write(octets[at : at + size])
                await self._writer.drain()
                await asyncio.sleep(0)  # the server runs in the same loop
        except ConnectionError:  # it has hung up on us; what it said before is still to be read
            pass

    async def _expect(self, pattern: str, where: str) -> None:
        if pattern[3:4] == "-":
            assert self._pending_line(await self._reply(keep=True), pattern), f"{where}: no line {pattern!r} in the reply"
            return
        lines = await self._reply(keep=False)
        self.replies.append(_QUEUE_ID.sub("ID", "\n".join(lines)))
        assert _matches(lines[-1], pattern), f"{where}: expected {pattern!r}, got {lines[-1]!r} ({self.cut.value})"

    def _pending_line(self, lines: list[str], pattern: str) -> bool:
        return any(_matches(line, pattern) for line in lines[:-1])

    _kept: list[str] | None = None

    async def _reply(self, *, keep: bool) -> list[str]:
        """The next reply, line by line; with `keep`, it stays the next one."""
        lines = self._kept or []
        while not lines or lines[-1][3:4] == "-":
            raw = await self._reader.readline()
            assert raw.endswith(b"\r\n"), f"the connection ended within a reply: {raw!r} after {self.replies}"
            lines.append(raw[:-2].decode("utf-8"))
        self._kept = lines if keep else None
        return lines


def _matches(line: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(line, pattern.replace("[", "[[]"))


def _parts(steps: list[Step], cut: Cut) -> Iterator[list[Step]]:
    """What is sent in one go: all up to a synchronisation point, or, in steps, all up to the next reply."""
    part: list[Step] = []
    for step in steps:
        if part and step.kind == "C" and cut is not Cut.WHOLE and any(each.kind != "C" for each in part):
            yield part
            part = []
        part.append(step)
        if step.kind in SYNCHRONOUS:
            yield part
            part = []
    if part:
        yield part
