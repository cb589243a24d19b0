# SPDX-License-Identifier: Apache-2.0
"""A server with several certificates, with real clients: OpenSSL's own, and Python's, over real sockets."""

import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from gateway.infra import tls
from gateway.infra.tls import TlsFault, host_names, server_context
from tests.support import certificates

V12, V13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3


@dataclass(frozen=True)
class Pairs:
    main: certificates.Certificate
    mail: certificates.Certificate
    wild: certificates.Certificate

    @property
    def others(self) -> list[tuple[Path, Path]]:
        return [(each.certificate, each.key) for each in (self.mail, self.wild)]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Pairs:
    def made(*names: str) -> certificates.Certificate:
        return certificates.make(tmp_path_factory.mktemp("tls"), *names)

    return Pairs(
        made("mx.example.test"), made("mail.example.test", "smtp.example.test"), made("*.wild.test", "mail.example.test")
    )


@contextmanager
def served(context: ssl.SSLContext) -> Iterator[int]:
    """A server that shakes hands with whoever comes; its port."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def accept() -> None:
            while True:
                try:
                    sock, _ = listening.accept()
                except OSError:
                    return
                with sock:
                    sock.settimeout(10)
                    try:
                        with context.wrap_socket(sock, server_side=True) as secured:
                            secured.recv(1)
                    except OSError:
                        pass

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()


def visit(port: int, name: str | None, *, oldest: ssl.TLSVersion = V12, newest: ssl.TLSVersion = V13) -> tuple[str, bytes]:
    """The version that was agreed on and the certificate that was shown."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    client.minimum_version, client.maximum_version = oldest, newest
    if newest < V12:
        client.set_ciphers("DEFAULT:@SECLEVEL=0")
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as sock,
        client.wrap_socket(sock, server_hostname=name) as ours,
    ):
        return ours.version() or "", ours.getpeercert(binary_form=True) or b""


def pem(made: certificates.Certificate) -> str:
    text = made.certificate.read_text()
    return text[: text.index("-----END") + len("-----END CERTIFICATE-----")] + "\n"


def shown(made: certificates.Certificate) -> bytes:
    return ssl.PEM_cert_to_DER_cert(pem(made))


@pytest.mark.parametrize("version", [V12, V13])
def test_each_name_is_shown_its_certificate(pairs: Pairs, version: ssl.TLSVersion):
    context = server_context(pairs.main.certificate, pairs.main.key, others=pairs.others)
    wanted = {
        "mx.example.test": pairs.main,
        "mail.example.test": pairs.mail,  # the first that has the name
        "SMTP.Example.Test": pairs.mail,
        "smtp.example.test.": pairs.mail,
        "a.wild.test": pairs.wild,
        "a.b.wild.test": pairs.main,  # a wildcard is one label
        "wild.test": pairs.main,
        "unknown.test": pairs.main,
        None: pairs.main,
    }
    with served(context) as port:
        for name, certificate in wanted.items():
            assert visit(port, name, oldest=version, newest=version)[1] == shown(certificate), name


def test_versions_are_what_the_minimum_says(pairs: Pairs):
    main = pairs.main
    with served(server_context(main.certificate, main.key, others=pairs.others, minimum="1.2")) as port:
        assert visit(port, "a.wild.test")[0] == "TLSv1.3"
        assert visit(port, "a.wild.test", newest=V12)[0] == "TLSv1.2"
        with pytest.raises(ssl.SSLError, match="alert protocol version"), pytest.warns(DeprecationWarning, match="TLSv1_1"):
            visit(port, "a.wild.test", oldest=ssl.TLSVersion.TLSv1_1, newest=ssl.TLSVersion.TLSv1_1)
    with served(server_context(main.certificate, main.key, others=pairs.others, minimum="1.3")) as port:
        assert visit(port, "a.wild.test", oldest=V13)[0] == "TLSv1.3"
        for name in ("a.wild.test", "unknown.test"):
            with pytest.raises(ssl.SSLError):
                visit(port, name, newest=V12)


def s_client(port: int, *options: str) -> str:
    done = subprocess.run(
        ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", *options],
        input="",
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    return done.stdout + done.stderr


@pytest.mark.needs("openssl")
def test_openssl_sees_no_tickets_no_compression_and_our_order_of_ciphers(pairs: Pairs):
    with served(server_context(pairs.main.certificate, pairs.main.key, others=pairs.others)) as port:
        told = s_client(
            port,
            "-tls1_2",
            "-servername",
            "a.wild.test",
            "-cipher",
            "ECDHE-RSA-CHACHA20-POLY1305:ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-ECDSA-CHACHA20-POLY1305",
        )
        assert "Cipher is ECDHE-ECDSA-AES256-GCM-SHA384" in told  # the client would have liked another
        assert "Compression: NONE" in told
        assert "TLS session ticket:" not in told
        assert pem(pairs.wild) in s_client(port, "-servername", "a.wild.test")
        assert pem(pairs.main) in s_client(port, "-noservername")
        assert "Post-Handshake New Session Ticket" not in s_client(port, "-tls1_3")
        assert "no peer certificate available" in s_client(port, "-tls1_1", "-cipher", "DEFAULT:@SECLEVEL=0")


def test_faults_of_further_certificates_name_their_files(pairs: Pairs, tmp_path: Path):
    main, missing = pairs.main, tmp_path / "missing.pem"
    with pytest.raises(TlsFault, match=f"certificate {missing} cannot be read"):
        server_context(main.certificate, main.key, others=[(missing, main.key)])
    with pytest.raises(TlsFault, match=f"key {main.key} does not belong to certificate {pairs.wild.certificate}"):
        server_context(main.certificate, main.key, others=[(pairs.wild.certificate, main.key)])


def test_a_certificate_that_only_openssl_can_read_is_a_fault_beside_others(pairs: Pairs, tmp_path: Path):
    """Not an exception that nobody expects: a worker would end by it at a reload."""
    trusted = tmp_path / "trusted.pem"
    trusted.write_bytes(pairs.main.certificate.read_bytes().replace(b" CERTIFICATE", b" TRUSTED CERTIFICATE"))
    server_context(trusted, pairs.main.key)
    with pytest.raises(TlsFault, match=f"certificate {trusted} is not a PEM certificate"):
        server_context(trusted, pairs.main.key, others=[(pairs.wild.certificate, pairs.wild.key)])


def test_a_file_that_goes_away_while_it_is_read_is_a_fault(pairs: Pairs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A renewal at the moment of a reload."""
    gone = tmp_path / "gone.pem"
    gone.write_bytes(pairs.main.certificate.read_bytes())
    monkeypatch.setattr(tls, "_readable", lambda path, what: gone.unlink(missing_ok=True))
    with pytest.raises(TlsFault, match=f"certificate {gone} or key .* cannot be read: No such file"):
        server_context(gone, pairs.main.key)
    with pytest.raises(TlsFault, match=f"certificate {gone}"):
        host_names(gone)


def test_a_certificate_without_names_is_good_as_the_first_only(tmp_path: Path):
    made = certificates.make(tmp_path, "192.0.2.1")
    with pytest.raises(TlsFault, match="has no DNS name"):
        host_names(made.certificate)
    with pytest.raises(TlsFault, match="has no DNS name"):
        server_context(made.certificate, made.key, others=[(made.certificate, made.key)])
    server_context(made.certificate, made.key)
