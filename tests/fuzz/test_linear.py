# SPDX-License-Identifier: Apache-2.0
"""Invariants of everything that reads what clients write: the work grows with the length of the text and no faster.

Not measured by a clock but counted: the steps of each regular expression that the edge and the floor of mail use, by an
engine that counts (`tests/support/backtrack.py`), and the lines of Python that each reader runs.
"""

import contextlib
import random
import re
import string
import sys
from collections.abc import Callable
from types import FrameType, ModuleType
from typing import Any

import pytest

from gateway.edge import authors, commands, lines, proxy, sasl, trace, xclient
from gateway.edge.offers import Offers
from gateway.mail import address, notify
from gateway.mail.reply import MailError
from tests.support.backtrack import count

SIZE = 64 << 10
STEPS = 12  # for each character
LINES = 6  # of Python for each octet, in the readers that go word by word
PATTERNS = {
    f"{module.__name__.removeprefix('gateway.')}.{name}": value
    for module in (address, notify, proxy, trace, xclient)
    for name, value in vars(module).items()
    if isinstance(value, re.Pattern)
}

# What grammars of this kind stumble over when they do: much of one thing, and the end missing.
PIECES = (
    *(
        "a",
        "a-",
        "-",
        "a.",
        ".",
        "@",
        "@a,",
        "@a.b,@",
        '"',
        '\\"',
        "\\",
        '" ',
        "<",
        ">",
        "[",
        "[a",
        ":",
        "0",
        "1.",
        "é",
        "+2B",
        "+",
        "=",
    ),
    *("a=", " a", ",", ";", "\\x{41}", "x{", "}", "\x00", "\r\n", " ", "a\r\n", "authentication-results ", "date\t"),
)
BEGINNINGS = (
    "",
    "<",
    "<a@",
    "<@a",
    "<@a,@a:",
    '<"',
    "<a@[",
    "rfc822;",
    "utf-8;",
    "PROXY TCP4 ",
    "PROXY UNKNOWN ",
    "\n",
    "\ndate",
)


def hostile() -> list[str]:
    """Every piece repeated, behind every beginning that asks for more."""
    return [f"{first}{piece}" for first in BEGINNINGS for piece in PIECES]


def long(shape: str, size: int) -> str:
    first = max((each for each in BEGINNINGS if shape.startswith(each)), key=len)
    piece = shape[len(first) :] or "a"
    return (first + piece * size)[:size] + "\x01"


def text_for(pattern: "re.Pattern[Any]", text: str) -> Any:
    return text.encode("utf-8") if isinstance(pattern.pattern, bytes) else text


@pytest.mark.parametrize("name", PATTERNS)
def test_a_pattern_takes_steps_in_proportion(name: str) -> None:
    """First each shape in short, then the worst of them at full length. A match that must be whole tries the most ways."""
    pattern, short = PATTERNS[name], 200

    def steps(shape: str, size: int) -> float:
        text = text_for(pattern, long(shape, size))
        return count(pattern, text, whole=True, most=STEPS * len(text) + 500)[0] / len(text)

    worst = max(hostile(), key=lambda shape: steps(shape, short))
    assert steps(worst, SIZE) <= STEPS


@pytest.mark.parametrize("name", PATTERNS)
def test_the_engine_that_counts_finds_what_the_real_one_finds(name: str) -> None:
    pattern, chance = PATTERNS[name], random.Random(name)
    for _ in range(300):
        text = "".join(
            chance.choice((*PIECES, *BEGINNINGS, *string.ascii_letters[:4], "<a@b>")) for _ in range(chance.randrange(8))
        )
        octets = text_for(pattern, text)
        found, whole = pattern.match(octets), pattern.fullmatch(octets)
        assert count(pattern, octets)[1] == (found.end() if found else -1), octets
        assert count(pattern, octets, whole=True)[1] == (whole.end() if whole else -1), octets


def test_a_pattern_that_is_not_linear_is_found_out() -> None:
    bad = re.compile("(?:a+)+b")
    assert count(bad, "a" * 16)[0] > 100 * 16


# --- and what Python does around them


def executed(work: Callable[[], object], of: ModuleType) -> int:
    """Lines of that module that ran."""
    ran = 0

    def trace_line(frame: FrameType, event: str, _: object) -> Any:
        nonlocal ran
        ran += event == "line" and frame.f_globals is vars(of)
        return trace_line if frame.f_globals is vars(of) else None

    before = sys.gettrace()
    sys.settrace(trace_line)
    try:
        with contextlib.suppress(ValueError, MailError):
            work()
    finally:
        sys.settrace(before)
    return ran


OFFERS = Offers(binary=True, require_tls=True, auth=("PLAIN",))
READERS: dict[str, tuple[ModuleType, Callable[[bytes], object]]] = {
    "parse_path": (address, lambda raw: address.parse_path(raw, utf8=True)),
    "parse_mailbox": (address, address.parse_mailbox),
    "parse_domain": (address, address.parse_domain),
    "parse_parameters": (address, address.parse_parameters),
    "parse_mail": (commands, lambda raw: commands.parse_mail(b"FROM:<a@b.example> " + raw, OFFERS)),
    "parse_rcpt": (commands, lambda raw: commands.parse_rcpt(b"TO:<a@b.example> " + raw, OFFERS, smtputf8=True)),
    "decode_xtext": (notify, lambda raw: notify.decode_xtext(raw.decode("latin-1"))),
    "check_orcpt": (notify, lambda raw: notify.check_orcpt("utf-8;" + raw.decode("latin-1"))),
    "parse_notify": (notify, lambda raw: notify.parse_notify(raw.decode("latin-1"))),
    "parse_claim": (xclient, xclient.parse_claim),
    "read_header": (proxy, proxy.read_header),
    "decode": (sasl, sasl.decode),
    "authors": (authors, lambda raw: authors.authors(b"From: " + raw.replace(b"\r\n", b" ") + b"\r\n")),
}


@pytest.mark.parametrize("name", READERS)
def test_a_reader_runs_lines_in_proportion(name: str) -> None:
    module, read = READERS[name]
    for piece in PIECES:
        raw = (piece.encode() * SIZE)[:SIZE]
        assert executed(lambda raw=raw: read(raw), module) <= LINES * SIZE + 500, piece  # type: ignore[misc]


def test_lines_are_found_in_proportion_however_they_come() -> None:
    """A line of 64 KiB, octet by octet: nothing is searched twice, or this would take a billion looks."""
    reader, looked = lines.CommandReader(), 0

    class Counted(bytearray):
        def find(self, wanted: Any, start: Any = 0, end: Any = None) -> int:
            nonlocal looked
            looked += len(self) - start
            return super().find(wanted, start)

    reader._buffer = Counted()
    for _ in range(lines.ENDLESS + 2):
        reader.feed(b"x")
        reader.next()
    assert looked <= 4 * lines.ENDLESS
