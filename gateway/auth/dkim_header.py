# SPDX-License-Identifier: Apache-2.0
"""The header section as DKIM sees it: which fields a signature covers, and their hash.

Promises: selection is linear in header and h= together; each field is canonicalised once, however many signatures cover it.
Fails with: nothing.
RFCs: 6376 §3.7 (hash), §5.4.2 (repeated fields are taken from the bottom), §8.15 (more than one From).
Not here: canonicalisation itself (`dkim_canon.py`).
"""

import hashlib
from collections.abc import Iterator, Sequence

from gateway.auth.dkim_canon import relaxed_field, simple_field, without_signature
from gateway.auth.dkim_signature import Signature
from gateway.mail.message import Field

SIGNATURE = b"dkim-signature"


class SignedHeader:
    """The fields of one message, indexed by name. An index counts fields from the top."""

    def __init__(self, fields: Sequence[Field]) -> None:
        self.fields = fields
        self._relaxed: dict[int, bytes] = {}
        self._places: dict[bytes, list[int]] = {}
        for index, field in enumerate(fields):
            self._places.setdefault(field.name.lower(), []).append(index)

    def places(self, name: bytes) -> Sequence[int]:
        """Indexes of the fields with that lower-case name, from the top."""
        return self._places.get(name, ())

    def digest(self, signature: Signature, index: int) -> bytes:
        """The hash that the signature in field `index` must be one of."""
        hasher = hashlib.sha256()
        for place in self._covered(signature.names, index):
            hasher.update(self._relaxed_field(place) if signature.relaxed_header else simple_field(self.fields[place].raw))
        # RFC 6376 §3.7: the signature itself comes last, its b= emptied, without the final CRLF
        own = without_signature(self.fields[index].raw)
        hasher.update(relaxed_field(own).removesuffix(b"\r\n") if signature.relaxed_header else own)
        return hasher.digest()

    def _covered(self, names: Sequence[bytes], own: int) -> Iterator[int]:
        """Places in the order of h=. A name beyond the last field of that name stands for nothing (§5.4.2)."""
        left: dict[bytes, Iterator[int]] = {}
        for name in names:
            if name not in left:
                left[name] = iter(reversed(self._places.get(name, ())))
            place = next(left[name], None)
            if place == own:  # RFC 6376 §3.5, h=: never the signature that is being verified
                place = next(left[name], None)
            if place is not None:
                yield place

    def _relaxed_field(self, place: int) -> bytes:
        canonical = self._relaxed.get(place)
        if canonical is None:
            canonical = self._relaxed[place] = relaxed_field(self.fields[place].raw)
        return canonical
