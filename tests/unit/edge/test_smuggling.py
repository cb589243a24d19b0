# SPDX-License-Identifier: Apache-2.0
"""SMTP smuggling (CVE-2023-51764 and its family): whatever a sender writes for an end of data, there is one message at
most behind one DATA, and none of those that we take has a bare CR or LF that another server could read as an end.
"""

from pathlib import Path

import pytest

from tests.support.edges import LOOPS, run, running
from tests.support.ends import ENDS

START = b"EHLO x.example\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@dest.example>\r\nDATA\r\nSubject: first\r\n\r\nbody"
SMUGGLED = b"MAIL FROM:<evil@b.example>\r\nRCPT TO:<victim@dest.example>\r\nDATA\r\nSubject: second\r\n\r\nevil"
END = b"\r\n.\r\nQUIT\r\n"


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("end", ENDS, ids=repr)
def test_a_false_end_does_not_begin_a_second_message(end: bytes, loop: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as place:
            heard = await place.talk(START, end, SMUGGLED, END)
            stored = place.intake.stored
            assert len(stored) <= 1
            assert heard.count(b"354 ") == 1, "a second DATA was obeyed"
            for each in stored:
                assert b"\n" not in each.content.replace(b"\r\n", b"")
                assert b"\r" not in each.content.replace(b"\r\n", b"")
                assert str(each.tx.sender) == "a@b.example"
            if not stored:
                assert b"554 5.6.0" in heard
            assert heard.endswith(b"221 2.0.0 Bye\r\n")

    run(loop, main())


def test_the_true_end_is_the_only_one(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as place:
            await place.talk(START, b"\r\n.\r\n", SMUGGLED, END)
            assert [str(each.tx.sender) for each in place.intake.stored] == ["a@b.example", "evil@b.example"]

    run("asyncio", main())


def test_there_are_enough_variants() -> None:
    assert len(set(ENDS)) >= 20
