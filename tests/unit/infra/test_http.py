# SPDX-License-Identifier: Apache-2.0
"""The HTTP door: real sockets, bounded bodies, faults as JSON, control sockets that only their owner opens."""

import asyncio
import json
import socket
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.infra.http import LARGEST_REQUEST, App, HttpError, Request, Response, Route, Server, Unreachable, fetch, reply_json

faults: list[str] = []


async def _echo(request: Request) -> Response:
    return reply_json({"parameters": dict(request.parameters), "query": {k: list(v) for k, v in request.query.items()}})


async def _body(request: Request) -> Response:
    return reply_json({"size": len(request.body), "json": request.json()})


async def _refuse(request: Request) -> Response:
    raise HttpError(409, "not now")


async def _crash(request: Request) -> Response:
    raise KeyError("a secret of the inside")


async def _hang(request: Request) -> Response:
    await asyncio.Event().wait()
    raise AssertionError("never")


ROUTES = [
    Route("GET", "/echo/{name}", _echo),
    Route("POST", "/body", _body),
    Route("GET", "/refuse", _refuse),
    Route("GET", "/crash", _crash),
    Route("GET", "/hang", _hang),
]


@pytest.fixture
async def path(tmp_path: Path) -> AsyncIterator[Path]:
    faults.clear()
    server = Server(App(ROUTES, deadline=0.2, on_fault=faults.append))
    await server.start_unix(tmp_path / "control.sock")
    yield tmp_path / "control.sock"
    await server.close()


async def test_parameters_and_repeated_query_keys_arrive(path: Path) -> None:
    response = await fetch(path, "GET", "/echo/a%20b", query=[("id", "1"), ("id", "2"), ("x", "ä&=")])
    assert response.json() == {"parameters": {"name": "a b"}, "query": {"id": ["1", "2"], "x": ["ä&="]}}
    assert response.content_type == "application/json"


@pytest.mark.parametrize(
    ("method", "target", "status", "reason"),
    [
        ("GET", "/refuse", 409, "not now"),
        ("GET", "/nothing", 404, "Not Found"),
        ("POST", "/refuse", 405, "Method Not Allowed"),
        ("GET", "/hang", 504, "took too long"),
        ("GET", "/crash", 500, "internal error: KeyError"),
    ],
)
async def test_whatever_goes_wrong_is_json_without_secrets(
    path: Path, method: str, target: str, status: int, reason: str
) -> None:
    response = await fetch(path, method, target)
    assert (response.status, response.json()) == (status, {"error": reason})


async def test_a_crash_is_told_to_us_in_full(path: Path) -> None:
    await fetch(path, "GET", "/crash")
    assert faults == ["GET /crash: KeyError: 'a secret of the inside'"]


async def test_a_body_that_is_too_large_is_refused(path: Path) -> None:
    assert (await fetch(path, "POST", "/body", json_body="x" * 1000)).json()["size"] == 1002
    assert (await fetch(path, "POST", "/body", json_body="x" * LARGEST_REQUEST)).status == 413


@pytest.mark.parametrize("body", [b"{", b"\xff", b"[" * 100_000])
async def test_a_body_that_is_no_json_is_the_callers_fault(path: Path, body: bytes) -> None:
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(b"POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(body) + body)
    answer = await reader.read()
    writer.close()
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert "not JSON" in json.loads(answer.partition(b"\r\n\r\n")[2])["error"]


async def test_only_the_owner_may_open_the_control_socket(path: Path) -> None:
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_a_socket_of_a_killed_daemon_is_replaced(tmp_path: Path) -> None:
    stale = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(stale))
    with pytest.raises(Unreachable):
        await fetch(stale, "GET", "/echo/a")
    server = Server(App(ROUTES))
    await server.start_unix(stale)
    assert (await fetch(stale, "GET", "/echo/a")).status == 200
    await server.close()
    assert list(tmp_path.iterdir()) == []


async def test_a_path_longer_than_a_socket_address_works(tmp_path: Path) -> None:
    """unix(7) allows 107 octets; a data directory may lie deeper."""
    folder = tmp_path / ("d" * 100) / ("e" * 100)
    folder.mkdir(parents=True)
    server = Server(App(ROUTES))
    await server.start_unix(folder / "worker-0.sock")
    assert (await fetch(folder / "worker-0.sock", "GET", "/echo/a")).status == 200
    await server.close()


async def test_nobody_there_is_unreachable(tmp_path: Path) -> None:
    with pytest.raises(Unreachable):
        await fetch(tmp_path / "none.sock", "GET", "/")


async def test_tcp_sockets_that_are_given_are_served_until_close() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    listener.setblocking(False)
    server = Server(App(ROUTES))
    await server.start(listener)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /echo/a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    answer = await reader.read()
    writer.close()
    assert answer.startswith(b"HTTP/1.1 200 OK")
    assert b"X-Content-Type-Options: nosniff" in answer
    await server.close()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)


async def test_close_does_not_wait_for_a_request_that_hangs(tmp_path: Path) -> None:
    entered = asyncio.Event()

    async def hang(request: Request) -> Response:
        entered.set()
        return await _hang(request)

    server = Server(App([Route("GET", "/hang", hang)], deadline=3600))
    await server.start_unix(tmp_path / "control.sock")
    hanging = asyncio.create_task(fetch(tmp_path / "control.sock", "GET", "/hang"))
    await entered.wait()
    await server.close()
    with pytest.raises(Unreachable):
        await hanging
