# SPDX-License-Identifier: Apache-2.0
"""swaks as the client, in all its manners: each reply must be one that it expected."""

import subprocess
from pathlib import Path

import pytest

from tests.interop.gateway import HOSTNAME, Site, dots, letter

pytestmark = [pytest.mark.needs("swaks"), pytest.mark.timeout(120)]

MIB = 1 << 20
TLS = pytest.mark.needs("perl:Net::SSLeay")
MANNERS = {
    "plain": ("clear", []),
    "helo-only": ("clear", ["--protocol", "SMTP"]),
    "pipelined": ("clear", ["--pipeline"]),
    "starttls": ("starttls", ["--tls"]),
    "starttls-1.2": ("starttls", ["--tls", "--tls-protocol", "tlsv1_2"]),
    "starttls-1.3": ("starttls", ["--tls", "--tls-protocol", "tlsv1_3"]),
    "starttls-pipelined": ("starttls", ["--tls", "--pipeline"]),
    "starttls-if-offered": ("starttls", ["--tls-optional-strict"]),
    "on-connect": ("implicit", ["--tls-on-connect"]),
    "on-connect-1.2": ("implicit", ["--tls-on-connect", "--tls-protocol", "tlsv1_2"]),
    "on-connect-pipelined": ("implicit", ["--protocol", "SSMTP", "--pipeline"]),
}


def swaks(site: Site, mode: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """One run against a listener; under TLS the certificate is checked."""
    command = ["swaks", "--server", f"127.0.0.1:{site.ports[mode]}", "--helo", "client.example", "--from", "ann@dest.example"]
    if mode != "clear":
        command += ["--tls-verify", "--tls-ca-path", str(site.certificate.authority), "--tls-sni", HOSTNAME]
    return subprocess.run([*command, *arguments], capture_output=True, text=True, errors="replace", timeout=60)


def wire(folder: Path, content: bytes) -> list[str]:
    """Options to send the octets of a message as they are, dots stuffed; swaks adds the CRLF behind the last dot."""
    file = folder / "content"
    file.write_bytes((b"\r\n" + content).replace(b"\r\n.", b"\r\n..")[2:] + b".")
    return ["--data", f"@{file}", "--no-data-fixup", "--suppress-data"]


@pytest.mark.parametrize(
    "manner", [pytest.param(name, marks=[TLS] if "tls" in name or "on-connect" in name else []) for name in MANNERS]
)
def test_messages_pass(site: Site, tmp_path: Path, manner: str) -> None:
    mode, arguments = MANNERS[manner]
    marker = f"swaks-{manner}"
    content = letter(marker, dots(30 << 10))
    done = swaks(site, mode, *arguments, "--to", "box@dest.example,bob@dest.example", *wire(tmp_path, content))
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    said = [line for line in done.stdout.splitlines() if line.startswith(("<** ", "*** "))]
    assert not said, said  # how it marks a reply that it did not expect, and a fault
    assert "queued as" in done.stdout
    copy = site.arrived(content, marker)
    assert copy.recipients == ("box@dest.example", "bob@dest.example")


def test_a_large_message(site: Site, tmp_path: Path) -> None:
    content = letter("swaks-large", dots(4 * MIB))
    done = swaks(site, "clear", "--to", "box@dest.example", *wire(tmp_path, content))
    assert (done.returncode, done.stderr) == (0, ""), done.stdout[:3000]
    site.arrived(content, "swaks-large")


def test_a_refused_recipient_is_told(site: Site) -> None:
    site.refusals = 1
    done = swaks(site, "clear", "--to", "box@elsewhere.example")
    assert done.returncode == 24  # no recipient was taken
    assert [line[:9] for line in done.stdout.splitlines() if line.startswith("<** ")] == ["<** 550 5"], done.stdout
