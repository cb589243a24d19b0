# SPDX-License-Identifier: Apache-2.0
"""What a certificate says of itself: for which names it is, and until when.

Promises: names are DNS names of subjectAltName in lower case, A-labels; the common name counts for nothing (RFC 9525 §2).
Fails with: `ValueError` for a file that holds no PEM certificate; `OSError`.
Not here: whether a key belongs to it, and TLS itself (`infra/tls.py`).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509

SOON = 14 * 86400.0  # seconds before its end from which on a certificate is to be renewed at once


@dataclass(frozen=True, slots=True)
class Certificate:
    """The first certificate of a PEM file, which is ours; those behind it lead to its root."""

    path: Path
    names: tuple[str, ...]
    begins: float  # Unix time
    ends: float

    @property
    def label(self) -> str:
        """A short name for it: its first DNS name, else that of its file."""
        return self.names[0] if self.names else self.path.name

    def complaint(self, now: float) -> str:
        """What an operator should do something about; empty if nothing."""
        days = int(abs(self.ends - now) // 86400)
        if now >= self.ends:
            return f"certificate of {self.label} ({self.path}) ended {days} days ago"
        if now < self.begins:
            return f"certificate of {self.label} ({self.path}) is not valid yet"
        return f"certificate of {self.label} ({self.path}) ends in {days} days" if self.ends - now < SOON else ""


def survey(paths: Iterable[Path], now: float) -> tuple[dict[str, float], list[str]]:
    """When certificates end, by their labels (of two with one label, the first to end), and what is wrong with them."""
    ends: dict[str, float] = {}
    complaints = []
    for path in paths:
        try:
            found = read_certificate(path)
        except (OSError, ValueError) as err:
            complaints.append(f"certificate {path} cannot be read: {err}")
            continue
        ends[found.label] = min(found.ends, ends.get(found.label, found.ends))
        complaints += filter(None, [found.complaint(now)])
    return ends, complaints


def read_certificate(path: Path) -> Certificate:
    """Look into a PEM file. Raises ValueError, OSError."""
    found = x509.load_pem_x509_certificate(path.read_bytes())
    try:
        extension = found.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        names = tuple(name.lower().rstrip(".") for name in extension.value.get_values_for_type(x509.DNSName))
    except (x509.ExtensionNotFound, ValueError):  # ValueError: a broken extension; OpenSSL says what it thinks of it
        names = ()
    return Certificate(path, names, found.not_valid_before_utc.timestamp(), found.not_valid_after_utc.timestamp())
