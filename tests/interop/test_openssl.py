# SPDX-License-Identifier: Apache-2.0
"""`openssl s_client` as the client: a session typed group by group, over each version of TLS that we speak, and no other."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.interop.gateway import HOSTNAME, Site, dots, letter

pytestmark = [pytest.mark.needs("openssl"), pytest.mark.timeout(120)]

WAYS = {"starttls": ["-starttls", "smtp", "-name", "client.example"], "implicit": []}


class Talk:
    """A running s_client: what is typed goes through TLS as it is."""

    def __init__(self, site: Site, way: str, *options: str) -> None:
        command = ["openssl", "s_client", "-quiet", "-connect", f"127.0.0.1:{site.ports[way]}", *WAYS[way], *options]
        command += ["-servername", HOSTNAME, "-verify_hostname", HOSTNAME, "-verify_return_error"]
        command += ["-CAfile", str(site.certificate.authority)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert self.process.stdin
        assert self.process.stdout
        self.into, self.out = self.process.stdin, self.process.stdout

    def ask(self, octets: bytes, replies: int = 1) -> list[bytes]:
        """The last lines of as many replies."""
        self.into.write(octets)
        self.into.flush()
        return [self.reply() for _ in range(replies)]

    def reply(self) -> bytes:
        while (line := self.out.readline())[3:4] == b"-":
            pass
        return line

    def end(self) -> str:
        """Its complaints, once it has ended by itself."""
        _, said = self.process.communicate(timeout=30)
        assert self.process.returncode == 0, said
        return said.decode()


@contextmanager
def talk(site: Site, way: str, *options: str) -> Iterator[Talk]:
    session = Talk(site, way, *options)
    try:
        yield session
    finally:
        session.process.kill()
        session.process.communicate()


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
@pytest.mark.parametrize("way", WAYS)
def test_a_session_passes(site: Site, way: str, version: str) -> None:
    marker = f"openssl-{way}{version}"
    content = letter(marker, dots(30 << 10))
    stuffed = content.replace(b"\r\n.", b"\r\n..")
    with talk(site, way, version) as session:
        if way == "implicit":  # with -starttls s_client keeps the banner to itself
            assert session.reply().startswith(b"220 ")
        assert session.ask(b"EHLO client.example\r\n")[0].startswith(b"250 ")
        group = b"MAIL FROM:<ann@dest.example> BODY=8BITMIME\r\nRCPT TO:<box@dest.example>\r\nDATA\r\n"
        assert [line[:3] for line in session.ask(group, 3)] == [b"250", b"250", b"354"]
        assert session.ask(stuffed + b".\r\n")[0].startswith(b"250 2.0.0 Ok: queued as ")
        assert session.ask(b"QUIT\r\n")[0].startswith(b"221 ")
        said = session.end()
    assert "verify return:1" in said
    assert not [line for line in said.splitlines() if "error" in line.lower()], said
    site.arrived(content, marker)


@pytest.mark.parametrize("way", WAYS)
def test_old_tls_is_not_agreed_on(site: Site, way: str) -> None:
    """RFC 8996. The client is told by an alert, not by silence."""
    with talk(site, way, "-tls1_1", "-cipher", "ALL:@SECLEVEL=0") as session:
        _, said = session.process.communicate(timeout=30)
        assert session.process.returncode == 1
    assert b"alert protocol version" in said, said


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_a_client_that_comes_back_at_once_is_served(site: Site, version: str) -> None:
    """Five times more, each time with the session of before, without QUIT; whether it is resumed is our choice."""
    with talk(site, "implicit", version, "-reconnect") as session:
        session.ask(b"QUIT\r\n", 0)
        said = session.end()
    assert "error" not in said.lower(), said
