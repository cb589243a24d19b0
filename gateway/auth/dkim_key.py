# SPDX-License-Identifier: Apache-2.0
"""The key of a DKIM signature: TXT record → public key, and the verification with it.

Promises: no key costs more than a 4,096-bit RSA operation.
Fails with: `Unverifiable` for a record that is no key for this signature.
RFCs: 6376 §3.6.1 (record), §6.1.2 (checks, in that order), 8301 §3.2 (sizes), 8463 §4 (Ed25519), 3279 (RSA encodings).
Not here: the lookup (`dkim.py`).
"""

from collections.abc import Mapping
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key

from gateway.auth.dkim_signature import Signature, Unverifiable, read_base64, read_tags

RSA_MIN = 1024  # bits; RFC 8301 §3.2: smaller keys MUST NOT verify
RSA_MAX = 4096  # bits; RFC 8301 §3.2: must be able to go so far, and need not go further
EXPONENT_MAX = 1 << 64  # what OpenSSL allows with large moduli; 65537 is what is used

_PADDING = PKCS1v15()
_HASH = Prehashed(SHA256())


@dataclass(frozen=True, slots=True)
class Key:
    """A key that fits the signature it was parsed for. `testing` is t=y of the record."""

    public: RSAPublicKey | Ed25519PublicKey
    bits: int
    testing: bool

    def verifies(self, signature: bytes, digest: bytes) -> bool:
        """Is `signature` one of the SHA-256 `digest`? RFC 8463 §3: Ed25519 signs the digest as if it were the message."""
        try:
            if isinstance(self.public, RSAPublicKey):
                self.public.verify(signature, digest, _PADDING, _HASH)
            else:
                self.public.verify(signature, digest)
        except (InvalidSignature, ValueError):
            return False
        return True


def parse_key(record: bytes, signature: Signature) -> Key:
    """The checks of RFC 6376 §6.1.2 on one TXT record."""
    tags = read_tags(record)
    if b"v" in tags and (next(iter(tags)) != b"v" or tags[b"v"] != b"DKIM1"):  # RFC 6376 §3.6.1: first, and this
        raise Unverifiable("permerror", "key record has another version")
    if b"p" not in tags:
        raise Unverifiable("permerror", "key record without p=")
    if not _listed(tags, b"s", {b"*", b"email"}):
        raise Unverifiable("permerror", "key is not for email")
    if not _listed(tags, b"h", {b"sha256"}):
        raise Unverifiable("permerror", "key does not allow sha256")
    if not tags[b"p"]:
        raise Unverifiable("permerror", "key revoked")
    if tags.get(b"k", b"rsa").lower().decode("ascii", "replace") != signature.key_type:
        raise Unverifiable("permerror", "key is of another type than the signature")
    flags = _words(tags.get(b"t", b""))
    if b"s" in flags and signature.identity_domain != signature.domain:  # RFC 6376 §3.6.1, t=s
        raise Unverifiable("permerror", "key is for i= in d= itself only")
    octets = read_base64(tags[b"p"], "key")
    public = _load_rsa(octets) if signature.key_type == "rsa" else _load_ed25519(octets)
    return Key(public, public.key_size if isinstance(public, RSAPublicKey) else 256, b"y" in flags)


def _listed(tags: Mapping[bytes, bytes], name: bytes, wanted: set[bytes]) -> bool:
    """A tag that is absent allows everything."""
    return name not in tags or not wanted.isdisjoint(_words(tags[name]))


def _words(value: bytes) -> set[bytes]:
    return {word.strip().lower() for word in value.split(b":")}


def _load_rsa(octets: bytes) -> RSAPublicKey:
    """SubjectPublicKeyInfo, which everyone publishes, or the bare RSAPublicKey that RFC 6376 §3.6.1 names."""
    try:
        public = load_der_public_key(octets)
    except (ValueError, UnsupportedAlgorithm) as err:
        raise Unverifiable("permerror", "key cannot be read") from err
    if not isinstance(public, RSAPublicKey):
        raise Unverifiable("permerror", "key is of another type than the signature")
    if public.key_size < RSA_MIN:
        raise Unverifiable("permerror", f"key of {public.key_size} bits is too small")
    if public.key_size > RSA_MAX or public.public_numbers().e > EXPONENT_MAX:
        raise Unverifiable("policy", f"key of {public.key_size} bits is too large")
    return public


def _load_ed25519(octets: bytes) -> Ed25519PublicKey:
    try:
        return Ed25519PublicKey.from_public_bytes(octets)
    except ValueError as err:
        raise Unverifiable("permerror", "key cannot be read") from err
