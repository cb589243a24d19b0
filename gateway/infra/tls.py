# SPDX-License-Identifier: Apache-2.0
"""The door to `ssl`: contexts for the servers that we are and the servers that we speak to.

Promises: TLS 1.2 or newer, no compression, no renegotiation; what a context cannot be made of is named with its file.
Fails with: `TlsFault`.
RFCs: 8996 (no TLS 1.0 and 1.1), 9325 §3 and §4.2 (what to switch off, which ciphers), 7672 §8.2 (names sent along).
Not here: which TLS a next hop must have (`delivery/`), when a session uses it (`edge/`).
"""

import ssl
from functools import lru_cache
from pathlib import Path

# RFC 9325 §4.2: forward secrecy and authenticated encryption. What opportunistic TLS would refuse goes in clear,
# so for delivery anything that OpenSSL still thinks secure is better than nothing.
SERVER_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20:DHE+AESGCM:DHE+CHACHA20:!aNULL:!eNULL:!PSK:!SRP"


class TlsFault(Exception):
    """A certificate, key or their combination cannot be used."""


def server_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """For listeners. Reads both files; raises TlsFault naming the one that is at fault."""
    for path, what in ((certificate, "certificate"), (key, "key")):
        _readable(path, what)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _harden(context)
    context.set_ciphers(SERVER_CIPHERS)
    try:
        context.load_cert_chain(certificate, key, password=_no_password)
    except ssl.SSLError as err:
        raise TlsFault(_reason(err, certificate, key)) from err
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
    if b"-----BEGIN CERTIFICATE-----" not in certificate.read_bytes():
        return f"certificate {certificate} is not a PEM certificate"
    if b"PRIVATE KEY-----" not in key.read_bytes():
        return f"key {key} is not a PEM private key"
    return f"certificate {certificate} and key {key} cannot be used: {err.reason or err}"
