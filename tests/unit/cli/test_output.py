# SPDX-License-Identifier: Apache-2.0
"""Tables and pages: coloured and fitted on a terminal, whole and plain elsewhere, harmless everywhere."""

import os
import pty
import re
import subprocess
import sys

import pytest

from gateway.cli.output import print_json, print_page, table


def test_a_table_for_a_pipe_is_aligned_and_whole(capsys: pytest.CaptureFixture[str]) -> None:
    table(["ID", "REPLY"], [["1", "x" * 300], ["22", "[bold]no markup[/bold]"], ["3", "a\x1b[31m\nb"]])
    assert capsys.readouterr().out.splitlines() == [
        "ID  REPLY",
        "1   " + "x" * 300,
        "22  [bold]no markup[/bold]",
        "3   a?[31m?b",
    ]


def test_a_page_for_a_pipe_has_no_colours(capsys: pytest.CaptureFixture[str]) -> None:
    print_page([[("verdict", "head"), (" reject\x1b", "bad")], []])
    assert capsys.readouterr().out == "verdict reject?\n\n"


def test_json_is_ascii(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"a": "ü\x1b"})
    assert capsys.readouterr().out == '{\n  "a": "\\u00fc\\u001b"\n}\n'


def on_terminal(code: str) -> bytes:
    """What a command writes when its stdout is a terminal 80 columns wide."""
    ours, theirs = pty.openpty()
    env = {**os.environ, "COLUMNS": "80", "TERM": "xterm"}
    process = subprocess.Popen([sys.executable, "-c", code], stdout=theirs, env=env)
    os.close(theirs)
    octets = b""
    try:
        while part := os.read(ours, 65536):
            octets += part
    except OSError:  # EIO: the other end of a terminal was closed
        pass
    os.close(ours)
    assert process.wait() == 0
    return octets


def test_a_terminal_gets_colours_and_a_table_that_fits() -> None:
    code = (
        "from gateway.cli.output import print_page, table;"
        "print_page([[('bad', 'bad')]]);"
        "table(['ID', 'REPLY'], [['1', '[bold]' + 'x' * 300 + '\\x1b[2J']])"
    )
    octets = on_terminal(code)
    assert b"\x1b[31m" in octets
    assert b"[bold]" in octets, "text is no markup"
    assert b"\x1b[2J" not in octets, "a message does not clear the screen"
    assert max(len(re.sub(rb"\x1b\[\d*m", b"", line)) for line in octets.splitlines()) == 80
