# SPDX-License-Identifier: Apache-2.0
"""What a client asks for, through a live daemon to the next hop: binary content, and TLS all the way."""

import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from tests.support import certificates
from tests.support.daemon import Daemon
from tests.support.sink import DEFAULT_EXTENSIONS
from tests.support.world import Wire, World, until

HEAD = (
    b"From: a@origin.example\r\nTo: b@dest.example\r\nMessage-ID: <%b@x.example>\r\nDate: Sun, 22 Nov 2026 08:00:00 +0000\r\n"
)
OCTETS = b"Content-Transfer-Encoding: binary\r\n\r\n\0\n.\n\r\n.\r\n\xff\r\r\n" + bytes(range(256)) * 2000 + b"\r"


@pytest.fixture
def world() -> Iterator[World]:
    with World() as instance:
        yield instance


def start(world: World, folder: Path, extra: str = "", *, binary: bool = False) -> Daemon:
    route = f'[[route]]\ndomains = ["*"]\nto = "smtp://{world.sink.address}"\nbinary = {str(binary).lower()}'
    return Daemon(folder, world.tables(extra, networks='"127.0.0.0/8"', route=route))


def test_binary_content_goes_through_octet_for_octet(world: World, tmp_path: Path) -> None:
    """RFC 3030: by BDAT in, over a spool file, by BDAT out, after a restart too."""
    world.sink.extensions = (*DEFAULT_EXTENSIONS, "CHUNKING", "BINARYMIME")
    world.call(world.sink.fail_next, 1000, 451, "mail")
    content = HEAD.replace(b"%b", b"bin") + b"Subject: binary\r\n" + OCTETS
    with start(world, tmp_path, binary=True) as daemon:
        with Wire(daemon.smtp_port) as client:
            assert b"250-BINARYMIME" in client.ask(b"EHLO client.example")
            assert client.ask(b"MAIL FROM:<a@origin.example> BODY=BINARYMIME").startswith(b"250")
            assert client.ask(b"RCPT TO:<b@dest.example>").startswith(b"250")
            client.send(b"BDAT %d\r\n%b" % (100_000, content[:100_000]))
            assert client.reply().startswith(b"250")
            client.send(b"BDAT %d LAST\r\n%b" % (len(content) - 100_000, content[100_000:]))
            assert client.reply().startswith(b"250 2.0.0 Ok: queued")
        until("a try", lambda: [row for row in daemon.log() if row["event"] == "attempted"])
        daemon.kill()
        world.call(world.sink._scripts.clear)
        daemon.start()
        received = world.arrived("binary")
        assert received.content.endswith(content)
        assert b" BODY=BINARYMIME" in received.mail_line
        assert daemon.stop() == 0


def test_binary_content_is_not_offered_where_the_way_on_may_not_take_it(world: World, tmp_path: Path) -> None:
    with start(world, tmp_path) as daemon, Wire(daemon.smtp_port) as client:
        assert b"BINARYMIME" not in client.ask(b"EHLO client.example")
        assert client.ask(b"MAIL FROM:<a@origin.example> BODY=BINARYMIME").startswith(b"501")


def test_requiretls_holds_from_the_client_to_the_next_hop(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RFC 8689: one hop that is fit and one that is not; the notice about the second goes by the first, under it too."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    world.sink.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(world.sink.tls)
    world.sink.secure_extensions = ("REQUIRETLS",)
    ours = certificates.make(tmp_path, "mx.gateway.test")
    with World() as unfit:
        elsewhere = f'[[route]]\ndomains = ["unfit.example"]\nto = "smtp://{unfit.sink.address}"'
        tls = f'[tls]\ncertificate = "{ours.certificate}"\nkey = "{ours.key}"'
        route = f'{elsewhere}\n[[route]]\ndomains = ["*"]\nto = "smtp://{world.sink.address}"'
        daemon = Daemon(tmp_path, world.tables(tls, networks='"127.0.0.0/8"', route=route))
        daemon.config_path.write_text(
            daemon.config_path.read_text().replace("[[listener]]\n", '[[listener]]\ntls = "starttls"\n')
        )
        with daemon, Wire(daemon.smtp_port) as client:
            client.ask(b"EHLO client.example")
            assert client.ask(b"STARTTLS").startswith(b"220")
            context = ssl.create_default_context(cafile=str(ours.authority))
            client.socket = context.wrap_socket(client.socket, server_hostname="mx.gateway.test")
            assert b"250-REQUIRETLS" in client.ask(b"EHLO client.example")
            assert client.ask(b"MAIL FROM:<a@origin.example> REQUIRETLS RET=FULL").startswith(b"250")
            for recipient in (b"b@dest.example", b"c@unfit.example"):
                assert client.ask(b"RCPT TO:<%b>" % recipient).startswith(b"250")
            assert client.ask(b"DATA").startswith(b"354")
            content = HEAD.replace(b"%b", b"tls") + b"Subject: all-the-way\r\n\r\nthe secret\r\n."
            assert client.ask(content).startswith(b"250")
            received = world.received(lambda copy: b"b@dest.example" in copy.rcpt_lines[0])
            assert received.tls
            assert received.mail_line.endswith(b" REQUIRETLS")
            notice = world.received(lambda copy: not copy.sender)
            assert notice.tls
            assert notice.mail_line.endswith(b" REQUIRETLS")
            assert b"Final-Recipient: rfc822; c@unfit.example" in notice.content
            assert b"Status: 5.7.10" in notice.content
            assert b"the secret" not in notice.content
            assert not unfit.sink.messages
