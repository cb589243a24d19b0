# SPDX-License-Identifier: Apache-2.0
"""SIGKILL at any moment: what was promised is there, what was settled is not."""

import asyncio
import random
import signal
import sys

import pytest

from gateway.mail.listing import Selector
from tests.unit.queue.conftest import Rig

ROUNDS = 10


async def killed(rig: Rig, after: int) -> dict[str, set[str]]:
    """Run the child until it has said `after` things; ids by mark: "+" promised, "?" begun to settle, "-" settled."""
    command = [sys.executable, "-m", "tests.unit.queue.killed", str(rig.directory)]
    child = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert child.stdout is not None
    try:
        said = [await child.stdout.readline() for _ in range(1 + after)]
    finally:
        child.send_signal(signal.SIGKILL)
    said += (await child.stdout.read()).splitlines()
    assert await child.wait() == -signal.SIGKILL
    assert said[0] == b"ready\n"
    words = [line.decode().strip() for line in said[1:]]
    return {mark: {word[1:] for word in words if word[0] == mark} for mark in "+?-"}


@pytest.mark.timeout(120)
async def test_what_was_promised_survives_the_kill_and_what_was_settled_does_not(rig: Rig) -> None:
    luck = random.Random(1)
    seen = 0
    for _ in range(ROUNDS):
        said = await killed(rig, luck.randint(0, 150))
        await rig.open()
        views = {view.id: view for view in await rig.queue.find(Selector(), 100_000)}
        assert said["+"] - said["?"] <= set(views)
        assert not said["-"] & set(views)
        for queue_id, view in views.items():
            octets = await rig.queue.content(queue_id)
            assert octets is not None
            assert len(octets) == view.size
        assert rig.events.troubles == []
        await rig.queue.operate("delete", Selector(), dry_run=False)
        await rig.queue.close()
        seen += len(said["+"])
    assert seen > ROUNDS
