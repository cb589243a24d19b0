# SPDX-License-Identifier: Apache-2.0
"""Canonicalisation against a second, slow implementation, in every chunking; and what stands in place of dkimpy's."""

import hashlib
import itertools
from collections.abc import Iterator

import dkim.canonicalization
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.auth import dkim_sign
from gateway.auth.dkim_canon import Relaxed, Simple, collapse, hash_body, relaxed_field, strip_line_ends, without_signature
from tests.support.sign import canonical_body, canonical_field

PIECES = [b" ", b"\t", b"\r\n", b"\r", b"\n", b"a", b"bc", b"  ", b" \r\n"]
bodies = st.lists(st.sampled_from(PIECES), max_size=30).map(b"".join)
cuts = st.lists(st.integers(0, 60), max_size=8)


def chunked(body: bytes, at: list[int]) -> Iterator[bytes]:
    edges = [0, *sorted(min(cut, len(body)) for cut in at), len(body)]
    for start, end in itertools.pairwise(edges):
        yield body[start:end]


@given(bodies, cuts)
def test_body_in_any_chunking_is_as_the_rfc_says(body: bytes, at: list[int]) -> None:
    for how, kind in (("simple", Simple), ("relaxed", Relaxed)):
        canon = kind()
        result = b"".join([canon.feed(chunk) for chunk in chunked(body, at)]) + canon.finish()
        assert result == canonical_body(body, how)


@given(bodies, cuts, st.lists(st.none() | st.integers(0, 60), min_size=1, max_size=4), st.booleans())
def test_hashes_with_limits(body: bytes, at: list[int], limits: list[int | None], relaxed: bool) -> None:
    canonical = canonical_body(body, "relaxed" if relaxed else "simple")
    for (_, limit), found in hash_body(chunked(body, at), [(relaxed, limit) for limit in limits]).items():
        assert found.size == len(canonical)
        assert found.digest == hashlib.sha256(canonical[:limit]).digest()


@given(st.lists(st.sampled_from([b" ", b"\t", b"\r\n ", b"\r\n\t", b"x", b":", b"\x0b", b"\xe9"]), max_size=20).map(b"".join))
def test_relaxed_field_is_as_the_rfc_says(value: bytes) -> None:
    field = b"Sub-Ject \t:" + value + b"\r\n"
    assert relaxed_field(field) == canonical_field(field, "relaxed")


def test_the_examples_of_rfc_6376_section_3_4_5() -> None:
    assert relaxed_field(b"A: X\r\n") == b"a:X\r\n"
    assert relaxed_field(b"B : Y\t\r\n\tZ  \r\n") == b"b:Y Z\r\n"
    relaxed, simple = Relaxed(), Simple()
    body = b" C \r\nD \t E\r\n\r\n\r\n"
    assert relaxed.feed(body) + relaxed.finish() == b" C\r\nD E\r\n"
    assert simple.feed(body) + simple.finish() == b" C \r\nD \t E\r\n"


@pytest.mark.parametrize(
    ("text", "result"),
    [
        (b"", b""),
        (b"\r\n", b""),
        (b"a\r\n\r\n", b"a"),
        (b"a\r\r\n", b"a\r"),
        (b"a\n\r\n", b"a\n"),
        (b"a\r\n\n", b"a\r\n\n"),
        (b"\r\n\r", b"\r\n\r"),
        (b"\n\r\n\r\n", b"\n"),
    ],
)
def test_line_ends_are_stripped_in_pairs(text: bytes, result: bytes) -> None:
    assert strip_line_ends(text) == result


@pytest.mark.parametrize(
    ("field", "result"),
    [
        (b"S: a=1; b=xyz\r\n", b"S: a=1; b="),
        (b"S: b= x\r\n\ty ;bh=b\r\n", b"S: b=;bh=b"),
        (b"S:b=x; c=d \r\n", b"S:b=; c=d "),
        (b"S: a=b=c;\r\n\tb\r\n = x ;\r\n", b"S: a=b=c;\r\n\tb\r\n =;"),
        (b"S: z= b=c; B=d; b=\r\n", b"S: z= b=c; B=d; b="),
        (b"S: b\r\n", b"S: b"),
    ],
)
def test_only_the_value_of_b_is_cut_out(field: bytes, result: bytes) -> None:
    assert without_signature(field) == result


MEGABYTES = 10 << 20
HOSTILE = {
    "blanks": b" " * MEGABYTES,
    "blank lines": b" \r\n" * (MEGABYTES // 3),
    "tab and blank in turn": b"\t " * (MEGABYTES // 2),
    "empty lines": b"\r\n" * (MEGABYTES // 2) + b"x",
    "bare CRs": b"\r" * MEGABYTES + b"\n",
    "blanks before no line end": (b" " * 5000 + b"x") * (MEGABYTES // 5001),
    "CRLF and CR in turn": b"\r\n\r" * (MEGABYTES // 3),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_ten_hostile_megabytes_end_in_time(name: str) -> None:
    """Quadratic code would need hours, and run into the suite's time limit."""
    body = HOSTILE[name]
    found = hash_body(iter((body,)), [(False, None), (True, None), (True, 100)])
    assert found[False, None].size <= len(body) + 2
    assert len(relaxed_field(b"A:" + body)) > 3
    for function in ("strip_trailing_whitespace", "compress_whitespace", "strip_trailing_lines"):
        getattr(dkim.canonicalization, function)(body)


@given(bodies)
def test_dkimpy_canonicalises_as_we_do(body: bytes) -> None:
    """Its classes use the functions that were put in place; the text of a message always ends with CRLF."""
    body += b"\r\n"
    assert dkim.canonicalization.Simple.canonicalize_body(body) == canonical_body(body, "simple")
    assert dkim.canonicalization.Relaxed.canonicalize_body(body) == canonical_body(body, "relaxed")
    assert dkim.canonicalization.compress_whitespace is collapse


def test_a_dkimpy_without_the_replaced_functions_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(dkim.canonicalization, "strip_trailing_lines")
    with pytest.raises(ImportError, match="strip_trailing_lines"):
        dkim_sign.install()
