# SPDX-License-Identifier: Apache-2.0
"""Users log in to a real daemon, by STARTTLS and by implicit TLS, beside a listener for other servers."""

import asyncio
import email
import email.policy
import smtplib
import ssl
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support import certificates, logins
from tests.support.daemon import Daemon, free_ports
from tests.support.sink import Sink

LETTER = b"From: ann@dest.example\r\nTo: bob@elsewhere.example\r\nSubject: hello\r\n\r\nhello\r\n"


@dataclass
class House:
    """A daemon with three doors, and what stands behind it."""

    daemon: Daemon
    sink: Sink
    users: Path
    starttls: int
    implicit: int
    context: ssl.SSLContext

    def client(self, *, implicit: bool = False) -> smtplib.SMTP:
        """A session under TLS, before its login."""
        if implicit:
            return smtplib.SMTP_SSL("127.0.0.1", self.implicit, "client.example", timeout=30, context=self.context)
        client = smtplib.SMTP("127.0.0.1", self.starttls, "client.example", timeout=30)
        client.starttls(context=self.context)
        return client

    def login(self, name: str, password: str) -> int:
        """The code of the reply to one login."""
        with self.client(implicit=True) as client:
            try:
                return client.login(name, password)[0]
            except smtplib.SMTPAuthenticationError as err:
                return err.smtp_code

    def sends(self, *, implicit: bool, mechanism: str = "") -> None:
        with self.client(implicit=implicit) as client:
            client.ehlo()
            assert client.esmtp_features["auth"].split() == ["PLAIN", "LOGIN"]
            if mechanism:
                client.esmtp_features["auth"] = mechanism
            assert client.login("ann", "sesame")[0] == 235
            assert client.sendmail("ann@dest.example", ["bob@elsewhere.example"], LETTER) == {}

    def told(self, kind: str) -> list[dict[str, Any]]:
        return [entry for entry in self.daemon.log() if entry["event"] == kind]


def tables(house: House, sink: Sink, folder: Path, made: certificates.Certificate) -> str:
    return f'''
tls = "starttls"
[[listener]]
address = "127.0.0.1:{house.starttls}"
role = "submission"
tls = "starttls"
[[listener]]
address = "127.0.0.1:{house.implicit}"
role = "submission"
tls = "implicit"
[tls]
certificate = "{made.certificate}"
key = "{made.key}"
[submission]
users = "{house.users}"
failure_delay = "10ms"
lockout_failures = 4
[relay]
domains = ["dest.example"]
networks = ["127.0.0.0/8"]
[[route]]
domains = ["*"]
to = "smtp://127.0.0.1:{sink.port}"
[dns]
nameservers = ["127.0.0.1:9"]
'''


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    made = certificates.make(tmp_path, "mx.gateway.test")
    context = ssl.create_default_context(cafile=str(made.authority))
    context.check_hostname = False
    starttls, implicit = free_ports(2)
    logins.write(tmp_path / "users", "ann sesame ann@dest.example @ann.example")
    async with Sink() as sink:
        house = House(None, sink, tmp_path / "users", starttls, implicit, context)  # type: ignore[arg-type]
        house.daemon = Daemon(tmp_path, tables(house, sink, tmp_path, made))
        await asyncio.to_thread(house.daemon.start)
        try:
            yield house
        finally:
            house.daemon.close()


@pytest.mark.parametrize("implicit", [False, True])
@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
async def test_smtplib_logs_in_and_its_mail_arrives_with_date_and_id(house: House, implicit: bool, mechanism: str) -> None:
    await asyncio.to_thread(house.sends, implicit=implicit, mechanism=mechanism)
    await house.sink.wait(1)
    await house.daemon.until("it is in the log", lambda: house.told("accepted"))
    (received,) = house.sink.messages
    assert received.sender == "ann@dest.example"
    assert received.content.endswith(LETTER)
    letter = email.message_from_bytes(received.content, policy=email.policy.SMTP)
    queue_id = house.told("accepted")[0]["id"]
    assert letter["Message-ID"] == f"<{queue_id}@mx.gateway.test>"
    assert letter["Date"].datetime is not None
    (trace,) = letter.get_all("Received")
    assert " with ESMTPSA id " in " ".join(trace.split())
    assert house.told("accepted")[0]["user"] == "ann"
    assert house.daemon.metric("gateway_auth_total") == 1
    assert "sesame" not in house.daemon.log_path.read_text()


@pytest.mark.needs("swaks")
@pytest.mark.parametrize("way", ["--tls", "--tls-on-connect"])
@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
async def test_swaks_logs_in(house: House, way: str, mechanism: str) -> None:
    port = house.starttls if way == "--tls" else house.implicit
    done = await asyncio.to_thread(
        subprocess.run,
        ["swaks", "--server", f"127.0.0.1:{port}", way, "--auth", mechanism, "--auth-user", "ann", "--auth-password", "sesame",
         "--from", "ann@dest.example", "--to", "bob@elsewhere.example", "--helo", "client.example"],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    await house.sink.wait(1)
    assert house.sink.messages[0].recipients == ("bob@elsewhere.example",)


async def test_the_two_roles_side_by_side(house: House) -> None:
    """Other servers need no login, and their mail is not completed; the users' door asks even the house's own hosts."""

    def talk() -> None:
        with smtplib.SMTP("127.0.0.1", house.daemon.smtp_port, "client.example", timeout=30) as client:
            client.ehlo()
            assert not client.has_extn("auth")
            assert client.docmd("AUTH", "PLAIN")[0] == 502
            client.starttls(context=house.context)
            client.ehlo()
            assert not client.has_extn("auth")
            assert client.sendmail("ann@dest.example", ["bob@dest.example"], LETTER) == {}
        with house.client() as client:
            client.ehlo()
            assert client.mail("ann@dest.example")[0] == 530
        with smtplib.SMTP("127.0.0.1", house.starttls, "client.example", timeout=30) as client:
            client.ehlo()
            assert not client.has_extn("auth")
            assert client.docmd("AUTH", "PLAIN AGFubgBzZXNhbWU=") == (
                538, b"5.7.11 Encryption required for requested authentication mechanism",
            )  # fmt: skip

    await asyncio.to_thread(talk)
    await house.sink.wait(1)
    letter = email.message_from_bytes(house.sink.messages[0].content)
    assert letter["Date"] is None
    assert letter["Message-ID"] is None


async def test_wrong_passwords_then_the_lock(house: House) -> None:
    codes = [await asyncio.to_thread(house.login, "ann", "wrong") for _ in range(2)]  # smtplib tries PLAIN, then LOGIN
    assert codes == [535, 535]
    assert await asyncio.to_thread(house.login, "ann", "sesame") == 454
    await house.daemon.until("all is in the log", lambda: len(house.told("auth")) >= 6)
    assert [entry["result"] for entry in house.told("auth")] == ["failed"] * 4 + ["locked"] * 2
    page = house.daemon.get("/metrics").decode()
    assert 'gateway_auth_total{result="failed"} 4.0' in page
    assert 'gateway_auth_total{result="locked"} 2.0' in page


async def test_a_sender_that_is_another_users(house: House) -> None:
    def talk() -> tuple[int, int]:
        with house.client() as client:
            client.login("ann", "sesame")
            return client.mail("bob@dest.example")[0], client.mail("anything@ann.example")[0]

    assert await asyncio.to_thread(talk) == (553, 250)


async def test_users_are_written_while_the_daemon_runs(house: House) -> None:
    """The daemon looks at the file at most once a second, so a new password may need one more login."""
    command = house.daemon.command
    added = await asyncio.to_thread(command, "user", "add", "bob@dest.example", "--password-stdin", input="rosebud\n")
    assert added.returncode == 0, added.stderr
    listed = await asyncio.to_thread(command, "user", "list")
    assert [row.split()[0] for row in listed.stdout.splitlines()] == ["USER", "ann", "bob@dest.example"]
    await house.daemon.until("bob may log in", lambda: house.login("bob@dest.example", "rosebud") == 235)
    removed = await asyncio.to_thread(command, "user", "remove", "ann")
    assert removed.returncode == 0, removed.stderr
    await house.daemon.until("ann may not", lambda: house.login("ann", "sesame") != 235)
    house.users.write_text(house.users.read_text() + "a bad line\n")
    await house.daemon.until(
        "bob still may", lambda: house.login("bob@dest.example", "rosebud") == 235 and house.told("trouble")
    )
    (trouble,) = house.told("trouble")
    assert trouble["area"] == "users"
    assert trouble["detail"].endswith("users:2: the line is not of the form name:hash:addresses")
