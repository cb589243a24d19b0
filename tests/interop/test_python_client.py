# SPDX-License-Identifier: Apache-2.0
"""Python's smtplib as the client: its own checks of replies, over each kind of connection."""

import smtplib
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import EmailMessage
from email.policy import SMTPUTF8

import pytest

from tests.interop.gateway import HOSTNAME, Site, dots, letter

VERSIONS = {"TLSv1.2": ssl.TLSVersion.TLSv1_2, "TLSv1.3": ssl.TLSVersion.TLSv1_3}


@contextmanager
def connected(site: Site, mode: str, version: str = "") -> Iterator[smtplib.SMTP]:
    """A client after EHLO, under TLS if the listener has it; the version that was wished for was agreed on."""
    context = site.context()
    context.check_hostname = False  # smtplib knows no name but the address that it connects to
    if version:
        context.minimum_version = context.maximum_version = VERSIONS[version]
    here = ("127.0.0.1", site.ports[mode])
    implicit = mode == "implicit"
    client = (
        smtplib.SMTP_SSL(*here, "client.example", timeout=30, context=context)
        if implicit
        else smtplib.SMTP(*here, "client.example", timeout=30)
    )
    with client:
        if mode == "starttls":
            assert client.starttls(context=context)[0] == 220
            client.ehlo_or_helo_if_needed()
        if version:
            assert isinstance(client.sock, ssl.SSLSocket)
            assert client.sock.version() == version
        yield client


@pytest.mark.parametrize(
    ("mode", "version"), [("clear", ""), *((mode, v) for mode in ("starttls", "implicit") for v in VERSIONS)]
)
def test_messages_pass_one_after_another(site: Site, mode: str, version: str) -> None:
    with connected(site, mode, version) as client:
        for number in range(5):
            marker = f"smtplib-{mode}-{version}-{number}"
            content = letter(marker, dots(number * 20_000))
            assert client.sendmail("ann@dest.example", ["box@dest.example"], content, ["BODY=8BITMIME"]) == {}
            site.arrived(content, marker)
        assert client.rset()[0] == client.noop()[0] == 250
        assert client.verify("box@dest.example")[0] in (250, 252)


def test_addresses_in_utf8(site: Site) -> None:
    mail = EmailMessage(SMTPUTF8)
    mail["From"], mail["To"], mail["Subject"] = "rené@dest.example", "jürgen@dest.example", "smtplib-utf8"
    mail.set_content("Grüße, 日本語\n", cte="8bit")
    with connected(site, "starttls") as client:
        assert client.send_message(mail) == {}
    copy = site.arrived(mail.as_bytes(), "smtplib-utf8")
    assert (copy.sender, copy.recipients) == ("rené@dest.example", ("jürgen@dest.example",))


def test_a_refused_recipient_is_told(site: Site) -> None:
    site.refusals = 1
    content = letter("smtplib-refused")
    with connected(site, "clear") as client:
        refused = client.sendmail("ann@dest.example", ["box@dest.example", "box@elsewhere.example"], content)
    assert set(refused) == {"box@elsewhere.example"}
    assert refused["box@elsewhere.example"][0] == 550
    assert site.arrived(content, "smtplib-refused").recipients == ("box@dest.example",)


def test_the_certificate_is_ours_and_its_chain_leads_to_its_authority(site: Site) -> None:
    """Checked by the name that the client asks for, which smtplib cannot be told."""
    with smtplib.SMTP("127.0.0.1", site.ports["starttls"], timeout=30) as client:
        client.ehlo("client.example")
        assert client.docmd("STARTTLS")[0] == 220
        assert client.sock
        with site.context().wrap_socket(client.sock, server_hostname=HOSTNAME) as wrapped:
            client.sock, client.file = wrapped, None
            assert client.ehlo("client.example")[0] == 250
            assert not client.has_extn("starttls")
            client.quit()
