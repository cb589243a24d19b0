# SPDX-License-Identifier: Apache-2.0
"""The control API and its client, over a real unix socket; and what the public one does not have."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway.infra.http import Server, fetch
from gateway.mail.job import QueueId
from gateway.mail.listing import Selector
from gateway.ops.api import control_app, public_app
from gateway.ops.client import ControlClient, Refused, Unreachable, sockets_in
from gateway.ops.wire import BadSelector, selector_from_json, selector_to_json, view_from_json, view_to_json
from tests.unit.ops import kit
from tests.unit.ops.queues import DISK_FULL, MemoryQueue, MemoryTrace, view

FIRST, SECOND = kit.queue_id(1), kit.queue_id(2)


class House:
    """Two shards, their socket, and a client of it."""

    def __init__(self, path: Path) -> None:
        self.queues = [MemoryQueue(view(2)), MemoryQueue(view(1, state="held", sender="c@d.example"))]
        self.reasons: list[str] = []
        self.client = ControlClient(path)
        self.path = path

    async def metrics(self) -> bytes:
        return b"# TYPE m counter\nm 1\n"


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    house = House(tmp_path / "worker-0.sock")
    trace = MemoryTrace(**{FIRST: {"id": FIRST, "events": [{"event": "accepted"}]}})
    app = control_app(house.queues, trace, metrics=house.metrics, ready=lambda: house.reasons, status=lambda: {"workers": [1]})
    server = Server(app)
    await server.start_unix(house.path)
    yield house
    await server.close()


async def test_client_sees_the_messages_of_all_shards_oldest_first(house: House) -> None:
    assert await house.client.find(Selector(), 10) == [view(1, state="held", sender="c@d.example"), view(2)]


async def test_limit_is_kept_and_more_is_told(house: House) -> None:
    assert len(await house.client.find(Selector(), 1)) == 1
    assert (await fetch(house.path, "GET", "/api/v1/queue", query=[("limit", "1")])).json()["more"] is True
    assert (await fetch(house.path, "GET", "/api/v1/queue", query=[("limit", "2")])).json()["more"] is False


@pytest.mark.parametrize(
    ("selector", "found"),
    [
        (Selector(ids=(SECOND,)), [SECOND]),
        (Selector(state="held"), [FIRST]),
        (Selector(sender="a@b.example"), [SECOND]),
        (Selector(domain="dest.example"), [FIRST, SECOND]),
        (Selector(recipient="x+ü&=@dest.example"), []),
        (Selector(reason="451 4.4.1"), [FIRST, SECOND]),
        (Selector(older=98.5), [FIRST]),
        (Selector(sender="a@b.example", state="held"), []),
    ],
)
async def test_every_field_of_a_selector_arrives(house: House, selector: Selector, found: list[QueueId]) -> None:
    assert [each.id for each in await house.client.find(selector, 10)] == found
    assert sorted(await house.client.operate("retry", selector, dry_run=True)) == found


async def test_thousands_of_ids_fit(house: House) -> None:
    ids = tuple(kit.queue_id(number) for number in range(1000))
    assert [each.id for each in await house.client.find(Selector(ids=ids), 10)] == [FIRST, SECOND]
    assert len(await house.client.operate("hold", Selector(ids=ids), dry_run=False)) == 2


async def test_content_comes_octet_for_octet_and_unknown_is_none(house: House) -> None:
    assert await house.client.content(FIRST) == await house.queues[1].content(FIRST)
    assert await house.client.content(kit.queue_id(99)) is None


async def test_large_content_is_served(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    octets = bytes(range(256)) * 20_000

    async def content(queue_id: QueueId) -> bytes:
        return octets

    monkeypatch.setattr(house.queues[0], "content", content)
    assert await house.client.content(FIRST) == octets


async def test_commands_reach_every_shard_with_their_dry_run(house: House) -> None:
    assert await house.client.operate("delete", Selector(ids=(FIRST,)), dry_run=True) == [FIRST]
    assert await house.client.operate("delete", Selector(ids=(FIRST,)), dry_run=False) == [FIRST]
    assert await house.client.find(Selector(), 10) == [view(2)]
    assert [(name, dry) for name, _, dry in house.queues[0].operated] == [("delete", True), ("delete", False)]


async def test_everything_needs_to_be_said(house: House) -> None:
    response = await fetch(house.path, "POST", "/api/v1/queue/delete", json_body={})
    assert response.status == 400
    assert "name ids or a selector" in response.json()["error"]
    assert house.queues[0].operated == []
    assert len(await house.client.operate("hold", Selector(), dry_run=True)) == 2


@pytest.mark.parametrize(
    ("command", "body", "status"),
    [
        ("burn", {"all": True}, 404),
        ("hold", ["all"], 400),
        ("hold", {"ids": ["../../etc/passwd"]}, 400),
        ("hold", {"ids": "0123456789ABCDEF"}, 400),
        ("hold", {"ids": [5]}, 400),
        ("hold", {"all": "yes"}, 400),
        ("hold", {"all": True, "dry_run": 1}, 400),
        ("hold", {"sender": 5}, 400),
        ("hold", {"sender": "x" * 1001}, 400),
        ("hold", {"state": "gone"}, 400),
        ("hold", {"older": "soon"}, 400),
        ("hold", {"older": -1}, 400),
        ("hold", {"older": None}, 400),
        ("hold", {"colour": "red"}, 400),
    ],
)
async def test_nonsense_is_refused_before_the_queue_sees_it(house: House, command: str, body: Any, status: int) -> None:
    response = await fetch(house.path, "POST", f"/api/v1/queue/{command}", json_body=body)
    assert response.status == status, response.body
    assert response.json()["error"]
    assert all(queue.operated == [] for queue in house.queues)


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("/api/v1/queue/..%2f..%2fetc%2fpasswd", 400),
        ("/api/v1/queue/lowercaseisnoid0", 400),
        (f"/api/v1/queue/{kit.queue_id(99)}", 404),
        (f"/api/v1/queue/{kit.queue_id(99)}/content", 404),
        (f"/api/v1/trace/{kit.queue_id(99)}", 404),
        ("/api/v1/trace/x'%20OR%201=1", 400),
        ("/api/v1/queue?limit=0", 400),
        ("/api/v1/queue?limit=99999999999999999999", 400),
        ("/api/v1/queue?colour=red", 400),
        (f"/api/v1/queue/{FIRST}", 200),
        ("/api/v1/queue?older=1h", 200),
    ],
)
async def test_ids_and_queries_are_checked(house: House, target: str, status: int) -> None:
    response = await fetch(house.path, "GET", target)
    assert response.status == status, response.body


async def test_what_the_queue_cannot_do_now_is_a_conflict_with_its_reason(house: House) -> None:
    house.queues[1].fault = DISK_FULL
    with pytest.raises(Refused, match=r"451 4\.3\.0 .*no space.*409"):
        await house.client.operate("hold", Selector(ids=(FIRST,)), dry_run=False)
    with pytest.raises(Refused, match="409"):
        await house.client.content(FIRST)


async def test_trace_counts_status_and_metrics_pass_through(house: House) -> None:
    assert await house.client.trace.find(FIRST) == {"id": FIRST, "events": [{"event": "accepted"}]}
    assert await house.client.trace.find(SECOND) is None
    assert await house.client.counts() == {"queued": 0, "deferred": 2, "held": 0}
    assert await house.client.status() == {"workers": [1]}
    assert await house.client.metrics() == b"# TYPE m counter\nm 1\n"
    assert (await fetch(house.path, "GET", "/metrics")).content_type == "text/plain"


async def test_readiness_gives_its_reasons(house: House) -> None:
    assert (await fetch(house.path, "GET", "/readyz")).json() == {"ready": True, "reasons": []}
    house.reasons.append("worker 1 is not ready")
    response = await fetch(house.path, "GET", "/readyz")
    assert (response.status, response.json()["reasons"]) == (503, ["worker 1 is not ready"])
    health = await fetch(house.path, "GET", "/healthz")
    assert (health.status, health.body) == (200, b"ok\n")


async def test_the_public_interface_shows_no_mail_and_takes_no_command(tmp_path: Path) -> None:
    server = Server(public_app(metrics=lambda: b"m 1\n", ready=list))
    await server.start_unix(tmp_path / "public.sock")
    for target in ("/api/v1/queue", f"/api/v1/queue/{FIRST}", f"/api/v1/trace/{FIRST}", "/api/v1/counts"):
        assert (await fetch(tmp_path / "public.sock", "GET", target)).status == 404
    posted = await fetch(tmp_path / "public.sock", "POST", "/api/v1/queue/delete", json_body={"all": True})
    assert posted.status == 404
    for target in ("/metrics", "/healthz", "/readyz", "/api/v1/status"):
        assert (await fetch(tmp_path / "public.sock", "GET", target)).status == 200
    await server.close()


async def test_a_daemon_that_is_gone_is_unreachable(tmp_path: Path) -> None:
    client = ControlClient(tmp_path / "worker-0.sock")
    assert not await client.alive()
    with pytest.raises(Unreachable):
        await client.counts()


async def test_only_sockets_of_workers_are_listed(house: House, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "worker-9.sock").write_text("a plain file")
    (run / "other.sock").write_text("")
    house.path.rename(run / "worker-3.sock")
    assert sockets_in(tmp_path) == [run / "worker-3.sock"]
    assert sockets_in(tmp_path / "none") == []


def test_views_and_selectors_survive_the_wire() -> None:
    one = view(5, reason="spam")
    assert view_from_json(view_to_json(one)) == one
    full = Selector(ids=(FIRST,), domain="d", sender="s", recipient="r", older=2.5, state="held", reason="x")
    assert selector_from_json(selector_to_json(full)) == full
    assert selector_from_json({"older": "2h"}).older == 7200
    for bad in (float("nan"), float("inf"), [], {}):
        with pytest.raises(BadSelector):
            selector_from_json({"older": bad})
