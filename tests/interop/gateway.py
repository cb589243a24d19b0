# SPDX-License-Identifier: Apache-2.0
"""One gateway for all real clients: four listeners, the scripted sink behind it, and its own log as a witness.

Promises: what arrived is compared octet by octet with what was sent; only trace fields may stand above it.
Not here: the clients (`tests/support/exim.py`, `tests/support/postfixclient.py`), what each of them is asked to do.
"""

import re
import smtplib
import ssl
import time
from pathlib import Path
from typing import Any

from tests.support import certificates
from tests.support.daemon import Daemon, free_ports
from tests.support.sink import DEFAULT_EXTENSIONS
from tests.support.sink_session import Received
from tests.support.world import World

HOSTNAME = "mx.gateway.test"
MODES = ("starttls", "implicit", "submission")  # the listeners beside the one in clear
TRACE = {b"received", b"authentication-results"}  # fields that servers put on top

USER, PASSWORD = "ann", "correct horse, battery"  # no quotation marks: it stands in configurations of clients
TABLES = """
[[listener]]
address = "127.0.0.1:{starttls}"
tls = "starttls"
[[listener]]
address = "127.0.0.1:{implicit}"
tls = "implicit"
[[listener]]
address = "127.0.0.1:{submission}"
role = "submission"
tls = "starttls"
[submission]
users = "{folder}/users"
[tls]
certificate = "{certificate}"
key = "{key}"
[relay]
domains = ["dest.example", ".dest.example"]
networks = []
[[route]]
domains = ["dest.example", ".dest.example"]
to = "smtp://127.0.0.1:{sink}"
[dns]
nameservers = ["{dns}"]
"""

_FIELD = re.compile(rb"(?m)^([!-9;-~]+)[ \t]*:")


def letter(marker: str, body: bytes = b"plain\r\n", *, to: str = "box@dest.example") -> bytes:
    """A complete message in wire octets: nothing is missing that a client would add."""
    return (
        b"From: ann@dest.example\r\n"
        + f"To: {to}\r\nSubject: {marker}\r\nMessage-ID: <{marker}@origin.example>\r\n".encode()
        + b"Date: Sun, 22 Nov 2026 08:00:00 +0000\r\nMIME-Version: 1.0\r\n"
        + b"Content-Type: text/plain; charset=utf-8\r\n"
        + (b"Content-Transfer-Encoding: 7bit\r\n" if body.isascii() else b"Content-Transfer-Encoding: 8bit\r\n")
        + b"\r\n"
        + body
    )


def dots(size: int) -> bytes:
    """A body of at least `size` octets: lines of dots, 8-bit octets, long lines, lines that look like commands."""
    part = (
        b".\r\n..\r\n.x\r\n\r\n"
        + bytes(range(0xA0, 0x100))
        + b"\r\nQUIT\r\n"
        + b"." * 997
        + b"\r\n"
        + b"y" * 998
        + b"\r\n.\r\n"
    )
    return part * (size // len(part) + 1)


class Site:
    """The daemon, what stands behind it, and the ports of its listeners by mode."""

    def __init__(self, folder: Path, world: World) -> None:
        world.sink.extensions = (*DEFAULT_EXTENSIONS, "DSN")
        self.world = world
        self.certificate = certificates.make(folder, HOSTNAME, "127.0.0.1")
        for path in (folder, self.certificate.authority):
            path.chmod(0o755)  # clients that gave up their privileges read it too
        ports = dict(zip(MODES, free_ports(len(MODES)), strict=True))
        tables = TABLES.format(
            **ports,
            certificate=self.certificate.certificate,
            key=self.certificate.key,
            folder=folder,
            sink=world.sink.port,
            dns=world.dns.address,
        )
        self.daemon = Daemon(folder, tables, hostname=HOSTNAME)
        self.ports = {"clear": self.daemon.smtp_port, **ports}
        self._read = 0  # records in the log when the test began
        self.refusals = 0  # how often the test wants us to say no

    def add_user(self) -> None:
        """Let USER log in, before the daemon starts."""
        add = ("user", "add", "--address", "@dest.example", "--password-stdin", USER)
        done = self.daemon.command(*add, input=f"{PASSWORD}\n")
        assert done.returncode == 0, done.stderr

    def context(self) -> ssl.SSLContext:
        """For clients that check our certificate."""
        return ssl.create_default_context(cafile=str(self.certificate.authority))

    def offers(self, mode: str) -> dict[str, str]:
        """What EHLO offers on a listener, under TLS where there is some: keyword in upper case → parameters."""
        if mode == "implicit":
            client: smtplib.SMTP = smtplib.SMTP_SSL("127.0.0.1", self.ports[mode], timeout=30, context=self.context())
        else:
            client = smtplib.SMTP("127.0.0.1", self.ports[mode], timeout=30)
        with client:
            if mode in ("starttls", "submission"):
                client.starttls(context=self.context())
            client.ehlo()
            return {name.upper(): value for name, value in client.esmtp_features.items()}

    def arrived(self, sent: bytes, marker: str, timeout: float = 60.0) -> Received:
        """The copy at the sink; it is what was `sent`, octet by octet, below trace fields."""
        copy = self.world.arrived(marker, timeout)
        octets = copy.content
        assert octets.endswith(sent), (len(octets), len(sent), octets[:2000])
        above = octets[: len(octets) - len(sent)]
        assert {name.lower() for name in _FIELD.findall(above)} <= TRACE, above
        assert b"by " + HOSTNAME.encode() in above
        return copy

    def begin(self) -> None:
        """A test begins: what the log tells from here on belongs to it."""
        self._read = len(self.daemon.log())
        self.refusals = 0

    def records(self, event: str) -> list[dict[str, Any]]:
        """The log records of one kind since `begin`."""
        return [row for row in self.daemon.log()[self._read :] if row["event"] == event]

    def wait_records(self, event: str, count: int, timeout: float = 30.0) -> list[dict[str, Any]]:
        """`records`, as soon as there are `count`."""
        deadline = time.monotonic() + timeout
        while len(found := self.records(event)) < count:
            assert time.monotonic() < deadline, (event, count, self.daemon.log()[self._read :])
            time.sleep(0.02)
        return found
