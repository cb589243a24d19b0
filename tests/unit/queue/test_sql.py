# SPDX-License-Identifier: Apache-2.0
"""The named statements: each is known to the schema, and none of the frequent ones reads a whole table."""

from pathlib import Path

import pytest

from gateway.mail.listing import Selector
from gateway.queue.database import prepare
from gateway.queue.disk import Connection, Disk
from gateway.queue.selection import query
from gateway.queue.sql import QUERIES

READS_ALL = {"mend_created", "mend_message_due", "mend_recipient_due", "count_open"}  # at start, or in the reader's thread


@pytest.fixture(scope="module")
def connection(tmp_path_factory: pytest.TempPathFactory) -> Connection:
    path: Path = tmp_path_factory.mktemp("sql") / "0.sqlite"
    prepare(path, Disk(), 0.0)
    return Disk().connect(path)


def plan(connection: Connection, statement: str) -> list[str]:
    numbered = max((count for count in range(1, 4) if f"?{count}" in statement), default=0)
    values = [None] * (numbered or statement.count("?"))
    return [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", values)]


@pytest.mark.parametrize("name", QUERIES)
def test_a_statement_finds_its_rows_by_an_index(name: str, connection: Connection) -> None:
    steps = plan(connection, QUERIES[name])
    scans = [step for step in steps if step.startswith("SCAN") and "json_each" not in step and "INDEX messages_" not in step]
    assert name in READS_ALL or not scans
    if name != "recipients":
        assert not [step for step in steps if "TEMP B-TREE" in step]


def test_a_selection_never_reads_contents(connection: Connection) -> None:
    selector = Selector(ids=(), domain="d", sender="s", recipient="r", older=1.0, state="deferred", reason="x")
    statement, values = query(selector, 0.0, range(10), 10)
    steps = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", values)]
    assert steps
    assert not [step for step in steps if "contents" in step or "TEMP" in step]
