# SPDX-License-Identifier: Apache-2.0
"""SIGKILL of the whole process group at random moments under load: what was acknowledged is delivered, octets intact.

Duplicates are allowed only for what was in flight: a message that had reached the next hop, but whose settling was not
durable yet. RFC 5321 §6.1; RULES 1, 2, 10.
"""

import asyncio
import base64
import hashlib
import json
import random
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from gateway.delivery.options import DeliveryOptions
from tests.support.daemon import Daemon, free_ports
from tests.support.load import Load

SESSIONS = 20
MARKER = re.compile(rb"\r\nSubject: (m\d+-\d+)\r\n")


def sink_process(port: int, log: Path) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-m", "tests.support.sink", "--port", str(port), "--log", str(log), "--content"])


def delivered(log: Path) -> list[tuple[str, str]]:
    """(marker, SHA-256 of the octets below our trace fields) of each copy that reached the next hop."""
    copies = []
    for line in log.read_text().splitlines():
        content = base64.b64decode(json.loads(line)["content"])
        at = content.index(b"From: <load@")
        found = MARKER.search(content)
        assert found
        copies.append((found[1].decode(), hashlib.sha256(content[at:]).hexdigest()))
    return copies


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.timeout(1200)
async def test_what_was_acknowledged_survives_sigkill(tmp_path: Path, workers: int, request: pytest.FixtureRequest) -> None:
    await survive(tmp_path, workers, request.config.getoption("--kills"))


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.timeout(1200)
async def test_what_was_acknowledged_survives_fifty_sigkills(tmp_path: Path, workers: int) -> None:
    await survive(tmp_path, workers, 50)


async def survive(tmp_path: Path, workers: int, kills: int) -> None:
    """Load, kill and start `kills` times; then compare what was promised with what arrived."""
    sink_port = free_ports(1)[0]
    sink_log = tmp_path / "sink.log"
    sink_log.touch()
    sink = sink_process(sink_port, sink_log)
    tables = f"""
[relay]
domains = ["dest.example"]
networks = ["127.0.0.0/8"]
[[route]]
domains = ["dest.example"]
to = "smtp://127.0.0.1:{sink_port}"
[queue]
retry = ["1s"]
[filters]
mode = "off"
"""
    daemon = Daemon(tmp_path, tables, workers=workers)
    load = Load(daemon.smtp_port, sessions=SESSIONS)
    moments = random.Random(workers)
    clients = asyncio.create_task(load.run())
    try:
        await asyncio.to_thread(daemon.start)
        for _ in range(kills):
            goal = len(load.acknowledged) + moments.randint(10, 150)
            await daemon.until("clients make progress", lambda goal=goal: len(load.acknowledged) >= goal)
            await asyncio.sleep(moments.random() * 0.05)  # a random moment, not a wait for something
            await asyncio.to_thread(daemon.kill)
            await asyncio.to_thread(daemon.start)
        load.stop.set()
        await clients
        await daemon.until("the queue is empty", lambda: not daemon.queue())
        assert await asyncio.to_thread(daemon.stop) == 0
        copies = delivered(sink_log)
    finally:
        load.stop.set()
        clients.cancel()
        daemon.close()
        sink.terminate()
        sink.wait()
    count = Counter(marker for marker, _ in copies)
    assert not [marker for marker in load.acknowledged if marker not in count]
    assert all(load.digests[marker] == digest for marker, digest in copies)
    # In flight at a kill: what each worker's deliverer had under way or unsettled, at most its concurrency of one site.
    duplicates = sum(times - 1 for times in count.values())
    assert duplicates <= kills * workers * DeliveryOptions().concurrency
    print(f"{kills} kills, {len(load.acknowledged)} acknowledged, {load.broken} cut off, {duplicates} duplicates")
