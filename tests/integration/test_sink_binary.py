# SPDX-License-Identifier: Apache-2.0
"""Binary content goes by BDAT to who takes it, octet for octet, and to nobody else (RFC 3030 §3)."""

from dataclasses import replace
from pathlib import Path

import pytest

from gateway.mail.job import Deferred, Delivered, Failed, Job
from gateway.mail.message import FileBody, Message
from tests.support.delivering import delivering
from tests.support.fakework import CONTENT, job
from tests.support.sink import DEFAULT_EXTENSIONS, Sink

BINARY = (*DEFAULT_EXTENSIONS, "CHUNKING", "BINARYMIME")
BODY = b"\r\n.\r\n\n.\n\r\0\xff\r.\r\n..\r\nno line end"
HEADER = b"From: a@client.example\r\nContent-Transfer-Encoding: binary\r\n"


def binary(*recipients: str, number: int = 1, size: int = len(HEADER + BODY), sender: str = "ann@client.example") -> Job:
    return replace(
        job(*recipients or ("bob@dest.example",), number=number, sender=sender), binary=True, eight_bit=True, size=size
    )


MESSAGE = Message(b"", HEADER, BODY)


async def test_it_arrives_octet_for_octet() -> None:
    async with Sink(extensions=BINARY) as sink, delivering({"*": f"smtp://{sink.address}"}) as rig:
        for number in (1, 2):
            await rig.work.put(binary("ann@dest.example", "bob@dest.example", number=number), message=MESSAGE)
            await rig.work.wait(2 * number)
        assert [message.content for message in sink.messages] == [HEADER + BODY] * 2
        assert b"BODY=BINARYMIME" in sink.messages[0].mail_line
        assert [line for _, line in sink.commands if line.startswith((b"BDAT", b"DATA"))] == [
            b"BDAT %d LAST" % MESSAGE.size
        ] * 2
        assert sink.connections == 1


@pytest.mark.parametrize("pipelining", [True, False])
async def test_a_large_one_is_streamed(tmp_path: Path, pipelining: bool) -> None:
    octets = bytes(range(256)) * 4096 * 3 + b"\r\n.\r\n"
    path = tmp_path / "body"
    path.write_bytes(b"skipped" + octets)
    message = Message(b"Received: x\r\n", HEADER, FileBody(path, 7, len(octets)))
    extensions = BINARY if pipelining else tuple(word for word in BINARY if word != "PIPELINING")
    async with Sink(extensions=extensions) as sink, delivering({"*": f"smtp://{sink.address}"}) as rig:
        await rig.work.put(binary(size=message.size), message=message)
        await rig.work.wait(1)
        assert isinstance(rig.outcome(), Delivered)
        assert sink.messages[0].content == b"Received: x\r\n" + HEADER + octets


@pytest.mark.parametrize(
    "extensions", [DEFAULT_EXTENSIONS, (*DEFAULT_EXTENSIONS, "CHUNKING"), (*DEFAULT_EXTENSIONS, "BINARYMIME")]
)
async def test_a_host_that_does_not_take_it_gets_none_of_it(extensions: tuple[str, ...]) -> None:
    async with Sink(extensions=extensions) as sink, delivering({"*": f"smtp://{sink.address}"}) as rig:
        await rig.work.put(binary(), message=MESSAGE)
        await rig.work.wait(1)
        outcome = rig.outcome()
        assert isinstance(outcome, Failed)
        assert outcome.reply.enhanced == "5.6.3"
        assert not outcome.remote
        await rig.work.put(job("bob@dest.example", number=2))  # the session is as good as before
        await rig.work.wait(2)
        assert [message.content for message in sink.messages] == [CONTENT]
        assert sink.connections == 1


async def test_a_mailbox_takes_it(tmp_path: Path) -> None:
    async with delivering({"*": f"maildir:{tmp_path}/box"}) as rig:
        await rig.work.put(binary(), message=MESSAGE)
        await rig.work.wait(1)
        (file,) = (tmp_path / "box" / "new").iterdir()
        assert file.read_bytes().endswith(HEADER + BODY)


async def test_refusals_reach_who_they_are_about() -> None:
    async with Sink(extensions=BINARY) as sink, delivering({"*": f"smtp://{sink.address}"}) as rig:
        await rig.work.put(binary("no+550-at-rcpt@dest.example", "yes@dest.example"), message=MESSAGE)
        await rig.work.wait(2)
        assert rig.tally() == {"delivered": 1, "deferred": 0, "bounced": 1}
        await rig.work.put(binary("no+550-at-rcpt@dest.example", number=2), message=MESSAGE)
        await rig.work.wait(3)
        await rig.work.put(
            binary("x+550-at-mail@dest.example", number=3, sender="ann+550-at-mail@client.example"), message=MESSAGE
        )
        await rig.work.wait(4)
        await rig.work.put(binary("x+451-after-data@dest.example", number=4), message=MESSAGE)
        await rig.work.wait(5)
        await rig.work.put(binary("x@dest.example", number=5), message=MESSAGE)
        await rig.work.wait(6)
        assert rig.tally() == {"delivered": 2, "deferred": 1, "bounced": 3}
        assert [message.content for message in sink.messages] == [HEADER + BODY] * 2


@pytest.mark.parametrize("pipelining", [True, False])
async def test_a_refused_bdat_is_followed_by_a_reset(pipelining: bool) -> None:
    """RFC 3030 §2 calls the transaction failed, not ended: to some hosts the next MAIL would be a nested one, 503 for good."""
    extensions = BINARY if pipelining else tuple(word for word in BINARY if word != "PIPELINING")
    async with Sink(extensions=extensions) as sink, delivering({"*": f"smtp://{sink.address}"}) as rig:
        await rig.work.put(binary("x+451-after-data@dest.example"), message=MESSAGE)
        await rig.work.wait(1)
        await rig.work.put(binary("y@dest.example", number=2), message=MESSAGE)
        await rig.work.wait(2)
        said = [line.split(b" ")[0] for _, line in sink.commands]
        assert said[1:] == [b"MAIL", b"RCPT", b"BDAT", b"RSET", b"MAIL", b"RCPT", b"BDAT"]
        assert sink.connections == 1


@pytest.mark.parametrize(
    ("behaviour", "ambiguous"), [("drop-after-dot", True), ("drop-before-dot", True), ("drop-mid-body", None)]
)
async def test_a_connection_that_is_lost_means_another_try(behaviour: str, ambiguous: bool | None) -> None:
    async with Sink(extensions=BINARY) as sink, delivering({"*": f"smtp://{sink.address}"}) as rig:
        await rig.work.put(binary(f"x+{behaviour}@dest.example"), message=MESSAGE)
        await rig.work.wait(1)
        outcome = rig.outcome()
        assert isinstance(outcome, Deferred)
        if ambiguous is not None:
            assert outcome.ambiguous is ambiguous


async def test_content_that_is_shorter_than_its_size_is_never_completed(tmp_path: Path) -> None:
    path = tmp_path / "body"
    path.write_bytes(b"x" * 100)
    message = Message(b"", HEADER, FileBody(path, 0, 600_000))
    async with Sink(extensions=BINARY) as sink, delivering({"*": f"smtp://{sink.address}"}) as rig:
        await rig.work.put(binary(size=message.size), message=message)
        await rig.work.wait(1)
        assert isinstance(rig.outcome(), Deferred)
        assert not sink.messages
