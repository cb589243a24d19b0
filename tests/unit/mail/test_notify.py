# SPDX-License-Identifier: Apache-2.0
"""The values of RET, ENVID, NOTIFY and ORCPT: what is good, what it means, and what must never get through."""

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.mail.notify import (
    ENVID_MAX,
    ORCPT_MAX,
    NotifyError,
    ascii_orcpt,
    check_envid,
    check_orcpt,
    check_ret,
    decode_xtext,
    encode_xtext,
    envelope_id,
    original_recipient,
    parse_notify,
    returns_header,
    wants,
)

CASES = tomllib.loads((Path(__file__).parents[2] / "data" / "dsn" / "parameters.toml").read_text())["case"]


def meaning(kind: str, value: str) -> str:
    match kind:
        case "xtext":
            return decode_xtext(value)
        case "ret":
            return check_ret(value)
        case "notify":
            return " ".join(parse_notify(value))
        case "envid":
            return envelope_id(check_envid(value))
        case "orcpt":
            assert check_orcpt(value) == value, "it is kept as it was given"
            return original_recipient(value, utf8=True)
    raise AssertionError(kind)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['number']:03d}")
def test_case(case: dict[str, Any]) -> None:
    if "means" in case:
        assert meaning(case["kind"], case["value"]) == case["means"]
    else:
        with pytest.raises(NotifyError):
            meaning(case["kind"], case["value"])


def test_cases_have_numbers_of_their_own() -> None:
    numbers = [case["number"] for case in CASES]
    assert len(set(numbers)) == len(numbers) >= 60


@pytest.mark.parametrize("check", [check_ret, check_envid, parse_notify, check_orcpt])
def test_a_parameter_without_value_is_refused(check: Any) -> None:
    with pytest.raises(NotifyError):
        check(None)


def test_values_end_where_the_standard_says() -> None:
    """RFC 3461 §4.4: 100 characters; §4.2: 500."""
    assert check_envid("x" * ENVID_MAX)
    assert check_orcpt("rfc822;" + "x" * (ORCPT_MAX - 7))
    for check, value in ((check_envid, "x" * 101), (check_orcpt, "rfc822;" + "x" * 494), (check_orcpt, "utf-8;" + "ü" * 248)):
        with pytest.raises(NotifyError):
            check(value)


def test_failure_is_told_unless_the_sender_says_otherwise() -> None:
    """RFC 3461 §4.1."""
    assert wants((), "FAILURE")
    assert not wants((), "SUCCESS")
    assert not wants((), "DELAY")
    assert wants(("success", "Failure"), "FAILURE")
    assert not wants(("SUCCESS",), "FAILURE")
    assert not any(wants(("never",), event) for event in ("SUCCESS", "FAILURE", "DELAY"))


def test_the_header_alone_is_wanted_only_if_the_sender_says_so() -> None:
    assert returns_header("HDRS")
    assert returns_header("hdrs")
    assert not returns_header("FULL")
    assert not returns_header("")


def test_an_address_in_utf_8_has_a_form_for_7_bit() -> None:
    """RFC 6533 §3."""
    assert ascii_orcpt("utf-8;bücher@dest.example") == "utf-8;b\\x{FC}cher@dest.example"
    assert ascii_orcpt("rfc822;a+2Bb@dest.example") == "rfc822;a+2Bb@dest.example"
    for given_as in ("utf-8;bücher@x.example", "utf-8;b\\x{FC}cher@x.example"):
        assert original_recipient(given_as, utf8=False) == "utf-8; b\\x{FC}cher@x.example"
        assert original_recipient(given_as, utf8=True) == "utf-8; bücher@x.example"


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1))
def test_xtext_comes_back_as_it_was(text: str) -> None:
    encoded = encode_xtext(text)
    assert decode_xtext(encoded) == text
    assert " " not in encoded
    assert "=" not in encoded


@pytest.mark.parametrize("text", ["", "a\nb", "a\x7fb", "é"])
def test_what_xtext_cannot_carry_is_not_written(text: str) -> None:
    with pytest.raises(NotifyError):
        encode_xtext(text)


_PIECES = st.sampled_from(
    ["+", "0", "A", "D", "a", "\\x{", "}", ";", "utf-8", "rfc822", "ü", "\u2028", "\n", "\0", "=", " ", "85", "@"]
)


@given(st.one_of(st.lists(_PIECES).map("".join), st.text(max_size=40)))
def test_nothing_that_is_let_through_can_end_a_line(value: str) -> None:
    """Fault 5: a control character must not come out of any form of any value, nor any other exception than ours."""
    for kind in ("xtext", "ret", "notify", "envid", "orcpt"):
        try:
            said = meaning(kind, value)
        except NotifyError:
            continue
        assert said.isprintable()
        assert value.isprintable()
        if kind == "orcpt":
            short = ascii_orcpt(value)
            assert short.isascii()
            assert original_recipient(short, utf8=True) == said
