# SPDX-License-Identifier: Apache-2.0
"""`gateway dev`: what stands in its way is told, and nothing of another one is changed. The samples: `tests/integration`."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from gateway.cli import dev
from gateway.cli.main import cli
from gateway.infra.datadir import DataDirectory


def test_the_configuration_of_one_that_runs_is_not_written_over(tmp_path: Path) -> None:
    running = DataDirectory(tmp_path)
    running.lock()
    (tmp_path / "gateway.toml").write_text("of the first")
    result = CliRunner().invoke(cli, ["dev", "--data", str(tmp_path), "--smtp", "127.0.0.1:0", "--admin", ""])
    running.unlock()
    assert result.exit_code == 1
    assert "--data" in result.stderr
    assert (tmp_path / "gateway.toml").read_text() == "of the first"


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = CliRunner().invoke(cli, ["dev", "--data", str(tmp_path / "file/var")])
    assert result.exit_code == 1
    assert "cannot be used" in result.stderr


@pytest.mark.parametrize(
    ("found", "shown"), [("/opt/gateway/bin/gateway", "gateway"), ("/usr/bin/gateway", "/opt/gateway/bin/gateway")]
)
def test_the_program_is_called_by_its_name_only_if_the_shell_finds_it(
    found: str, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["/opt/gateway/bin/gateway"])
    monkeypatch.setattr("shutil.which", lambda _: found)
    assert dev._program() == shown
