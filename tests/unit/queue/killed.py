# SPDX-License-Identifier: Apache-2.0
"""The child of the kill test: takes and settles mail without end, and says what it has been promised.

    python -m tests.unit.queue.killed DIRECTORY

A line "+id" follows an accept; "?id" stands before a settlement and "-id" after it. Each is written in one piece.
"""

import asyncio
import os
import random
import sys
from pathlib import Path

from gateway.infra.clock import SystemClock
from gateway.mail import reply
from gateway.mail.job import Delivered, Job, make_queue_id
from gateway.mail.verdict import ACCEPT
from gateway.queue.manager import QueueManager
from gateway.queue.options import QueueOptions
from tests.unit.queue.build import Events, SmallBouncer, content, transaction


def say(word: str) -> None:
    os.write(1, f"{word}\n".encode())


async def take(queue: QueueManager, clock: SystemClock) -> None:
    while True:
        body = b"x" * random.choice([10, 4000, 300 << 10])
        name = make_queue_id(int(clock.now() * 1e6), random.getrandbits(25))
        say(f"+{await queue.accept(transaction(message=content(body), id=name), ACCEPT)}")


async def deliver(queue: QueueManager) -> None:
    async def one(job: Job) -> None:
        say(f"?{job.id}")
        await queue.settle(job, [(due, Delivered(reply=reply.OK)) for due in job.recipients])
        say(f"-{job.id}")

    while True:
        await asyncio.gather(*[one(job) for job in await queue.claim(3)])


async def main(directory: Path) -> None:
    clock = SystemClock()
    queue = QueueManager(directory, 0, QueueOptions(min_free=0), clock=clock, events=Events(), bouncer=SmallBouncer())
    await queue.open()
    say("ready")
    await asyncio.gather(*[take(queue, clock) for _ in range(8)], deliver(queue))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
