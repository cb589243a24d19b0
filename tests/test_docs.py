# SPDX-License-Identifier: Apache-2.0
"""The docs say what the code does: generated pages are fresh, examples load, links lead somewhere, RFCs are indexed."""

import re
from pathlib import Path

import pytest

from gateway.config import Config, load, parse
from tests.support.gendocs import ROOT, citations, pages, statuses

LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")
MARKDOWN = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def test_generated_pages_are_fresh() -> None:
    stale = [str(path.relative_to(ROOT)) for path, text in pages().items() if not path.exists() or path.read_text() != text]
    assert not stale, "run `make docs`"


@pytest.mark.parametrize("path", sorted((ROOT / "config").rglob("*.toml")), ids=lambda path: path.name)
def test_every_example_configuration_loads(path: Path) -> None:
    assert load(path).listener


def test_the_annotated_configuration_names_every_section_and_loads_without_its_comment_marks() -> None:
    text = re.sub(r"(?m)^#(?=[a-z\[])", "", (ROOT / "config/gateway.toml").read_text())
    config = parse(text.encode(), "gateway.toml")
    assert config.takes_submissions
    assert set(Config.model_fields) == config.model_fields_set


@pytest.mark.parametrize("path", MARKDOWN, ids=lambda path: path.name)
def test_links_lead_to_files(path: Path) -> None:
    missing = [target for target in LINK.findall(path.read_text()) if not (path.parent / target).exists()]
    assert not missing


def test_every_cited_rfc_is_in_the_index_and_every_kept_one_is_cited() -> None:
    cited, indexed = set(citations()), statuses()
    assert not cited - set(indexed), "add them to docs/rfcs.toml"
    assert not [number for number, entry in indexed.items() if entry["status"] == "Yes" and number not in cited]


def test_paths_named_in_the_hacking_guide_exist() -> None:
    text = (ROOT / "docs/HACKING.md").read_text()
    named = set(re.findall(r"`((?:gateway|tests|config|systemd|docs)/[\w./-]+)`", text))
    assert named
    assert not [name for name in named if not (ROOT / name).exists()]


FAULTS = [*range(1, 17), *range(22, 25), *range(27, 31)]  # those that a client can cause
SHOWN_BY = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")


def test_every_fault_has_tests_of_its_name_and_all_that_are_listed_exist() -> None:
    rows = re.findall(r"^\| (\d+) \| .*$", text := (ROOT / "docs/TESTING.md").read_text(), re.M)
    assert [int(number) for number in rows] == FAULTS
    missing = [f"{file}::{name}" for file, name in SHOWN_BY.findall(text) if not _defines(ROOT / file, name)]
    assert not missing
    for number in FAULTS:
        row = next(line for line in text.splitlines() if line.startswith(f"| {number} |"))
        assert f"::test_fault_{number}_" in row, number


def _defines(path: Path, name: str) -> bool:
    return path.exists() and re.search(rf"^(async )?def {name}\(", path.read_text(), re.M) is not None
