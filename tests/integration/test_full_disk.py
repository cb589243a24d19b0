# SPDX-License-Identifier: Apache-2.0
"""A small disk that mail itself fills while the next hop takes nothing: 452 in time, nothing lost, and it mends itself."""

import contextlib
import hashlib
import os
import random
import smtplib
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import Daemon
from tests.support.world import World, until

pytestmark = [pytest.mark.slow, pytest.mark.needs("root")]

CLIENTS = 12
REFUSALS = 3  # after so many a client gives up
HEAD = b"From: a@origin.example\r\nTo: x@dest.example\r\nSubject: %d\r\n\r\n"


@pytest.fixture
def small_disk(tmp_path: Path, size: int) -> Iterator[Path]:
    """`size` MiB."""
    folder = tmp_path / "data"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}m", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, check=False)
    if mounted.returncode:
        reason = f"needs the right to mount: {mounted.stderr.decode().strip()}"
        if os.environ.get("GATEWAY_TESTS_COMPLETE"):
            pytest.fail(reason)
        pytest.skip(reason)
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


class Clients:
    """Each sends one message after another until it is refused several times. `taken` are digests of what got 250."""

    def __init__(self, port: int, octets: int) -> None:
        self.answers: Counter[bytes] = Counter()
        self.taken: Counter[str] = Counter()
        self._port = port
        self._octets = octets
        self._lock = threading.Lock()
        self._numbers = iter(range(1_000_000))

    def fill(self) -> None:
        threads = [threading.Thread(target=self._until_refused) for _ in range(CLIENTS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def send(self) -> bytes:
        """One message; the first refusal or the last answer."""
        with self._lock:
            number = next(self._numbers)
        content = HEAD % number + _lines(number, self._octets)
        with smtplib.SMTP("127.0.0.1", self._port, timeout=60) as client:
            code, text = _transaction(client, content)
        answer = b"%d %s" % (code, text)
        with self._lock:
            self.answers[answer[:9]] += 1
            if code == 250:
                self.taken[hashlib.sha256(content).hexdigest()] += 1
        return answer

    def _until_refused(self) -> None:
        refused = 0
        while refused < REFUSALS:
            if not self.send().startswith(b"250"):
                refused += 1
                time.sleep(0.1)  # a look at the disk is a second old at most


def _lines(number: int, octets: int) -> bytes:
    """Content that differs in every message."""
    line = random.Random(number).randbytes(35).hex().encode() + b"\r\n"
    return line * (octets // len(line))


def _transaction(client: smtplib.SMTP, content: bytes) -> tuple[int, bytes]:
    client.ehlo("client.example")
    for ask in (lambda: client.mail("a@origin.example"), lambda: client.rcpt("x@dest.example")):
        code, text = ask()
        if code != 250:
            return code, text
    try:
        return client.data(content)
    except smtplib.SMTPDataError as err:  # DATA itself was refused
        return err.smtp_code, bytes(err.smtp_error)  # type: ignore[arg-type]  # of octets, whatever its stub says


def delivered(world: World) -> Counter[str]:
    """Digests of what the next hop has, without our trace fields."""
    bodies = (copy.content[copy.content.index(b"From: a@origin") :] for copy in list(world.sink.messages))
    return Counter(hashlib.sha256(body).hexdigest() for body in bodies)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(("octets", "size"), [(4 << 10, 16), (100_000, 32), (1_000_000, 32)], ids=["4K", "100K", "1M"])
def test_mail_that_fills_its_disk_costs_no_mail(small_disk: Path, octets: int, size: int, workers: int) -> None:
    with World() as world, contextlib.ExitStack() as stack:
        world.call(world.sink.behaviours.add, "451-at-rcpt")
        tables = world.tables('[filters]\nmode = "off"\n[limits]\nconnections_per_client = 0')
        daemon = Daemon(small_disk.parent, tables, workers=workers)
        stack.callback(daemon.close)
        daemon.start()
        clients = Clients(daemon.smtp_port, octets)
        clients.fill()
        assert set(clients.answers) == {b"250 2.0.0", b"452 4.3.1"}, clients.answers
        assert clients.answers[b"250 2.0.0"] * octets > (size << 20) // 5
        world.call(world.sink.behaviours.clear)  # the next hop is well again
        until("all of it is delivered", lambda: len(world.sink.messages) >= clients.taken.total())
        assert delivered(world) == clients.taken  # none lost, none twice, no octet changed
        until("mail is taken again by every worker", lambda: ready(daemon))
        assert [clients.send()[:9] for _ in range(5)] == [b"250 2.0.0"] * 5
        until("that is delivered too", lambda: delivered(world) == clients.taken)
        assert daemon.stop() == 0
        told = [row.get("area") or row.get("what") for row in daemon.log() if row["event"] in ("trouble", "lifecycle")]
        assert told.count("queue.space") >= 1
        assert told.count("space") == told.count("queue.space")
        assert "trace" in told  # the trace makes room for mail before mail is refused


def ready(daemon: Daemon) -> bool:
    with contextlib.suppress(OSError):
        return bool(daemon.get("/readyz"))
    return False
