# SPDX-License-Identifier: Apache-2.0
"""DSN on its way on: passed to hosts that know it, octet for octet, and left away at hosts that do not (RFC 3461 §5.2)."""

from dataclasses import replace
from pathlib import Path

from gateway.mail.job import Delivered, Due, Failed, Job
from tests.support.delivering import delivering
from tests.support.fakework import job
from tests.support.sink import DEFAULT_EXTENSIONS, Sink

DSN = (*DEFAULT_EXTENSIONS, "DSN")


def asking(one: Job, *wishes: tuple[tuple[str, ...], str], ret: str = "", envid: str = "") -> Job:
    """The job with wishes of its sender, recipient by recipient."""
    dues = tuple(replace(due, notify=notify, orcpt=orcpt) for due, (notify, orcpt) in zip(one.recipients, wishes, strict=True))
    return replace(one, recipients=dues, ret=ret, envid=envid)


ASKING = asking(
    job("ann@dest.example", "bob@dest.example", "eve@dest.example"),
    (("Success", "DELAY"), "RFC822;Ann+2Bx@Dest.example"),
    (("NEVER",), ""),
    ((), ""),
    ret="hdrs",
    envid="Qq+3D314159",
)


async def test_what_the_sender_asked_for_is_passed_on_as_it_was_given() -> None:
    async with Sink(extensions=DSN) as sink, delivering({"*": f"smtp://{sink.address}"}) as rig:
        await rig.work.put(ASKING)
        await rig.work.wait(3)
        (received,) = sink.messages
        assert received.mail_line == b"MAIL FROM:<ann@client.example> SIZE=%d RET=hdrs ENVID=Qq+3D314159" % len(
            received.content
        )
        assert received.rcpt_lines == (
            b"RCPT TO:<ann@dest.example> NOTIFY=Success,DELAY ORCPT=RFC822;Ann+2Bx@Dest.example",
            b"RCPT TO:<bob@dest.example> NOTIFY=NEVER",
            b"RCPT TO:<eve@dest.example>",
        )
        assert all(isinstance(each, Delivered) and not each.action for each in rig.work.outcomes.values())


async def test_a_host_without_dsn_hears_nothing_of_it_and_we_answer_for_it() -> None:
    async with Sink() as sink, delivering({"*": f"smtp://{sink.address}"}) as rig:
        await rig.work.put(ASKING)
        await rig.work.wait(3)
        (received,) = sink.messages
        assert b"RET" not in received.mail_line
        assert b"ENVID" not in received.mail_line
        assert all(line.endswith(b">") for line in received.rcpt_lines)
        assert all(isinstance(each, Delivered) and each.action == "relayed" for each in rig.work.outcomes.values())


async def test_nothing_is_invented() -> None:
    """RFC 3461 §5.2.1."""
    async with Sink(extensions=DSN) as sink, delivering({"*": f"smtp://{sink.address}"}) as rig:
        await rig.work.put(job("bob@dest.example"))
        await rig.work.wait(1)
        (received,) = sink.messages
        assert not any(word in received.mail_line for word in (b"RET=", b"ENVID="))
        assert received.rcpt_lines == (b"RCPT TO:<bob@dest.example>",)


async def test_an_original_recipient_in_utf_8_is_embedded_where_smtputf8_is_not_used() -> None:
    """RFC 6533 §3."""
    one = asking(job("bob@dest.example"), ((), "utf-8;bücher@dest.example"))
    other = asking(job("пример@dest.example", number=2, smtputf8=True), ((), "utf-8;bücher@dest.example"))
    async with Sink(extensions=DSN) as sink, delivering({"*": f"smtp://{sink.address}"}) as rig:
        await rig.work.put(one)
        await rig.work.wait(1)
        await rig.work.put(other)
        await rig.work.wait(2)
        assert sink.messages[0].rcpt_lines == (b"RCPT TO:<bob@dest.example> ORCPT=utf-8;b\\x{FC}cher@dest.example",)
        assert b"SMTPUTF8" not in sink.messages[0].mail_line
        assert sink.messages[1].rcpt_lines[0].endswith(" ORCPT=utf-8;bücher@dest.example".encode())
        assert b"SMTPUTF8" in sink.messages[1].mail_line


async def test_each_transaction_of_many_has_the_wishes() -> None:
    many = asking(job(*(f"r{n}@dest.example" for n in range(5))), *(((("NEVER",), ""),) * 5), envid="x")
    async with Sink(extensions=DSN) as sink, delivering({"*": f"smtp://{sink.address}"}, recipients_per_transaction=2) as rig:
        await rig.work.put(many)
        await rig.work.wait(5)
        assert [b" ENVID=x" in message.mail_line for message in sink.messages] == [True] * 3
        assert all(line.endswith(b" NOTIFY=NEVER") for message in sink.messages for line in message.rcpt_lines)


async def test_a_value_that_would_end_a_line_never_reaches_the_wire() -> None:
    """Fault 5: wherever it may have come from."""
    for number, spoiled in enumerate(
        (
            replace(ASKING, envid="x\r\nRSET"),
            replace(ASKING, ret="FULL\n"),
            replace(ASKING, recipients=(Due(0, ASKING.recipients[0].address, orcpt="rfc822;a\r\nDATA"),)),
            replace(ASKING, recipients=(Due(0, ASKING.recipients[0].address, notify=("NEVER\r",)),)),
        )
    ):
        async with Sink(extensions=DSN) as sink, delivering({"*": f"smtp://{sink.address}"}) as rig:
            await rig.work.put(spoiled)
            await rig.work.wait(len(spoiled.recipients))
            assert not sink.messages, number
            assert not [line for _, line in sink.commands if line.startswith((b"MAIL", b"RCPT", b"RSET", b"DATA"))]


async def test_what_is_put_into_a_mailbox_or_thrown_away_says_so(tmp_path: Path) -> None:
    async with delivering({"mail.example": f"maildir:{tmp_path}/box", "*": "discard:"}) as rig:
        await rig.work.put(
            asking(job("bob@mail.example"), (("SUCCESS",), "")), asking(job("eve@x.example", number=2), (("SUCCESS",), ""))
        )
        await rig.work.wait(2)
        assert sorted(each.action for each in rig.work.outcomes.values() if isinstance(each, Delivered)) == ["", "delivered"]
        assert not any(isinstance(each, Failed) for each in rig.work.outcomes.values())
