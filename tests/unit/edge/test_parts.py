# SPDX-License-Identifier: Apache-2.0
"""Small parts of the edge: addresses to listen on, options, counts, the watchdog."""

import asyncio
import socket
from ipaddress import ip_address
from pathlib import Path

import pytest
from pydantic import ValidationError

from gateway.edge.admission import Admission
from gateway.edge.desk import peer
from gateway.edge.options import LimitsOptions, ListenerOptions
from gateway.edge.place import Place, bind, parse_place
from gateway.edge.watchdog import Watchdog

LIMITS = LimitsOptions(connections=3, connections_per_client=2)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("127.0.0.1:25", Place("tcp", "127.0.0.1", 25)),
        ("[::]:25", Place("tcp", "::", 25)),
        ("mx.example.test:2525", Place("tcp", "mx.example.test", 2525)),
        ("unix:/run/gateway/smtp", Place("unix", "/run/gateway/smtp")),
        ("systemd:smtp", Place("systemd", "smtp")),
    ],
)
def test_addresses_to_listen_on(text: str, place: Place) -> None:
    assert parse_place(text) == place


@pytest.mark.parametrize(
    "text", ["", "25", ":25", "host:", "host:x", "host:65536", "::1:25", "unix:", "unix:relative", "systemd:", "h:²"]
)
def test_what_is_no_address_is_refused_with_the_forms(text: str) -> None:
    with pytest.raises(ValueError, match="write"):
        parse_place(text)


def test_a_bound_socket_takes_its_family_only() -> None:
    with bind("[::1]:0") as six, bind("127.0.0.1:0") as four:
        assert six.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
        assert four.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)


def test_a_dead_socket_file_is_replaced_a_living_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "smtp"
    with bind(f"unix:{path}") as first:
        first.listen()
        with pytest.raises(OSError, match="in use"):
            bind(f"unix:{path}")
    with bind(f"unix:{path}"):
        pass


def test_a_file_that_is_no_socket_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "smtp"
    path.write_text("precious")
    with pytest.raises(OSError, match="in use"):
        bind(f"unix:{path}")
    assert path.read_text() == "precious"


@pytest.mark.parametrize(
    ("option", "value", "reason"),
    [
        ("proxy_protocol", ["10.0.0.0/99"], "network"),
        ("address", "nonsense", "has no port"),
    ],
)
def test_what_we_cannot_serve_is_refused_at_its_key(option: str, value: object, reason: str) -> None:
    with pytest.raises(ValidationError, match=reason) as caught:
        ListenerOptions.model_validate({"address": "127.0.0.1:25", option: value})
    assert caught.value.errors()[0]["loc"][0] == option


def test_the_defaults_are_those_of_the_reference() -> None:
    limits = LimitsOptions()
    assert (limits.message_size, limits.line_length, limits.recipients) == (50 << 20, 64 << 10, 1000)
    assert (limits.connections, limits.connections_per_client) == (10000, 50)
    listener = ListenerOptions(address="127.0.0.1:25")
    assert (listener.role, listener.tls, listener.proxy_protocol) == ("mx", "none", [])
    assert (listener.greeting_delay, listener.tarpit) == (0.0, 0.0)


def test_connections_of_one_client_are_limited() -> None:
    doors, ip = Admission(), ip_address("192.0.2.1")
    assert [doors.enter(ip, LIMITS, trusted=False) for _ in range(3)] == [True, True, False]
    assert doors.enter(ip_address("192.0.2.2"), LIMITS, trusted=False)
    assert not doors.enter(ip_address("192.0.2.3"), LIMITS, trusted=False), "there are three already"
    doors.leave(ip)
    assert doors.enter(ip, LIMITS, trusted=False)


def test_an_ipv6_client_is_its_64() -> None:
    doors = Admission()
    assert doors.enter(ip_address("2001:db8::1"), LIMITS, trusted=False)
    assert doors.enter(ip_address("2001:db8::ffff:2"), LIMITS, trusted=False)
    assert not doors.enter(ip_address("2001:db8::3"), LIMITS, trusted=False)
    assert doors.enter(ip_address("2001:db8:0:1::3"), LIMITS, trusted=False)


def test_trusted_clients_have_no_limit_of_their_own() -> None:
    doors, ip = Admission(), ip_address("127.0.0.1")
    assert [doors.enter(ip, LIMITS, trusted=True) for _ in range(4)] == [True, True, True, False]


def test_no_limits_are_none_and_nothing_is_remembered_of_the_gone() -> None:
    doors, ip = Admission(), ip_address("192.0.2.1")
    free = LimitsOptions(connections=0, connections_per_client=0)
    assert all(doors.enter(ip, free, trusted=False) for _ in range(100))
    for _ in range(100):
        doors.leave(ip)
    assert not doors._clients


@pytest.mark.parametrize(
    ("name", "ip", "port"),
    [
        (("192.0.2.1", 9), "192.0.2.1", 9),
        (("::ffff:192.0.2.1", 9, 0, 0), "192.0.2.1", 9),
        (("fe80::1%eth0", 9, 0, 2), "fe80::1", 9),
    ],
)
def test_the_other_end(name: object, ip: str, port: int) -> None:
    assert peer(name) == (ip_address(ip), port)


@pytest.mark.parametrize("name", [None, ""])
def test_who_has_no_name_is_not_on_this_machine(name: object) -> None:
    assert peer(name) is None


async def test_the_watchdog_bites_once_at_the_last_deadline() -> None:
    bites: list[float] = []
    loop, bitten = asyncio.get_running_loop(), asyncio.Event()
    dog = Watchdog(loop, lambda: (bites.append(loop.time()), bitten.set()))  # type: ignore[arg-type, func-returns-value]
    began = loop.time()
    dog.set(0.01)
    dog.set(0.06)  # moved away while the timer is armed
    await bitten.wait()
    assert bites[0] - began >= 0.055
    assert len(bites) == 1


async def test_the_watchdog_bites_earlier_if_told_so_and_not_at_all_if_called_off() -> None:
    loop, bitten = asyncio.get_running_loop(), asyncio.Event()
    dog = Watchdog(loop, bitten.set)
    dog.set(300)
    dog.set(0.01)
    await asyncio.wait_for(bitten.wait(), 10)
    bitten.clear()
    dog.set(0.01)
    dog.off()
    other, later = Watchdog(loop, asyncio.Event().set), asyncio.Event()
    other = Watchdog(loop, later.set)
    other.set(0.05)
    await asyncio.wait_for(later.wait(), 10)
    assert not bitten.is_set()
    dog.cancel()
    other.cancel()
