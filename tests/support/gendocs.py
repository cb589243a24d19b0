# SPDX-License-Identifier: Apache-2.0
"""Writes the generated pages of docs/: CONFIG, METRICS, FILTERS from the command, RFCS from the citations in the code."""

import re
import tomllib
from collections import defaultdict
from pathlib import Path

from click.testing import CliRunner

ROOT = Path(__file__).parent.parent.parent
CITATION = re.compile(r"RFC (\d{3,5})")
LISTED = re.compile(r"\b(\d{4,5})\b")  # on the line of a file's docstring that begins with "RFCs:"
STATUS = ROOT / "docs/rfcs.toml"


def pages() -> dict[Path, str]:
    """Path and text of every generated page."""
    return {
        ROOT / "docs/CONFIG.md": _fenced("Configuration", "config"),
        ROOT / "docs/METRICS.md": _command("metrics"),
        ROOT / "docs/FILTERS.md": _command("filters"),
        ROOT / "docs/RFCS.md": rfc_page(),
    }


def _command(page: str) -> str:
    from gateway.cli.docs import docs

    done = CliRunner().invoke(docs, [page], catch_exceptions=False)
    return done.output


def _fenced(title: str, page: str) -> str:
    return f"# {title}\n\nMade by `gateway docs {page}`.\n\n```toml\n{_command(page)}```\n"


def citations() -> dict[int, dict[str, list[str]]]:
    """RFC number -> file -> line numbers, over the whole package."""
    found: dict[int, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for path in sorted((ROOT / "gateway").rglob("*.py")):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            for match in (LISTED if line.startswith("RFCs:") else CITATION).finditer(line):
                lines = found[int(match[1])][str(path.relative_to(ROOT))]
                if str(number) not in lines:
                    lines.append(str(number))
    return found


def statuses() -> dict[int, dict[str, str]]:
    """What docs/rfcs.toml says of each RFC: title, status, note."""
    return {int(number): entry for number, entry in tomllib.loads(STATUS.read_text()).items()}


def rfc_page() -> str:
    """The index: each RFC, how far it is kept, and where the code cites it."""
    cited = citations()
    rows = [
        "# RFCs",
        "",
        "Made from the citations in the code and `docs/rfcs.toml`.",
        "",
        "| RFC | title | kept | note | cited in |",
        "|---|---|---|---|---|",
    ]
    for number, entry in sorted(statuses().items()):
        files = ", ".join(
            f"{name.removeprefix('gateway/')}:{','.join(lines[:3])}" for name, lines in cited.get(number, {}).items()
        )
        rows.append(f"| {number} | {entry['title']} | {entry['status']} | {entry.get('note', '')} | {files} |")
    return "\n".join(rows) + "\n"


def main() -> None:
    for path, text in pages().items():
        path.write_text(text)
        print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
