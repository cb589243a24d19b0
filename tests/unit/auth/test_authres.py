# SPDX-License-Identifier: Apache-2.0
"""Authentication-Results: what we write is one well-formed field whatever the values are; what is forged is recognised."""

import email
import email.policy
import re
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.auth.authres import LINE_MAX, claims, render
from gateway.mail.message import parse_fields
from gateway.mail.verdict import AuthResult

US = "mx.example.test"
DATA = Path(__file__).parent.parent.parent / "data" / "authres"

# RFC 8601 §2.2, as strictly as it can be read
_VALUE = r'(?:[!#$%&\'*+.0-9A-Z^_`a-z{|}~-]+|"(?:[ !#-\[\]-~]|\\["\\])*")'
_PVALUE = rf"(?:[^\s\"@;()<>\[\]:,\\]*@[A-Za-z0-9._-]+|{_VALUE})"
_RESULT = re.compile(
    rf"\s*(?P<method>[A-Za-z0-9_-]+)=(?P<result>[A-Za-z0-9_-]+)(?:\s+reason=(?P<reason>{_VALUE}))?"
    rf"(?P<rest>(?:\s+[a-z]+\.[A-Za-z0-9_-]+={_PVALUE})*)\s*"
)


def read(field: bytes) -> tuple[str, list[AuthResult]]:
    """A strict reader, written for this test: raises AssertionError for what RFC 8601 does not allow."""
    message = email.message_from_bytes(field + b"\r\n", policy=email.policy.compat32)
    assert message.keys() == ["Authentication-Results"]
    [parsed] = parse_fields(field)
    assert parsed.raw == field
    text = parsed.unfolded.decode("ascii")
    authserv_id, semicolon, rest = text.partition(";")
    assert semicolon
    assert re.fullmatch(_VALUE, authserv_id)
    if rest.strip() == "none":
        return unquote(authserv_id), []
    results = []
    at = 0
    while at < len(rest):
        found = _RESULT.match(rest, at)
        assert found, rest[at:]
        properties = re.findall(rf"\s+([a-z]+\.[A-Za-z0-9_-]+)=({_PVALUE})", found["rest"])
        values = tuple((name, unquote(value)) for name, value in properties)
        results.append(AuthResult(found["method"], found["result"], unquote(found["reason"] or ""), values))
        at = found.end()
        assert rest[at : at + 1] in {"", ";"}, rest[at:]
        at += 1
    return unquote(authserv_id), results


def unquote(value: str) -> str:
    return re.sub(r"\\(.)", r"\1", value[1:-1]) if value.startswith('"') else value


# --- render


@pytest.mark.parametrize("path", sorted(DATA.glob("*.field")), ids=lambda path: path.stem)
def test_written_as_expected(path: Path) -> None:
    """The .results files hold one `method result [reason] | property=value …` a line."""
    results = []
    for line in path.with_suffix(".results").read_text().splitlines():
        head, _, tail = line.partition(" | ")
        method, result, *reason = head.split(" ", 2)
        properties = (word.partition("=") for word in tail.split())
        results.append(AuthResult(method, result, "".join(reason), tuple((name, value) for name, _, value in properties)))
    assert render(US, results) == path.read_bytes()


def test_no_results() -> None:
    assert render(US, []) == b"Authentication-Results: mx.example.test; none\r\n"
    assert read(render(US, [])) == (US, [])


keywords = st.from_regex(r"[a-z][a-z0-9-]{0,10}[a-z0-9]", fullmatch=True)
safe = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=120)
properties = st.tuples(st.sampled_from(["smtp.mailfrom", "header.d", "header.i", "policy.iprev"]), safe)


@given(st.lists(st.builds(AuthResult, keywords, keywords, safe, st.lists(properties, max_size=5).map(tuple)), max_size=5))
def test_what_is_printable_comes_back(results: list[AuthResult]) -> None:
    expected = [
        AuthResult(each.method, each.result, each.reason, tuple((name, value) for name, value in each.properties if value))
        for each in results
    ]
    assert read(render(US, results)) == (US, expected)


anything = st.text(max_size=60) | st.sampled_from(
    ["a\r\nBcc: x@y", "a\nb", "\0", "a\r\n\r\nbody", "\x7f", "x; spf=pass", '"', "\\"]
)


@given(
    st.lists(
        st.builds(AuthResult, anything, anything, anything, st.lists(st.tuples(anything, anything)).map(tuple)), max_size=3
    )
)
@example([AuthResult("spf", "pass", "", (("smtp.mailfrom", 'x" spf=fail\r\nFrom: eve@evil.test'),))])
def test_no_value_breaks_out(results: list[AuthResult]) -> None:
    """Header injection by HELO, a sender, a PTR, d=, or a reason that quotes one of them."""
    field = render(US, results)
    assert field.isascii()
    assert not re.search(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]", field)
    assert read(field)[0] == US
    assert re.fullmatch(rb"[^\r\n]+\r\n(?:\t[^\r\n]+\r\n)*", field)


@pytest.mark.parametrize("value", ["a\r\nb", "a\0b", "ä@b.example", "\t", "a" * 401, "", "ä" * 300, "@\u2028"])
def test_a_value_that_cannot_be_written_is_left_out(value: str) -> None:
    result = AuthResult("spf", "pass", "", (("smtp.mailfrom", value), ("smtp.helo", "h.example")))
    assert read(render(US, [result]))[1] == [AuthResult("spf", "pass", "", (("smtp.helo", "h.example"),))]


def test_an_internationalised_domain_is_written_in_a_labels() -> None:
    result = AuthResult("dkim", "pass", "", (("header.d", "Bücher.test"), ("header.i", "ann@bücher.test")))
    written = (("header.d", "xn--bcher-kva.test"), ("header.i", "ann@xn--bcher-kva.test"))
    assert read(render("bücher.test", [result])) == ("xn--bcher-kva.test", [AuthResult("dkim", "pass", "", written)])


def test_a_result_without_a_proper_name_is_left_out() -> None:
    results = [AuthResult("sp f", "pass"), AuthResult("spf", ""), AuthResult("spf", "pass;"), AuthResult("dkim", "fail")]
    assert read(render(US, results))[1] == [AuthResult("dkim", "fail")]
    assert render(US, results[:3]) == b"Authentication-Results: mx.example.test; none\r\n"


def test_a_property_without_a_proper_name_is_left_out() -> None:
    names = ["mailfrom", "smtp.", ".x", "smtp.mail from", "smtp.a=b", "smtp.mailfrom"]
    result = AuthResult("spf", "pass", "", tuple((name, "x") for name in names))
    assert read(render(US, [result]))[1][0].properties == (("smtp.mailfrom", "x"),)


def test_a_reason_is_cleaned_and_cut() -> None:
    result = AuthResult("spf", "fail", 'said "no"\r\nand\x00 ä' + "x" * 500)
    [found] = read(render(US, [result]))[1]
    assert found.reason == ('said "no"??and? ?' + "x" * 500)[:200]


@pytest.mark.parametrize("authserv_id", ["", "a\r\nb", "a\0", "ä b", "x" * 500])
def test_an_impossible_authserv_id_is_refused(authserv_id: str) -> None:
    with pytest.raises(ValueError, match="authserv-id"):
        render(authserv_id, [])


def test_lines_are_short_where_values_are() -> None:
    properties = tuple((f"header.p{number}", "x" * number) for number in range(1, 50))
    for line in render(US, [AuthResult("dkim", "pass", "a reason", properties)] * 3).split(b"\r\n"):
        assert len(line) <= LINE_MAX


# --- claims


@pytest.mark.parametrize(
    "value",
    [
        b" mx.example.test; spf=pass",
        b"mx.example.test;none",
        b"mx.example.test",
        b" MX.Example.TEST; x",
        b"\tmx.example.test\r\n\t; x",
        b"\r\n mx.example.test 1; x",
        b" mx.example.test/1; x",
        b" mx.example.test.; x",
        b" mx.example.test (comment); x",
        b" mx.example.test(comment); x",
        b" (a comment; with mx.other.test) mx.example.test; x",
        b" (nested (twice) \\) \\( ) mx.example.test; x",
        b' "mx.example.test"; x',
        b' "mx\\.example.test" ; x',
        b' (c)"mx.example.test"1; x',
        b" mx.example.test\x00; x",
        b" mx.exa\x01mple.test; x",
        # malformed, and read by somebody all the same
        b" (never closed mx.example.test; spf=pass",
        b' "never closed mx.example.test; spf=pass',
        b") mx.example.test; x",
        b" (" + b"x" * 5000 + b") mx.example.test; x",
    ],
)
def test_ours(value: bytes) -> None:
    assert claims(value, US)
    assert claims(value, US.upper() + ".")


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b" ",
        b";",
        b" ; mx.example.test",
        b" mx.example.test.evil.test; x",
        b" notmx.example.test; x",
        b" example.test; x",
        b" other.test; spf=pass smtp.mailfrom=mx.example.test",
        b" other.test (mx.example.test); x",
        b" (mx.example.test) other.test; x",
        b' "other.test"; mx.example.test',
        b" other.test mx.example.test; x",
        b" \xff\xfe; x",
        b" other.test; " + b"x" * 5000,
    ],
)
def test_somebody_elses(value: bytes) -> None:
    assert not claims(value, US)


@pytest.mark.parametrize("ours", ["bücher.test", "xn--bcher-kva.test", "BÜCHER.test"])
@pytest.mark.parametrize("value", ["bücher.test", "xn--bcher-kva.test", "XN--BCHER-KVA.test", '"bücher.test"', "Bücher.Test"])
def test_ours_in_either_kind_of_labels(ours: str, value: str) -> None:
    assert claims(f" {value}; spf=pass".encode(), ours)


@given(st.binary(max_size=200))
def test_claims_takes_anything(value: bytes) -> None:
    claims(value, US)


blanks = st.sampled_from([b"", b" ", b"\t", b"\r\n "])
words = st.sampled_from([b"", b"mx.example.test;", b"other.test;", b"\\)", b"\\(", b"\\\\", b'"', b"x"])
comments = st.recursive(words, lambda inner: st.lists(inner, max_size=3).map(lambda parts: b"(" + b" ".join(parts) + b")"))


@given(st.lists(comments.map(lambda text: b"(" + text + b")") | blanks, max_size=5).map(b"".join))
def test_comments_and_blanks_in_front_hide_nothing(preamble: bytes) -> None:
    assert claims(preamble + b" mx.example.test; spf=pass", US)
    assert not claims(preamble + b" other.test; spf=pass", US)


def test_what_we_write_is_ours() -> None:
    [field] = parse_fields(render(US, [AuthResult("spf", "pass")]))
    assert claims(field.value, US)
    assert not claims(field.value, "other.test")


def test_a_hostile_preamble_takes_no_time() -> None:
    for octets in (b"(", b"()", b'"', b"\\", b" ", b"a", b"a."):
        claims(octets * 1_000_000, US)
