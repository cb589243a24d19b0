# SPDX-License-Identifier: Apache-2.0
"""Clients that say all and vanish with a RST before anyone asks for their address: no name must not mean a trusted one."""

import asyncio
import socket
import ssl
import struct
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path

import psutil
import pytest

from gateway.edge.options import ListenerOptions
from gateway.infra.tls import server_context
from gateway.mail import reply
from gateway.mail.envelope import Transaction
from gateway.mail.events import Connected, Disconnected, Trouble
from gateway.mail.verdict import ACCEPT, Action, Phase, Verdict
from tests.support import certificates
from tests.support.edges import CONTENT, GREET, LOOPS, MAIL, Place, run, running, until
from tests.support.fakes import FakePolicy

STRANGER = "127.0.0.2"
BLAST = GREET + MAIL + CONTENT + b"QUIT\r\n"
TIMES = 20


def relay_for_the_trusted(tx: Transaction) -> Verdict:
    return ACCEPT if tx.client.trusted else Verdict(Action.REJECT, reply.RELAY_DENIED)


def strange_client(place: Place) -> socket.socket:
    """Connected from an address that may not relay."""
    sock = socket.socket()
    sock.bind((STRANGER, 0))
    sock.connect(("127.0.0.1", place.port))
    return sock


def vanish(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def trust_this_host(place: Place) -> None:
    place.edge.reload(replace(place.settings, trusted=[ip_network("127.0.0.1/32")]), place.policy)


async def nothing_is_left(place: Place) -> None:
    await place.talk(b"QUIT\r\n")  # was accepted after all the others
    await until(lambda: place.edge.sessions == 0 and not place.edge._desk.admission._clients)


def nobody_was_trusted(place: Place, strangers: list[Connected]) -> None:
    assert not place.intake.stored
    assert {event.client.ip for event in strangers} <= {ip_address(STRANGER)}
    assert not any(event.client.trusted for event in strangers)
    assert len(place.events.of(Connected)) == len(place.events.of(Disconnected))
    assert not place.events.of(Trouble)


@pytest.mark.parametrize("loop", LOOPS)
def test_a_client_without_a_name_does_not_relay(loop: str, tmp_path: Path) -> None:
    """uvloop asks for the peer's name when we do; behind a RST there is none, but what came before can still be read."""

    async def main() -> None:
        async with running(tmp_path, policy=FakePolicy({Phase.RCPT: relay_for_the_trusted})) as place:
            trust_this_host(place)
            descriptors = psutil.Process().num_fds()
            for _ in range(TIMES):  # without giving the loop a turn: all are reset before they are accepted
                client = strange_client(place)
                client.sendall(BLAST)
                vanish(client)
            await nothing_is_left(place)
            nobody_was_trusted(place, place.events.of(Connected)[:-1])
            await until(lambda: psutil.Process().num_fds() <= descriptors)

    run(loop, main())


def test_a_name_lost_in_the_handshake_is_the_one_that_was_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who vanishes as soon as the handshake is done must be counted out under the name that was counted in."""
    made = certificates.make(tmp_path, "mx.example.test")
    server, trusting = server_context(made.certificate, made.key), ssl.create_default_context(cafile=str(made.authority))
    transport = asyncio.selector_events._SelectorSocketTransport  # type: ignore[attr-defined]
    known, asked = transport.get_extra_info, set[int]()

    def once(self: asyncio.Transport, name: str, default: object = None) -> object:
        told = name == "peername" and id(self) in asked
        asked.add(id(self))
        return None if told else known(self, name, default)

    monkeypatch.setattr(transport, "get_extra_info", once)

    async def main() -> None:
        policy = FakePolicy({Phase.RCPT: relay_for_the_trusted})
        implicit = ListenerOptions(address="127.0.0.1:0", tls="implicit")
        async with running(tmp_path, listener=implicit, tls=server, policy=policy) as place:
            trust_this_host(place)
            client = strange_client(place)
            reader, writer = await asyncio.open_connection(sock=client, ssl=trusting, server_hostname="mx.example.test")
            writer.write(BLAST)
            assert b"\r\n550 5.7.1 " in await reader.read()
            writer.close()
            await until(lambda: not place.edge._desk.admission._clients)
            nobody_was_trusted(place, place.events.of(Connected))
            assert len(place.events.of(Connected)) == 1

    run("asyncio", main())
