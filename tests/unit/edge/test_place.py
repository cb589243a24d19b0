# SPDX-License-Identifier: Apache-2.0
"""Two sockets on one address: the second is refused when it is bound, and not when somebody wants to accept."""

import socket
from pathlib import Path

import pytest

from gateway.config import Config, ConfigError
from gateway.edge.place import bind, overlap, parse_place
from gateway.sockets import bind_admin, bind_listeners


def port_of(sock: socket.socket) -> int:
    return int(sock.getsockname()[1])


@pytest.mark.parametrize(("first", "second"), [("127.0.0.1", "0.0.0.0"), ("0.0.0.0", "127.0.0.1"), ("127.0.0.1", "127.0.0.1")])
def test_a_second_socket_on_an_address_is_refused_when_it_is_bound(first: str, second: str) -> None:
    with bind(f"{first}:0") as taken, pytest.raises(OSError, match="in use"):
        bind(f"{second}:{port_of(taken)}")


def test_a_second_socket_on_a_path_is_refused_and_the_first_stays(tmp_path: Path) -> None:
    with bind(f"unix:{tmp_path}/smtp"):
        with pytest.raises(OSError, match="in use"):
            bind(f"unix:{tmp_path}/smtp")
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(f"{tmp_path}/smtp")


def test_who_connects_before_anybody_accepts_waits() -> None:
    with bind("127.0.0.1:0") as listening, socket.create_connection(("127.0.0.1", port_of(listening)), 30) as client:
        accepted, _ = listening.accept()
        with accepted:
            accepted.sendall(b"later")
            assert client.recv(5) == b"later"


def test_a_name_that_stands_for_a_bound_address_is_told_with_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    look_up = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *rest, **more: look_up("127.0.0.1", *rest, **more))
    with bind("127.0.0.1:0") as probe:
        port = port_of(probe)
    listeners = [{"address": f"127.0.0.1:{port}"}, {"address": f"name:{port}"}]
    with pytest.raises(ConfigError) as raised:
        bind_listeners(Config.model_validate({"hostname": "mx.test", "listener": listeners}), "f.toml")
    (fault,) = raised.value.faults
    assert (fault.key, fault.value) == ("listener[1].address", f'"name:{port}"')
    assert "another address of this file" in fault.reason
    with bind(f"127.0.0.1:{port}"):  # nothing was kept
        pass


def test_an_admin_address_in_use_is_told_with_its_key() -> None:
    with bind("127.0.0.1:0") as taken, pytest.raises(ConfigError) as raised:
        config = Config.model_validate({"hostname": "mx.test", "admin": {"address": f"0.0.0.0:{port_of(taken)}"}})
        bind_admin(config, "f.toml")
    assert [fault.key for fault in raised.value.faults] == ["admin.address"]


def test_overlap_needs_one_family_and_one_port() -> None:
    wide, one, six = parse_place("0.0.0.0:25"), parse_place("127.0.0.1:25"), parse_place("[::]:25")
    assert overlap(wide, one)
    assert overlap(one, wide)
    assert not overlap(wide, six)
    assert not overlap(one, parse_place("127.0.0.1:26"))
