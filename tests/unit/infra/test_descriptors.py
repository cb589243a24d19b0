# SPDX-License-Identifier: Apache-2.0
"""What clients may use of the descriptors, whatever the limit."""

import resource

import pytest

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
    descriptors.raise_limit()
    assert done == wanted
