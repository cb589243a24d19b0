# SPDX-License-Identifier: Apache-2.0
"""Clients of users, who log in: what they send arrives as theirs, by each mechanism that EHLO offers under TLS.

Nothing is offered in clear, and there the clients do not even try.
"""

import re
import smtplib
from pathlib import Path

import pytest

from tests.interop.gateway import PASSWORD, USER, Site, dots, letter
from tests.interop.test_swaks import swaks, wire
from tests.support.exim import Exim
from tests.support.postfixclient import PostfixClient

pytestmark = pytest.mark.timeout(120)

MECHANISMS = ["PLAIN", "LOGIN"]
BODY = dots(30 << 10)
RECIPIENT = "box@submission.dest.example"


@pytest.fixture
def mechanism(site: Site, request: pytest.FixtureRequest) -> str:
    """One that is offered under TLS; in clear there is none."""
    wanted = str(request.param)
    assert wanted in site.offers("submission")["AUTH"].split()
    with smtplib.SMTP("127.0.0.1", site.ports["submission"], timeout=30) as client:
        client.ehlo()
        assert not client.has_extn("auth")
    return wanted


def arrived_as_users(site: Site, content: bytes, marker: str) -> None:
    """RFC 3848: ESMTPSA is said of an authenticated session only."""
    copy = site.arrived(content, marker)
    assert b" with ESMTPSA id " in copy.content[: len(copy.content) - len(content)]


@pytest.mark.parametrize("mechanism", MECHANISMS, indirect=True)
def test_smtplib_logs_in(site: Site, mechanism: str) -> None:
    marker = f"submission-smtplib-{mechanism}"
    content = letter(marker, BODY)
    context = site.context()
    with smtplib.SMTP("127.0.0.1", site.ports["submission"], timeout=30) as client:
        client.starttls(context=context)
        client.ehlo("client.example")
        client.user, client.password = USER, PASSWORD
        answer = client.auth(mechanism, client.auth_plain if mechanism == "PLAIN" else client.auth_login)
        assert answer[0] == 235
        assert client.sendmail("ann@dest.example", [RECIPIENT], content) == {}
    arrived_as_users(site, content, marker)


@pytest.mark.needs("swaks", "perl:Net::SSLeay")
@pytest.mark.parametrize("mechanism", MECHANISMS, indirect=True)
def test_swaks_logs_in(site: Site, tmp_path: Path, mechanism: str) -> None:
    marker = f"submission-swaks-{mechanism}"
    content = letter(marker, BODY)
    login = ["--tls", "--auth", mechanism, "--auth-user", USER, "--auth-password", PASSWORD]
    done = swaks(site, "submission", *login, "--to", RECIPIENT, *wire(tmp_path, content))
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert not [line for line in done.stdout.splitlines() if line.startswith(("<** ", "*** ", "<~* "))], done.stdout
    arrived_as_users(site, content, marker)


@pytest.mark.needs("swaks", "perl:Net::SSLeay")
def test_swaks_is_told_that_a_password_is_wrong(site: Site) -> None:
    done = swaks(site, "submission", "--tls", "--auth", "PLAIN", "--auth-user", USER, "--auth-password", "x", "--to", RECIPIENT)
    assert done.returncode == 28  # no login
    assert re.search(r"(?m)^<~\* 535 5\.7\.8 ", done.stdout), done.stdout


@pytest.mark.needs("exim4")
@pytest.mark.parametrize("mechanism", MECHANISMS, indirect=True)
def test_exim_logs_in(site: Site, mechanism: str) -> None:
    marker = f"submission-exim-{mechanism}"
    content = letter(marker, BODY)
    with Exim(site.ports, site.certificate.authority, login=(USER, PASSWORD), mechanism=mechanism) as client:
        arrival, delivery, end = client.send(content, "ann@dest.example", RECIPIENT)
    assert " <= ann@dest.example" in arrival
    assert re.search(r" => \S+ .* A=log_in .* C=\"250[- ]2\.0\.0 Ok: queued as ", delivery), delivery
    assert end.endswith(" Completed")
    arrived_as_users(site, content, marker)


@pytest.mark.needs("root", "postfix", "sasl-plain")
def test_postfix_logs_in(site: Site, postfix_client: PostfixClient) -> None:
    """By PLAIN, the only mechanism that it is allowed."""
    content = letter("submission-postfix", BODY)
    postfix_client.sendmail(content, "ann@dest.example", RECIPIENT)
    log = postfix_client.wait_gone("submission-postfix")
    assert [status for status, _ in postfix_client.outcomes(log)] == ["sent"], log
    assert all(line[0] in "23" for line in postfix_client.heard(log)), log
    assert not postfix_client.complaints()
    arrived_as_users(site, content, "submission-postfix")
