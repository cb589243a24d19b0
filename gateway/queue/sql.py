# SPDX-License-Identifier: Apache-2.0
"""The statements of the queue, read from the `.sql` files beside this one.

Promises: a statement is found by its name or the import fails; values are always parameters, never text in a statement.
Not here: running them (`rows.py`, `admin.py`).
"""

import re
from pathlib import Path

_HERE = Path(__file__).parent
_NAME = re.compile(r"^-- name: (\w+)\n", re.M)


def _read_queries(text: str) -> dict[str, str]:
    parts = _NAME.split(text)
    return {name: _statement(body) for name, body in zip(parts[1::2], parts[2::2], strict=True)}


def _statement(body: str) -> str:
    """Without comments and line breaks: the text is the key of the connection's cache of prepared statements."""
    return " ".join(line.strip() for line in body.splitlines() if line.strip() and not line.startswith("--")).removesuffix(";")


def _statements(text: str) -> list[str]:
    return [statement for part in text.split(";") if (statement := _statement(part))]


SCHEMA = (_HERE / "schema.sql").read_text()
MIGRATIONS = {2: _statements((_HERE / "migrate_2.sql").read_text())}  # by the schema they lead to, from the one before it
QUERIES = _read_queries((_HERE / "queries.sql").read_text())
