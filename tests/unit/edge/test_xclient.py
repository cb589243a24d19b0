# SPDX-License-Identifier: Apache-2.0
"""XCLIENT: who speaks for whom, and which rights that gives. A proxy's own trust must never pass to a stranger."""

import asyncio
import ssl
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest

from gateway.edge.options import LimitsOptions, ListenerOptions
from gateway.edge.xclient import NOBODY, parse_claim
from gateway.infra.tls import server_context
from gateway.mail import reply
from gateway.mail.events import Disconnected, Rejected
from gateway.mail.reply import MailError
from gateway.mail.verdict import ACCEPT, Action, Phase, Verdict
from tests.support import certificates
from tests.support.edges import CONTENT, GREET, MAIL, Place, run, running, until
from tests.support.fakes import FakePolicy

PROXY = "127.0.0.1"
STRANGER, FRIEND = b"192.0.2.7", b"10.1.1.1"
TRUSTED = (ip_network("127.0.0.0/8"), ip_network("10.0.0.0/8"))


def listener(**more: Any) -> ListenerOptions:
    return ListenerOptions.model_validate({"address": "127.0.0.1:0", "xclient": ["127.0.0.0/8"], **more})


def clients(place: Place) -> list[tuple[str, bool, str]]:
    """Address, trust and user of whoever brought a mail."""
    return [(str(each.tx.client.ip), each.tx.client.trusted, each.tx.client.user) for each in place.intake.stored]


def talks(tmp_path: Path, *said: bytes, trusted: Any = TRUSTED, **more: Any) -> tuple[Place, bytes]:
    """One session; the place as it was at the end."""

    async def main() -> tuple[Place, bytes]:
        async with running(tmp_path, listener=listener(**more), more={"trusted": trusted}) as place:
            heard = await place.talk(*said, b"QUIT\r\n")
            return place, heard

    return run("asyncio", main())


SEND = GREET + MAIL + CONTENT


@pytest.mark.parametrize(
    ("said", "address", "trusted"),
    [
        (b"", PROXY, True),
        (b"XCLIENT ADDR=192.0.2.7\r\n", "192.0.2.7", False),
        (b"XCLIENT ADDR=10.1.1.1\r\n", "10.1.1.1", True),
        (b"XCLIENT ADDR=[UNAVAILABLE]\r\n", "0.0.0.0", False),
        (b"XCLIENT NAME=client.example\r\n", PROXY, False),  # whoever that is, he is not the proxy
        (b"XCLIENT LOGIN=ann\r\n", PROXY, False),
        (b"XCLIENT ADDR=192.0.2.7\r\nXCLIENT NAME=client.example\r\n", "192.0.2.7", False),
        (b"XCLIENT ADDR=10.1.1.1\r\nXCLIENT NAME=client.example\r\n", "10.1.1.1", True),
        (b"XCLIENT ADDR=10.1.1.1\r\nXCLIENT ADDR=192.0.2.7\r\n", "192.0.2.7", False),
        (b"XCLIENT ADDR=192.0.2.7\r\nXCLIENT ADDR=127.0.0.1\r\n", PROXY, True),
        (b"XCLIENT ADDR=IPV6:::ffff:10.1.1.1\r\n", "10.1.1.1", True),
    ],
)
def test_trust_is_that_of_the_address_that_was_claimed(tmp_path: Path, said: bytes, address: str, trusted: bool) -> None:
    place, heard = talks(tmp_path, said + SEND)
    assert b"queued as" in heard
    assert clients(place) == [(address, trusted, "")]


def test_an_unknown_address_is_nobody_even_if_nobody_were_trusted(tmp_path: Path) -> None:
    place, _ = talks(tmp_path, b"XCLIENT ADDR=[unavailable]\r\n" + SEND, trusted=(ip_network("0.0.0.0/8"),))
    assert clients(place) == [(str(NOBODY), False, "")]


def test_who_was_claimed_may_not_claim_others_by_his_address(tmp_path: Path) -> None:
    """The right to use XCLIENT is the peer's, whatever it says: it keeps it as a stranger, and a stranger does not get it."""
    _, heard = talks(tmp_path, b"XCLIENT ADDR=192.0.2.7\r\nXCLIENT ADDR=192.0.2.8\r\n" + GREET)
    assert heard.count(b"220 ") == 3
    assert b"XCLIENT NAME" in heard
    _, heard = talks(tmp_path, b"XCLIENT ADDR=192.0.2.7\r\n", xclient=["192.0.2.7"])
    assert b"550 5.7.0 " in heard


@pytest.mark.parametrize(
    ("role", "said", "user"),
    [
        ("submission", b"XCLIENT ADDR=192.0.2.7 LOGIN=ann+40b.example\r\n", "ann@b.example"),
        ("submission", b"XCLIENT ADDR=192.0.2.7\r\nXCLIENT LOGIN=ann\r\n", "ann"),
        ("submission", b"XCLIENT LOGIN=ann\r\nXCLIENT NAME=x.example\r\n", "ann"),
        ("submission", b"XCLIENT LOGIN=ann\r\nXCLIENT ADDR=192.0.2.7\r\n", ""),  # another client
        ("submission", b"XCLIENT LOGIN=ann\r\nXCLIENT LOGIN=[UNAVAILABLE]\r\n", ""),
        ("mx", b"XCLIENT ADDR=192.0.2.7 LOGIN=ann\r\n", ""),
    ],
)
def test_a_login_counts_for_submission_only_and_for_that_client_only(tmp_path: Path, role: str, said: bytes, user: str) -> None:
    async def main() -> None:
        policy, users = FakePolicy(), []
        policy.decisions[Phase.HELO] = lambda tx: users.append(tx.client.user) or ACCEPT
        async with running(tmp_path, listener=listener(role=role), policy=policy) as place:
            await place.talk(said + GREET + b"QUIT\r\n")
        assert users == [user]

    run("asyncio", main())


def test_what_was_claimed_in_clear_gives_no_rights_under_tls(tmp_path: Path) -> None:
    made = certificates.make(tmp_path, "mx.example.test")
    ours = ssl.create_default_context(cafile=str(made.authority))
    seen: list[tuple[str, bool, str]] = []

    async def main() -> None:
        policy = FakePolicy()
        policy.decisions[Phase.HELO] = lambda tx: seen.append((str(tx.client.ip), tx.client.trusted, tx.client.user)) or ACCEPT
        options = listener(tls="starttls", role="submission")
        context = server_context(made.certificate, made.key)
        async with running(tmp_path, listener=options, policy=policy, tls=context, more={"trusted": TRUSTED}) as place:
            reader, writer = await place.connect()
            writer.write(b"XCLIENT ADDR=10.1.1.1 LOGIN=ann\r\n" + GREET)
            while (await reader.readline())[:4] != b"250 ":
                pass
            writer.write(b"STARTTLS\r\n")
            assert (await reader.readline()).startswith(b"220 ")
            await writer.start_tls(ours, server_hostname="mx.example.test")
            writer.write(GREET + b"XCLIENT NAME=client.example\r\n" + GREET)  # which gives back nothing that was said in clear
            writer.write(b"XCLIENT ADDR=10.1.1.1 LOGIN=ann\r\n" + GREET + b"QUIT\r\n")
            await asyncio.wait_for(reader.read(), 30)
            writer.close()

    run("asyncio", main())
    believed, doubted = ("10.1.1.1", True, "ann"), ("10.1.1.1", False, "")
    assert seen == [believed, doubted, doubted, believed]


def test_the_new_client_is_counted_and_the_proxy_is_not(tmp_path: Path) -> None:
    async def main() -> None:
        limits = LimitsOptions(connections_per_client=1)
        async with running(tmp_path, listener=listener(), limits=limits) as place:
            streams = [await place.connect() for _ in range(3)]  # of a proxy, which has no share of its own
            for reader, _ in streams:
                assert (await reader.readline()).startswith(b"220 ")
            for (reader, writer), answer in zip(streams, (b"220 ", b"220 ", b"421 4.7.0 "), strict=True):
                writer.write(
                    b"XCLIENT ADDR=192.0.2." + (b"7" if answer == b"220 " and writer is streams[0][1] else b"8") + b"\r\n"
                )
                assert (await reader.readline()).startswith(answer)
            streams.pop()[1].close()
            await until(lambda: place.edge.sessions == 2)
            for _, writer in streams:
                writer.close()
            await until(lambda: not place.edge.sessions)
            assert not place.edge._desk.admission._clients
            assert {str(event.client.ip) for event in place.events.of(Disconnected)} == {"192.0.2.7", "192.0.2.8", PROXY}

    run("asyncio", main())


def test_filters_judge_the_new_client_at_connect(tmp_path: Path) -> None:
    async def main() -> None:
        def judge(tx: Any) -> Verdict:
            return Verdict(Action.REJECT, reply.POLICY, rule="t") if tx.client.ip == ip_address("192.0.2.7") else ACCEPT

        policy = FakePolicy({Phase.CONNECT: judge})
        async with running(tmp_path, listener=listener(), policy=policy) as place:
            heard = await place.talk(b"XCLIENT ADDR=192.0.2.7\r\n", GREET, b"QUIT\r\n")
            assert [line[:3] for line in heard.splitlines()] == [b"220", b"554", b"503", b"221"]
            assert str(place.events.of(Rejected)[0].client.ip) == "192.0.2.7"

    run("asyncio", main())


def test_a_session_keeps_its_name_and_the_name_of_the_client_is_known(tmp_path: Path) -> None:
    place, _ = talks(tmp_path, b"XCLIENT ADDR=192.0.2.7 PORT=99 NAME=a.example\r\n" + SEND)
    client = place.intake.stored[0].tx.client
    assert (client.name, client.port) == ("a.example", 99)
    assert client.session == place.events.of(Disconnected)[0].client.session
    assert b"from client.example (a.example [192.0.2.7])\r\n" in place.intake.stored[0].content


def test_a_claim_is_read_word_by_word() -> None:
    claim = parse_claim(b"addr=IPv6:2001:DB8::1  Port=25 NAME=[TempUnavail] helo=x.example proto=esmtp login=a+2Bb")
    assert (claim.ip, claim.port, claim.name, claim.user) == (ip_address("2001:db8::1"), 25, "", "a+b")
    empty = parse_claim(b"PROTO=SMTP")
    assert (empty.ip, empty.port, empty.name, empty.user) == (None, None, None, None)
    with pytest.raises(MailError):
        parse_claim(b"LOGIN=" + b"x" * 256)
