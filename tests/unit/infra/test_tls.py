# SPDX-License-Identifier: Apache-2.0
"""TLS contexts, and how they say what is wrong with a file."""

import ssl
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from gateway.infra.tls import TlsFault, client_context, server_context
from tests.support import certificates


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> certificates.Certificate:
    return certificates.make(tmp_path_factory.mktemp("tls"), "mx.example.test")


def handshake(server: ssl.SSLContext, client: ssl.SSLContext, name: str) -> str | None:
    """Without sockets; the version that was agreed on."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [
        server.wrap_bio(to_server, to_client, server_side=True),
        client.wrap_bio(to_client, to_server, server_hostname=name),
    ]
    for _ in range(10):
        done = 0
        for side in sides:
            try:
                side.do_handshake()
                done += 1
            except ssl.SSLWantReadError:
                pass
        if done == 2:
            break
    return sides[1].version()


def test_our_two_sides_understand_each_other(made: certificates.Certificate) -> None:
    assert handshake(server_context(made.certificate, made.key), client_context(verify=False), "whatever") == "TLSv1.3"


def test_tls_12_with_forward_secrecy_is_taken_and_anything_older_is_not(made: certificates.Certificate) -> None:
    server = server_context(made.certificate, made.key)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    assert handshake(server, client, "x") == "TLSv1.2"
    client.set_ciphers("AES128-SHA")  # RSA key exchange, CBC
    with pytest.raises(ssl.SSLError):
        handshake(server, client, "x")
    assert server.minimum_version == ssl.TLSVersion.TLSv1_2
    assert server.options & ssl.OP_NO_RENEGOTIATION
    assert server.options & ssl.OP_NO_COMPRESSION


def test_a_verifying_client_refuses_a_certificate_that_nobody_vouches_for(made: certificates.Certificate) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(server_context(made.certificate, made.key), client_context(verify=True), "mx.example.test")


def test_contexts_for_next_hops_are_made_once() -> None:
    assert client_context(verify=True) is client_context(verify=True)
    assert client_context(verify=True) is not client_context(verify=False)
    assert client_context(verify=True).check_hostname
    assert client_context(verify=False).minimum_version == ssl.TLSVersion.TLSv1_2


def test_faults_name_the_file(made: certificates.Certificate, tmp_path: Path) -> None:
    missing, junk = tmp_path / "missing.pem", tmp_path / "junk.pem"
    junk.write_text("not PEM at all")
    other = certificates.make(tmp_path, "other.example.test")
    for certificate, key, reason in (
        (missing, made.key, rf"certificate {missing} cannot be read: No such file"),
        (made.certificate, missing, rf"key {missing} cannot be read"),
        (junk, made.key, rf"certificate {junk} is not a PEM certificate"),
        (made.certificate, junk, rf"key {junk} is not a PEM private key"),
        (made.certificate, other.key, rf"key {other.key} does not belong to certificate"),
        (tmp_path, made.key, rf"certificate {tmp_path} cannot be read"),
    ):
        with pytest.raises(TlsFault, match=reason):
            server_context(certificate, key)


def test_a_key_with_a_passphrase_is_refused_and_nobody_is_asked(made: certificates.Certificate, tmp_path: Path) -> None:
    key = load_pem_private_key(made.key.read_bytes(), None)
    path = tmp_path / "locked.pem"
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")))
    with pytest.raises(TlsFault, match="passphrase"):
        server_context(made.certificate, path)
