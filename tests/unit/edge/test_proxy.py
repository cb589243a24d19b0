# SPDX-License-Identifier: Apache-2.0
"""The header of the PROXY protocol, without a socket: form, cuts, and octets that are none."""

import random
import struct
from ipaddress import ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.edge.proxy import SIGNATURE, V1_MAX, V2_MAX, Header, ProxyFault, crc32c, read_header

FOUR = ip_address("192.0.2.1").packed + ip_address("192.0.2.2").packed + struct.pack("!HH", 4000, 25)
SIX = ip_address("2001:db8::1").packed + ip_address("2001:db8::2").packed + struct.pack("!HH", 4000, 25)


def v2(command: int, family: int, rest: bytes) -> bytes:
    return SIGNATURE + bytes([0x20 | command, family]) + struct.pack("!H", len(rest)) + rest


def value(kind: int, octets: bytes) -> bytes:
    return struct.pack("!BH", kind, len(octets)) + octets


def summed(family: int, addresses: bytes, *values: bytes) -> bytes:
    """A header with the checksum that belongs to it."""
    whole = addresses + b"".join(values)
    blank = v2(1, family, whole + value(3, bytes(4)))
    return v2(1, family, whole + value(3, struct.pack("!I", crc32c(blank))))


GOOD = {
    b"PROXY TCP4 192.0.2.1 192.0.2.2 4000 25\r\n": ("192.0.2.1", 4000),
    b"PROXY TCP4 192.0.2.1 192.0.2.2 0 65535\r\n": ("192.0.2.1", 0),
    b"PROXY TCP6 2001:db8::1 2001:db8::2 4000 25\r\n": ("2001:db8::1", 4000),
    b"PROXY TCP6 ::ffff:192.0.2.1 ::ffff:192.0.2.2 4000 25\r\n": ("192.0.2.1", 4000),
    b"PROXY TCP6 " + b"ffff:" * 7 + b"ffff " + b"ffff:" * 7 + b"ffff 65535 65535\r\n": ("ffff:" * 7 + "ffff", 65535),
    b"PROXY UNKNOWN\r\n": None,
    b"PROXY UNKNOWN " + b"x" * (V1_MAX - 16) + b"\r\n": None,
    v2(1, 0x11, FOUR): ("192.0.2.1", 4000),
    v2(1, 0x21, SIX): ("2001:db8::1", 4000),
    v2(1, 0x11, FOUR + value(0x20, b"\x01\0\0\0\0") + value(0x04, bytes(9))): ("192.0.2.1", 4000),
    v2(1, 0x00, b""): None,
    v2(1, 0x00, value(0x04, b"")): None,
    v2(1, 0x31, bytes(216)): None,
    v2(0, 0x00, b""): None,
    v2(0, 0x11, b"whatever"): None,
    v2(0, 0xFF, b""): None,
    summed(0x11, FOUR): ("192.0.2.1", 4000),
    summed(0x21, SIX, value(0x01, b"h2"), value(0x05, b"id")): ("2001:db8::1", 4000),
    v2(1, 0x11, FOUR + value(0x04, bytes(V2_MAX - 15))): ("192.0.2.1", 4000),
}
BAD = [
    b"EHLO client.example\r\n",
    b"PROXX",
    b"proxy TCP4 192.0.2.1 192.0.2.2 4000 25\r\n",
    b"PROXY\r\n",
    b"PROXY \r\n",
    b"PROXY TCP4\r\n",
    b"PROXY TCP5 192.0.2.1 192.0.2.2 4000 25\r\n",
    b"PROXY TCP4 192.0.2.1 192.0.2.2 4000\r\n",
    b"PROXY TCP4 192.0.2.1 192.0.2.2 4000 25 \r\n",
    b"PROXY TCP4  192.0.2.1 192.0.2.2 4000 25\r\n",
    b"PROXY TCP4 192.0.2.1 192.0.2.2 4000 25\n\r\n",
    b"PROXY TCP4 192.0.2.1 192.0.2.2 04000 25\r\n",
    b"PROXY TCP4 192.0.2.1 192.0.2.2 4000 65536\r\n",
    b"PROXY TCP4 192.0.2.1 192.0.2.2 99999 25\r\n",
    b"PROXY TCP4 192.0.2.1 192.0.2.2 +400 25\r\n",
    b"PROXY TCP4 192.0.2.1 192.0.2.2 -1 25\r\n",
    b"PROXY TCP4 192.0.2.256 192.0.2.2 4000 25\r\n",
    b"PROXY TCP4 192.0.2.01 192.0.2.2 4000 25\r\n",
    b"PROXY TCP4 3221225985 192.0.2.2 4000 25\r\n",
    b"PROXY TCP4 2001:db8::1 2001:db8::2 4000 25\r\n",
    b"PROXY TCP6 192.0.2.1 192.0.2.2 4000 25\r\n",
    b"PROXY TCP6 2001:db8::1 192.0.2.2 4000 25\r\n",
    b"PROXY TCP6 fe80::1%eth0 2001:db8::2 4000 25\r\n",
    b"PROXY UNKNOWNX\r\n",
    b"PROXY UNKNOWN\nEHLO x\r\n",
    b"PROXY UNKNOWN " + b"x" * (V1_MAX - 15) + b"\r\n",
    b"PROXY " + b"x" * V1_MAX,
    SIGNATURE[:-1] + b"\r",
    SIGNATURE + b"\x11\x11\0\x0c" + FOUR,  # version 1
    v2(2, 0x11, FOUR),
    v2(1, 0x12, FOUR),  # UDP carries no SMTP
    v2(1, 0x41, FOUR),
    v2(1, 0x11, FOUR[:-1]),
    v2(1, 0x21, FOUR),
    v2(1, 0x31, bytes(215)),
    v2(1, 0x11, FOUR + b"\x04\0"),
    v2(1, 0x11, FOUR + b"\x04\0\x05abcd"),
    v2(1, 0x11, FOUR + value(3, bytes(4))),
    v2(1, 0x11, FOUR + value(3, b"")),
    summed(0x11, FOUR)[:-1] + b"\xff",
    SIGNATURE + b"\x21\x11" + struct.pack("!H", V2_MAX + 1),
    SIGNATURE + b"\x20\x00\xff\xff",
]


def judged(octets: bytes) -> Header | str | None:
    try:
        return read_header(octets)
    except ProxyFault:
        return "fault"


@pytest.mark.parametrize("octets", GOOD)
def test_a_header_is_read_and_nothing_behind_it(octets: bytes) -> None:
    named = GOOD[octets]
    own = octets.startswith(SIGNATURE + b"\x20")  # LOCAL
    want = Header(len(octets), (ip_address(named[0]), named[1]) if named else None, own)
    for behind in (b"", b"EHLO client.example\r\n", b"\x16\x03\x01", octets):
        assert read_header(octets + behind) == want


@pytest.mark.parametrize("octets", GOOD)
def test_a_header_is_not_judged_before_it_is_whole(octets: bytes) -> None:
    assert all(read_header(octets[:end]) is None for end in range(len(octets)))


@pytest.mark.parametrize("octets", BAD)
def test_what_is_no_header_is_a_fault(octets: bytes) -> None:
    with pytest.raises(ProxyFault):
        read_header(octets)


@pytest.mark.parametrize("octets", BAD)
def test_a_fault_is_a_fault_however_it_is_cut(octets: bytes) -> None:
    found = [judged(octets[:end]) for end in range(len(octets) + 1)]
    assert set(found) <= {None, "fault"}
    assert found == sorted(found, key=lambda each: each == "fault"), "a fault was taken back"


def test_what_we_wait_for_is_bounded() -> None:
    assert judged(b"PROXY TCP4 " + b"1" * (V1_MAX - 12)) is None
    assert judged(b"PROXY TCP4 " + b"1" * (V1_MAX - 11)) == "fault"


def test_the_checksum_is_that_of_rfc_3720() -> None:
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA


HEADERS = [*GOOD, *BAD]


@given(st.integers(0, len(HEADERS) - 1), st.binary(max_size=40), st.data())
@settings(deadline=None)
def test_any_cut_gives_the_same(which: int, behind: bytes, data: st.DataObject) -> None:
    """Read as a session does: what has come so far is judged anew with each piece, and the first judgement holds."""
    whole = HEADERS[which] + behind
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=6)))
    first = next((found for end in cuts if (found := judged(whole[:end])) is not None), judged(whole))
    assert first == judged(whole)


def test_random_octets_are_faults_or_headers_and_nothing_worse() -> None:
    chance = random.Random(20261122)
    for _ in range(20_000):
        base = bytearray(chance.choice((b"PROXY TCP4 ", SIGNATURE + b"\x21\x11\0", SIGNATURE, *GOOD)))
        for _ in range(chance.randrange(4)):
            base[chance.randrange(len(base))] = chance.randrange(256)
        judged(bytes(base) + chance.randbytes(chance.randrange(40)))
