# SPDX-License-Identifier: Apache-2.0
"""`gateway verify` as a process, against a real name server: one line out for each line in, whatever comes."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway.auth.dkim_sign import SigningKey, sign
from gateway.cli import verify as under_test
from gateway.infra.dns import DnsOptions, DnsResolver
from tests.support.dnsserver import DnsServer

MESSAGE = b"From: a@signed.example\r\nTo: x@dest.example\r\nSubject: hello\r\n\r\nGood day.\r\n"


async def start(*arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        # what the command `gateway` runs, without the configuration that other commands need
        "from gateway.cli.verify import verify; verify(prog_name='verify')",
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "GATEWAY_CONFIG": "/nonexistent"},
    )


async def run(*arguments: str, stdin: bytes = b"") -> tuple[int | None, str, str]:
    process = await start(*arguments)
    out, err = await process.communicate(stdin)
    return process.returncode, out.decode(), err.decode()


async def batch(*lines: Any, dns: str = "127.0.0.1:1") -> list[dict[str, Any]]:
    text = b"".join((each if isinstance(each, bytes) else json.dumps(each).encode()) + b"\n" for each in lines)
    status, out, err = await run("batch", "--dns", dns, stdin=text)
    assert (status, err) == (0, "")
    return [json.loads(line) for line in out.splitlines()]


@pytest.fixture
async def dns() -> AsyncIterator[DnsServer]:
    async with DnsServer() as server:
        server.add("b.example", "TXT", "v=spf1 ip4:192.0.2.1 include:c.example -all")
        server.add("c.example", "TXT", "v=spf1 ~all")
        server.add("h.example", "TXT", "v=spf1 ip4:192.0.2.7 -all")
        server.fail("slow.example", None, "SERVFAIL")
        yield server


async def test_spf_answers_in_the_order_of_the_questions(dns: DnsServer) -> None:
    def ask(id: int, ip: str, sender: str) -> dict[str, Any]:
        return {"id": id, "check": "spf", "ip": ip, "helo": "h.example", "sender": sender}

    answers = await batch(
        ask(1, "192.0.2.1", "a@b.example"),
        ask(2, "192.0.2.2", "a@b.example"),
        ask(3, "192.0.2.7", ""),
        ask(4, "2001:db8::1", "a@slow.example"),
        ask(5, "192.0.2.1", "a@nowhere.example"),
        dns=dns.address,
    )
    assert [each["id"] for each in answers] == [1, 2, 3, 4, 5]
    assert [each["result"] for each in answers] == ["pass", "fail", "pass", "temperror", "none"]
    assert all(each.keys() == {"id", "result", "explanation", "lookups"} for each in answers)
    assert [each["lookups"] for each in answers[:2]] == [0, 1]


async def test_dkim_tells_every_signature_in_the_order_of_the_header(dns: DnsServer, tmp_path: Path) -> None:
    good, lost = SigningKey.generate("signed.example", "s1"), SigningKey.generate("lost.example", "s2")
    dns.add(good.record_name, "TXT", good.record)
    file = tmp_path / "m.eml"
    file.write_bytes(sign(MESSAGE, lost) + sign(MESSAGE, good) + MESSAGE)
    plain = tmp_path / "plain.eml"
    plain.write_bytes(MESSAGE)
    first, second = await batch(
        {"id": "a", "check": "dkim", "file": str(file)}, {"id": "b", "check": "dkim", "file": str(plain)}, dns=dns.address
    )
    assert [(each["domain"], each["selector"], each["result"]) for each in first["signatures"]] == [
        ("lost.example", "s2", "permerror"),
        ("signed.example", "s1", "pass"),
    ]
    assert all(each.keys() == {"domain", "selector", "result", "reason"} for each in first["signatures"])
    assert second == {"id": "b", "signatures": []}


@pytest.mark.parametrize(
    ("path", "address"),
    [
        ("<a@b.example>", "a@b.example"),
        ("<>", ""),
        ("<Postmaster>", "Postmaster"),
        ("<@relay.example,@r2.example:a@b.example>", "a@b.example"),
        ('<"a b"@b.example>', '"a b"@b.example'),
        ("<ü@bücher.example>", "ü@bücher.example"),
        ("<a@[192.0.2.1]>", "a@[192.0.2.1]"),
        ("a@b.example", None),
        ("<a@b.example> SIZE=1", None),
        ("<a@b.example>\n", None),
        ("<a@b..example>", None),
        ("<a b@c.example>", None),
        ("", None),
        ("<a@b.example\u0000>", None),
    ],
)
async def test_address_is_a_whole_path_or_bad(path: str, address: str | None) -> None:
    (answer,) = await batch({"id": 5, "check": "address", "path": path})
    assert answer["id"] == 5
    assert answer["result"] == ("bad" if address is None else "ok")
    assert answer["address"] == (address or "")


async def test_nothing_that_stands_on_a_line_ends_the_batch(tmp_path: Path) -> None:
    lines: list[Any] = [
        b"{",
        b"",
        b"\xff\xfe",
        b"[" * 100_000,
        b"5",
        b'{"id":1,"check":"address","path":"<\\ud800@b.example>"}',
        {"id": 2},
        {"id": 3, "check": "nonsense"},
        {"id": 4, "check": 5},
        {"id": 5, "check": "dmarc", "file": "m.eml"},
        {"id": 6, "check": "arc"},
        {"id": [7, {"x": None}], "check": "spf", "ip": "here", "helo": "h", "sender": ""},
        {"id": 8, "check": "spf", "ip": 3},
        {"check": "dkim", "file": "/nonexistent/m.eml"},
        {"id": 10, "check": "dkim", "file": str(tmp_path)},
        {"id": 11, "check": "dkim", "file": "a\u0000b"},
        {"id": 12, "check": "dkim"},
        b'{"pad":"' + b"x" * 1_100_000 + b'"}',
        {"id": 14, "check": "address", "path": "<a@b.example>"},
    ]
    answers = await batch(*lines)
    assert len(answers) == len(lines)
    assert answers[-1] == {"id": 14, "result": "ok", "address": "a@b.example"}
    assert [each.get("id") for each in answers[5:]] == [1, 2, 3, 4, 5, 6, [7, {"x": None}], 8, None, 10, 11, 12, None, 14]
    assert all("error" in each for at, each in enumerate(answers) if at not in (5, len(lines) - 1))
    assert answers[5]["result"] == "bad"
    assert answers[9]["error"] == "check 'dmarc' is not supported"
    assert answers[10]["error"] == "check 'arc' is not supported"


async def test_an_id_that_json_cannot_write_costs_its_line_only() -> None:
    """What goes out must be read by any JSON parser: no NaN, no Infinity."""
    answers = await batch(
        b'{"id":NaN,"check":"address","path":"<a@b.example>"}',
        b'{"id":1e999,"check":"address","path":"<a@b.example>"}',
        b'{"id":"\\ud800","check":"address","path":"<a@b.example>"}',
        b'{"id":null,"check":"address","path":"<a@b.example>","other":NaN}',
        b'{"id":4,"check":"address","path":"<a@b.example>","other":[null]}',
    )
    assert [each.get("id") for each in answers] == [None, None, "\ud800", None, 4]
    assert ["error" in each for each in answers] == [True, True, False, True, False]


async def test_null_is_no_value(dns: DnsServer) -> None:
    answers = await batch(
        {"id": 1, "check": "spf", "ip": "192.0.2.7", "helo": "h.example", "sender": None},
        {"id": 2, "check": "spf", "ip": "192.0.2.1", "helo": None, "sender": "a@b.example"},
        {"id": 3, "check": "spf", "ip": "192.0.2.7", "helo": "", "sender": ""},
        {"id": 4, "check": "spf", "ip": "192.0.2.7", "helo": None},
        {"id": 5, "check": "spf", "ip": None, "helo": "h.example", "sender": ""},
        {"id": 6, "check": "address", "path": None},
        {"id": 7, "check": None},
        dns=dns.address,
    )
    assert [each.get("result") for each in answers] == ["pass", "pass", "none", None, None, None, None]
    assert [each.get("error") for each in answers[3:]] == [
        "neither helo nor sender is given",
        "ip is missing",
        "path is missing",
        "check is missing",
    ]


async def test_each_line_asks_the_dns_afresh(dns: DnsServer) -> None:
    """A test suite changes its zone between two cases of one batch."""
    process = await start("batch", "--dns", dns.address)
    assert process.stdin
    assert process.stdout
    results = []
    for record in ("v=spf1 +all", "v=spf1 -all", None):
        dns.remove("b.example", "TXT")
        if record:
            dns.add("b.example", "TXT", record)
        process.stdin.write(b'{"id":1,"check":"spf","ip":"192.0.2.1","helo":"h.example","sender":"a@b.example"}\n')
        results.append(json.loads(await process.stdout.readline())["result"])
    process.stdin.close()
    assert results == ["pass", "fail", "none"]
    assert await process.wait() == 0


async def test_a_dead_name_holds_a_line_no_longer_than_the_timeout(monkeypatch: pytest.MonkeyPatch, dns: DnsServer) -> None:
    seen: list[DnsOptions] = []

    class Recorder(DnsResolver):
        def __init__(self, options: DnsOptions) -> None:
            seen.append(options)
            super().__init__(options)

    monkeypatch.setattr("gateway.infra.dns.DnsResolver", Recorder)
    async with under_test._checker(dns.address, None), under_test._checker(dns.address, None, 0.2) as checker:
        dns.fail("dead.example", None, "TIMEOUT")
        answer = await checker.answer({"check": "spf", "ip": "192.0.2.1", "helo": "h", "sender": "a@dead.example"})
    assert answer["result"] == "temperror"
    assert dns.queries == [("dead.example", "TXT")] * 2  # a datagram may be lost
    assert [(each.timeout, each.lifetime) for each in seen] == [(2.0, 4.0), (0.1, 0.2)]
    assert (await run("batch", "--timeout", "0"))[0] == 2
    assert (await run("batch", "--timeout", "nan"))[0] == 2


async def test_explanation_is_the_text_of_the_zone(dns: DnsServer) -> None:
    dns.add("e.example", "TXT", "v=spf1 -all exp=why.e.example")
    dns.add("why.e.example", "TXT", "%{i} may not send for %{d}")
    dns.add("f.example", "TXT", "v=spf1 -all exp=nowhere.example")
    asked = {"check": "spf", "ip": "192.0.2.9", "helo": "h.example"}
    first, second = await batch(asked | {"sender": "a@e.example"}, asked | {"sender": "a@f.example"}, dns=dns.address)
    assert first == {"result": "fail", "explanation": "192.0.2.9 may not send for e.example", "lookups": 0}
    assert second == {"result": "fail", "explanation": "", "lookups": 0}


async def test_the_command_of_the_program_answers_a_mixed_batch(dns: DnsServer, tmp_path: Path) -> None:
    """`gateway verify batch` as it is installed: every check, and lines that are none, in one run."""
    key = SigningKey.generate("signed.example", "s1")
    dns.add(key.record_name, "TXT", key.record)
    (tmp_path / "m.eml").write_bytes(sign(MESSAGE, key) + MESSAGE)
    lines = [
        b'{"id":1,"check":"spf","ip":"192.0.2.1","helo":"h.example","sender":"a@b.example"}',
        b"no JSON",
        json.dumps({"id": 2, "check": "dkim", "file": str(tmp_path / "m.eml")}).encode(),
        b"",
        b'{"id":3,"check":"address","path":"<a@b.example>"}\r',
        b'{"id":4,"check":"spf","ip":"192.0.2.300","helo":"h.example","sender":"a@b.example"}',
        b'\xff{"id":5}',
        b'{"id":6,"check":"dkim","file":["m.eml"]}',
        b'{"id":7,"check":"address","path":"a@b.example"}',
    ]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway", "verify", "batch", "--dns", dns.address),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate(b"\n".join(lines) + b"\n")
    answers = [json.loads(line) for line in out.splitlines()]
    assert process.returncode == 0
    assert [each.get("id") for each in answers] == [1, None, 2, None, 3, 4, None, 6, 7]
    assert [at for at, each in enumerate(answers) if "error" in each] == [1, 3, 5, 6, 7]
    assert (answers[0]["result"], answers[4]["result"], answers[8]["result"]) == ("pass", "ok", "bad")
    assert [each["result"] for each in answers[2]["signatures"]] == ["pass"]


async def test_each_answer_comes_before_the_next_question() -> None:
    """A driver that asks one line at a time must not wait for a full buffer."""
    process = await start("batch")
    assert process.stdin
    assert process.stdout
    for number in range(3):
        process.stdin.write(json.dumps({"id": number, "check": "address", "path": "<a@b.example>"}).encode() + b"\n")
        assert json.loads(await process.stdout.readline())["id"] == number
    process.stdin.write(b'{"id":9,"check":"address","path":"<>"}')  # no newline at the end of the input
    process.stdin.close()
    assert json.loads(await process.stdout.readline()) == {"id": 9, "result": "ok", "address": ""}
    assert await process.wait() == 0


async def test_now_decides_about_expiry(dns: DnsServer, tmp_path: Path) -> None:
    expired = b"DKIM-Signature: v=1; a=rsa-sha256; d=b.example; s=s; t=1000; x=2000; h=from; bh=AA==; b=AA==\r\n"
    (tmp_path / "m.eml").write_bytes(expired + MESSAGE)
    reasons = []
    for now in ("1500", "3000"):
        line = json.dumps({"id": 1, "check": "dkim", "file": str(tmp_path / "m.eml")}).encode() + b"\n"
        _, out, _ = await run("batch", "--dns", dns.address, "--now", now, stdin=line)
        reasons.append(json.loads(out)["signatures"][0]["reason"])
    assert reasons[0] != reasons[1]
    assert "expired" in reasons[1]


async def test_single_forms_print_the_same_object_and_tell_by_their_status(dns: DnsServer, tmp_path: Path) -> None:
    (tmp_path / "m.eml").write_bytes(MESSAGE)
    spf = ["spf", "--dns", dns.address, "--helo", "h.example", "--sender", "a@b.example"]
    status, out, _ = await run(*spf, "--ip", "192.0.2.1", "--json")
    assert (status, json.loads(out)) == (0, {"result": "pass", "explanation": "", "lookups": 0})
    assert (await run(*spf, "--ip", "192.0.2.2"))[0] == 1
    assert (await run(*spf, "--ip", "here"))[0] == 2
    assert (await run(*spf))[0] == 2
    status, out, _ = await run("dkim", "--dns", dns.address, "--file", str(tmp_path / "m.eml"), "--json")
    assert (status, json.loads(out)) == (1, {"signatures": []})
    status, out, _ = await run("dkim", "--dns", dns.address, str(tmp_path / "m.eml"))
    assert (status, out) == (1, "no signature\n")
    assert (await run("dkim", "--file", "/nonexistent"))[0] == 2
    assert (await run("dkim"))[0] == 2
    status, out, _ = await run("address", "--path", "<a@b.example>", "--json")
    assert (status, json.loads(out)) == (0, {"result": "ok", "address": "a@b.example"})
    assert (await run("address", "a@b.example"))[0] == 1
    assert (await run("spf", "--ip", "192.0.2.1", "--dns", "not a server"))[0] == 2


async def test_only_what_a_check_needs_is_imported() -> None:
    code = (
        "import sys; from click.testing import CliRunner; from gateway.cli.verify import verify;"
        "CliRunner().invoke(verify, ['address', '<a@b.example>']);"
        "print(sorted(m for m in ('aiohttp', 'aiosmtpd', 'aiosmtplib', 'rich', 'spf', 'dkim', 'sqlite3') if m in sys.modules))"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    assert out == b"[]\n"
