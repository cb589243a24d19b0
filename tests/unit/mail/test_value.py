# SPDX-License-Identifier: Apache-2.0
"""Values: frozen for the type checker, cheap for the interpreter."""

import ast
from dataclasses import replace
from pathlib import Path

from gateway.mail.value import value

ROOT = Path(__file__).parents[3] / "gateway"


@value(frozen=True, slots=True)
class Point:
    """A place."""

    x: int
    y: int = 0


@value(frozen=True, slots=True, kw_only=True)
class Named(Point):
    """A place with a name."""

    name: str


def test_equal_values_have_one_hash() -> None:
    assert Point(1, 2) == Point(1, 2)
    assert len({Point(1, 2), Point(1, 2), Point(2, 1)}) == 2


def test_replace_makes_another_value() -> None:
    old = Named(1, 2, name="here")
    assert replace(old, name="there") == Named(1, 2, name="there")
    assert old.name == "here"


def test_a_value_has_no_room_for_a_misspelt_field() -> None:
    assert not hasattr(Point(1), "__dict__")


def test_every_value_is_frozen_for_the_type_checker() -> None:
    """Nothing else keeps it from being changed."""
    found = [(path, call) for path in ROOT.rglob("*.py") for call in calls(path)]
    assert len(found) > 30
    thawed = [
        f"{path}:{call.lineno}"
        for path, call in found
        if not any(word.arg == "frozen" and ast.unparse(word.value) == "True" for word in call.keywords)
    ]
    assert not thawed


def calls(path: Path) -> list[ast.Call]:
    """The uses of `value` as a decorator; without arguments it would not be callable at all."""
    classes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ClassDef)]
    decorators = [each for node in classes for each in node.decorator_list if isinstance(each, ast.Call)]
    return [each for each in decorators if isinstance(each.func, ast.Name) and each.func.id == "value"]
