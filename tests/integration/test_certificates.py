# SPDX-License-Identifier: Apache-2.0
"""Certificates of a real daemon: by name, renewed by SIGHUP, missed, and told of before they end."""

import json
import os
import signal
import smtplib
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trustme

from gateway.infra.tls import TlsFault
from gateway.single import reload_relay
from tests.support.daemon import Daemon
from tests.support.world import until


def issue(folder: Path, *names: str, days: float = 90) -> tuple[Path, Path]:
    """A new certificate in the same files."""
    folder.mkdir(exist_ok=True)
    leaf = trustme.CA().issue_cert(*names, not_after=datetime.now(UTC) + timedelta(days=days))
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    leaf.cert_chain_pems[0].write_to_path(str(certificate))
    leaf.private_key_pem.write_to_path(str(key))
    return certificate, key


def tables(main: tuple[Path, Path], *more: tuple[Path, Path], minimum: str = "1.2") -> str:
    text = f'tls = "starttls"\n[tls]\ncertificate = "{main[0]}"\nkey = "{main[1]}"\nminimum = "{minimum}"\n'
    text += "".join(f'[[tls.sni]]\ncertificate = "{certificate}"\nkey = "{key}"\n' for certificate, key in more)
    return text + '[relay]\ndomains = ["dest.example"]\n[[route]]\ndomains = ["*"]\nto = "discard:"\n[filters]\nmode = "off"\n'


def secured(daemon: Daemon, name: str | None) -> smtplib.SMTP:
    """A session under TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    client = smtplib.SMTP("127.0.0.1", daemon.smtp_port, local_hostname="client.example", timeout=30)
    client.ehlo()
    client.docmd("STARTTLS")
    assert client.sock
    client.sock = context.wrap_socket(client.sock, server_hostname=name)
    client.file = None
    client.ehlo()
    return client


def shown(daemon: Daemon, name: str | None) -> str:
    with secured(daemon, name) as client:
        assert isinstance(client.sock, ssl.SSLSocket)
        return ssl.DER_cert_to_PEM_cert(client.sock.getpeercert(binary_form=True) or b"")


def told(daemon: Daemon, area: str) -> list[str]:
    return [row["detail"] for row in daemon.log() if row["event"] == "trouble" and row["area"] == area]


def reload(daemon: Daemon) -> None:
    assert daemon.process
    before = daemon.log_path.read_text().count('"reloaded"')
    daemon.process.send_signal(signal.SIGHUP)
    until("it is reloaded", lambda: daemon.log_path.read_text().count('"reloaded"') >= before + int(daemon.workers))


@pytest.mark.parametrize("workers", [1, 2])
def test_certificates_by_name_are_renewed_while_sessions_last(tmp_path: Path, workers: int) -> None:
    main = issue(tmp_path / "main", "mx.gateway.test")
    other = issue(tmp_path / "other", "*.other.test", days=5.5)
    with Daemon(tmp_path, tables(main, other), workers=workers) as daemon:
        assert shown(daemon, "mail.other.test") == other[0].read_text()
        assert shown(daemon, "mx.gateway.test") == shown(daemon, None) == main[0].read_text()
        assert set(told(daemon, "tls")) == {f"certificate of *.other.test ({other[0]}) ends in 5 days"}
        page = daemon.get("/metrics").decode()
        assert "gateway_tls_certificate_expiry_timestamp_seconds{" in page
        assert 'name="*.other.test"' in page
        with secured(daemon, "mail.other.test") as lasting:
            old = other[0].read_text()
            issue(tmp_path / "other", "*.other.test", "other.test")
            reload(daemon)
            assert shown(daemon, "other.test") == shown(daemon, "x.other.test") == other[0].read_text() != old
            assert lasting.mail("a@b.example")[0] == 250
            assert lasting.rcpt("c@dest.example")[0] == 250
            assert lasting.data(b"Subject: x\r\n\r\n")[0] == 250
        assert len(told(daemon, "tls")) == workers


@pytest.mark.parametrize("workers", [1, 2])
def test_a_certificate_that_vanished_leaves_the_old_one_in_use(tmp_path: Path, workers: int) -> None:
    main = issue(tmp_path / "main", "mx.gateway.test")
    with Daemon(tmp_path, tables(main), workers=workers) as daemon:
        old = shown(daemon, None)
        main[0].unlink()
        assert daemon.process
        daemon.process.send_signal(signal.SIGHUP)
        until("it is told", lambda: any("the old configuration stays" in detail for detail in told(daemon, "config")))
        assert "tls.certificate" in told(daemon, "config")[0]
        assert shown(daemon, None) == old


@pytest.mark.slow
def test_a_replaced_worker_waits_for_a_certificate_that_is_not_there(tmp_path: Path) -> None:
    main = issue(tmp_path / "main", "mx.gateway.test")
    with Daemon(tmp_path, tables(main), workers=2) as daemon:
        main[0].rename(tmp_path / "away")
        for each in json.loads(daemon.get("/api/v1/status"))["workers"]:
            os.kill(each["pid"], signal.SIGKILL)
        until("it is told", lambda: any("cannot be read" in detail for detail in told(daemon, "config")))
        (tmp_path / "away").rename(main[0])
        daemon.wait_ready()
        assert shown(daemon, None) == main[0].read_text()


def test_one_that_vanishes_between_the_check_and_its_use_leaves_the_old_one_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    troubles: list[str] = []

    def gone(_: Any) -> None:
        raise TlsFault("certificate /x cannot be read: No such file or directory")

    relay: Any = SimpleNamespace(reload=gone, trouble=lambda area, detail: troubles.append(f"{area}: {detail}"))
    monkeypatch.setattr("gateway.single.approve", lambda path: (b"", None))
    reload_relay(relay, tmp_path)
    assert troubles == ["config: the old configuration stays: certificate /x cannot be read: No such file or directory"]


def test_the_oldest_version_is_what_is_configured(tmp_path: Path) -> None:
    main = issue(tmp_path / "main", "mx.gateway.test")
    with Daemon(tmp_path, tables(main, minimum="1.3")) as daemon:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        client = smtplib.SMTP("127.0.0.1", daemon.smtp_port, local_hostname="client.example", timeout=30)
        with pytest.raises(ssl.SSLError):
            client.starttls(context=context)
        with secured(daemon, None) as client:
            assert isinstance(client.sock, ssl.SSLSocket)
            assert client.sock.version() == "TLSv1.3"
