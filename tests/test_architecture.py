# SPDX-License-Identifier: Apache-2.0
"""The rules of the house that a linter does not know: one door a library, replies in one table, files that stay small."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "gateway"
FILES = sorted(ROOT.rglob("*.py"))

# Which files may import a library: prefixes of their paths below gateway/.
DOORS = {
    "dns": ("infra/dns",),
    "aiosmtpd": ("edge/",),
    "aiosmtplib": ("delivery/smtp",),
    "dkim": ("auth/dkim",),
    "spf": ("auth/spf",),
    "sqlite3": ("queue/", "ops/trace"),
    "argon2": ("infra/passwords.py",),
    "pydantic": ("infra/options.py",),
    "pydantic_core": (),
    "orjson": ("infra/log.py",),
    "prometheus_client": ("infra/metrics",),
    "aiohttp": ("infra/http.py", "ops/api.py", "ops/client.py"),
    "uvloop": ("process.py",),
    "rich": ("cli/", "ops/explain"),
    "click": ("cli/",),
    "ssl": ("infra/tls.py", "edge/", "delivery/"),
}
PURE = {"asyncio", "socket", "ssl", "sqlite3", "dns", "aiohttp", "time", "pydantic", "threading", "subprocess"}
REPLY_LITERAL = re.compile(r"""b?["'][245]\d\d[ -]""")


def imports(path: Path) -> Iterator[str]:
    """Top-level names of everything that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


@pytest.mark.parametrize("library", DOORS)
def test_a_library_has_one_door(library: str) -> None:
    strays = [
        str(path.relative_to(ROOT))
        for path in FILES
        if library in imports(path) and not str(path.relative_to(ROOT)).startswith(DOORS[library])
    ]
    assert not strays


def test_what_mail_is_needs_no_loop_no_disk_no_clock() -> None:
    found = {path.name: PURE & set(imports(path)) for path in (ROOT / "mail").glob("*.py")}
    assert not {name: names for name, names in found.items() if names}


def test_every_reply_stands_in_the_table() -> None:
    table = ROOT / "mail/reply.py"
    strays = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in FILES
        if path != table
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if REPLY_LITERAL.search(line)
    ]
    assert not strays


def test_ports_fit_on_a_page() -> None:
    code = [line for line in (ROOT / "ports.py").read_text().splitlines() if line.strip()]
    assert len(code) < 260


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_opens_with_what_it_is_and_stays_small(path: Path) -> None:
    source = path.read_text()
    assert source.startswith("# SPDX-License-Identifier: Apache-2.0\n")
    assert ast.get_docstring(ast.parse(source))
    assert source.count("\n") <= 500
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = ast.get_docstring(node, clean=False)
            length = (node.end_lineno or 0) - node.lineno + 1 - (docstring.count("\n") + 1 if docstring else 0)
            assert length <= 80, f"{node.name} has {length} lines"


def test_nothing_is_left_to_do_silently() -> None:
    marks = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
    assert not [
        f"{path}:{n}" for path in FILES for n, line in enumerate(path.read_text().splitlines(), 1) if marks.search(line)
    ]
