# SPDX-License-Identifier: Apache-2.0
"""TLS on octets, without a socket: handshake and content in any cut, endings, what breaks it."""

import contextlib
import ssl
from typing import cast

import pytest

from gateway.edge.tlswire import MUTE, SLICE, TlsWire
from gateway.infra.tls import server_context
from tests.support import certificates

NAME = "mx.example.test"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> certificates.Certificate:
    return certificates.make(tmp_path_factory.mktemp("tls"), NAME)


@pytest.fixture
def server(made: certificates.Certificate) -> TlsWire:
    return TlsWire(server_context(made.certificate, made.key))


class Client:
    def __init__(self, made: certificates.Certificate, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> None:
        context = ssl.create_default_context(cafile=str(made.authority))
        context.minimum_version = context.maximum_version = version
        self.into, self.out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.into, self.out, server_hostname=NAME)

    def shake(self) -> bytes:
        with contextlib.suppress(ssl.SSLWantReadError):
            self.tls.do_handshake()
        return self.out.read()

    def record(self, plain: bytes) -> bytes:
        at = 0
        while at < len(plain):
            at += self.tls.write(plain[at:])
        return self.out.read()


def feed(server: TlsWire, octets: bytes, size: int) -> bytes:
    return b"".join(server.feed(octets[at : at + size]) for at in range(0, len(octets), size))


def shake_hands(server: TlsWire, client: Client, size: int = 1 << 20) -> None:
    while said := client.shake():
        assert feed(server, said, size) == b""
        client.into.write(server.answer())
    assert server.secured


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("size", [1, 5, 1000, 1 << 20])
def test_any_cut_gives_the_same(size: int, version: ssl.TLSVersion, server: TlsWire, made: certificates.Certificate) -> None:
    client = Client(made, version)
    shake_hands(server, client, size)
    assert feed(server, client.record(b"EHLO client.example\r\n") + client.record(b"QUIT\r\n"), size) == (
        b"EHLO client.example\r\nQUIT\r\n"
    )
    assert server.facts().version == version.name.replace("_", ".")
    assert server.facts().bits >= 128
    assert not server.ended


def test_what_stands_behind_the_handshake_in_one_packet_is_read(server: TlsWire, made: certificates.Certificate) -> None:
    client = Client(made)
    server.feed(client.shake())
    client.into.write(server.answer())
    assert server.feed(client.shake() + client.record(b"EHLO x\r\n")) == b"EHLO x\r\n"


def test_large_things_pass_both_ways_and_leave_small_buffers(server: TlsWire, made: certificates.Certificate) -> None:
    client = Client(made)
    shake_hands(server, client)
    large = bytes(range(256)) * 4096
    assert server.feed(client.record(large)) == large
    client.into.write(server.wrap(large))
    heard = b""
    while len(heard) < len(large):
        heard += client.tls.read(1 << 16)
    assert heard == large
    assert server._in.pending == server._out.pending == 0
    assert server.feed(client.record(b"x" * SLICE)) == b"x" * SLICE


@pytest.mark.parametrize("size", [1, 1 << 20])
def test_close_notify_is_the_end_and_what_stands_behind_it_is_not_read(
    size: int, server: TlsWire, made: certificates.Certificate
) -> None:
    client = Client(made)
    shake_hands(server, client)
    last = client.record(b"QUIT\r\n")
    with pytest.raises(ssl.SSLWantReadError):
        client.tls.unwrap()
    notify = client.out.read()
    assert feed(server, last + notify + b"more of it", size) == b"QUIT\r\n"
    assert server.ended
    client.into.write(server.wrap(b"221 Bye\r\n"))  # the other direction is still open
    client.into.write(server.close())
    assert client.tls.read(100) == b"221 Bye\r\n"
    with pytest.raises(ssl.SSLZeroReturnError):
        client.tls.read(100)


@pytest.mark.parametrize("said", [b"EHLO client.example\r\n", b"\x16\x03\x01\x00\x05hello", b"\x15\x03\x03\x00\x02\x02\x28"])
def test_what_is_no_handshake_breaks_it(said: bytes, server: TlsWire) -> None:
    with pytest.raises(ssl.SSLError):
        server.feed(said * 10)
    assert not server.secured
    assert server.close() is not None, "closing what never began must not raise"


def test_a_record_that_was_changed_on_the_way_breaks_it(server: TlsWire, made: certificates.Certificate) -> None:
    client = Client(made)
    shake_hands(server, client)
    record = bytearray(client.record(b"RCPT TO:<a@dest.example>\r\n"))
    record[-1] ^= 1
    with pytest.raises(ssl.SSLError):
        server.feed(bytes(record))
    assert server.answer(), "the client is told by an alert"


def test_old_versions_are_not_spoken(server: TlsWire, made: certificates.Certificate) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    client = Client(made)
    client.tls = context.wrap_bio(client.into, client.out)
    with pytest.raises(ssl.SSLError):
        server.feed(client.shake())


def test_what_never_ends_behind_close_notify_is_not_kept(server: TlsWire, made: certificates.Certificate) -> None:
    """Up to 30 s may pass before a session looks again (a slow policy, a login that failed): gigabytes on a fast line."""
    client = Client(made)
    shake_hands(server, client)
    with pytest.raises(ssl.SSLWantReadError):
        client.tls.unwrap()
    assert server.feed(client.out.read()) == b""
    for _ in range(3):
        assert server.feed(b"x" * (1 << 20)) == b""
        assert server._in.pending == 0


class Deaf:
    """OpenSSL at whole records that bring nothing in plain, such as key updates: Python's client cannot send those."""

    def __init__(self, octets: ssl.MemoryBIO) -> None:
        self._octets = octets

    def read(self, size: int) -> bytes:
        self._octets.read()
        raise ssl.SSLWantReadError


def test_a_flood_of_records_that_say_nothing_is_a_fault(server: TlsWire, made: certificates.Certificate) -> None:
    client = Client(made)
    shake_hands(server, client)
    openssl, deaf = server._tls, cast(ssl.SSLObject, Deaf(server._in))
    for _ in range(3):  # what is said in between makes good for it
        server._tls = deaf
        assert server.feed(b"k" * MUTE) == b""
        server._tls = openssl
        assert server.feed(client.record(b"NOOP\r\n")) == b"NOOP\r\n"
    server._tls = deaf
    with pytest.raises(ssl.SSLError, match="say nothing"):
        server.feed(b"k" * (MUTE + 1))
