# SPDX-License-Identifier: Apache-2.0
"""The control socket of a running daemon from the other side: the queue's and the trace's ports over HTTP.

Promises: each call is one request of its own, so a daemon that restarts in between does no harm; what the daemon refuses
is told in its own words.
Fails with: `Unreachable` (nobody answers), `Refused` (it answered no).
Not here: which sockets there are (`sockets_in` lists them), when to open the queue without a daemon (`cli/queue.py`).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gateway.infra.http import Response, Unreachable, fetch
from gateway.mail.job import QueueId, parse_queue_id
from gateway.mail.listing import MessageView, Selector
from gateway.ops.wire import is_empty, selector_to_json, view_from_json

__all__ = ["ControlClient", "Refused", "TraceClient", "Unreachable", "sockets_in"]

IDS_A_REQUEST = 200  # of a listing: they stand in the request line, which has 8 KiB


class Refused(Exception):
    """The daemon answered, but not what was asked for."""


def sockets_in(data_dir: Path) -> list[Path]:
    """The control sockets of the workers of a daemon, whether it lives or not."""
    return sorted(path for path in (data_dir / "run").glob("worker-*.sock") if path.is_socket())


class ControlClient:
    """One worker, as a `ports.QueueAdmin`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.trace = TraceClient(path)

    async def find(self, selector: Selector, limit: int) -> Sequence[MessageView]:
        """Raises Unreachable, Refused."""
        found: list[MessageView] = []
        for part in _in_parts(selector):
            query = [(key, str(value)) for key, value in selector_to_json(part).items() if key != "ids"]
            query += [("id", queue_id) for queue_id in part.ids]
            data = await _get(self.path, "/api/v1/queue", [*query, ("limit", str(limit))])
            found.extend(view_from_json(view) for view in data["messages"])
        return found[:limit]

    async def content(self, queue_id: QueueId) -> bytes | None:
        response = await fetch(self.path, "GET", f"/api/v1/queue/{queue_id}/content")
        return None if response.status == 404 else _checked(response).body

    async def operate(self, command: str, selector: Selector, *, dry_run: bool) -> Sequence[QueueId]:
        body = {**selector_to_json(selector), "dry_run": dry_run, "all": is_empty(selector)}
        response = await fetch(self.path, "POST", f"/api/v1/queue/{command}", json_body=body)
        ids = [parse_queue_id(text) for text in _checked(response).json()["ids"]]
        return [queue_id for queue_id in ids if queue_id]

    async def counts(self) -> Mapping[str, int]:
        counts: Mapping[str, int] = await _get(self.path, "/api/v1/counts")
        return counts

    async def alive(self) -> bool:
        """True if a worker answers there; a socket file outlives a killed daemon."""
        try:
            return (await fetch(self.path, "GET", "/healthz")).status == 200
        except Unreachable:
            return False

    async def metrics(self) -> bytes:
        """The worker's page."""
        return _checked(await fetch(self.path, "GET", "/metrics")).body

    async def unready(self) -> Sequence[str]:
        """Why the worker is not ready for mail; empty if it is. 503 is an answer here. Raises Unreachable, Refused."""
        response = await fetch(self.path, "GET", "/readyz")
        reasons = (response if response.status == 503 else _checked(response)).json().get("reasons", [])
        return [str(reason) for reason in reasons]

    async def status(self) -> Mapping[str, Any]:
        status: Mapping[str, Any] = await _get(self.path, "/api/v1/status")
        return status


class TraceClient:
    """One worker, as a `ports.TraceStore`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def find(self, queue_id: QueueId) -> Mapping[str, Any] | None:
        response = await fetch(self._path, "GET", f"/api/v1/trace/{queue_id}")
        if response.status == 404:
            return None
        trace: Mapping[str, Any] = _checked(response).json()
        return trace


def _in_parts(selector: Selector) -> list[Selector]:
    if len(selector.ids) <= IDS_A_REQUEST:
        return [selector]
    parts = (selector.ids[at : at + IDS_A_REQUEST] for at in range(0, len(selector.ids), IDS_A_REQUEST))
    fields = {name: getattr(selector, name) for name in ("domain", "sender", "recipient", "older", "state", "reason")}
    return [Selector(ids=ids, **fields) for ids in parts]


async def _get(path: Path, target: str, query: Sequence[tuple[str, str]] = ()) -> Any:
    return _checked(await fetch(path, "GET", target, query=query)).json()


def _checked(response: Response) -> Response:
    if response.status == 200:
        return response
    try:
        reason = response.json()["error"]
    except (ValueError, KeyError, TypeError):
        reason = "no reason given"
    raise Refused(f"{reason} ({response.status})")
