# SPDX-License-Identifier: Apache-2.0
"""Every conversation of `tests/dialogues`, held with the engine on both event loops, cut in three ways.

The replies must be those of the file, and the same ones however the client's octets are cut.
"""

import asyncio
import re
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gateway.edge.options import LimitsOptions, ListenerOptions, SubmissionOptions
from gateway.infra.tls import server_context
from gateway.mail import reply
from gateway.mail.envelope import Transaction
from gateway.mail.reply import MailError, Reply
from gateway.mail.verdict import ACCEPT, Action, Phase, Verdict
from tests.support import certificates, dialogue, logins
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
    assert len(FILES) >= 150
    assert all(dialogue.parse(path).title for path in FILES)


def test_every_reply_of_the_edge_is_reached(tmp_path: Path, trust: Trust) -> None:
    """Each named reply that code of the edge gives is heard in a conversation, word for word. There are no exceptions."""
    code = "".join(file.read_text() for file in Path("gateway/edge").glob("*.py"))
    named = {name for name, value in vars(reply).items() if isinstance(value, Reply) and re.search(rf"reply\.{name}\b", code)}
    heard = run("uvloop", hear_all(tmp_path, trust))
    assert not sorted(name for name in named if not any(map(_form(getattr(reply, name)).match, heard)))


async def hear_all(folder: Path, trust: Trust) -> set[str]:
    """Every last line of a reply in every conversation."""
    heard = set()
    for path in FILES:
        (spool := folder / path.stem).mkdir()
        heard |= {each.splitlines()[-1] for each in await hold(dialogue.parse(path), Cut.STEPS, spool, trust)}
    return heard


def _form(value: Reply) -> re.Pattern[str]:
    """The last line of a reply; where its text is made on the way, something stands before or behind the fixed part."""
    around = {reply.BANNER: r"\S+ %s", reply.GREETING: r"\S+%s", reply.CHUNK_TAKEN: r"\d+ %s", reply.QUEUED: "%s ID"}
    around[reply.AUTH_CHALLENGE] = r"\S*%s"
    text = around.get(value, "%s") % re.escape(value.text)
    if value is reply.HELP:  # its verbs come first
        text = re.escape(reply.HELP_MORE) + ".*"
    return re.compile(rf"{' '.join(filter(None, (str(value.code), value.enhanced)))} {text}$")


async def hold(conversation: Dialogue, cut: Cut, spool: Path, trust: Trust) -> list[str]:
    """One run; the replies that were heard."""
    options: dict[str, dict[str, str]] = {key: {} for key in ("limits", "listener", "settings", "submission")}
    more: dict[str, Any] = {}
    options["listener"]["address"] = "127.0.0.1:0"
    policy, intake, users, others = FakePolicy(), FakeIntake(), list[str](), 0
    for kind, text in conversation.setup:
        if kind in options:
            options[kind].update(_pair(word) for word in text.split())
        elif kind == "user":
            users.append(text)
        elif kind == "others":
            others = int(text)
        elif kind == "spool":
            more["spool_directory"] = spool / text
        elif kind == "policy":
            phase, _, rest = text.partition(" ")
            policy.decisions[Phase(phase)] = _decision(*rest.split(" "))
        else:
            _prepare(intake, text)
    limits = LimitsOptions.model_validate({key: _number(value) for key, value in options["limits"].items()})
    listener = ListenerOptions.model_validate({key: _several(key, value) for key, value in options["listener"].items()})
    more |= {key: value == "true" for key, value in options["settings"].items()}
    more["submission"] = SubmissionOptions.model_validate({key: _number(value) for key, value in options["submission"].items()})
    if users:
        more["users"] = logins.made(spool / "users", *filter(None, users))
    async with running(
        spool, limits=limits, listener=listener, policy=policy, intake=intake, tls=trust.server, more=more
    ) as place:
        before = [await _greeted(place) for _ in range(others)]
        reader, writer = await place.connect()
        talk = Talk(reader, writer, cut)
        try:
            await talk.hold(conversation, lambda step: _check(step, place, talk), trust.client)
        finally:
            for each in (writer, *before):
                each.close()
    assert not list(spool.glob("*.tmp")), "a spool file was left behind"
    for line in talk.replies:
        assert "secret" not in line, "a reply tells about the inside"
    return talk.replies


async def _greeted(place: Place) -> asyncio.StreamWriter:
    reader, writer = await place.connect()
    await reader.readline()
    return writer


def _check(step: Step, place: Place, talk: Talk) -> None:
    if step.kind == "drain":
        place.draining = asyncio.create_task(place.edge.drain(5))
        return
    stored, told = place.intake.stored, sum(": queued as " in each for each in talk.replies)
    if step.kind == "stored":
        assert told == int(step.text), f"line {step.line}"
        # who said everything at once may be ahead of the replies that it has read
        assert len(stored) >= told if talk.cut is Cut.WHOLE else len(stored) == told, f"line {step.line}"
        return
    message = stored[told - 1].message
    assert message.header + (message.body if isinstance(message.body, bytes) else b"") == dialogue.unescape(step.text)


def _decision(name: str, only: str = "") -> Decision:
    if name == "crash":
        return CRASH
    if name in ("defer", "reject"):
        return Verdict(Action[name.upper()], rule="test.says")
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


def _several(key: str, value: str) -> str | list[str]:
    """Networks, with commas between them."""
    return value.split(",") if key in ("xclient", "proxy_protocol") else value


def _number(value: str) -> Any:
    return {"true": True, "false": False}.get(value, int(value) if value.isdigit() else value)
