# SPDX-License-Identifier: Apache-2.0
"""What the next hop gets is what we were given, and what it says it can take is believed."""

import tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.mail.job import Deferred, Failed, Outcome
from gateway.mail.message import FileBody, Message
from tests.support.delivering import delivering
from tests.support.fakework import job
from tests.support.sink import Sink

HEADER = b"From: a@client.example\r\nSubject: test\r\n"
EIGHT_BIT = HEADER + "\r\nGrüße\r\n".encode()


async def send(
    sink: Sink,
    content: bytes,
    recipient: str = "bob@dest.example",
    *,
    sender: str = "ann@client.example",
    smtputf8: bool = False,
) -> Outcome:
    async with delivering({"*": f"smtp://{sink.address}"}) as rig:
        await rig.work.put(job(recipient, sender=sender, content=content, smtputf8=smtputf8), content=content)
        await rig.work.wait(1)
    return rig.outcome()


LINES = st.lists(st.sampled_from([b".", b"..", b"", b"QUIT", b".\x00", b"\xff\xfe", b". ", b"a" * 2000, b"-\t"]), max_size=30)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(LINES)
def test_every_octet_arrives(lines: list[bytes]) -> None:
    """Lone dots, long lines, NUL and octets that are no text (RFC 5321 §4.5.2)."""
    import asyncio

    content = HEADER + b"\r\n" + b"".join(line + b"\r\n" for line in lines)

    async def check() -> None:
        async with Sink() as sink:
            await send(sink, content)
            assert sink.messages[0].content == content

    asyncio.run(check())


async def test_trace_fields_go_on_top() -> None:
    async with Sink() as sink, delivering({"*": f"smtp://{sink.address}"}) as rig:
        message = Message.parse(HEADER + b"\r\nx\r\n").with_trace(b"Received: from us\r\n")
        await rig.work.put(job("bob@dest.example"), message=message)
        await sink.wait(1)
        assert sink.messages[0].content == b"Received: from us\r\n" + HEADER + b"\r\nx\r\n"


def in_file(folder: Path, body: bytes, offset: int = 7) -> Message:
    path = folder / "body"
    path.write_bytes(b"#" * offset + body)
    return Message(b"Received: x\r\n", HEADER, FileBody(path, offset, len(body)))


async def test_a_large_body_is_streamed_from_its_file(tmp_path: Path) -> None:
    """10 MiB with dots at the worst places; memory does not grow with it."""
    block = (b".dot\r\n..\r\n.\r\n" + b"x" * 70 + b"\r\n") * 1000
    body = b"\r\n" + block * (10 * (1 << 20) // len(block))
    message = in_file(tmp_path, body)
    async with Sink() as sink, delivering({"*": f"smtp://{sink.address}"}) as rig:
        await rig.work.put(job("bob@dest.example"), message=message)
        await rig.work.wait(1)
        assert rig.tally()["delivered"] == 1
        assert sink.messages[0].content == b"Received: x\r\n" + HEADER + body


async def test_a_large_body_is_never_whole_in_memory(tmp_path: Path) -> None:
    """60 MiB to a sink in a process of its own; what we allocate meanwhile is a few chunks."""
    import asyncio
    import sys

    sink = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.support.sink", "--log", str(tmp_path / "log"), stdout=asyncio.subprocess.PIPE
    )
    assert sink.stdout
    port = int((await sink.stdout.readline()).split()[1])
    path = tmp_path / "body"
    with path.open("wb") as file:
        file.write(b"\r\n")
        for _ in range(60):
            file.write((b"y" * 1022 + b"\r\n") * 1024)
    message = Message(b"", HEADER, FileBody(path, 0, path.stat().st_size))
    tracemalloc.start()
    try:
        async with delivering({"*": f"smtp://127.0.0.1:{port}"}) as rig:
            await rig.work.put(job("bob@dest.example"), message=message)
            await rig.work.wait(1)
            assert rig.tally()["delivered"] == 1
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()
        sink.terminate()
        await sink.wait()


async def test_a_host_that_refuses_in_the_middle_of_a_large_body_is_heard(tmp_path: Path) -> None:
    """It says 552 and reads no further: we must not write until the block timeout."""
    import asyncio

    async def stubborn(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 x\r\n")
        while line := await reader.readline():
            if line.startswith(b"DATA"):
                writer.write(b"354 go\r\n")
                await reader.readexactly(1000)
                writer.write(b"552 5.3.4 that is enough\r\n")
                break
            writer.write(b"250 ok\r\n")
        await gone.wait()
        writer.close()

    gone = asyncio.Event()
    server = await asyncio.start_server(stubborn, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    message = in_file(tmp_path, b"\r\n" + (b"z" * 998 + b"\r\n") * 20000)
    async with delivering({"*": f"smtp://127.0.0.1:{port}"}) as rig:
        await rig.work.put(job("bob@dest.example"), message=message)
        await rig.work.wait(1)
        outcome = rig.outcome()
        assert isinstance(outcome, Failed)
        assert outcome.reply.enhanced == "5.3.4"
    gone.set()
    server.close()
    await server.wait_closed()


async def test_a_body_file_that_is_too_short_is_never_delivered(tmp_path: Path) -> None:
    message = in_file(tmp_path, b"\r\nwhole\r\n" * 100)
    assert isinstance(message.body, FileBody)
    cut = Message(b"", HEADER, FileBody(message.body.path, 7, message.body.size + 10))
    async with Sink() as sink, delivering({"*": f"smtp://{sink.address}"}) as rig:
        await rig.work.put(job("bob@dest.example"), message=cut)
        await rig.work.wait(1)
        assert isinstance(rig.outcome(), Deferred)
        assert "missing" in rig.troubles()[0]
        await sink.until(lambda: sink.open_connections == 0)
        assert not sink.messages


async def test_a_bare_newline_in_a_large_body_ends_it(tmp_path: Path) -> None:
    message = in_file(tmp_path, b"\r\n" + b"a\r\n" * 100 + b"\n.\r\nMAIL FROM:<evil@x.example>\r\n")
    async with Sink() as sink, delivering({"*": f"smtp://{sink.address}"}) as rig:
        await rig.work.put(job("bob@dest.example"), message=message)
        await rig.work.wait(1)
        assert isinstance(rig.outcome(), Failed)
        await sink.until(lambda: sink.open_connections == 0)
        assert not sink.messages


async def test_a_bare_newline_never_leaves() -> None:
    async with Sink() as sink:
        outcome = await send(sink, HEADER + b"\r\na\n.\r\n")
        assert isinstance(outcome, Failed)
        assert sink.connections == 0


# --- extensions


async def test_8bitmime_is_declared_where_it_is_needed_only() -> None:
    async with Sink() as sink:
        await send(sink, EIGHT_BIT)
        await send(sink, HEADER + b"\r\nplain\r\n")
        assert b"BODY=8BITMIME" in sink.messages[0].mail_line
        assert b"BODY" not in sink.messages[1].mail_line


async def test_8bit_content_to_a_host_without_8bitmime_bounces() -> None:
    """RFC 6152 §3: convert or bounce; to convert breaks signatures."""
    async with Sink(extensions=("PIPELINING",)) as sink:
        outcome = await send(sink, EIGHT_BIT)
        assert isinstance(outcome, Failed)
        assert outcome.reply.enhanced == "5.6.3"
        assert not sink.messages


async def test_size_is_declared_without_the_stuffed_dots() -> None:
    content = HEADER + b"\r\n.\r\n.\r\n"
    async with Sink() as sink:
        await send(sink, content)
        assert f"SIZE={len(content)}".encode() in sink.messages[0].mail_line.split()


async def test_a_message_over_the_limit_of_the_host_is_not_sent() -> None:
    async with Sink(extensions=("SIZE 100",)) as sink:
        outcome = await send(sink, HEADER + b"\r\n" + b"x" * 200 + b"\r\n")
        assert isinstance(outcome, Failed)
        assert outcome.reply.enhanced == "5.3.4"
        assert not [line for _, line in sink.commands if line.startswith(b"MAIL")]


@pytest.mark.parametrize("size", ["SIZE", "SIZE 0", "SIZE many"])
async def test_a_size_without_limit_limits_nothing(size: str) -> None:
    async with Sink(extensions=(size,)) as sink:
        await send(sink, HEADER + b"\r\n" + b"x" * 200 + b"\r\n")
        assert len(sink.messages) == 1


async def test_smtputf8_is_asked_for_when_an_address_needs_it() -> None:
    async with Sink() as sink:
        await send(sink, HEADER + b"\r\nx\r\n", "пользователь@dest.example", smtputf8=True)
        assert sink.messages[0].mail_line.endswith(b" SMTPUTF8")
        assert sink.messages[0].recipients == ("пользователь@dest.example",)


async def test_smtputf8_is_asked_for_when_the_header_needs_it() -> None:
    content = "From: a@client.example\r\nSubject: Grüße\r\n\r\nx\r\n".encode()
    async with Sink() as sink:
        await send(sink, content, smtputf8=True)
        assert b" SMTPUTF8" in sink.messages[0].mail_line


async def test_smtputf8_is_not_asked_for_when_nothing_needs_it() -> None:
    async with Sink() as sink:
        await send(sink, EIGHT_BIT, smtputf8=True)  # 8-bit content, but an ASCII header and addresses
        assert b"SMTPUTF8" not in sink.messages[0].mail_line


@pytest.mark.parametrize(
    ("recipient", "sender", "header"),
    [
        ("пользователь@dest.example", "ann@client.example", "x"),
        ("bob@dest.example", "отправитель@client.example", "x"),
        ("bob@dest.example", "ann@client.example", "ü"),
    ],
)
async def test_internationalised_mail_is_not_downgraded(recipient: str, sender: str, header: str) -> None:
    """RFC 6531 §3.5."""
    content = f"From: a@client.example\r\nSubject: {header}\r\n\r\nx\r\n".encode()
    async with Sink(extensions=("8BITMIME",)) as sink:
        outcome = await send(sink, content, recipient, sender=sender, smtputf8=True)
        assert isinstance(outcome, Failed)
        assert outcome.reply.enhanced == "5.6.7"
        assert not sink.messages


async def test_only_the_recipient_that_needs_smtputf8_fails() -> None:
    async with Sink(extensions=("PIPELINING",)) as sink, delivering({"*": f"smtp://{sink.address}"}) as rig:
        await rig.work.put(job("пользователь@dest.example", "bob@dest.example", smtputf8=True))
        await rig.work.wait(2)
        assert rig.tally() == {"delivered": 1, "deferred": 0, "bounced": 1}
        assert sink.messages[0].recipients == ("bob@dest.example",)


async def test_a_domain_alone_goes_as_a_labels() -> None:
    async with Sink(extensions=()) as sink:
        await send(sink, HEADER + b"\r\nx\r\n", "bob@bücher.example", smtputf8=True)
        assert sink.messages[0].recipients == ("bob@xn--bcher-kva.example",)


async def test_a_domain_alone_goes_as_it_came_where_smtputf8_is_offered() -> None:
    async with Sink() as sink:
        await send(sink, HEADER + b"\r\nx\r\n", "bob@bücher.example", sender="ann@bücher.example", smtputf8=True)
        (received,) = sink.messages
        assert received.recipients == ("bob@bücher.example",)
        assert received.mail_line.startswith("MAIL FROM:<ann@bücher.example>".encode())
        assert received.mail_line.endswith(b" SMTPUTF8")


@pytest.mark.parametrize("needs", ["recipient", "header"])
async def test_where_something_else_needs_smtputf8_a_domain_goes_as_it_came(needs: str) -> None:
    content = f"From: a@client.example\r\nSubject: {'ü' if needs == 'header' else 'u'}\r\n\r\nx\r\n".encode()
    other = "пользователь@dest.example" if needs == "recipient" else "eve@dest.example"
    async with Sink() as sink, delivering({"*": f"smtp://{sink.address}"}) as rig:
        await rig.work.put(job("bob@bücher.example", other, content=content, smtputf8=True), content=content)
        await rig.work.wait(2)
        (received,) = sink.messages
        assert received.recipients == ("bob@bücher.example", other)
        assert received.mail_line.endswith(b" SMTPUTF8")


async def test_a_quoted_local_part_and_the_null_sender_are_sent_as_they_are() -> None:
    async with Sink() as sink:
        await send(sink, HEADER + b"\r\nx\r\n", '"a b\\"c>"@dest.example', sender="")
        assert sink.messages[0].rcpt_lines == (b'RCPT TO:<"a b\\"c>"@dest.example>',)
        assert sink.messages[0].mail_line.startswith(b"MAIL FROM:<>")
