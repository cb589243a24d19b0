# SPDX-License-Identifier: Apache-2.0
"""The configuration: every fault at once, each with file, key path, value, reason and the mend."""

from pathlib import Path

import pytest

from gateway.config import Config, ConfigError, Fault, examine, find, from_mapping, load
from tests.support import certificates

MINIMAL = {"hostname": "mx.example.test"}


def faults(data: dict[str, object]) -> dict[str, Fault]:
    """Faults by key path."""
    with pytest.raises(ConfigError) as raised:
        from_mapping(data, "f.toml")
    return {fault.key: fault for fault in raised.value.faults}


def test_what_the_contract_promises_as_defaults() -> None:
    config = from_mapping(MINIMAL, "f.toml")
    assert config.data_dir == Path("/var/lib/gateway")
    assert config.limits.message_size == 50 << 20
    assert config.limits.line_length == 64 << 10
    assert config.limits.recipients == 1000
    assert config.limits.connections == 10_000
    assert config.limits.connections_per_client == 50
    assert config.delivery.port == 25
    assert [str(n) for n in config.delivery.forbidden_networks] == [
        "127.0.0.0/8", "::1/128", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "fe80::/10", "fc00::/7",
    ]  # fmt: skip
    assert config.queue.retry == [60, 300, 900, 1800, 3600, 7200, 14400]
    assert config.queue.expire == 5 * 86400
    assert config.filters.mode == "enforce"
    assert config.filters.spf.timeout == 10
    assert config.admin.address == "127.0.0.1:9125"
    assert config.workers.count == 1


def test_every_fault_is_told_at_once_with_its_key_path() -> None:
    found = faults(
        {
            "hostname": "mx.example.test",
            "listener": [{"address": "127.0.0.1:2525"}, {"address": "nowhere", "tls": "maybe"}],
            "limits": {"message_size": "50MB!", "conections": 3},
            "queue": {"retry": ["1m", "soon"], "expire": 5},
            "relay": {"networks": ["10.0.0.1/8"]},
            "workers": {"count": "many"},
        }
    )
    assert {"listener[1].address", "listener[1].tls", "limits.message_size", "limits.conections"} <= set(found)
    assert {"queue.retry[1]", "queue.expire", "relay.networks[0]", "workers.count"} <= set(found)
    assert found["limits.message_size"].value == '"50MB!"'
    assert "did you mean 'connections'" in found["limits.conections"].reason
    assert '"30s"' in found["queue.expire"].reason
    assert all(fault.file == "f.toml" and fault.reason for fault in found.values())


def test_a_missing_hostname_is_named() -> None:
    assert "is missing" in faults({})["hostname"].reason


def test_an_unknown_section_is_refused_with_the_nearest_name() -> None:
    assert "did you mean 'queue'" in faults({**MINIMAL, "queeu": {}})["queeu"].reason


def test_a_section_of_the_wrong_kind_is_a_fault() -> None:
    assert set(faults({**MINIMAL, "limits": 5, "listener": {"address": "x"}})) == {"limits", "listener"}


@pytest.mark.parametrize("count", [0, -1, 257])
def test_worker_counts_out_of_range_are_refused(count: int) -> None:
    assert "1 to 256" in faults({**MINIMAL, "workers": {"count": count}})["workers.count"].reason


def test_tls_needs_both_files() -> None:
    assert "needs both" in faults({**MINIMAL, "tls": {"certificate": "/x.pem"}})["tls"].reason


def test_a_tls_listener_needs_a_certificate() -> None:
    data = {**MINIMAL, "listener": [{"address": "127.0.0.1:2525", "tls": "starttls"}]}
    assert "tls.certificate" in faults(data)["listener[0].tls"].reason


def test_one_address_for_two_listeners_is_refused() -> None:
    data = {**MINIMAL, "listener": [{"address": "127.0.0.1:2525"}, {"address": "127.0.0.1:2525"}]}
    assert "another listener" in faults(data)["listener[1].address"].reason


@pytest.mark.parametrize(
    ("lease", "timeout", "mend"),
    [("1m", "45m", '"1h"'), ("59m", "45m", '"1h"'), ("1h", "50m", '"65m"'), ("10m", "1s", '"901s"')],
)
def test_a_lease_that_ends_before_an_attempt_may_is_refused_with_the_mend(lease: str, timeout: str, mend: str) -> None:
    """Else the message is claimed again while it is being sent, and arrives twice."""
    fault = faults({**MINIMAL, "queue": {"lease": lease}, "delivery": {"attempt_timeout": timeout}})["queue.lease"]
    assert fault.value == f'"{lease}"'
    assert "delivery.attempt_timeout" in fault.reason
    assert f"lease = {mend}" in fault.reason


@pytest.mark.parametrize(("lease", "timeout"), [("1h", "45m"), ("16m", "1m"), ("2d", "1d")])
def test_a_lease_with_room_for_an_attempt_is_taken(lease: str, timeout: str) -> None:
    from_mapping({**MINIMAL, "queue": {"lease": lease}, "delivery": {"attempt_timeout": timeout}}, "f.toml")


@pytest.mark.parametrize("network", ["0.0.0.0/0", "::/0"])
def test_an_open_relay_is_refused_unless_spelled_out(network: str) -> None:
    with pytest.raises(ConfigError):
        from_mapping({**MINIMAL, "relay": {"networks": [network]}}, "f.toml")
    assert from_mapping({**MINIMAL, "relay": {"networks": [network], "open": True}}, "f.toml").relay.networks


EVERYBODY = [["0.0.0.0/0"], ["::/0"], ["0.0.0.0/1", "128.0.0.0/1"], ["10.0.0.0/8", "2000::/3"]]


@pytest.mark.parametrize("networks", EVERYBODY)
@pytest.mark.parametrize("key", ["proxy_protocol", "xclient"])
def test_a_listener_where_anyone_may_claim_a_trusted_address_is_refused(key: str, networks: list[str]) -> None:
    data = {**MINIMAL, "listener": [{"address": "127.0.0.1:1"}, {"address": "127.0.0.1:2", key: networks}]}
    fault = faults(data)[f"listener[1].{key}"]
    assert networks[0] in fault.value
    assert "relay.open = true" in fault.reason
    from_mapping({**data, "relay": {"open": True}}, "f.toml")


@pytest.mark.parametrize("key", ["proxy_protocol", "xclient"])
def test_where_no_address_is_trusted_anyone_may_claim_one(key: str) -> None:
    listener = {"address": "127.0.0.1:2", key: ["0.0.0.0/0"]}
    from_mapping({**MINIMAL, "listener": [listener], "relay": {"networks": [], "domains": ["dest.example"]}}, "f.toml")


def test_but_not_the_name_of_a_user(tmp_path: Path) -> None:
    """By XCLIENT LOGIN, anyone could be one on a listener for submission."""
    listener = {"address": "127.0.0.1:2", "xclient": ["::/0"], "role": "submission", "tls": "starttls"}
    tls = {"certificate": "/x.pem", "key": "/x.key"}
    data = {**MINIMAL, "tls": tls, "listener": [listener], "relay": {"networks": []}}
    assert "listener[0].xclient" in faults(data)


@pytest.mark.parametrize("key", ["proxy_protocol", "xclient"])
def test_proxies_of_the_house_are_taken(key: str) -> None:
    from_mapping({**MINIMAL, "listener": [{"address": "127.0.0.1:2", key: ["10.0.0.0/8", "fc00::/7"]}]}, "f.toml")


def test_everything_as_a_domain_is_refused() -> None:
    for domain in ("*", ".", ".com"):
        assert any(key.startswith("relay.domains") for key in faults({**MINIMAL, "relay": {"domains": [domain]}}))


@pytest.mark.parametrize("content", [b"hostname = ", b"\xff\xfe", b"[a]\n[a]\n"])
def test_what_is_not_toml_is_one_fault(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "f.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="is not TOML"):
        load(path)


def test_a_file_that_is_not_there_is_one_fault(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load(tmp_path / "missing.toml")


def test_the_file_is_the_one_given_then_the_environment_then_etc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GATEWAY_CONFIG", raising=False)
    assert find(None) == Path("/etc/gateway/gateway.toml")
    monkeypatch.setenv("GATEWAY_CONFIG", "/tmp/x.toml")
    assert find(None) == Path("/tmp/x.toml")
    assert find(Path("y.toml")) == Path("y.toml")


def examined(tmp_path: Path, **changes: object) -> list[Fault]:
    config = Config.model_validate({**MINIMAL, "data_dir": str(tmp_path / "data"), **changes})
    return examine(config, "f.toml")


def test_a_certificate_that_fits_its_key_is_no_fault(tmp_path: Path) -> None:
    made = certificates.make(tmp_path, "mx.example.test")
    assert not examined(tmp_path, tls={"certificate": str(made.certificate), "key": str(made.key)})


def test_a_certificate_and_a_key_that_cannot_be_used_are_two_faults(tmp_path: Path) -> None:
    (tmp_path / "bad.pem").write_text("no certificate")
    tls = {"certificate": str(tmp_path / "bad.pem"), "key": str(tmp_path / "none.pem")}
    assert [fault.key for fault in examined(tmp_path, tls=tls)] == ["tls.certificate", "tls.key"]


def test_further_certificates_need_a_first_one() -> None:
    tls = {"sni": [{"certificate": "/x.pem", "key": "/x.key"}]}
    assert "tls.certificate" in faults({**MINIMAL, "tls": tls})["tls.sni"].reason


def test_each_further_certificate_is_examined_under_its_own_key(tmp_path: Path) -> None:
    (tmp_path / "main").mkdir()
    (tmp_path / "nameless").mkdir()
    good, nameless = (
        certificates.make(tmp_path / "main", "mx.example.test"),
        certificates.make(tmp_path / "nameless", "192.0.2.1"),
    )
    tls = {
        "certificate": str(good.certificate),
        "key": str(good.key),
        "sni": [
            {"certificate": str(good.certificate), "key": str(good.key)},
            {"certificate": str(good.certificate), "key": str(nameless.key)},
            {"certificate": str(nameless.certificate), "key": str(nameless.key)},
            {"certificate": str(tmp_path / "none.pem"), "key": str(good.key)},
        ],
    }
    found = {fault.key: fault.reason for fault in examined(tmp_path, tls=tls)}
    assert list(found) == [f"tls.sni[{at}].certificate" for at in (1, 2, 3)]
    assert "does not belong to" in found["tls.sni[1].certificate"]
    assert "no DNS name" in found["tls.sni[2].certificate"]
    assert "cannot be read" in found["tls.sni[3].certificate"]


@pytest.mark.parametrize("minimum", ["1.1", "1.0", "TLSv1.2", 1.2])
def test_older_versions_of_tls_cannot_be_configured(minimum: object) -> None:
    assert "tls.minimum" in faults({**MINIMAL, "tls": {"minimum": minimum}})


def test_a_data_dir_below_a_file_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    assert [fault.key for fault in examined(tmp_path)] == ["data_dir"]
