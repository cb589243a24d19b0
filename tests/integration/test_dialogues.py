# SPDX-License-Identifier: Apache-2.0
"""Every conversation of `tests/dialogues`, held with the engine on both event loops, cut in three ways.

The replies must be those of the file, and the same ones however the client's octets are cut.
"""

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gateway.edge.options import LimitsOptions, ListenerOptions
from gateway.infra.tls import server_context
from gateway.mail import reply
from gateway.mail.envelope import Transaction
from gateway.mail.reply import MailError, Reply
from gateway.mail.verdict import ACCEPT, Action, Phase, Verdict
from tests.support import certificates, dialogue
from tests.support.dialogue import Cut, Dialogue, Step, Talk
from tests.support.edges import LOOPS, Place, run, running
from tests.support.fakes import Decision, FakeIntake, FakePolicy

FILES = sorted((Path(__file__).parent.parent / "dialogues").glob("*.smtp"))
CRASH = RuntimeError("a secret of the house")


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> certificates.Certificate:
    return certificates.make(tmp_path_factory.mktemp("tls"), "mx.example.test")


@dataclass(frozen=True)
class Trust:
    """The two sides of TLS."""

    server: ssl.SSLContext
    client: ssl.SSLContext


@pytest.fixture(scope="session")
def trust(certificate: certificates.Certificate) -> Trust:
    client = ssl.create_default_context(cafile=str(certificate.authority))
    client.check_hostname = False
    return Trust(server_context(certificate.certificate, certificate.key), client)


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_conversation(path: Path, loop: str, tmp_path: Path, trust: Trust) -> None:
    conversation = dialogue.parse(path)
    heard = {cut: run(loop, hold(conversation, cut, tmp_path, trust)) for cut in Cut}
    assert heard[Cut.WHOLE] == heard[Cut.STEPS]
    assert heard[Cut.OCTETS] == heard[Cut.STEPS]


def test_there_are_enough_of_them() -> None:
    assert len(FILES) >= 35
    assert all(dialogue.parse(path).title for path in FILES)


def test_every_reply_of_the_edge_is_reached() -> None:
    """Each named reply that code of the edge gives, except those that need time or another test, is in a conversation."""
    elsewhere = {
        "TOO_MANY_CONNECTIONS", "SHUTTING_DOWN", "IDLE", "TOO_SLOW", "QUEUE_WRITE", "FILTER_FAULT", "QUEUED", "POLICY",
    }  # fmt: skip
    code = "".join(file.read_text() for file in Path("gateway/edge").glob("*.py"))
    known = {name: value for name, value in vars(reply).items() if isinstance(value, Reply) and f"reply.{name}" in code}
    said = "".join(path.read_text() for path in FILES)
    for name, value in known.items():
        if name not in elsewhere:
            assert f"S: {value.code} {value.enhanced}".strip() in said, name


async def hold(conversation: Dialogue, cut: Cut, spool: Path, trust: Trust) -> list[str]:
    """One run; the replies that were heard."""
    options: dict[str, dict[str, str]] = {"limits": {}, "listener": {"address": "127.0.0.1:0"}}
    policy, intake = FakePolicy(), FakeIntake()
    for kind, text in conversation.setup:
        if kind in options:
            options[kind].update(_pair(word) for word in text.split())
        elif kind == "policy":
            phase, _, rest = text.partition(" ")
            policy.decisions[Phase(phase)] = _decision(*rest.split(" "))
        else:
            _prepare(intake, text)
    limits = LimitsOptions.model_validate({key: _number(value) for key, value in options["limits"].items()})
    listener = ListenerOptions.model_validate(options["listener"])
    async with running(spool, limits=limits, listener=listener, policy=policy, intake=intake, tls=trust.server) as place:
        reader, writer = await place.connect()
        talk = Talk(reader, writer, cut)
        try:
            await talk.hold(conversation, lambda step: _check(step, place), trust.client)
        finally:
            writer.close()
    assert not list(spool.glob("*.tmp")), "a spool file was left behind"
    for line in talk.replies:
        assert "secret" not in line, "a reply tells about the inside"
    return talk.replies


def _check(step: Step, place: Place) -> None:
    if step.kind == "stored":
        assert len(place.intake.stored) == int(step.text), f"line {step.line}"
        return
    message = place.intake.stored[-1].message
    assert message.header + (message.body if isinstance(message.body, bytes) else b"") == dialogue.unescape(step.text)


def _decision(name: str, only: str = "") -> Decision:
    if name == "crash":
        return CRASH
    answer: Reply = getattr(reply, name)
    verdict = Verdict(Action.DEFER if answer.temporary else Action.REJECT, answer, rule="test.says")

    def decide(tx: Transaction) -> Verdict:
        return verdict if not only or (tx.candidate and only in str(tx.candidate.address)) else ACCEPT

    return decide


def _prepare(intake: FakeIntake, text: str) -> None:
    if text == "full":
        intake.full = True
    else:
        intake.fault = CRASH if text == "crash" else MailError(getattr(reply, text), "the disk says no")


def _pair(word: str) -> tuple[str, str]:
    key, _, value = word.partition("=")
    return key, value


def _number(value: str) -> Any:
    return int(value) if value.isdigit() else value
