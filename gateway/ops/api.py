# SPDX-License-Identifier: Apache-2.0
"""The HTTP interfaces: what anyone near may read, and what only the owner of the control socket may.

  public    GET /metrics /healthz /readyz /api/v1/status
  control   the same, and
            GET  /api/v1/queue ?id= &domain= &sender= &recipient= &older= &state= &reason= &limit=
            GET  /api/v1/queue/{id}   /api/v1/queue/{id}/content   /api/v1/counts   /api/v1/trace/{id}
            POST /api/v1/queue/{command}   a selector as JSON, with "dry_run" and (for everything) "all"
Promises: the public one changes nothing and shows no address of anybody; ids are checked before anything else sees them;
a command without a selector is refused unless it says "all".
Fails with: JSON {"error": reason}: 400 what was asked makes no sense, 404 no such message, 409 while the shard cannot.
Not here: sockets (`infra/http.py`), the JSON of views and selectors (`ops/wire.py`).
"""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gateway.infra.http import App, HttpError, Request, Response, Route, reply_json
from gateway.infra.metrics import CONTENT_TYPE
from gateway.mail.job import QueueId, parse_queue_id
from gateway.mail.listing import MessageView, Selector
from gateway.mail.reply import MailError
from gateway.ops.wire import COMMANDS, BadSelector, is_empty, selector_from_json, view_to_json
from gateway.ports import QueueAdmin, TraceStore

LIMIT_DEFAULT = 1000  # messages in one listing
LIMIT_MAX = 1_000_000

Readiness = Callable[[], Sequence[str] | Awaitable[Sequence[str]]]
Page = Callable[[], bytes | Awaitable[bytes]]
Status = Callable[[], Mapping[str, Any] | Awaitable[Mapping[str, Any]]]


def public_app(
    *, metrics: Page, ready: Readiness, status: Status = dict, on_fault: Callable[[str], None] = lambda detail: None
) -> App:
    """Health and metrics only. `ready` gives the reasons why we are not (none: ready). Each callable may be async."""
    return App(_Watch(metrics, ready, status).routes(), on_fault=on_fault)


def control_app(
    queues: Sequence[QueueAdmin],
    trace: TraceStore,
    *,
    metrics: Page,
    ready: Readiness,
    status: Status = dict,
    on_fault: Callable[[str], None] = lambda detail: None,
) -> App:
    """Everything. `queues` may be a list that changes while we serve."""
    return App([*_Watch(metrics, ready, status).routes(), *_Control(queues, trace).routes()], on_fault=on_fault)


@dataclass(frozen=True, slots=True)
class _Watch:
    metrics: Page
    ready: Readiness
    status: Status

    def routes(self) -> list[Route]:
        return [
            Route("GET", "/metrics", self._metrics),
            Route("GET", "/healthz", self._health),
            Route("GET", "/readyz", self._readiness),
            Route("GET", "/api/v1/status", self._status),
        ]

    async def _metrics(self, request: Request) -> Response:
        return Response(200, await _value(self.metrics), CONTENT_TYPE)

    async def _health(self, request: Request) -> Response:
        """The loop turns, or this would not be answered."""
        return Response(200, b"ok\n", "text/plain; charset=utf-8")

    async def _readiness(self, request: Request) -> Response:
        reasons = list(await _value(self.ready))
        return reply_json({"ready": not reasons, "reasons": reasons}, 503 if reasons else 200)

    async def _status(self, request: Request) -> Response:
        return reply_json(dict(await _value(self.status)))


@dataclass(frozen=True, slots=True)
class _Control:
    queues: Sequence[QueueAdmin]
    trace: TraceStore

    def routes(self) -> list[Route]:
        return [
            Route("GET", "/api/v1/queue", self._list),
            Route("GET", "/api/v1/queue/{id}", self._show),
            Route("GET", "/api/v1/queue/{id}/content", self._content),
            Route("POST", "/api/v1/queue/{command}", self._operate),
            Route("GET", "/api/v1/counts", self._counts),
            Route("GET", "/api/v1/trace/{id}", self._trace),
        ]

    async def _list(self, request: Request) -> Response:
        selector, limit = _query(request.query)
        found: list[MessageView] = []
        for queue in self.queues:
            found.extend(await queue.find(selector, limit + 1))
        return await asyncio.to_thread(_listing, found, limit)  # a long one takes a second to write

    async def _show(self, request: Request) -> Response:
        queue_id = _id(request)
        for queue in self.queues:
            for view in await queue.find(Selector(ids=(queue_id,)), 1):
                return reply_json(view_to_json(view))
        raise _no_such(queue_id)

    async def _content(self, request: Request) -> Response:
        queue_id = _id(request)
        for queue in self.queues:
            content = await _or_conflict(queue.content(queue_id))
            if content is not None:
                return Response(200, content, "message/rfc822")
        raise _no_such(queue_id)

    async def _operate(self, request: Request) -> Response:
        command = request.parameters["command"]
        if command not in COMMANDS:
            raise HttpError(404, f"no such command; there are {', '.join(COMMANDS)}")
        data = request.json()
        if not isinstance(data, dict):
            raise HttpError(400, "the body must be a JSON object")
        dry_run, everything = _flag(data, "dry_run"), _flag(data, "all")
        selector = _selector(data)
        if is_empty(selector) and not everything:
            raise HttpError(400, 'name ids or a selector; "all": true for everything')
        ids: list[QueueId] = []
        for queue in self.queues:
            ids.extend(await _or_conflict(queue.operate(command, selector, dry_run=dry_run)))
        return reply_json({"ids": ids, "dry_run": dry_run})

    async def _counts(self, request: Request) -> Response:
        total: dict[str, int] = {}
        for queue in self.queues:
            for state, number in (await queue.counts()).items():
                total[state] = total.get(state, 0) + number
        return reply_json(total)

    async def _trace(self, request: Request) -> Response:
        queue_id = _id(request)
        trace = await self.trace.find(queue_id)
        if trace is None:
            raise _no_such(queue_id)
        return reply_json(trace)


def _listing(found: list[MessageView], limit: int) -> Response:
    found.sort(key=lambda view: (view.created, view.id))
    return reply_json({"messages": [view_to_json(view) for view in found[:limit]], "more": len(found) > limit})


async def _value(source: Callable[[], Any]) -> Any:
    value = source()
    return await value if inspect.isawaitable(value) else value


async def _or_conflict(result: Awaitable[Any]) -> Any:
    """The queue's own refusal (disk full, content unreadable) is told as it is: only the owner is here."""
    try:
        return await result
    except MailError as err:
        raise HttpError(409, str(err)) from err


def _id(request: Request) -> QueueId:
    queue_id = parse_queue_id(request.parameters["id"])
    if queue_id is None:
        raise HttpError(400, "this is not a queue id")
    return queue_id


def _no_such(queue_id: QueueId) -> HttpError:
    return HttpError(404, f"no such message: {queue_id}")


def _flag(data: dict[str, Any], name: str) -> bool:
    flag = data.pop(name, False)
    if not isinstance(flag, bool):
        raise HttpError(400, f"{name} must be true or false")
    return flag


def _selector(data: Mapping[str, Any]) -> Selector:
    try:
        return selector_from_json(data)
    except BadSelector as err:
        raise HttpError(400, str(err)) from err


def _query(query: Mapping[str, Sequence[str]]) -> tuple[Selector, int]:
    """Selector and limit of a listing. Each key but `id` may stand once."""
    fields: dict[str, Any] = {key: values[-1] for key, values in query.items() if key not in ("id", "limit")}
    if "id" in query:
        fields["ids"] = list(query["id"])
    text = query.get("limit", (str(LIMIT_DEFAULT),))[-1]
    if not (text.isascii() and text.isdigit() and 0 < int(text[:9]) <= LIMIT_MAX):
        raise HttpError(400, f"limit must be 1 to {LIMIT_MAX}")
    return _selector(fields), int(text)
