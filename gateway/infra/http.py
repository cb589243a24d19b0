# SPDX-License-Identifier: Apache-2.0
"""The door to aiohttp: a small HTTP server on sockets that are given, and a client over a unix socket.

An application is a list of `Route`s whose handlers take a `Request` and return a `Response`; they know no library.
Promises: bodies are bounded; each handler has a deadline; whatever goes wrong is answered as JSON {"error": reason}
without inner details; a control socket appears only when it answers, and only its owner may open it.
Fails with: `HttpError` (raised by handlers: status and reason), `Unreachable` (client: nobody answers in time).
Not here: what is served (`ops/api.py`).
"""

import asyncio
import contextlib
import io
import json
import os
import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

LARGEST_REQUEST = 1 << 20  # octets of a request body: some 50,000 queue ids
HANDLER_DEADLINE = 60.0  # seconds: a command on a long queue takes its time
REPLY_DEADLINE = HANDLER_DEADLINE + 5.0  # our client's patience with our own server
SHUTDOWN_PATIENCE = 2.0
SOCKET_PATH_MAX = 107  # unix(7): sun_path has 108 octets with the final NUL
JSON_TYPE = "application/json"


class HttpError(Exception):
    """A handler's refusal: the caller sees `status` and `reason`."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


class Unreachable(Exception):
    """Nobody answers on the socket, or not in time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a handler gets: the values of `{name}` in the route's path, the query (each key with all its values), the body."""

    parameters: Mapping[str, str]
    query: Mapping[str, Sequence[str]]
    body: bytes = b""

    def json(self) -> Any:
        """The body as JSON. Raises HttpError 400 if it is none."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError) as err:
            raise HttpError(400, f"the body is not JSON: {type(err).__name__}") from err


@dataclass(frozen=True, slots=True)
class Response:
    """What a handler returns, and what the client gets."""

    status: int = 200
    body: bytes = b""
    content_type: str = JSON_TYPE

    def json(self) -> Any:
        return json.loads(self.body)


Handler = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Route:
    """`path` may have parts such as {id}; each stands for one segment."""

    method: str
    path: str
    handler: Handler


@dataclass(frozen=True, slots=True)
class App:
    """What a server serves."""

    routes: Sequence[Route]
    deadline: float = field(default=HANDLER_DEADLINE, kw_only=True)  # seconds that a handler may take
    on_fault: Callable[[str], None] = field(default=lambda detail: None, kw_only=True)  # told of each answer 500


def reply_json(value: Any, status: int = 200) -> Response:
    """`value` as a JSON response, ended by a newline for people with curl."""
    return Response(status, json.dumps(value, ensure_ascii=True, default=str).encode() + b"\n")


class Server:
    """Serves one application on any number of sockets until `close`."""

    def __init__(self, app: App) -> None:
        application = web.Application(client_max_size=LARGEST_REQUEST, middlewares=[_faults_as_json(app.on_fault)])
        for route in app.routes:
            application.router.add_route(route.method, route.path, _adapt(route.handler, app.deadline))
        self._runner = web.AppRunner(
            application,
            access_log=None,
            keepalive_timeout=30.0,
            handler_cancellation=False,  # a command that has begun is finished, even if its caller leaves
            shutdown_timeout=SHUTDOWN_PATIENCE,
        )
        self._servers: list[asyncio.AbstractServer] = []
        self._paths: list[Path] = []

    async def start(self, listener: socket.socket) -> None:
        """Serve on a bound stream socket, TCP or unix; it is ours from now on."""
        if self._runner.server is None:
            await self._runner.setup()
        if self._runner.server is None:
            raise RuntimeError("the HTTP runner has no server after its setup")
        loop = asyncio.get_running_loop()
        if listener.family == socket.AF_UNIX:
            server = await loop.create_unix_server(self._runner.server, sock=listener)
        else:
            server = await loop.create_server(self._runner.server, sock=listener)
        self._servers.append(server)

    async def start_unix(self, path: Path) -> None:
        """Serve on a new unix socket at `path`, readable and writable for its owner only; replaces what stands there."""
        # Bound under another name and renamed when it listens: a client finds a socket that answers, or none.
        hidden = path.with_name(f".{path.name}.{os.getpid()}")
        hidden.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with _short(hidden) as name:
                listener.bind(name)
            hidden.chmod(0o600)
            await self.start(listener)
            hidden.replace(path)
        except BaseException:
            listener.close()
            hidden.unlink(missing_ok=True)
            raise
        self._paths.append(path)

    async def close(self) -> None:
        """Stop taking requests, give the running ones a moment, and remove our unix sockets."""
        for path in self._paths:
            path.unlink(missing_ok=True)
        for server in self._servers:
            server.close()
        await self._runner.cleanup()
        self._servers.clear()
        self._paths.clear()


def _adapt(handler: Handler, deadline: float) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def handle(incoming: web.Request) -> web.StreamResponse:
        async with asyncio.timeout(deadline):
            body = await incoming.read() if incoming.can_read_body else b""
            query = {key: tuple(incoming.query.getall(key)) for key in incoming.query}
            request = Request(parameters=dict(incoming.match_info), query=query, body=body)
            response = await handler(request)
        return web.Response(
            status=response.status, body=response.body, headers={"Content-Type": response.content_type, **_HEADERS}
        )

    return handle


_HEADERS = {"Server": "gateway", "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


def _faults_as_json(on_fault: Callable[[str], None]) -> Any:
    @web.middleware
    async def middleware(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        try:
            return await handler(request)
        except HttpError as err:
            status, reason = err.status, err.reason
        except web.HTTPException as err:  # no such path, wrong method, body too large
            status, reason = err.status, err.reason
        except TimeoutError:
            status, reason = 504, "took too long"
        except Exception as err:  # noqa: BLE001 - the border of a request: one that fails must not end the others
            status, reason = 500, f"internal error: {type(err).__name__}"
            on_fault(f"{request.method} {request.path}: {type(err).__name__}: {err}")
        return web.json_response({"error": reason}, status=status, headers=_HEADERS)

    return middleware


async def fetch(
    path: Path, method: str, target: str, *, query: Sequence[tuple[str, str]] = (), json_body: Any = None
) -> Response:
    """One request over the unix socket at `path`. Raises Unreachable if nobody answers within `REPLY_DEADLINE`."""
    body = None if json_body is None else io.BytesIO(json.dumps(json_body).encode())
    headers = {"Content-Type": JSON_TYPE} if body else {}
    with _short(path) as name:
        connector = aiohttp.UnixConnector(name)
        timeout = aiohttp.ClientTimeout(total=REPLY_DEADLINE, sock_connect=5.0)
        try:
            async with (
                aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
                session.request(method, f"http://control{target}", params=list(query), data=body, headers=headers) as response,
            ):
                return Response(response.status, await response.read(), response.content_type)
        except (aiohttp.ClientError, OSError, TimeoutError) as err:
            raise Unreachable(f"{path}: {type(err).__name__}: {err}") from err


@contextlib.contextmanager
def _short(path: Path) -> Iterator[str]:
    """A name for a unix socket that fits into sun_path: a long one goes by way of a descriptor of its directory."""
    if len(os.fsencode(path)) <= SOCKET_PATH_MAX:
        yield str(path)
        return
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)
