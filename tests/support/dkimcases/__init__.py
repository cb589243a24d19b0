# SPDX-License-Identifier: Apache-2.0
"""The makers of the triples in tests/data/dkim: NN-name.{eml,dns,want}. Written by `python -m tests.support.dkimcases.make`.

A case is a message, what the DNS says, and the result of each signature from the top.

    .dns    NAME TXT text           NAME FAIL (no answer)
    .want   why: section …          now: Unix time at the check          result domain selector | reason
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tests.support.sign import DOMAIN, SigningKey, load, sign

NOW = 1_700_000_000
FAIL = "FAIL"
NO_MATCH = "signature did not verify"
NO_BODY_MATCH = "body hash did not verify"

HEADER = (
    b"Received: from c.example ([192.0.2.1])\r\n\tby b.example; Tue, 14 Nov 2023 22:13:20 +0000\r\n"
    b"Received: from d.example ([192.0.2.2]) by c.example; Tue, 14 Nov 2023 22:13:19 +0000\r\n"
    b"From: Ann <ann@example.test>\r\nTo: Bob <bob@dest.example>\r\nSubject: A  folded\r\n subject\r\n"
    b"Date: Tue, 14 Nov 2023 22:13:18 +0000\r\nMessage-ID: <1@example.test>\r\n"
)
BODY = b"Hello Bob,\r\n\r\n  two  blanks,\ta tab \r\nand an end.\r\n"
CONTENT = HEADER + b"\r\n" + BODY

rsa, ed25519, other = load("rsa1024"), load("ed25519"), load("other")

Dns = Mapping[str, str | list[str]]


@dataclass(frozen=True)
class Case:
    name: str
    why: str
    content: bytes
    dns: Dns
    want: Sequence[str]
    now: int = NOW


def records(*keys: SigningKey) -> Dns:
    return {key.where(): key.record for key in keys}


def signed(content: bytes = CONTENT, key: SigningKey = rsa, **how: object) -> bytes:
    return sign(content, key, **how) + content  # type: ignore[arg-type]


def line(result: str, reason: str = "", key: SigningKey = rsa) -> str:
    return f"{result} {DOMAIN} {key.name} | {reason}".rstrip()


def one(name: str, why: str, content: bytes, want: tuple[str, str] | str = "pass", key: SigningKey = rsa) -> Case:
    """One signature by `key`, which is published. `want` is the result, or the result and its reason."""
    result = (want,) if isinstance(want, str) else want
    return Case(name, why, content, records(key), [line(*result, key=key)])


def tagged(name: str, why: str, want: tuple[str, str] | str = "pass", **tags: str | None) -> Case:
    """A signature over its tags as they stand: nothing is wrong with it but the tags."""
    return one(name, why, signed(tags=tags), want)
