# SPDX-License-Identifier: Apache-2.0
"""Make an Ed25519 DKIM signature: for the signed sample of the development mode.

Promises: one DKIM-Signature field, relaxed/relaxed, over the fields that a reader sees, each named once more than it occurs.
RFCs: 8463 (Ed25519), 6376 §5.4.2 (oversigning).
Not here: checking signatures (`dkim.py`), which does without dkimpy: a daemon need not load it.

dkimpy's own canonicalisation takes quadratic time on runs of blanks; `install` puts our linear one in its place.
"""

import base64
import os
from dataclasses import dataclass

import dkim as dkimpy
import dkim.canonicalization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gateway.auth.dkim_canon import collapse, strip_line_ends

SIGNED = (b"from", b"to", b"subject", b"date", b"message-id")


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private key (32 octets) for `domain`, published under `selector`."""

    domain: str
    selector: str
    seed: bytes

    @classmethod
    def generate(cls, domain: str, selector: str) -> "SigningKey":
        return cls(domain, selector, os.urandom(32))

    @property
    def record_name(self) -> str:
        """Where the TXT record belongs (RFC 6376 §3.6.2.1)."""
        return f"{self.selector}._domainkey.{self.domain}"

    @property
    def record(self) -> bytes:
        """The TXT record (RFC 8463 §4)."""
        public = Ed25519PrivateKey.from_private_bytes(self.seed).public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        return b"v=DKIM1; k=ed25519; p=" + base64.b64encode(public)


def sign(content: bytes, key: SigningKey) -> bytes:
    """The DKIM-Signature field for a message in wire octets, with its final CRLF."""
    field: bytes = dkimpy.sign(
        content,
        key.selector.encode(),
        key.domain.encode(),
        base64.b64encode(key.seed),
        canonicalize=(b"relaxed", b"relaxed"),
        signature_algorithm=b"ed25519-sha256",
        include_headers=[*SIGNED, *SIGNED],
    )
    return field


# --- in place of dkimpy's


def _strip_trailing_whitespace(content: bytes) -> bytes:
    return collapse(content).replace(b" \r\n", b"\r\n")  # compress_whitespace is always called next


def _strip_trailing_lines(content: bytes) -> bytes:
    return strip_line_ends(content) + b"\r\n"


_REPLACED = {
    "strip_trailing_whitespace": _strip_trailing_whitespace,
    "compress_whitespace": collapse,
    "strip_trailing_lines": _strip_trailing_lines,
}


def install() -> None:
    """Replace dkimpy's quadratic functions. Raises ImportError when dkimpy has changed and no longer has them."""
    for name, function in _REPLACED.items():
        if not callable(getattr(dkim.canonicalization, name, None)):
            raise ImportError(f"dkim.canonicalization has no function {name}: this version of dkimpy is not known")
        setattr(dkim.canonicalization, name, function)


install()
