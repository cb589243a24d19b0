# SPDX-License-Identifier: Apache-2.0
"""Messages of all shapes, each with an address pair, for tests of octets in = octets out.

Each has a Subject "shape-N" by which the received copy is found. Shapes that Postfix itself would rewrite on reception
(a blank before the colon of a field) are left to the scripted sink's tests.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass

MIB = 1 << 20


@dataclass(frozen=True)
class Shape:
    """`content` in wire octets before dot-stuffing."""

    marker: str
    sender: str
    recipient: str
    content: bytes
    smtputf8: bool = False
    eight_bit: bool = False


def _head(marker: str, extra: bytes = b"") -> bytes:
    return b"From: <a@origin.example>\r\nSubject: " + marker.encode() + b"\r\n" + extra


def _bodies(dice: random.Random) -> Iterator[tuple[bytes, bytes]]:
    """(extra header fields, what follows the header)."""
    yield b"", b"\r\nplain\r\n"
    yield b"", b""  # no empty line, no body
    yield b"", b"\r\n"  # an empty body
    yield b"", b"\r\n\r\n\r\n"
    yield b"", b"\r\n.\r\n"  # a lone dot
    yield b"", b"\r\n..\r\n.a\r\n...\r\n.\r\n"
    yield b"", b"\r\n" + b".\r\n" * 500
    yield b"", b"\r\n" + b"x" * 10_000 + b"\r\n"
    yield b"", b"\r\n" + b"." * 9_999 + b"\r\n"
    yield b"", b"\r\nlast line\r\n" + b"y" * 998 + b"\r\n"
    yield b"", b"\r\n" + "Größe, 日本語, emoji 🎈\r\n".encode()
    yield b"", b"\r\n" + bytes(range(128, 256)) * 20 + b"\r\n"
    yield b"", b"\r\n" + b"".join(bytes([c]) for c in range(1, 32) if c not in (10, 13)) + b"\r\n"
    yield b"X-Folded: one\r\n two\r\n\tthree\r\n", b"\r\nfolds\r\n"
    yield b"X-Odd: \r\n \r\n  far\r\n", b"\r\nblank fold\r\n"
    yield b"X-Tab:\tvalue\r\nX-None:value\r\nX-Empty:\r\n", b"\r\nodd fields\r\n"
    yield b"x-CASE: a\r\nX-case: b\r\nx-case: a\r\n", b"\r\nrepeated\r\n"
    yield b"X-Long: " + b"z" * 9_000 + b"\r\n", b"\r\nlong field\r\n"
    yield b"X-Many: " + b"\r\n ".join(b"part%d" % n for n in range(400)) + b"\r\n", b"\r\nmany folds\r\n"
    yield b"".join(b"X-%d: v\r\n" % n for n in range(300)), b"\r\nmany fields\r\n"
    yield b"X-Utf: " + "Grüße".encode() + b"\r\n", b"\r\nraw utf-8 in a field\r\n"
    yield b"MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n", b"\r\n--b\r\n\r\npart\r\n--b--\r\n"
    yield b"", b"\r\n" + dice.randbytes(30_000).hex().encode() + b"\r\n"
    yield b"", b"\r\n \t \r\ntrailing blanks   \r\n\t\r\n"
    yield b"", b"\r\nFrom the start\r\n>From quoted\r\n"


def shapes(count: int) -> list[Shape]:
    """`count` messages: every body in turn, over plain and odd addresses; some with random bodies."""
    dice = random.Random(5321)
    made: list[Shape] = []
    bodies = list(_bodies(dice))
    senders = ["a@origin.example", "", "a+tag=x@origin.example", "o'neil@origin.example", '"a b"@origin.example']
    recipients = ["box@dest.example", "BOX@Dest.Example", "b.o.x@dest.example", "box_1@dest.example"]
    for number in range(count):
        marker = f"shape-{number}-"
        extra, rest = bodies[number % len(bodies)]
        if number >= 2 * len(bodies):
            lines = [bytes(dice.choices(b".ab \t\xc3\xa9-", k=dice.randint(0, 1500))) for _ in range(dice.randint(1, 40))]
            rest = b"\r\n" + b"".join(line + b"\r\n" for line in lines)
        content = _head(marker, extra) + rest
        made.append(
            Shape(
                marker,
                senders[number % len(senders)],
                recipients[number % len(recipients)],
                content,
                eight_bit=not content.isascii(),
            )
        )
    utf8 = _head(f"shape-{count}-", b"To: " + "jürgen@dest.example".encode() + b"\r\n") + b"\r\nUTF-8 address\r\n"
    made[-1] = Shape(f"shape-{count}-", "rené@origin.example", "jürgen@dest.example", utf8, smtputf8=True, eight_bit=True)
    return made


def large(size: int = 30 * MIB) -> Shape:
    """One message of at least `size` octets."""
    line = b"0123456789" * 7 + b"\r\n"
    content = _head("shape-large-") + b"\r\n" + line * (size // len(line) + 1)
    return Shape("shape-large-", "a@origin.example", "box@dest.example", content)


def below_trace(received: bytes, marker: str) -> bytes:
    """What stands below our own trace fields in a received copy: from the first field that the client sent."""
    at = received.index(b"From: <a@origin.example>")
    assert marker.encode() in received[at : at + 200]
    return received[at:]
