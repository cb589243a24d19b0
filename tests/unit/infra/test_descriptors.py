# SPDX-License-Identifier: Apache-2.0
"""What clients may use of the descriptors, whatever the limit."""

import json
import resource
from pathlib import Path

import pytest

from gateway import supervisor
from gateway.config import ConfigError
from gateway.infra import descriptors


@pytest.mark.parametrize(
    ("limit", "reserved", "spare"),
    [(100, 200, 50), (1024, 200, 724), (1024, 5000, 512), (100000, 200, 99700), (resource.RLIM_INFINITY, 200, (1 << 20) - 300)],
)
def test_clients_get_what_deliveries_leave_and_half_at_least(
    monkeypatch: pytest.MonkeyPatch, limit: int, reserved: int, spare: int
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (limit, limit))
    assert descriptors.spare(reserved) == spare


@pytest.mark.parametrize(
    ("soft", "hard", "wanted"),
    [
        (1024, 4096, [(4096, 4096)]),
        (1024, resource.RLIM_INFINITY, [(1 << 20, resource.RLIM_INFINITY)]),
        (4096, 4096, []),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, []),
        (1 << 21, 1 << 22, []),
    ],
)
def test_the_limit_is_raised_and_never_lowered(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, wanted: list[tuple[int, int]]
) -> None:
    done: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda which: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda which, limits: done.append(limits))
    assert descriptors.raise_limit() == ""
    assert done == wanted


@pytest.mark.parametrize("fault", [PermissionError(1, "Operation not permitted"), ValueError("not allowed to raise the limit")])
def test_a_limit_that_cannot_be_raised_is_told_and_stops_nothing(monkeypatch: pytest.MonkeyPatch, fault: Exception) -> None:
    def refuse(which: int, limits: tuple[int, int]) -> None:
        raise fault

    monkeypatch.setattr(resource, "getrlimit", lambda which: (1024, 4096))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    assert descriptors.raise_limit() == f"the limit of open files stays at 1024, and cannot be raised to 4096: {fault}"


def test_the_daemon_starts_with_the_limit_that_there_is_and_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Some filters of system calls forbid to set limits."""
    monkeypatch.setattr(descriptors, "raise_limit", lambda: "it stays at 1024")
    path = tmp_path / "g.toml"
    path.write_text(f'hostname = "mx.test"\ndata_dir = "{tmp_path}/data"\n')
    with pytest.raises(ConfigError, match="listener"):  # so far it got
        supervisor.run(path)
    entry = json.loads(capfd.readouterr().err)
    assert (entry["event"], entry["area"], entry["detail"]) == ("trouble", "descriptors", "it stays at 1024")
