# SPDX-License-Identifier: Apache-2.0
"""Every case of tests/data/spf, over data in memory; one case of each file over a real DNS server too."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from gateway.auth.spf import check_host
from gateway.infra.dns import DnsOptions, DnsResolver
from tests.support.dnsserver import DnsServer
from tests.support.resolver import MapResolver

FOLDER = Path(__file__).parents[2] / "data" / "spf"
FIELDS = ("result", "explanation", "lookups", "domain", "identity", "mechanism")

Case = Mapping[str, Any]


def discover() -> list[Any]:
    """A case, its `[given]` filled in; the record under test added to its zone."""
    found = []
    for path in sorted(FOLDER.glob("*.toml")):
        data = tomllib.loads(path.read_text("utf-8"))
        for case in data["case"]:
            merged = {**data.get("given", {}), **case}
            domain = merged.setdefault("domain", "record.example")
            merged.setdefault("sender", f"a@{domain}")
            merged["zone"] = zone = {name: dict(types) for name, types in data.get("zone", {}).items()}
            if "text" in merged:
                zone.setdefault(domain, {})["TXT"] = [merged["text"]]
            found.append(pytest.param(merged, id=f"{path.stem}:{case['name']}"))
    return found


CASES = discover()


def judge(case: Case, result: Any, questions: list[tuple[str, str]]) -> None:
    want = case["want"]
    got = {field: getattr(result, field) for field in FIELDS if field in want}
    wanted = {field: value for field, value in want.items() if field in FIELDS}
    assert got == wanted, f"{case['why']}: {result}"
    if "questions" in want:
        assert len(questions) == want["questions"], questions
    if "asked" in want:
        assert questions[-1][0] == want["asked"], case["why"]
    assert result.reason or result.result not in ("temperror", "permerror")


def test_there_are_cases_for_every_section() -> None:
    """The data is found at all, and each case says why."""
    cases = [parameter.values[0] for parameter in CASES]
    assert len(cases) >= 90
    assert all(case["why"] and case["want"]["result"] for case in cases)
    assert len({parameter.id for parameter in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES)
async def test_case(case: Case) -> None:
    resolver = MapResolver(case["zone"])
    result = await check_host(resolver, case["ip"], case["helo"], case["sender"], receiver="mx.we.example")
    judge(case, result, resolver.questions)


@pytest.mark.parametrize("case", [case for case in CASES if "TIMEOUT" not in str(case.values[0]["zone"])][::9])
async def test_case_over_a_real_server(case: Case) -> None:
    """The same through sockets, messages and the cache."""
    async with DnsServer() as server:
        for name, types in case["zone"].items():
            for type, values in types.items():
                if isinstance(values, str):
                    server.fail(name, type, values)
                elif type != "SPF":
                    server.add(name, type, *(octets(value) if type == "TXT" else value for value in values))
        resolver = DnsResolver(DnsOptions(nameservers=[server.address]))
        result = await check_host(resolver, case["ip"], case["helo"], case["sender"], receiver="mx.we.example")
        judge(case, result, server.queries)
        await resolver.close()


def octets(value: Any) -> bytes:
    return ("".join(value) if isinstance(value, list) else value).encode("latin-1")
