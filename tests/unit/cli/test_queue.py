# SPDX-License-Identifier: Apache-2.0
"""`gateway queue` against running workers (real sockets), and against files when none runs."""

import json
import re
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from gateway import offline as without_daemon
from gateway.cli.queue import queue
from gateway.infra.datadir import DataDirectoryInUse
from gateway.queue.database import prepare
from gateway.queue.disk import DatabaseError, Disk
from gateway.queue.manager import NewerSchema
from tests.unit.ops import kit
from tests.unit.ops.queues import DISK_FULL, Daemon, MemoryQueue, view

FIRST, SECOND, UNKNOWN = kit.queue_id(1), kit.queue_id(2), kit.queue_id(99)


class Place:
    """A configuration file, a running worker, and the command."""

    def __init__(self, folder: Path) -> None:
        self.data_dir = folder / "data"
        self.config = folder / "gateway.toml"
        self.config.write_text(f'hostname = "mx.example.test"\ndata_dir = "{self.data_dir}"\n')
        self.queue = MemoryQueue(view(2), view(1, state="held", sender="", reason="looks like spam"))

    def run(self, *arguments: str) -> Result:
        command, *rest = arguments
        return CliRunner().invoke(queue, [command, "-c", str(self.config), *rest])


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture
def running(place: Place) -> Iterator[Place]:
    with Daemon(place.data_dir, place.queue):
        yield place


def test_list_as_json_is_one_array_with_the_promised_keys(running: Place) -> None:
    result = running.run("list", "--json")
    assert result.exit_code == 0, result.output
    first, second = json.loads(result.stdout)
    assert {"id", "state", "sender", "size", "created", "recipients"} <= first.keys()
    assert (first["id"], first["state"], first["sender"], second["id"]) == (FIRST, "held", "", SECOND)
    assert first["created"] == "2023-11-14T22:13:21.000Z"
    assert second["recipients"][0] == {
        "address": "x@dest.example",
        "state": "deferred",
        "attempts": 2,
        "due": "2023-11-14T22:14:20.000Z",
        "last_reply": "451 4.4.1 later",
    }
    assert second["recipients"][1]["due"] is None


def test_list_for_people_cuts_nothing_when_it_is_no_terminal(running: Place) -> None:
    running.queue.views.append(view(3, recipient="a" * 64 + "@" + "long." * 30 + "example"))
    result = running.run("list")
    assert result.exit_code == 0
    assert "a" * 64 + "@" + "long." * 30 + "example (+1)" in result.stdout
    assert "\x1b" not in result.stdout
    assert "looks like spam" in result.stdout
    assert [line.split()[0] for line in result.stdout.splitlines()] == ["ID", FIRST, SECOND, kit.queue_id(3)]


def test_an_empty_queue_is_an_empty_array_and_no_fault(running: Place) -> None:
    running.queue.views.clear()
    result = running.run("list", "--json")
    assert (result.exit_code, json.loads(result.stdout)) == (0, [])
    assert running.run("list").exit_code == 0


def test_limit_says_that_there_is_more(running: Place) -> None:
    result = running.run("list", "--json", "--limit", "1")
    assert [each["id"] for each in json.loads(result.stdout)] == [FIRST]
    assert "there are more" in result.stderr


@pytest.mark.parametrize(
    ("selector", "found"),
    [
        (["--state", "held"], [FIRST]),
        (["--sender", "a@b.example", "--domain", "dest.example"], [SECOND]),
        (["--recipient", "x@dest.example"], [FIRST, SECOND]),
        (["--older", "98s500ms"], [FIRST]),
        (["--reason", "4.4.1"], [FIRST, SECOND]),
        ([SECOND], [SECOND]),
        ([SECOND.lower()], [SECOND]),
    ],
)
def test_selectors_choose(running: Place, selector: list[str], found: list[str]) -> None:
    result = running.run("list", "--json", *selector)
    assert [each["id"] for each in json.loads(result.stdout)] == found
    result = running.run("retry", "--json", *selector)
    assert sorted(json.loads(result.stdout)["ids"]) == found


@pytest.mark.parametrize("command", ["hold", "release", "retry", "bounce", "delete"])
def test_a_command_without_ids_or_selector_is_refused(running: Place, command: str) -> None:
    result = running.run(command)
    assert result.exit_code == 2
    assert "name ids or a selector; --all for everything" in result.stderr
    assert running.queue.operated == []


def test_all_means_all(running: Place) -> None:
    result = running.run("hold", "--all")
    assert result.exit_code == 0
    assert result.stdout.split() == [SECOND, FIRST]
    assert "hold: 2 messages" in result.stderr


def test_dry_run_changes_nothing(running: Place) -> None:
    result = running.run("delete", "--dry-run", "--json", "--state", "held")
    assert json.loads(result.stdout) == {"command": "delete", "dry_run": True, "ids": [FIRST], "missing": []}
    assert len(running.queue.views) == 2
    assert running.run("delete", "--state", "held").exit_code == 0
    assert [each.id for each in running.queue.views] == [SECOND]


@pytest.mark.parametrize(
    "arguments", [["list", UNKNOWN], ["show", UNKNOWN], ["hold", UNKNOWN, FIRST], ["hold", "--state", "queued"]]
)
def test_what_is_not_there_is_exit_status_1(running: Place, arguments: list[str]) -> None:
    result = running.run(*arguments)
    assert result.exit_code == 1, result.output
    if UNKNOWN in arguments:
        assert f"{UNKNOWN}: no such message" in result.stderr


@pytest.mark.parametrize(
    "arguments", [["show", "../etc/passwd"], ["hold", "nonsense"], ["list", "--older", "soon"], ["list", "--state", "gone"]]
)
def test_arguments_that_make_no_sense_are_exit_status_2(running: Place, arguments: list[str]) -> None:
    result = running.run(*arguments)
    assert result.exit_code == 2
    assert "''" not in result.stderr  # nothing is offered that cannot be given


def test_a_configuration_that_cannot_be_used_is_exit_status_2(place: Place) -> None:
    place.config.write_text("hostname = 5")
    assert place.run("list").exit_code == 2


def test_show_tells_envelope_state_and_header_without_terminal_escapes(running: Place) -> None:
    result = running.run("show", FIRST)
    assert result.exit_code == 0, result.output
    assert "looks like spam" in result.stdout
    assert re.search(r"x@dest\.example +held +2 ", result.stdout)
    assert "hello\n        world\n" in result.stdout
    assert "\x1b" not in result.stdout


def test_show_as_json_and_raw_content(running: Place) -> None:
    data = json.loads(running.run("show", FIRST, "--json").stdout)
    assert (data["id"], data["header"][0]) == (FIRST, "Subject: \ufffdhello\r\n\tworld")
    raw = running.run("show", FIRST, "--content")
    assert raw.stdout_bytes == b"Subject: \xffhello\r\n\tworld\r\nX: \x1b[31m\r\n\r\nbody\r\n"


def test_what_the_queue_refuses_is_told(running: Place) -> None:
    running.queue.fault = DISK_FULL
    result = running.run("hold", "--all")
    assert result.exit_code == 1
    assert "no space" in result.stderr


def test_all_workers_are_asked(place: Place) -> None:
    with Daemon(place.data_dir, MemoryQueue(view(1)), index=0), Daemon(place.data_dir, MemoryQueue(view(2)), index=1):
        assert [each["id"] for each in json.loads(place.run("list", "--json").stdout)] == [FIRST, SECOND]
        assert place.run("show", SECOND).exit_code == 0
        assert place.run("hold", FIRST, SECOND).stdout.split() == [FIRST, SECOND]


def test_a_worker_that_does_not_answer_is_named(running: Place) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(running.data_dir / "run" / "worker-1.sock"))
    result = running.run("list", "--json")
    assert len(json.loads(result.stdout)) == 2
    assert "worker-1.sock does not answer" in result.stderr


def offline(place: Place, monkeypatch: pytest.MonkeyPatch, fault: Exception | None = None) -> None:
    @asynccontextmanager
    async def queues(config: Any) -> AsyncIterator[list[MemoryQueue]]:
        assert config.data_dir == place.data_dir
        if fault:
            raise fault
        yield [place.queue]

    monkeypatch.setattr(without_daemon, "offline_queues", queues)


def test_without_a_daemon_the_shards_are_opened(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    offline(place, monkeypatch)
    (place.data_dir / "run").mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as dead:  # a killed daemon leaves its socket
        dead.bind(str(place.data_dir / "run" / "worker-0.sock"))
    assert [each["id"] for each in json.loads(place.run("list", "--json").stdout)] == [FIRST, SECOND]
    assert place.run("delete", FIRST).exit_code == 0
    assert [each.id for each in place.queue.views] == [SECOND]


def test_a_daemon_that_holds_the_lock_but_does_not_answer_is_told(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    offline(place, monkeypatch, DataDirectoryInUse(place.data_dir, 4711))
    result = place.run("list")
    assert result.exit_code == 1
    assert "no worker answers" in result.stderr


def test_a_data_directory_of_another_user_is_told(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    offline(place, monkeypatch, PermissionError(13, "Permission denied"))
    result = place.run("list")
    assert result.exit_code == 1
    assert "as the user of the daemon" in result.stderr


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (NewerSchema("0.sqlite has schema 2, this program knows 1"), "use the command of the program that wrote the queue"),
        (DatabaseError("disk I/O error"), "cannot be used: disk I/O error"),
        (OSError(28, "No space left on device"), "No space left on device"),
    ],
    ids=["newer", "database", "disk"],
)
def test_a_queue_that_cannot_be_opened_is_told_without_a_traceback(
    place: Place, monkeypatch: pytest.MonkeyPatch, fault: Exception, told: str
) -> None:
    offline(place, monkeypatch, fault)
    result = place.run("list")
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    assert result.stderr.startswith("Error: ")
    assert told in result.stderr


@pytest.mark.parametrize("arguments", [["list", "--json"], ["list"], ["show", FIRST], ["hold", "--all"]])
def test_no_command_makes_a_data_directory(place: Place, arguments: list[str]) -> None:
    """As root it would make one that the daemon's user cannot use."""
    result = place.run(*arguments)
    assert result.exit_code == (0 if arguments[0] == "list" else 1)
    assert "no such directory" in result.stderr
    assert "--json" not in arguments or json.loads(result.stdout) == []
    assert not place.data_dir.exists()


@pytest.mark.parametrize("folder", ["", "queue"])
def test_no_command_makes_anything_where_no_queue_is(place: Place, folder: str) -> None:
    (place.data_dir / folder).mkdir(parents=True)
    before = sorted(place.data_dir.rglob("*"))
    assert json.loads(place.run("list", "--json").stdout) == []
    assert sorted(place.data_dir.rglob("*")) == before


def test_a_schema_of_the_future_is_told_of_the_real_queue(place: Place) -> None:
    (place.data_dir / "queue").mkdir(parents=True)
    path = place.data_dir / "queue" / "0.sqlite"
    prepare(path, Disk(), 0.0)
    connection = Disk().connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    result = place.run("list")
    assert result.exit_code == 1
    assert "has schema 99" in result.stderr
