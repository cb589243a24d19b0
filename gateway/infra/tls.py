# SPDX-License-Identifier: Apache-2.0
"""The door to `ssl`: contexts for the servers that we are and the servers that we speak to.

Promises: TLS 1.2 or newer, no compression, no renegotiation, no tickets, our order of ciphers; a server shows the
certificate that has the name which the client asked for (a wildcard stands for one label), and its first one to all others;
what a context cannot be made of is named with its file.
Fails with: `TlsFault`.
RFCs: 8996 (no TLS 1.0 and 1.1), 9325 §3 and §4.2 (what to switch off, which ciphers), 6066 §3 (SNI), 7672 §8.2 (names sent
along), 9525 §6.3 (wildcards).
Not here: what stands in a certificate (`infra/certificates.py`), which TLS a next hop must have (`delivery/`), when a
session uses it (`edge/`).

Groups are OpenSSL's own, X25519 and P-256 first. There are no tickets because their key would live as long as the daemon, and
whoever got hold of it could read all that was said (RFC 9325 §3.4); a resumption would save half a millisecond in
a connection that brings several mails.
"""

import ssl
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

from gateway.infra.certificates import read_certificate

# RFC 9325 §4.2: forward secrecy and authenticated encryption. What opportunistic TLS would refuse goes in clear,
# so for delivery anything that OpenSSL still thinks secure is better than nothing.
SERVER_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20:DHE+AESGCM:DHE+CHACHA20:!aNULL:!eNULL:!PSK:!SRP"

_MARKS = {"certificate": (b"-----BEGIN CERTIFICATE-----", "certificate"), "key": (b"PRIVATE KEY-----", "private key")}


class TlsFault(Exception):
    """A certificate, key or their combination cannot be used."""


def server_context(
    certificate: Path, key: Path, *, others: Sequence[tuple[Path, Path]] = (), minimum: str = "1.2"
) -> ssl.SSLContext:
    """For listeners. `others` are further certificates with their keys, for clients that ask for one of their names.

    Reads all files; raises TlsFault naming the one that is at fault. `minimum` is "1.2" or "1.3".
    """
    context = _certified(certificate, key, minimum)
    if others:
        # Where two certificates have a name, the first one shows it.
        more = [(host_names(path), _certified(path, its_key, minimum)) for path, its_key in others]
        context.sni_callback = _Choice([(_names(certificate), context), *more]).make
    return context


def file_faults(certificate: Path, key: Path, *, named: bool = False) -> list[tuple[str, str]]:
    """Why a certificate and its key cannot be used: ("certificate" or "key", the reason) for each file that is at fault.

    `named` ones must have names that a client can ask for. Reads both files.
    """
    try:
        server_context(certificate, key)
        if named:
            host_names(certificate)
    except TlsFault as err:
        each = [(what, _alone(path, what)) for path, what in ((certificate, "certificate"), (key, "key"))]
        return [(what, why) for what, why in each if why] or [("certificate", str(err))]
    return []


def host_names(certificate: Path) -> tuple[str, ...]:
    """The names that a certificate is for. Raises TlsFault if it cannot be read or has none."""
    names = _names(certificate)
    if not names:
        raise TlsFault(f"certificate {certificate} has no DNS name (subjectAltName) that a client could ask for")
    return names


def _names(certificate: Path) -> tuple[str, ...]:
    _readable(certificate, "certificate")
    try:
        return read_certificate(certificate).names
    except (OSError, ValueError) as err:  # OSError: it went away since we looked
        raise TlsFault(f"certificate {certificate} is not a PEM certificate") from err


class _Choice:
    """Which context for which name. Asked in the middle of a handshake, so it never raises: that would be an alert."""

    def __init__(self, contexts: Iterable[tuple[Sequence[str], ssl.SSLContext]]) -> None:
        self._contexts: dict[str, ssl.SSLContext] = {}
        for names, context in contexts:
            for name in names:
                self._contexts.setdefault(name, context)

    def make(self, session: ssl.SSLObject | ssl.SSLSocket, name: str | None, _: ssl.SSLContext) -> None:
        """The certificate stays as it is if the client names nothing, or nothing that we know (RFC 6066 §3)."""
        if name is None:
            return
        name = name.lower().rstrip(".")
        chosen = self._contexts.get(name) or self._contexts.get(f"*.{name.partition('.')[2]}")
        if chosen is not None:
            session.context = chosen


def _certified(certificate: Path, key: Path, minimum: str) -> ssl.SSLContext:
    for path, what in ((certificate, "certificate"), (key, "key")):
        _readable(path, what)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _harden(context)
    if minimum == "1.3":
        context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE | ssl.OP_NO_TICKET
    context.num_tickets = 0  # OP_NO_TICKET alone makes TLS 1.3 keep each session in memory
    context.set_ciphers(SERVER_CIPHERS)
    try:
        context.load_cert_chain(certificate, key, password=_no_password)
    except ssl.SSLError as err:
        raise TlsFault(_reason(err, certificate, key)) from err
    except OSError as err:  # renewed at this moment: what could be opened above is not there now
        raise TlsFault(f"certificate {certificate} or key {key} cannot be read: {err.strerror}") from err
    return context


@lru_cache(maxsize=2)
def client_context(*, verify: bool) -> ssl.SSLContext:
    """For next hops, made once: `verify` demands a certificate for the host's name that a known authority signed.

    Without it the connection is encrypted, not authenticated (opportunistic TLS, RFC 7435).
    """
    context = ssl.create_default_context() if verify else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _harden(context)
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.set_ciphers("DEFAULT:@SECLEVEL=1")  # old relays with small keys are many; in clear they would be worse off
    return context


def _harden(context: ssl.SSLContext) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # A renegotiation costs the server far more than the client, and smuggled plaintext once (CVE-2009-3555).
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION


def _alone(path: Path, what: str) -> str:
    """What is wrong with one file, whatever the other is; empty if nothing can be said."""
    try:
        text = path.read_bytes()
    except OSError as err:
        return f"{what} {path} cannot be read: {err.strerror}"
    mark, kind = _MARKS[what]
    return "" if mark in text else f"{what} {path} is not a PEM {kind}"


def _readable(path: Path, what: str) -> None:
    try:
        with path.open("rb"):
            pass
    except OSError as err:
        raise TlsFault(f"{what} {path} cannot be read: {err.strerror}") from err


def _no_password() -> str:
    """Called for an encrypted key only; a daemon cannot ask."""
    raise TlsFault("the key is protected by a passphrase, which a daemon cannot ask for")


def _reason(err: ssl.SSLError, certificate: Path, key: Path) -> str:
    """OpenSSL does not say which file it means, so look what stands in each."""
    if err.reason == "KEY_VALUES_MISMATCH":
        return f"key {key} does not belong to certificate {certificate}"
    return (
        _alone(certificate, "certificate")
        or _alone(key, "key")
        or f"certificate {certificate} and key {key} cannot be used: {err.reason or err}"
    )
