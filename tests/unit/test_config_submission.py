# SPDX-License-Identifier: Apache-2.0
"""[submission] and listeners of that role: what cannot work is refused at its key, with the mend."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from gateway.cli.main import cli
from gateway.config import Config, ConfigError, Fault, examine, examine_users, from_mapping, load
from tests.support import certificates
from tests.support.logins import line

TLS = {"certificate": "c.pem", "key": "k.pem"}


def config(**listener: str) -> dict[str, Any]:
    return {"hostname": "mx.test", "tls": TLS, "listener": [{"address": "127.0.0.1:587", "role": "submission", **listener}]}


@pytest.mark.parametrize("address", ["0.0.0.0:587", "127.0.0.1:587", "unix:/run/submission"])
def test_submission_without_tls_is_refused_wherever_it_listens(address: str) -> None:
    """RFC 4954 §4: nobody could log in, so nobody could send."""
    with pytest.raises(ConfigError) as raised:
        from_mapping(config(address=address, tls="none"), "f.toml")
    (fault,) = raised.value.faults
    assert (fault.key, fault.value) == ("listener[0].tls", '"none"')
    assert 'write tls = "implicit"' in fault.reason


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
def test_submission_with_tls_is_taken(tls: str) -> None:
    assert from_mapping(config(tls=tls), "f.toml").takes_submissions


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("failure_delay", "31s"),
        ("failure_delay", "-1s"),
        ("lockout_failures", -1),
        ("lockout_time", "0s"),
        ("lockout_period", "0s"),
    ],
)
def test_bad_figures_are_refused(key: str, value: Any) -> None:
    with pytest.raises(ConfigError) as raised:
        from_mapping({**config(tls="implicit"), "submission": {key: value}}, "f.toml")
    assert [fault.key for fault in raised.value.faults] == [f"submission.{key}"]


def test_the_defaults() -> None:
    options = Config(hostname="mx.test").submission
    assert options.users == Path("/etc/gateway/users")
    assert (options.failure_delay, options.lockout_failures, options.lockout_period, options.lockout_time) == (1, 10, 600, 900)
    assert not options.check_from


def loaded(tmp_path: Path) -> Config:
    made = certificates.make(tmp_path, "mx.test")
    data = {**config(tls="implicit"), "data_dir": str(tmp_path), "submission": {"users": str(tmp_path / "users")}}
    return from_mapping({**data, "tls": {"certificate": str(made.certificate), "key": str(made.key)}}, "f.toml")


def test_a_file_of_users_that_is_missing_is_a_fault_only_where_users_log_in(tmp_path: Path) -> None:
    (fault,) = examine(loaded(tmp_path), "f.toml")
    assert fault.key == "submission.users"
    assert "gateway user add" in fault.reason
    assert not examine(Config(hostname="mx.test", data_dir=tmp_path), "f.toml")


def test_a_bad_line_does_not_keep_the_daemon_from_starting_but_check_tells_it(tmp_path: Path) -> None:
    (tmp_path / "users").write_text(line("ann", "sesame", ["ann@b.example"]) + "oops\n")
    both = loaded(tmp_path)
    assert not examine(both, "f.toml")
    assert examine_users(both) == [
        Fault(str(tmp_path / "users"), "", "", "line 2: the line is not of the form name:hash:addresses")
    ]
    path = tmp_path / "g.toml"
    path.write_text(
        f'hostname = "mx.test"\ndata_dir = "{tmp_path}"\n[[listener]]\naddress = "127.0.0.1:0"\nrole = "submission"\n'
        f'tls = "implicit"\n[tls]\ncertificate = "{both.tls.certificate}"\nkey = "{both.tls.key}"\n'
        f'[submission]\nusers = "{tmp_path}/users"\n'
    )
    done = CliRunner().invoke(cli, ["check", "-c", str(path), "--json"])
    assert done.exit_code == 2
    assert [fault["reason"] for fault in json.loads(done.stdout)["faults"]] == [
        "line 2: the line is not of the form name:hash:addresses"
    ]
    (tmp_path / "users").write_text(line("ann", "sesame", ["ann@b.example"]))
    assert CliRunner().invoke(cli, ["check", "-c", str(path)]).exit_code == 0


def test_the_example_has_both_doors() -> None:
    example = load(Path(__file__).parents[2] / "config/examples/submission.toml")
    assert [(each.role, each.tls) for each in example.listener] == [
        ("mx", "starttls"), ("submission", "implicit"), ("submission", "starttls"),
    ]  # fmt: skip
    assert example.submission.check_from
