# SPDX-License-Identifier: Apache-2.0
"""Opportunistic TLS: used where it is offered, never a reason to keep mail back, never mixed with what came in clear."""

import asyncio
import ssl

import pytest
import trustme

from gateway.mail.job import Delivered
from tests.support.delivering import delivering
from tests.support.fakework import job
from tests.support.sink import Sink


@pytest.fixture(scope="module")
def context() -> ssl.SSLContext:
    """A certificate that nobody we know has signed, for another name."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("elsewhere.example").configure_cert(made)
    return made


async def test_tls_is_used_where_it_is_offered(context: ssl.SSLContext) -> None:
    async with Sink(tls=context) as sink, delivering({"*": f"smtp://{sink.address}"}) as rig:
        await rig.work.put(job("bob@dest.example"))
        await rig.work.wait(1)
        outcome = rig.outcome()
        assert isinstance(outcome, Delivered)
        assert outcome.tls == "TLSv1.3"
        assert sink.messages[0].tls
        assert not rig.troubles()


async def test_after_tls_everything_is_asked_again(context: ssl.SSLContext) -> None:
    """RFC 3207 §4.2: what was offered in clear does not count."""
    async with Sink(tls=context) as sink, delivering({"*": f"smtp://{sink.address}"}) as rig:
        await rig.work.put(job("bob@dest.example"))
        await rig.work.wait(1)
        verbs = [line.split()[0] for _, line in sink.commands]
        assert verbs == [b"EHLO", b"STARTTLS", b"EHLO", b"MAIL", b"RCPT", b"DATA"]


async def test_a_tls_session_is_kept_too(context: ssl.SSLContext) -> None:
    async with Sink(tls=context) as sink, delivering({"*": f"smtp://{sink.address}"}) as rig:
        for number in range(1, 5):
            await rig.work.put(job("bob@dest.example", number=number))
            await rig.work.wait(number)
        assert sink.connections == 1
        assert all(message.tls for message in sink.messages)


async def test_tls_can_be_switched_off(context: ssl.SSLContext) -> None:
    async with Sink(tls=context) as sink, delivering({"*": f"smtp://{sink.address}"}, tls="none") as rig:
        await rig.work.put(job("bob@dest.example"))
        await rig.work.wait(1)
        assert not sink.messages[0].tls


@pytest.mark.parametrize("code", [454, 502])
async def test_an_offer_taken_back_is_no_reason_to_wait(context: ssl.SSLContext, code: int) -> None:
    sink = Sink(tls=context, behaviours={f"{code}-at-starttls"})
    async with sink, delivering({"*": f"smtp://{sink.address}"}) as rig:
        await rig.work.put(job("bob@dest.example"))
        await rig.work.wait(1)
        assert rig.tally()["delivered"] == 1
        assert rig.outcome().tls == ""
        assert sink.connections == 1


async def test_a_failed_handshake_is_followed_by_one_try_in_clear() -> None:
    empty = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)  # without a certificate no handshake succeeds
    async with Sink(tls=empty) as sink, delivering({"*": f"smtp://{sink.address}"}) as rig:
        await rig.work.put(job("bob@dest.example"))
        await rig.work.wait(1)
        assert rig.tally()["delivered"] == 1
        assert (sink.connections, sink.messages[0].tls) == (2, False)
        assert "going on in clear" in rig.troubles("delivery.tls")[0]


@pytest.mark.parametrize("behaviour", ["drop-at-starttls", "garbage-at-starttls", "hang-in-starttls", "421-at-starttls"])
async def test_a_host_that_breaks_at_starttls_gets_its_mail_in_clear(context: ssl.SSLContext, behaviour: str) -> None:
    sink = Sink(tls=context, behaviours={behaviour})
    async with sink, delivering({"*": f"smtp://{sink.address}"}, tls_timeout="100ms") as rig:
        await rig.work.put(job("bob@dest.example"))
        await rig.work.wait(1)
        assert rig.tally()["delivered"] == 1
        assert sink.connections == 2
        assert not sink.messages[0].tls


async def test_octets_between_starttls_and_the_handshake_are_not_believed(context: ssl.SSLContext) -> None:
    """Response injection (CVE-2021-33515 and kin): a 250 sent in clear must not answer a command sent in TLS."""
    injected = b"220 go\r\n250-evil.example\r\n250 SIZE 1\r\n"
    said: list[bytes] = []

    async def host(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 x\r\n")
        while line := await reader.readline():
            said.append(line.strip())
            if line.startswith(b"EHLO"):
                writer.write(b"250-x\r\n250 STARTTLS\r\n" if len(said) == 1 else b"250 x\r\n")
            elif line.startswith(b"STARTTLS"):
                writer.write(injected)
            elif line.startswith(b"DATA"):
                writer.write(b"354 go\r\n")
                await reader.readuntil(b"\r\n.\r\n")
                writer.write(b"250 taken\r\n")
            else:
                writer.write(b"250 ok\r\n")
        writer.close()

    server = await asyncio.start_server(host, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with delivering({"*": f"smtp://127.0.0.1:{port}"}) as rig:
        await rig.work.put(job("bob@dest.example"))
        await rig.work.wait(1)
        assert rig.troubles("delivery.tls")
        assert b"EHLO mx.example.test" in said
        assert [line for line in said if line.startswith(b"MAIL")] == [
            b"MAIL FROM:<ann@client.example>"
        ]  # SIZE was not believed
    server.close()
    await server.wait_closed()
