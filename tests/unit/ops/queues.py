# SPDX-License-Identifier: Apache-2.0
"""A queue in memory behind `ports.QueueAdmin`, and a control socket that serves it from a thread of its own."""

import asyncio
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gateway.infra.http import Server
from gateway.mail.job import QueueId
from gateway.mail.listing import MessageView, RecipientView, Selector
from gateway.mail.reply import QUEUE_WRITE, MailError
from gateway.ops.api import control_app
from tests.unit.ops import kit


def view(
    number: int, *, state: str = "deferred", sender: str = "a@b.example", recipient: str = "x@dest.example", reason: str = ""
) -> MessageView:
    recipients = (
        RecipientView(address=recipient, state=state, attempts=2, due=kit.NOW + 60, last_reply="451 4.4.1 later"),
        RecipientView(address="done@dest.example", state="delivered", attempts=1, due=None, last_reply="250 Ok"),
    )
    return MessageView(
        id=kit.queue_id(number),
        state=state,
        sender=sender,
        size=1000 + number,
        created=kit.NOW + number,
        reason=reason,
        recipients=recipients,
    )


class MemoryQueue:
    """Filters by what a selector names; remembers the commands; `fault` is raised instead of an answer."""

    def __init__(self, *views: MessageView) -> None:
        self.views = list(views)
        self.operated: list[tuple[str, Selector, bool]] = []
        self.fault: Exception | None = None

    async def find(self, selector: Selector, limit: int) -> Sequence[MessageView]:
        return [each for each in self.views if self._matches(each, selector)][:limit]

    async def content(self, queue_id: QueueId) -> bytes | None:
        if self.fault:
            raise self.fault
        known = {each.id for each in self.views}
        return b"Subject: \xffhello\r\n\tworld\r\nX: \x1b[31m\r\n\r\nbody\r\n" if queue_id in known else None

    async def operate(self, command: str, selector: Selector, *, dry_run: bool) -> Sequence[QueueId]:
        if self.fault:
            raise self.fault
        self.operated.append((command, selector, dry_run))
        found = [each.id for each in self.views if self._matches(each, selector)]
        if command == "delete" and not dry_run:
            self.views = [each for each in self.views if each.id not in found]
        return found

    async def counts(self) -> Mapping[str, int]:
        return {"queued": 0, "deferred": len(self.views), "held": 0}

    def _matches(self, each: MessageView, selector: Selector) -> bool:
        recipients = [recipient.address for recipient in each.recipients]
        return (
            (not selector.ids or each.id in selector.ids)
            and (not selector.sender or each.sender == selector.sender.strip("<>"))
            and (not selector.recipient or selector.recipient in recipients)
            and (not selector.domain or any(address.endswith("@" + selector.domain) for address in recipients))
            and (not selector.state or each.state == selector.state)
            and (not selector.reason or any(selector.reason in one.last_reply for one in each.recipients))
            and (not selector.older or kit.NOW + 100 - each.created > selector.older)
        )


DISK_FULL = MailError(QUEUE_WRITE, "no space")


class MemoryTrace:
    def __init__(self, **traces: Mapping[str, Any]) -> None:
        self.traces = traces

    async def find(self, queue_id: QueueId) -> Mapping[str, Any] | None:
        return self.traces.get(queue_id)


class Daemon:
    """Serves the control socket of worker `index` below `data_dir` until the block ends; commands may run beside it."""

    def __init__(self, data_dir: Path, queue: MemoryQueue, *, trace: MemoryTrace | None = None, index: int = 0) -> None:
        self.path = data_dir / "run" / f"worker-{index}.sock"
        self._app = control_app([queue], trace or MemoryTrace(), metrics=lambda: b"", ready=list)
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))

    def __enter__(self) -> "Daemon":
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._thread.start()
        assert self._started.wait(10)
        return self

    def __exit__(self, *exc: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        server = Server(self._app)
        await server.start_unix(self.path)
        self._started.set()
        await self._stop.wait()
        await server.close()
