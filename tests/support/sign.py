# SPDX-License-Identifier: Apache-2.0
"""Signs messages for tests: RSA and Ed25519, every canonicalisation, and every way to do it wrong.

It shares no code with `gateway.auth`: canonicalisation is written a second time here, slowly and after the letter of
RFC 6376 §3.4, so that an error has to be made twice to go unnoticed. RSA PKCS#1 v1.5 and Ed25519 are deterministic: the
same call gives the same octets.
"""

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.hashes import SHA1, SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

KEYS = Path(__file__).parent.parent / "data" / "dkim" / "keys"
DOMAIN = "example.test"
_SIGNATURE = re.compile(r"\s*\{(?:b|p\}.*\{q)\}\s*(?=;|$)", re.S)
NAMES = ("From", "To", "Subject", "Date")


@dataclass(frozen=True)
class SigningKey:
    """A private key from tests/data/dkim/keys; the file's name is also its selector."""

    name: str
    private: RSAPrivateKey | Ed25519PrivateKey

    @property
    def type(self) -> str:
        return "rsa" if isinstance(self.private, RSAPrivateKey) else "ed25519"

    @property
    def public(self) -> str:
        """p= of the key record."""
        if isinstance(self.private, RSAPrivateKey):
            form = Encoding.DER, PublicFormat.SubjectPublicKeyInfo
        else:
            form = Encoding.Raw, PublicFormat.Raw
        return base64.b64encode(self.private.public_key().public_bytes(*form)).decode()

    @property
    def bare_public(self) -> str:
        """p= as the RSAPublicKey that RFC 6376 §3.6.1 names."""
        return base64.b64encode(self.private.public_key().public_bytes(Encoding.DER, PublicFormat.PKCS1)).decode()

    @property
    def record(self) -> str:
        return f"v=DKIM1; k={self.type}; p={self.public}"

    def where(self, domain: str = DOMAIN) -> str:
        return f"{self.name}._domainkey.{domain}"

    def sign(self, data: bytes, *, sha1: bool = False) -> bytes:
        if isinstance(self.private, RSAPrivateKey):
            return self.private.sign(data, PKCS1v15(), SHA1() if sha1 else SHA256())  # noqa: S303
        return self.private.sign(hashlib.sha256(data).digest())


@cache
def load(name: str) -> SigningKey:
    key = load_pem_private_key((KEYS / f"{name}.pem").read_bytes(), None)
    assert isinstance(key, (RSAPrivateKey, Ed25519PrivateKey))
    return SigningKey(name, key)


# --- canonicalisation, slowly


def canonical_body(body: bytes, how: str) -> bytes:
    """RFC 6376 §3.4.3 and §3.4.4, line by line."""
    lines = body.split(b"\r\n")
    if how == "relaxed":
        lines = [re.sub(rb"[ \t]+", b" ", line).rstrip(b" ") for line in lines]
    while lines and not lines[-1]:
        lines.pop()
    if not lines:
        return b"" if how == "relaxed" else b"\r\n"
    return b"".join(line + b"\r\n" for line in lines)


def canonical_field(field: bytes, how: str) -> bytes:
    """RFC 6376 §3.4.1 and §3.4.2."""
    if how == "simple":
        return field
    name, value = field.split(b":", 1)
    value = re.sub(rb"[ \t]+", b" ", value.replace(b"\r\n", b"")).strip(b" ")
    return name.strip(b" \t").lower() + b":" + value + b"\r\n"


def split(content: bytes) -> tuple[list[bytes], bytes]:
    """Header fields and body; the empty line belongs to neither."""
    header, _, body = content.partition(b"\r\n\r\n")
    return [field + b"\r\n" for field in re.split(rb"\r\n(?![ \t])", header.removesuffix(b"\r\n"))], body


def select(fields: Sequence[bytes], names: Sequence[str]) -> list[bytes]:
    """RFC 6376 §5.4.2: the last one that is left, for each mention of a name."""
    left = list(fields)
    chosen = []
    for name in names:
        for at in reversed(range(len(left))):
            if left[at].split(b":", 1)[0].strip(b" \t").lower() == name.strip().lower().encode():
                chosen.append(left.pop(at))
                break
    return chosen


# --- signing


def sign(
    content: bytes,
    key: SigningKey,
    *,
    canon: str = "relaxed/relaxed",
    names: Sequence[str] = NAMES,
    length: int | None = None,
    tags: Mapping[str, str | None] | None = None,
    form: str = "",
    hashed_body: bytes | None = None,
    sha1: bool = False,
) -> bytes:
    """The DKIM-Signature field for `content`.

    `tags` changes, adds or (None) drops tags; `form` replaces the whole text of the field, with {bh}, {b} and {p} (the first
    half of b) and {q} (the other half) in it. `canon` and `names` say what is really done, whatever the tags claim.
    `hashed_body` stands for the body when its hash is made.
    """
    header_canon, _, body_canon = canon.partition("/")
    fields, body = split(content)
    digest = hashlib.sha1 if sha1 else hashlib.sha256
    canonical = canonical_body(body if hashed_body is None else hashed_body, body_canon or "simple")[:length]
    bh = base64.b64encode(digest(canonical).digest()).decode()
    form = form or _form(key, canon, names, length, tags or {})
    data = b"".join(canonical_field(field, header_canon) for field in select(fields, names))
    emptied = _fill(_SIGNATURE.sub("", form), bh, "")  # RFC 6376 §3.7: white space around the value goes with it
    data += canonical_field(emptied, header_canon).removesuffix(b"\r\n")
    return _fill(form, bh, base64.b64encode(key.sign(data, sha1=sha1)).decode())


def _form(key: SigningKey, canon: str, names: Sequence[str], length: int | None, changes: Mapping[str, str | None]) -> str:
    tags: dict[str, str | None] = {
        "v": "1",
        "a": f"{key.type}-sha256",
        "c": canon,
        "d": DOMAIN,
        "s": key.name,
        "l": None if length is None else str(length),
        "h": ":".join(names),
        "bh": "{bh}",
        "b": "{b}",
        **changes,
    }
    return "DKIM-Signature: " + ";\r\n\t".join(f"{name}={value}" for name, value in tags.items() if value is not None) + "\r\n"


def _fill(form: str, bh: str, b: str) -> bytes:
    half = len(b) // 2
    return form.format(bh=bh, b=b, p=b[:half], q=b[half:]).encode()
