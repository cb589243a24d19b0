# SPDX-License-Identifier: Apache-2.0
"""Is the process that took the lock still there? Workers that it left behind will let go soon."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.infra.datadir import DataDirectoryInUse


def test_our_own_process_lives() -> None:
    assert DataDirectoryInUse(Path("/x"), os.getpid()).alive


def test_an_owner_that_is_not_named_may_live() -> None:
    assert DataDirectoryInUse(Path("/x"), None).alive


@pytest.mark.parametrize("reaped", [False, True])
def test_a_process_that_ended_is_dead_even_as_a_zombie(reaped: bool) -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    if reaped:
        process.wait()
    assert not DataDirectoryInUse(Path("/x"), process.pid).alive
    process.wait()
