# SPDX-License-Identifier: Apache-2.0
"""Whose message is it? What cannot be read without doubt belongs to nobody."""

import pytest

from gateway.edge.authors import FROM_MAX, authors


@pytest.mark.parametrize(
    ("field", "found"),
    [
        (b"ann@b.example", ["ann@b.example"]),
        (b"Ann <ann@b.example>", ["ann@b.example"]),
        (b'"Ann, the first" <ann@b.example>, Bob (who?) <bob@b.example>', ["ann@b.example", "bob@b.example"]),
        (b"=?utf-8?q?Ann?=\r\n <ann@b.example>", ["ann@b.example"]),
        ("René <rené@b.example>".encode(), ["rené@b.example"]),
        (b'"bob@b.example" <ann@b.example>', ["ann@b.example"]),
    ],
)
def test_mailboxes(field: bytes, found: list[str]) -> None:
    assert [str(each) for each in authors(b"Subject: x\r\nFROM : " + field + b"\r\nTo: c@d.example\r\n")] == found


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"Subject: x\r\n",
        b"From: \r\n",
        b"From: ann\r\n",
        b"From: <>\r\n",
        b"From: ann@b.example\r\nFrom: ann@b.example\r\n",
        b"From: ann@b.example bob@b.example\r\n",
        b"From: ann@b.example, \xff@b.example\r\n",
        b"From: ann@b.example,\r\n bob\r\n",
        b"From: " + b"(" * 100 + b"ann@b.example\r\n",
        b"From: " + b"(" * (1 << 20) + b"ann@b.example\r\n",
        b"From: " + b"a@b.example," * FROM_MAX + b"\r\n",
    ],
)
def test_what_belongs_to_nobody(header: bytes) -> None:
    assert not authors(header)


def test_groups_within_groups_belong_to_nobody() -> None:
    """The parser reads them by recursion: no fault of ours may come of it."""
    assert not authors(b"From: " + b"a:" * (FROM_MAX // 2 - 8) + b"\r\n")
