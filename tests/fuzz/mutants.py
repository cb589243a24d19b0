# SPDX-License-Identifier: Apache-2.0
"""What a client may say to an SMTP server when nothing keeps it from saying anything: the dialogues, spoilt by chance.

Promises: the same seed gives the same octets; they are `MOST` at most, but for one in some hundred that is very long.
"""

import random
import struct
from functools import cache
from ipaddress import ip_address
from pathlib import Path

from hypothesis import strategies as st

from gateway.edge.proxy import SIGNATURE
from tests.support import dialogue, logins

FOLDER = Path(__file__).parent.parent / "dialogues"
MOST = 12_000
Segments = list[bytes]

# What means something to a server stands where it should not far more often than chance would have it.
_ENDS = (b"\r\n", b"\r", b"\n", b"\r\n.\r\n", b"\r\n..\r\n", b"\n.\n", b".", b"\r\n\r\n")
_OCTETS = (b"\x00", b" ", b"\t", b"\x7f", b"\xff\xc3", b"\x1b[0m", "bücher".encode(), "\u202e".encode())
_LINES = (
    *(b"EHLO client.example", b"HELO x", b"MAIL FROM:<>", b"MAIL FROM:<a@b.example> SIZE=10 BODY=8BITMIME"),
    *(b"MAIL FROM:<ann@b.example>", b"RCPT TO:<c@dest.example> NOTIFY=NEVER", b"RCPT TO:<no-one@dest.example>"),
    *(b"RCPT TO:<later@dest.example> ORCPT=rfc822;a+2Bb", b"DATA", b"BDAT 0", b"BDAT 7", b"BDAT 5 LAST", b"BDAT 0 LAST"),
    *(b"BDAT 18446744073709551616 LAST", b"RSET", b"NOOP", b"QUIT", b"STARTTLS", b"AUTH LOGIN", b"*", b"="),
    *(b"AUTH PLAIN", b"AUTH PLAIN =", b"VRFY x", b"HELP", b"XCLIENT ADDR=192.0.2.7 NAME=h.example"),
    *(b"XCLIENT ADDR=IPV6:2001:db8::1 LOGIN=ann", b"XCLIENT HELO=+5B", b"GET / HTTP/1.1"),
    *(b"PROXY TCP4 192.0.2.1 192.0.2.2 4000 25", b"From: ann@b.example", b"Authentication-Results: mx.example.test; spf=pass"),
)
_LOGINS = (logins.plain("ann", "sesame"), logins.plain("ann", "wrong"))
_ALIEN = (SIGNATURE, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
TOKENS = (*_ENDS, *_OCTETS, *(line + b"\r\n" for line in _LINES), *_LOGINS, *_ALIEN)


def proxied(family: int, addresses: bytes, values: bytes = b"", *, local: bool = False) -> bytes:
    """A PROXY header of version 2."""
    return (
        SIGNATURE + bytes([0x20 if local else 0x21, family]) + struct.pack("!H", len(addresses + values)) + addresses + values
    )


_FOUR = ip_address("192.0.2.1").packed + ip_address("192.0.2.2").packed + struct.pack("!HH", 4000, 25)
_SIX = ip_address("2001:db8::1").packed + ip_address("2001:db8::2").packed + struct.pack("!HH", 4000, 25)
HEADERS = (
    b"PROXY TCP4 192.0.2.1 192.0.2.2 4000 25\r\n",
    b"PROXY TCP6 2001:db8::1 2001:db8::2 4000 25\r\n",
    b"PROXY UNKNOWN\r\n",
    proxied(0x11, _FOUR),
    proxied(0x21, _SIX),
    proxied(0x11, _FOUR, b"\x04\x00\x09" + bytes(9) + b"\x01\x00\x02h2"),
    proxied(0x31, bytes(216)),
    proxied(0x00, b"", local=True),
)


@cache
def corpus() -> dict[str, Segments]:
    """Each dialogue by name: what its client says, and says behind the handshake if there is one."""
    found = {}
    for path in sorted(FOLDER.glob("*.smtp")):
        steps = dialogue.parse(path).steps
        behind = max((at for at, step in enumerate(steps) if step.kind == "starttls"), default=-1)
        if said := [step.octets for step in steps[behind + 1 :] if step.kind == "C"]:
            found[path.stem] = said
    return found


def made(chance: random.Random, *liked: str) -> bytes:
    """What one client says. Half of the time it began as a dialogue whose name begins with one of `liked`."""
    all_of_them = corpus()
    names = [name for name in all_of_them if name.startswith(liked)] if liked and chance.random() < 0.6 else list(all_of_them)
    said = list(all_of_them[chance.choice(names)])
    if chance.random() < 0.3:  # two in one, in their order
        said += all_of_them[chance.choice(names)]
    if chance.random() < 0.99:
        said = [segment[:MOST] for segment in said]
    for _ in range(chance.choice((0, 1, 1, 2, 3, 5, 8))):
        chance.choice(_OF_LINES)(chance, said)
    octets = bytearray(b"".join(said))
    for _ in range(chance.choice((0, 0, 1, 1, 2, 4, 8))):
        chance.choice(_OF_OCTETS)(chance, octets)
    return bytes(octets) if chance.random() < 0.01 else bytes(octets[:MOST])


# --- ways to spoil it, line by line


def _swap(chance: random.Random, said: Segments) -> None:
    one, two = chance.randrange(len(said) or 1), chance.randrange(len(said) or 1)
    if said:
        said[one], said[two] = said[two], said[one]


def _again(chance: random.Random, said: Segments) -> None:
    if said:
        at = chance.randrange(len(said))
        said[at:at] = said[at : at + chance.randrange(1, 4)] * chance.choice((1, 1, 1, 5))


def _without(chance: random.Random, said: Segments) -> None:
    if said:
        at = chance.randrange(len(said))
        del said[at : at + chance.choice((1, 1, 1, 3))]


def _add(chance: random.Random, said: Segments) -> None:
    said.insert(chance.randrange(len(said) + 1), chance.choice(TOKENS))


def _splice(chance: random.Random, said: Segments) -> None:
    other = chance.choice(list(corpus().values()))
    said[chance.randrange(len(said) + 1) :] = other[chance.randrange(len(other)) :]


def _shuffle(chance: random.Random, said: Segments) -> None:
    at = chance.randrange(len(said) or 1)
    some = said[at : at + 5]
    chance.shuffle(some)
    said[at : at + 5] = some


# --- and octet by octet


def _flip(chance: random.Random, octets: bytearray) -> None:
    if octets:
        octets[chance.randrange(len(octets))] ^= 1 << chance.randrange(8)


def _insert(chance: random.Random, octets: bytearray) -> None:
    at = chance.randrange(len(octets) + 1)
    octets[at:at] = chance.choice(TOKENS)


def _run(chance: random.Random, octets: bytearray) -> None:
    at = chance.randrange(len(octets) + 1)
    octets[at:at] = chance.choice(
        (b"A", b".", b" ", b"\r", b"\n", b"\r\n", b"=", b"@", b"<", b"a:\r\n", b"\x00")
    ) * chance.choice((3, 70, 513, 2050))


def _lose(chance: random.Random, octets: bytearray) -> None:
    at = chance.randrange(len(octets) + 1)
    del octets[at : at + chance.choice((1, 1, 2, 5, 40))]


def _double(chance: random.Random, octets: bytearray) -> None:
    at = chance.randrange(len(octets) + 1)
    octets[at:at] = octets[at : at + chance.choice((1, 2, 5, 40, 200))]


def _end(chance: random.Random, octets: bytearray) -> None:
    del octets[chance.randrange(len(octets) + 1) :]


def _case(chance: random.Random, octets: bytearray) -> None:
    at = chance.randrange(len(octets) + 1)
    octets[at : at + 9] = octets[at : at + 9].swapcase()


def _noise(chance: random.Random, octets: bytearray) -> None:
    at = chance.randrange(len(octets) + 1)
    octets[at:at] = chance.randbytes(chance.choice((1, 4, 30)))


_OF_LINES = (_swap, _again, _without, _add, _add, _add, _splice, _shuffle)
_OF_OCTETS = (_flip, _flip, _insert, _insert, _run, _lose, _double, _end, _case, _noise)


def sizes(chance: random.Random, length: int) -> list[int]:
    """How the network cuts so many octets: in one, in some, or octet by octet, but never in very many."""
    how = chance.random()
    if how < 0.25:
        return [length]
    least = 1 if how < 0.5 and length <= 400 else max(1, length // 100)
    return [least if how < 0.6 else chance.randrange(least, 4 * least + 200) for _ in range(450)]


# --- words of a grammar in any order


def some(*words: str) -> st.SearchStrategy[bytes]:
    """For hypothesis."""
    return st.lists(st.sampled_from(words) | st.text(max_size=3), max_size=12).map(
        lambda drawn: "".join(drawn).encode("utf-8", "replace")
    )


def spoilt(chance: random.Random, words: tuple[str, ...]) -> bytes:
    """For the seeded fuzzers, with a wrong octet now and then."""
    octets = bytearray("".join(chance.choice(words) for _ in range(chance.randrange(9))).encode())
    for _ in range(chance.choice((0, 0, 1, 2))):
        at = chance.randrange(len(octets) + 1)
        octets[at : at + chance.randrange(2)] = chance.randbytes(1)
    return bytes(octets)
