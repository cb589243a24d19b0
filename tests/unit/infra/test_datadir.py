# SPDX-License-Identifier: Apache-2.0
"""One owner a data directory, whoever died before."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.infra.datadir import DataDirectory, DataDirectoryInUse

OWNER = "import sys, pathlib, time; from gateway.infra.datadir import DataDirectory as D; d = D(pathlib.Path(sys.argv[1])); d.lock(); print('locked', flush=True); time.sleep(60)"  # noqa: E501


def owner(path: Path) -> "subprocess.Popen[str]":
    process = subprocess.Popen([sys.executable, "-c", OWNER, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "locked\n"
    return process


def test_folders_are_made_for_our_eyes_only(tmp_path: Path) -> None:
    directory = DataDirectory(tmp_path / "data")
    assert not directory.path.exists()
    directory.lock()
    directory.unlock()
    for folder in (directory.path, directory.queue, directory.run, directory.trace):
        assert folder.stat().st_mode & 0o777 == 0o700


def test_a_second_owner_is_refused_and_told_who_the_first_is(tmp_path: Path) -> None:
    with owner(tmp_path) as process:
        with pytest.raises(DataDirectoryInUse, match=f"process {process.pid}") as refused:
            DataDirectory(tmp_path).lock()
        process.kill()
    assert refused.value.pid == process.pid


def test_the_lock_of_a_killed_owner_stops_nobody(tmp_path: Path) -> None:
    with owner(tmp_path) as process:
        process.send_signal(signal.SIGKILL)
    directory = DataDirectory(tmp_path)
    directory.lock()
    assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"
    directory.unlock()


def test_unlock_lets_the_next_one_in_and_may_be_repeated(tmp_path: Path) -> None:
    first, second = DataDirectory(tmp_path), DataDirectory(tmp_path)
    first.lock()
    first.lock()
    with pytest.raises(DataDirectoryInUse):
        second.lock()
    assert second.descriptors == ()
    first.unlock()
    first.unlock()
    second.lock()
    second.unlock()


def test_a_worker_that_inherited_the_lock_keeps_it_when_its_parent_lets_go(tmp_path: Path) -> None:
    directory = DataDirectory(tmp_path)
    directory.lock()
    worker = subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=directory.descriptors)
    directory.unlock()
    with pytest.raises(DataDirectoryInUse):
        directory.lock()
    worker.communicate()
    directory.lock()
    directory.unlock()


def test_the_lock_is_not_inherited_by_accident(tmp_path: Path) -> None:
    directory = DataDirectory(tmp_path)
    directory.lock()
    child = subprocess.Popen(["cat"], stdin=subprocess.PIPE, close_fds=False)
    directory.unlock()
    directory.lock()
    directory.unlock()
    child.communicate()


def test_a_lock_file_without_a_number_is_reported_without_one(tmp_path: Path) -> None:
    directory = DataDirectory(tmp_path)
    directory.lock()
    (tmp_path / "lock").write_text("?")
    with pytest.raises(DataDirectoryInUse, match="another process"):
        DataDirectory(tmp_path).lock()
    directory.unlock()
