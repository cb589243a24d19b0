# SPDX-License-Identifier: Apache-2.0
"""Invariants of what reads the octets of a connection (content has its own, `test_content_reader.py`):

  - however octets are cut, the result is the same, and that of a few plain lines over the whole (`lines_of`);
  - a reader raises the fault that its docstring names, and nothing else;
  - it takes not one octet that belongs to what stands behind.

Hypothesis looks for small cases; the seeded fuzzer makes `--fuzz-examples` of each kind, and names the seed that fails.
"""

import random
import re
from base64 import b64decode
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.edge.lines import ENDLESS, LINE_MAX, CommandReader, LineFault
from gateway.edge.over import SessionOver
from gateway.edge.proxy import SIGNATURE, Header, ProxyFault, read_header
from gateway.edge.sasl import MECHANISMS, Credentials, SaslError, decode
from gateway.edge.transfer import parse_chunk
from tests.fuzz import mutants
from tests.fuzz.mutants import some, spoilt

Line = bytes | LineFault
LAST = (LineFault.TLS, LineFault.PROXY, LineFault.ENDLESS)  # reading goes no further

# --- command lines


def lines_of(octets: bytes) -> tuple[list[Line], bytes]:
    """What a session is handed, and what is left behind it."""
    found = list[Line]()
    if SIGNATURE.startswith(octets):
        return ([LineFault.PROXY] if octets == SIGNATURE else []), octets
    if octets.startswith(SIGNATURE):
        return [LineFault.PROXY], octets
    while True:
        if octets.startswith(b"\x16"):
            return [*found, LineFault.TLS], octets
        line, end, rest = octets.partition(b"\r\n")
        if len(line + end) > ENDLESS:
            return [*found, LineFault.ENDLESS], octets
        if not end:
            return found, octets
        found.append(judged(line))
        octets = rest


def judged(line: bytes) -> Line:
    if len(line) + 2 > LINE_MAX:
        fault = LineFault.TOO_LONG
    elif b"\r" in line or b"\n" in line:
        fault = LineFault.BARE
    elif re.search(rb"[\x00-\x1f\x7f]", line):
        fault = LineFault.CONTROL
    else:
        return line
    return LineFault.CHUNK if line[:4].upper() == b"BDAT" else fault


def read_lines(pieces: Iterator[bytes], most: int) -> tuple[list[Line], bytes]:
    """At most so many lines, and what `take` gives then: the octets that came behind them."""
    reader, found = CommandReader(), list[Line]()
    for piece in pieces:
        reader.feed(piece)
        while len(found) < most and not (found and found[-1] in LAST) and (line := reader.next()) is not None:
            found.append(line)
    return found, reader.take()


def pieces(octets: bytes, sizes: list[int]) -> Iterator[bytes]:
    at, turn = 0, 0
    while at < len(octets):
        yield octets[at : at + sizes[turn % len(sizes)]]
        at, turn = at + sizes[turn % len(sizes)], turn + 1


def check_lines(octets: bytes, sizes: list[int], most: int) -> None:
    found, left = read_lines(pieces(octets, sizes), most)
    wanted, behind = lines_of(octets)
    assert found == wanted[:most]
    if len(wanted) <= most and len(behind) <= LINE_MAX:  # of a longer line the beginning is not kept
        assert left == behind
    if len(wanted) > most and not {*wanted[:most]} & {*LAST}:
        assert left == octets.split(b"\r\n", most)[most], "not what stands behind the last line"


cuts = st.lists(st.integers(1, 9), min_size=1, max_size=8)
telling = st.lists(
    st.sampled_from(
        [b"\r\n", b"\r", b"\n", b"NOOP", b"bdat 5", b"\x00", b"\x16", b" ", b"\xff", SIGNATURE, b"x" * 700, b"y" * LINE_MAX]
    ),
    max_size=12,
).map(b"".join)


@settings(deadline=None)
@given(telling | st.binary(max_size=60), cuts, st.integers(0, 5))
def test_lines_are_those_of_the_whole_however_it_is_cut(octets: bytes, sizes: list[int], most: int) -> None:
    for cut in (sizes if len(octets) < 3000 else [997], [1] if len(octets) < 300 else [3001], [len(octets) + 1]):
        check_lines(octets, cut, most)
        check_lines(octets, cut, 1000)


@settings(deadline=None)
@given(telling, st.integers(0, 40))
def test_taking_some_octets_takes_these_and_no_others(octets: bytes, most: int) -> None:
    reader = CommandReader()
    reader.feed(octets)
    assert reader.take(most) + reader.take() == octets


# --- PROXY


def header_of(octets: bytes) -> Header | ProxyFault | None:
    try:
        return read_header(octets)
    except ProxyFault as err:
        return err


def check_proxy(octets: bytes, sizes: list[int]) -> None:
    """Judged anew with each piece, as a session does. The first judgement is the one of the whole."""
    whole, come = header_of(octets), b""
    for piece in pieces(octets, sizes):
        come += piece
        if (found := header_of(come)) is not None:
            break
    else:
        found = None
    assert type(found) is type(whole)
    if isinstance(whole, Header):
        assert found == whole
        assert whole.length <= len(octets)
        assert header_of(octets[: whole.length]) == whole, "it needed what stands behind"
        assert header_of(octets[: whole.length - 1]) is None, "it needed less than it took"


# --- SASL, BDAT


def check_sasl(mechanism: str, responses: list[bytes]) -> None:
    """No response is read twice, or left out; the end comes in time, with credentials or SaslError."""
    exchange = MECHANISMS[mechanism]()
    next(exchange)
    used = 0
    try:
        for response in responses:
            used += 1
            challenge = exchange.send(decode(response))
            assert challenge.isascii()
    except SaslError as err:
        for response in responses:
            told = len(response) > 5 and response.decode("latin-1") in str(err)
            assert not told, "a response is in the text of the fault"
    except StopIteration as end:
        found: Credentials = end.value
        assert found.name
        assert found.password
        assert "\x00" not in found.name + found.password
        given = [b64decode(each) for each in responses[:used]]
        said = given[0].split(b"\0")[1:] if mechanism == "PLAIN" else given
        assert said == [found.name.encode(), found.password.encode()]
    assert used <= 2


def check_chunk(raw: bytes) -> None:
    try:
        size, last = parse_chunk(raw)
    except SessionOver:
        return
    assert size >= 0
    assert parse_chunk(b"%d LAST" % size if last else b"%d" % size) == (size, last)
    assert last == raw.strip().upper().endswith(b"LAST")


# --- hypothesis


CHUNKS = (" ", "LAST", "last", "0", "5", "-", "+", "x", "99999999999999999999")
RESPONSES = ("AGFubgBzZXNhbWU=", "YW5u", "=", "", "*", "AAA=", "YW5uAA==", "AA==", "ü")


@settings(deadline=None)
@given(st.sampled_from(mutants.HEADERS), st.binary(max_size=20), cuts)
def test_proxy_headers(header: bytes, behind: bytes, sizes: list[int]) -> None:
    check_proxy(header + behind, sizes)


@settings(deadline=None)
@given(
    st.sampled_from(sorted(MECHANISMS)),
    st.lists(st.sampled_from(RESPONSES).map(str.encode) | st.binary(max_size=9), max_size=4),
)
def test_exchanges(mechanism: str, responses: list[bytes]) -> None:
    check_sasl(mechanism, responses)


@settings(deadline=None)
@given(some(*CHUNKS))
def test_chunks(raw: bytes) -> None:
    check_chunk(raw.strip(b" "))


# --- seeded


def check_all(chance: random.Random) -> None:
    check_chunk(spoilt(chance, CHUNKS).strip(b" "))
    check_sasl(chance.choice(sorted(MECHANISMS)), [spoilt(chance, RESPONSES[:5]) for _ in range(3)])
    header = bytearray(chance.choice(mutants.HEADERS) + chance.randbytes(chance.randrange(20)))
    header[chance.randrange(len(header))] ^= chance.choice((0, 0, 1, 128, 255))
    sizes = [chance.randrange(1, 20) for _ in range(5)]
    check_proxy(bytes(header), sizes)
    check_lines(mutants.made(chance)[:2000], sizes, chance.choice((0, 1, 5, 1000)))


def test_octets_from_anywhere(request: pytest.FixtureRequest) -> None:
    for seed in range(request.config.getoption("--fuzz-examples")):
        try:
            check_all(random.Random(seed))
        except Exception as err:
            raise AssertionError(f"seed {seed}: {err!r}") from err
