# SPDX-License-Identifier: Apache-2.0
"""Mistakes that operators make: each is told before the daemon starts, all at once, with the mend."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from gateway.cli.main import cli
from gateway.config import Config, ConfigError, Fault, from_mapping, parse, remarks

MINIMAL = {"hostname": "mx.example.test"}


def faults(**data: Any) -> dict[str, Fault]:
    """Faults by key path."""
    with pytest.raises(ConfigError) as raised:
        from_mapping({**MINIMAL, **data}, "f.toml")
    keys = [fault.key for fault in raised.value.faults]
    assert len(keys) == len(set(keys)), "one fault for one mistake"
    return {fault.key: fault for fault in raised.value.faults}


def listening(*addresses: str, admin: str = "") -> dict[str, Any]:
    return {"listener": [{"address": address} for address in addresses], "admin": {"address": admin}}


# --- addresses


@pytest.mark.parametrize(
    "addresses",
    [
        ("0.0.0.0:25", "127.0.0.1:25"),
        ("127.0.0.1:25", "0.0.0.0:25"),
        ("[::]:25", "[::1]:25"),
        ("[::1]:25", "[0:0::1]:25"),
        ("localhost:25", "localhost:25"),
        ("unix:/run/x", "unix:/run/x"),
        ("systemd:smtp", "systemd:smtp"),
    ],
)
def test_listeners_that_overlap_are_told_before_they_are_bound(addresses: tuple[str, str]) -> None:
    fault = faults(**listening(*addresses))["listener[1].address"]
    assert f'listener[0] ("{addresses[0]}")' in fault.reason
    assert "write another port" in fault.reason


@pytest.mark.parametrize(
    "addresses",
    [
        ("0.0.0.0:25", "[::]:25"),
        ("0.0.0.0:25", "127.0.0.1:26"),
        ("127.0.0.1:25", "127.0.0.2:25"),
        ("127.0.0.1:0", "127.0.0.1:0"),
        ("localhost:25", "127.0.0.1:25"),  # what a name stands for only the system knows: bind() tells that
        ("unix:/run/x", "unix:/run/y"),
        ("unix:/run/x", "systemd:/run/x"),
    ],
)
def test_listeners_side_by_side_are_taken(addresses: tuple[str, str]) -> None:
    from_mapping({**MINIMAL, **listening(*addresses)}, "f.toml")


@pytest.mark.parametrize("admin", ["127.0.0.1:2525", "0.0.0.0:2525"])
def test_an_admin_address_that_is_a_listeners_is_told(admin: str) -> None:
    fault = faults(**listening("127.0.0.1:2524", "127.0.0.1:2525", admin=admin))["admin.address"]
    assert fault.value == f'"{admin}"'
    assert 'listener[1] ("127.0.0.1:2525")' in fault.reason


@pytest.mark.parametrize("admin", ["9125", "127.0.0.1", "unix:run/admin", "::1:9125", "systemd:admin"])
def test_an_admin_address_that_is_none_is_told(admin: str) -> None:
    fault = faults(**listening("127.0.0.1:2525", admin=admin))["admin.address"]
    assert "write" in fault.reason


def test_no_admin_address_is_one() -> None:
    from_mapping({**MINIMAL, **listening("127.0.0.1:2525", admin="")}, "f.toml")


def test_dev_tells_a_bad_admin_address_too(tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["dev", "--once", "--data", str(tmp_path), "--smtp", "127.0.0.1:0", "--admin", "9125"])
    assert done.exit_code == 2
    assert "admin.address" in done.output


def test_a_relative_unix_socket_is_told_as_such() -> None:
    reason = faults(**listening("unix:run/smtp"))["listener[0].address"].reason
    assert "absolute path" in reason
    assert "names nothing" not in reason


# --- types


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("relay", "open", "yes"),
        ("relay", "open", 1),
        ("limits", "connections", True),
        ("limits", "connections", "25"),
        ("delivery", "port", "25"),
        ("filters", "reject_score", "15"),
        ("log", "connections", "false"),
        ("dns", "trust_ad", "on"),
    ],
)
def test_a_value_of_another_type_is_refused(section: str, key: str, value: object) -> None:
    assert "write" in faults(**{section: {key: value}})[f"{section}.{key}"].reason


@pytest.mark.parametrize("count", ["two", -1, 0, 257, True, 1.5, "2"])
def test_a_bad_number_of_workers_is_one_fault_and_told_beside_others(count: object) -> None:
    found = faults(workers={"count": count}, limits={"errors": -1})
    assert set(found) == {"workers.count", "limits.errors"}
    assert found["workers.count"].reason == 'must be 1 to 256, or "auto"'


@pytest.mark.parametrize("hostname", ["192.0.2.1", "[192.0.2.1]", "[IPv6:2001:db8::1]", "10", "mx.example.25"])
def test_a_hostname_is_a_name(hostname: str) -> None:
    assert "write a name such as" in faults(hostname=hostname)["hostname"].reason


# --- sections and lists


@pytest.mark.parametrize(
    ("data", "key", "mend"),
    [
        ({"listener": {"address": "127.0.0.1:25"}}, "listener", "write [[listener]]"),
        ({"route": {"domains": ["*"], "to": "mx:"}}, "route", "write [[route]]"),
        ({"tls": {"sni": {"certificate": "/c", "key": "/k"}}}, "tls.sni", "write [[tls.sni]]"),
        ({"relay": {"domains": "dest.example"}}, "relay.domains", 'write ["dest.example"]'),
        ({"limits": 5}, "limits", "write [limits]"),
    ],
)
def test_what_has_the_wrong_brackets_is_told_the_right_ones(data: dict[str, Any], key: str, mend: str) -> None:
    assert mend in faults(**data)[key].reason


def test_a_role_with_a_slip_of_the_pen_is_told_the_nearest() -> None:
    listener = {"address": "127.0.0.1:25", "role": "submision"}
    assert 'did you mean "submission"?' in faults(listener=[listener])["listener[0].role"].reason


@pytest.mark.parametrize(
    ("line", "mend"),
    [
        ("role = mx", 'role = "mx"'),
        ("address = 0.0.0.0:25  # all", 'address = "0.0.0.0:25"'),
        ("key = /etc/key.pem", 'key = "/etc/key.pem"'),
        ("size = 25MiB", 'size = "25MiB"'),
    ],
)
def test_text_without_quotes_is_told_to_stand_in_quotes(line: str, mend: str) -> None:
    with pytest.raises(ConfigError, match="text stands in quotes") as raised:
        parse(f'hostname = "mx.test"\n{line}\nmore = 1\n'.encode(), "f.toml")
    assert mend in str(raised.value)


@pytest.mark.parametrize("line", ["x = ", "x = [1,", 'x = "mx', "a b = 5", "[limits", "= 5"])
def test_other_faults_of_toml_are_not_blamed_on_quotes(line: str) -> None:
    with pytest.raises(ConfigError, match="is not TOML") as raised:
        parse(f"{line}\n".encode(), "f.toml")
    assert "quotes" not in str(raised.value)


# --- all at once


def test_every_bad_domain_and_name_server_is_told() -> None:
    found = faults(
        relay={"domains": ["good.example", "a b", "[192.0.2.1]", ".org"]},
        dns={"nameservers": ["ns.example", "127.0.0.1", "192.0.2.1:0"]},
    )
    assert set(found) == {*(f"relay.domains[{at}]" for at in (1, 2, 3)), "dns.nameservers[0]", "dns.nameservers[2]"}


def test_every_file_of_tls_that_is_missing_is_told(tmp_path: Path) -> None:
    path = tmp_path / "g.toml"
    sni = f'[[tls.sni]]\ncertificate = "{tmp_path}/c2"\nkey = "{tmp_path}/k2"\n'
    path.write_text(
        f'hostname = "mx.test"\ndata_dir = "{tmp_path}"\n[[listener]]\naddress = "127.0.0.1:2525"\n'
        f'[tls]\ncertificate = "{tmp_path}/c"\nkey = "{tmp_path}/k"\n{sni}'
    )
    told = checked(path, 2)["faults"]
    assert [fault["key"] for fault in told] == ["tls.certificate", "tls.key", "tls.sni[0].certificate", "tls.sni[0].key"]
    assert [fault["value"] for fault in told] == [f'"{tmp_path}/{name}"' for name in ("c", "k", "c2", "k2")]


def test_a_fault_shows_what_was_written() -> None:
    fault = faults(limits={"command_timeout": "0s"})["limits.command_timeout"]
    assert (fault.value, fault.reason) == ('"0s"', 'must be more than "0s"')


# --- directories and routes


@pytest.mark.parametrize("data_dir", ["var", "./var", "../var", ""])
def test_a_relative_data_dir_is_refused(data_dir: str) -> None:
    fault = faults(data_dir=data_dir)["data_dir"]
    assert fault.value == f'"{data_dir}"'
    assert "absolute path" in fault.reason


def test_http_is_an_unknown_scheme_and_https_one_to_come() -> None:
    routes = [{"domains": ["*"], "to": "http://h.example/"}, {"domains": ["*"], "to": "https://h.example/"}]
    found = faults(route=routes)
    assert "unknown scheme" in found["route[0].to"].reason
    assert "not supported yet" in found["route[1].to"].reason


def remarked(**data: Any) -> dict[str, str]:
    config = Config.model_validate({**MINIMAL, **data})
    return {f"{fault.key} {fault.value}": fault.reason for fault in remarks(config, "f.toml")}


def test_a_route_to_which_nothing_comes_is_remarked() -> None:
    def route(*domains: str) -> dict[str, object]:
        return {"domains": list(domains), "to": "mx:"}

    assert not remarked(route=[route("a.example", ".a.example"), route(".example"), route("example"), route("*")])
    found = remarked(route=[route("a.example", ".b.example"), route("*"), route("c.example"), route("*")])
    assert list(found) == ['route[2].domains "c.example"', 'route[3].domains "*"']
    assert 'route[1] takes all mail for "*"' in found['route[2].domains "c.example"']
    found = remarked(route=[route("a.example", ".b.example"), route("a.example", "x.b.example", "b.example", ".y.b.example")])
    assert list(found) == [f'route[1].domains "{name}"' for name in ("a.example", "x.b.example", ".y.b.example")]


def test_a_hostname_of_one_label_is_remarked() -> None:
    assert list(remarked(hostname="localhost")) == ['hostname "localhost"']


def checked(path: Path, status: int) -> Any:
    done = CliRunner().invoke(cli, ["check", "-c", str(path), "--json"])
    assert done.exit_code == status
    return json.loads(done.output)


def test_check_tells_remarks_as_warnings_and_exits_0(tmp_path: Path) -> None:
    path = tmp_path / "g.toml"
    route = '[[route]]\ndomains = ["{}"]\nto = "mx:"\n'
    path.write_text(
        f'hostname = "mx.test"\ndata_dir = "{tmp_path}"\n[[listener]]\naddress = "127.0.0.1:2525"\n'
        + route.format("*")
        + route.format("b.example")
    )
    told = checked(path, 0)
    assert told["ok"]
    assert [warning["key"] for warning in told["warnings"]] == ["route[1].domains"]
    done = CliRunner().invoke(cli, ["check", "-c", str(path)])
    assert done.exit_code == 0
    assert "warning: " in done.output
    assert f"{path}: ok" in done.output
