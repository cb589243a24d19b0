# SPDX-License-Identifier: Apache-2.0
"""The triples of tests/data/dkim: each message gets the results that its `want` file lists, reasons included."""

from pathlib import Path

import pytest

from gateway.auth.dkim import verify
from tests.support.dkimcases import NOW
from tests.support.dkimcases.make import DATA, files
from tests.support.resolver import MapResolver

CASES = sorted(DATA.glob("*.eml"))


def resolver_for(path: Path) -> MapResolver:
    resolver = MapResolver()
    for line in path.read_text().splitlines():
        name, kind, *rest = line.split(" ", 2)
        if kind == "FAIL":
            resolver.fail(name, "TXT", "TIMEOUT")
        else:
            resolver.add(name, kind, *rest or [""])
    return resolver


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
async def test_case(path: Path) -> None:
    why, *wanted = path.with_suffix(".want").read_text().splitlines()
    assert why.startswith("why: ")
    now = NOW
    if wanted and wanted[0].startswith("now: "):
        now = int(wanted.pop(0).removeprefix("now: "))
    results = await verify(resolver_for(path.with_suffix(".dns")), path.read_bytes(), now)
    found = [f"{each.result} {each.domain or '-'} {each.selector or '-'} | {each.reason}".rstrip() for each in results]
    assert found == wanted, why


def test_there_are_enough_cases() -> None:
    assert len(CASES) >= 150


def test_committed_files_are_what_the_makers_make() -> None:
    """Otherwise the sources of the cases and the cases drift apart."""
    made = files()
    here = {path.name: path.read_bytes() for path in DATA.iterdir() if path.suffix in {".eml", ".dns", ".want"}}
    assert sorted(here) == sorted(made)
    assert [name for name in made if made[name] != here[name]] == []
