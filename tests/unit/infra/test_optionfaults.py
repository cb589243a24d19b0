# SPDX-License-Identifier: Apache-2.0
"""Faults of options in words: one for one mistake, with what was written and the mend."""

from typing import Annotated, Any, Literal

import pytest

from gateway.infra.optionfaults import BadOption, told
from gateway.infra.options import Duration, LocalPath, Options, Size, ValidationError, check, option, section


def _short(text: str) -> str:
    if len(text) > 3:
        raise ValueError("is long")
    return text


class Inner(Options):
    size: Size = option("1KiB", ge=1024, doc="A size.")
    role: Literal["mx", "submission"] = option("mx", doc="A choice.")


class Outer(Options):
    flag: bool = option(False, doc="A flag.")
    number: int = option(1, ge=0, lt=10, doc="A number.")
    score: float = option(1.0, doc="A float.")
    wait: Duration = option("1s", gt=0, le=30, doc="A duration.")
    path: LocalPath = option("/x", doc="A path.")
    names: list[Annotated[str, check(_short)]] = option([], doc="Names.")
    scores: dict[str, float] = option({}, doc="Scores.")
    inner: Inner = section(Inner)
    several: list[Inner] = option([], doc="Sections.")


def faults(data: dict[str, Any]) -> list[BadOption]:
    with pytest.raises(ValidationError) as raised:
        Outer.model_validate(data)
    return told(Outer, data, raised.value)


@pytest.mark.parametrize(
    ("key", "value", "shown", "reason"),
    [
        ("flag", "yes", '"yes"', "write true or false"),
        ("flag", 1, "1", "write true or false"),
        ("number", "5", '"5"', "write a whole number, without quotes"),
        ("number", True, "true", "write a whole number"),
        ("number", 5.0, "5.0", "write a whole number"),
        ("number", -1, "-1", "must be 0 or more"),
        ("number", 10, "10", "must be less than 10"),
        ("score", "15", '"15"', "write a number, without quotes"),
        ("score", True, "true", "write a number"),
        ("wait", "0s", '"0s"', 'must be more than "0s"'),
        ("wait", "1m", '"1m"', 'must be "30s" or less'),
        ("wait", 5, "5", "text with a unit"),
        ("path", 5, "5", "write a path, in quotes"),
        ("names", "ann", '"ann"', 'is a list: write ["ann"]'),
        ("scores", 5, "5", "is a section: write [scores]"),
        ("inner", 5, "5", "is a section: write [inner]"),
        ("several", {"size": "2KiB"}, '{size = "2KiB"}', "there may be several: write [[several]]"),
    ],
)
def test_a_mistake_is_told_as_it_was_written_with_the_mend(key: str, value: object, shown: str, reason: str) -> None:
    (fault,) = faults({key: value})
    assert (fault.key, fault.value) == (key, shown)
    assert reason in fault.reason


def test_text_of_another_type_is_not_a_number_and_a_whole_number_is_one() -> None:
    assert Outer.model_validate({"score": 15}).score == 15.0


def test_limits_of_sections_are_told_in_their_units() -> None:
    (fault,) = faults({"inner": {"size": "1B"}})
    assert (fault.key, fault.value, fault.reason) == ("inner.size", '"1B"', 'must be "1KiB" or more')


def test_a_choice_is_told_with_the_nearest_one() -> None:
    (fault,) = faults({"several": [{}, {"role": "submision"}]})
    assert (fault.key, fault.value) == ("several[1].role", '"submision"')
    assert fault.reason == 'write "mx" or "submission"; did you mean "submission"?'


def test_a_choice_that_is_near_nothing_is_told_with_all() -> None:
    assert faults({"inner": {"role": 7}})[0].reason == 'write "mx" or "submission"'


def test_every_bad_entry_of_a_list_is_told() -> None:
    assert [fault.key for fault in faults({"names": ["ok", "longer", "yes", "longest"]})] == ["names[1]", "names[3]"]


def test_an_entry_that_is_no_section_is_told() -> None:
    assert faults({"several": [5]})[0].reason == "is a section: write [[several]]"


def test_entries_of_a_table_have_their_names() -> None:
    (fault,) = faults({"scores": {"a": "1"}})
    assert (fault.key, fault.value) == ("scores.a", '"1"')


def test_an_unknown_key_of_a_section_in_a_list_is_told_with_the_nearest_one() -> None:
    assert faults({"several": [{"rol": "mx"}]})[0].reason == "unknown key; did you mean 'role'?"
