# SPDX-License-Identifier: Apache-2.0
"""`gateway explain` finds what was recorded, with and without a daemon, and runs the chain on a file."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from gateway import judge
from gateway.cli.explain import explain
from gateway.infra.records import full
from gateway.mail.envelope import Client, Transaction
from gateway.mail.message import Message
from gateway.mail.verdict import Verdict
from gateway.ops.trace import TraceOptions, TraceRecorder
from tests.support.clock import FakeClock
from tests.unit.ops import kit
from tests.unit.ops.queues import Daemon, MemoryQueue, MemoryTrace


class Place:
    def __init__(self, folder: Path) -> None:
        self.data_dir = folder / "data"
        self.config = folder / "gateway.toml"
        self.config.write_text(f'hostname = "mx.example.test"\ndata_dir = "{self.data_dir}"\n')

    def run(self, *arguments: str) -> Result:
        return CliRunner().invoke(explain, ["-c", str(self.config), *arguments])

    def record(self, *events: Any) -> None:
        recorder = TraceRecorder(self.data_dir / "trace" / "0.sqlite", TraceOptions(), FakeClock(kit.NOW))
        for event in events:
            recorder.emit(event)
        recorder.close()


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_a_refused_message_is_explained_without_a_daemon(place: Place) -> None:
    place.record(kit.refused_message())
    result = place.run(kit.ID)
    assert result.exit_code == 0, result.output
    assert f"{kit.ID}  refused" in result.stdout
    assert "spf.fail  <- this decided" in result.stdout
    assert "dns b.example TXT -> v=spf1 -all" in result.stdout
    assert "\x1b" not in result.stdout


def test_json_is_the_trace_itself(place: Place) -> None:
    place.record(kit.accepted(findings=(kit.SIZE,)), kit.finished())
    trace = json.loads(place.run("--json", kit.ID.lower()).stdout)
    assert (trace["id"], [each["event"] for each in trace["events"]]) == (kit.ID, ["accepted", "finished"])


def test_what_only_the_running_worker_knows_is_asked_of_it(place: Place) -> None:
    trace = {"id": kit.ID, "events": [full(kit.accepted(), ()), full(kit.finished(), ())]}
    place.record(kit.accepted())
    with Daemon(place.data_dir, MemoryQueue(), trace=MemoryTrace(**{kit.ID: trace})):
        assert f"{kit.ID}  delivered" in place.run(kit.ID).stdout


def test_an_id_that_nothing_is_known_of_is_exit_status_1(place: Place) -> None:
    result = place.run(kit.ID)
    assert result.exit_code == 1
    assert "nothing is remembered" in result.stderr


@pytest.mark.parametrize("arguments", [["neither-id-nor-file"], [], [kit.ID, "--ip", "localhost"], [kit.ID, "--sender", "@"]])
def test_arguments_that_make_no_sense_are_exit_status_2(place: Place, arguments: list[str]) -> None:
    assert place.run(*arguments).exit_code == 2


@pytest.mark.parametrize("sender", ["a@b.example", "<a@b.example>"])
def test_a_file_is_judged_with_the_envelope_that_is_given(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sender: str
) -> None:
    asked: list[Any] = []

    async def judge_file(
        config: Any, content: bytes, ip: str, helo: str, sender: str, *, recipients: Sequence[str]
    ) -> tuple[Transaction, Verdict]:
        asked.append((content, ip, helo, sender, list(recipients)))
        client = Client(session="", ip=kit.CLIENT.ip, port=0, listener="", role="mx", connected=kit.NOW, helo=helo)
        tx = Transaction(client=client, id=kit.ID, started=kit.NOW, message=Message.parse(content))
        tx.findings.append(kit.SPF)
        return tx, kit.SPF.verdict

    monkeypatch.setattr(judge, "judge_file", judge_file)
    file = tmp_path / "m.eml"
    file.write_bytes(b"A: b\r\n\r\nc\r\n")
    arguments = ["--ip", "2001:db8::1", "--helo", "h.example", "--sender", sender]
    result = place.run(str(file), *arguments, "--recipient", "x@y.example", "--recipient", "<z@y.example>")
    assert result.exit_code == 0, result.output
    assert asked == [(b"A: b\r\n\r\nc\r\n", "2001:db8::1", "h.example", "a@b.example", ["x@y.example", "z@y.example"])]
    assert result.stdout.startswith("m.eml  would be: reject\n")
    assert json.loads(place.run(str(file), "--json").stdout)["events"][0]["rule"] == "spf.fail"
    assert asked[1][3:] == ("", [])
