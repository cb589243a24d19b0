# SPDX-License-Identifier: Apache-2.0
"""A message as octets: our trace fields, the header section, and the rest.

Promises: `trace + header + body` is what the next hop gets; nothing here changes an octet of header or body.
RFCs: 5322 §2.2 (fields and folding), 5321 §4.4 (trace).
Not here: reading DATA (`edge/content.py`), signatures (`auth/`).
"""

import re
from collections.abc import Iterator
from functools import cached_property
from itertools import islice
from pathlib import Path

from gateway.mail.value import value

CHUNK = 256 << 10

# RFC 5322 §2.2.3: a field goes on as long as the next line begins with a blank
_FIELD_END = re.compile(rb"\r\n(?![ \t])")


@value(frozen=True, slots=True)
class Field:
    """One header field: `raw` holds all its octets, folds and final CRLF included."""

    name: bytes
    raw: bytes

    @property
    def value(self) -> bytes:
        """What stands behind the colon, folds kept, without the final CRLF."""
        return self.raw.partition(b":")[2].rstrip(b"\r\n")

    @property
    def unfolded(self) -> bytes:
        """The value on one line, without surrounding blanks (RFC 5322 §2.2.3)."""
        return self.value.replace(b"\r\n", b"").strip(b" \t")


@value(frozen=True, slots=True)
class FileBody:
    """The part of a file from `offset` on, `size` octets long. The file is complete and does not change."""

    path: Path
    offset: int
    size: int


@value(frozen=True)
class Message:
    """`header` ends with the CRLF of the last field; `body` begins with the empty line that ends the header."""

    trace: bytes
    header: bytes
    body: bytes | FileBody

    @classmethod
    def parse(cls, content: bytes) -> "Message":
        """Split content that is in memory."""
        end = header_end(content)
        return cls(b"", content[:end], content[end:])

    @property
    def body_size(self) -> int:
        return len(self.body) if isinstance(self.body, bytes) else self.body.size

    @property
    def size(self) -> int:
        """Octets that the next hop gets, dot-stuffing not counted (RFC 1870 §3)."""
        return len(self.trace) + len(self.header) + self.body_size

    @cached_property
    def fields(self) -> tuple[Field, ...]:
        """The header fields below our trace, from the top."""
        return tuple(parse_fields(self.header))

    @cached_property
    def is_8bit(self) -> bool:
        """True if any octet is above 127. Reads the file of a large message: call it in a thread."""
        return not all(chunk.isascii() for chunk in self.chunks())

    def values(self, name: bytes) -> list[bytes]:
        """Unfolded values of all fields of that name, from the top; the case of the name does not count."""
        wanted = name.lower()
        return [field.unfolded for field in self.fields if field.name.lower() == wanted]

    def chunks(self, size: int = CHUNK) -> Iterator[bytes]:
        """All octets in order. Reads a file for a large message: call it in a thread."""
        yield self.trace + self.header
        yield from self.body_chunks(size)

    def body_chunks(self, size: int = CHUNK) -> Iterator[bytes]:
        """The octets from the empty line on."""
        if isinstance(self.body, bytes):
            if self.body:
                yield self.body
            return
        left = self.body.size
        with self.body.path.open("rb") as file:
            file.seek(self.body.offset)
            while left:
                chunk = file.read(min(size, left))
                if not chunk:
                    raise OSError(f"{self.body.path}: {left} octets are missing at the end")
                left -= len(chunk)
                yield chunk

    def read(self) -> bytes:
        """Everything in one bytes object. Reads a file for a large message: call it in a thread."""
        return b"".join(self.chunks())

    def with_trace(self, trace: bytes) -> "Message":
        """The same message with more trace fields on top."""
        return Message(trace + self.trace, self.header, self.body)


def header_end(content: bytes | bytearray) -> int:
    """Where the header section ends: behind the CRLF of its last field."""
    if content.startswith(b"\r\n"):
        return 0
    at = content.find(b"\r\n\r\n")
    return len(content) if at < 0 else at + 2


def find_values(header: bytes, name: bytes, most: int) -> list[bytes]:
    """Unfolded values of the first `most` fields of that name, found without splitting the header: cheap for a huge one."""
    # RFC 5322 §2.2: field = name *WSP ":" value CRLF; a CRLF with a blank behind it belongs to the value
    field = re.compile(rb"\r\n" + re.escape(name.lower()) + rb"[ \t]*+:([^\r]*+(?:\r(?!\n(?![ \t]))[^\r]*+)*+)")
    found = islice(field.finditer(b"\r\n" + header.lower()), most)  # in lower case: a literal is searched for much faster
    values = (header[match.start(1) - 2 : match.end(1) - 2] for match in found)
    return [value.rstrip(b"\r\n").replace(b"\r\n", b"").strip(b" \t") for value in values]


def field_end(header: bytes, at: int) -> int:
    """Where the field that holds the octet `at` ends: behind its CRLF, folds included."""
    found = _FIELD_END.search(header, at)
    return found.end() if found else len(header)


def parse_fields(header: bytes) -> Iterator[Field]:
    """Fields of a header section. A line without a colon becomes a field with an empty name: no octet is lost."""
    start = 0
    for found in _FIELD_END.finditer(header):
        yield _field(header[start : found.end()])
        start = found.end()
    if start < len(header):
        yield _field(header[start:])


def _field(raw: bytes) -> Field:
    end = raw.find(b"\r\n")
    colon = raw.find(b":", 0, end if end >= 0 else len(raw))  # a colon further down is not the name's
    return Field(raw[:colon].rstrip(b" \t") if colon >= 0 else b"", raw)
