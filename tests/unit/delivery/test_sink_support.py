# SPDX-License-Identifier: Apache-2.0
"""The sink itself: what it says it saw must be what was sent, also as a process."""

import hashlib
import smtplib
import subprocess
import sys
from pathlib import Path

from tests.support.sink import Sink, read_log
from tests.support.sink_session import behaviours_of

CONTENT = b"From: a@b.example\r\nSubject: x\r\n y\r\n\r\n.dot\r\n..\r\n"


def test_behaviours_are_read_from_local_parts() -> None:
    assert behaviours_of("x+451-after-data+hang-in-helo@d.example", "rcpt") == [
        ("dot", ("reply", "451")),
        ("ehlo", ("hang", "")),
    ]
    assert behaviours_of("x+garbage-reply@d.example", "mail") == [("mail", ("garbage", ""))]
    assert behaviours_of("plain+tag@d.example", "rcpt") == []


async def test_scripts_act_so_many_times() -> None:
    import asyncio

    async with Sink() as sink:
        sink.fail_next(2, 450, "rcpt")

        def talk() -> list[int]:
            with smtplib.SMTP("127.0.0.1", sink.port) as client:
                client.ehlo()
                client.mail("a@b.example")
                return [client.rcpt("x@d.example")[0] for _ in range(3)]

        assert await asyncio.to_thread(talk) == [450, 450, 250]


def test_as_a_process_it_logs_each_message_before_its_250(tmp_path: Path) -> None:
    log = tmp_path / "log"
    command = [sys.executable, "-m", "tests.support.sink", "--log", str(log), "--behaviour", "drop-at-quit"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        port = int(process.stdout.readline().split()[1])
        client = smtplib.SMTP("127.0.0.1", port)
        client.sendmail("a@b.example", ["x@d.example", "y@d.example"], CONTENT)
        process.kill()  # the 250 was here, so the line is there
        client.close()
    (record,) = read_log(log)
    assert record["sender"] == "a@b.example"
    assert record["recipients"] == ["x@d.example", "y@d.example"]
    assert record["sha256"] == hashlib.sha256(CONTENT).hexdigest()
    assert record["headers"] == {"from": ["a@b.example"], "subject": ["x y"]}
