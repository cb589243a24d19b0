# SPDX-License-Identifier: Apache-2.0
"""How many steps a regular expression takes: the same backtracking as Python's own engine does, but counted.

    steps, end = count(pattern, octets)          as `pattern.match`, or `pattern.fullmatch` with `whole=True`

A step is one look at one character. So "linear" can be asserted without a clock. That this engine comes to the same
matches as `re` is itself tested (`tests/fuzz/test_linear.py`).
"""

import re
from collections.abc import Iterator, Sequence
from re import _constants as op  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any


class Beyond(Exception):
    """More steps than were allowed."""


def count(pattern: "re.Pattern[Any]", text: Any, *, whole: bool = False, most: int = 50_000_000) -> tuple[int, int]:
    """Steps, and where the match ends (-1 if there is none). Raises Beyond after `most` steps."""
    engine = _Engine(text, pattern.flags, most)
    tree = list(parser.parse(pattern.pattern, pattern.flags & ~re.UNICODE if isinstance(text, bytes) else pattern.flags))
    for end in engine.run(tree, 0, 0):
        if not whole or end == len(text):
            return engine.steps, end
    return engine.steps, -1


class _Engine:
    def __init__(self, text: Any, flags: int, most: int) -> None:
        self.text = text if isinstance(text, bytes) else [ord(c) for c in text]
        self.fold = bool(flags & re.IGNORECASE)
        self.dotall = bool(flags & re.DOTALL)
        self.most = most
        self.steps = 0

    def run(self, nodes: Sequence[Any], at: int, start: int) -> Iterator[int]:
        """Ends of matches of `nodes[at:]` from `start` on, in the engine's order."""
        if at == len(nodes):
            yield start
            return
        kind, argument = nodes[at]
        for end in self._one(kind, argument, start):
            yield from self.run(nodes, at + 1, end)

    def _one(self, kind: Any, argument: Any, start: int) -> Iterator[int]:
        if kind in (op.LITERAL, op.NOT_LITERAL, op.IN, op.ANY):
            if self._takes(kind, argument, start):
                yield start + 1
        elif kind is op.SUBPATTERN:
            yield from self.run(list(argument[-1]), 0, start)
        elif kind is op.BRANCH:
            for branch in argument[1]:
                yield from self.run(list(branch), 0, start)
        elif kind in (op.MAX_REPEAT, op.POSSESSIVE_REPEAT):
            least, most, inner = argument
            yield from self._repeat(list(inner), (least, most), start, possessive=kind is op.POSSESSIVE_REPEAT)
        elif kind is op.ATOMIC_GROUP:
            yield from self._first(list(argument), start)
        elif kind in (op.ASSERT, op.ASSERT_NOT):
            direction, inner = argument
            assert direction > 0, "looking behind is not known here"
            if bool(list(self._first(list(inner), start))) is (kind is op.ASSERT):
                yield start
        else:
            raise NotImplementedError(kind)

    def _first(self, nodes: list[Any], start: int) -> Iterator[int]:
        for end in self.run(nodes, 0, start):
            yield end
            return

    def _repeat(self, nodes: list[Any], times: tuple[int, Any], start: int, *, possessive: bool) -> Iterator[int]:
        (least, most), ends = times, [start]
        single = len(nodes) == 1 and nodes[0][0] in (op.LITERAL, op.NOT_LITERAL, op.IN, op.ANY)
        if not (single or possessive):
            yield from self._deep(nodes, least, most, start, 0)
            return
        while most is op.MAXREPEAT or len(ends) <= most:
            following = next(self._first(nodes, ends[-1]), -1)
            if following < 0 or following == ends[-1]:
                break
            ends.append(following)
        for taken in range(len(ends) - 1, least - 1, -1):
            self._step()
            yield ends[taken]
            if possessive:
                return

    def _deep(self, nodes: list[Any], least: int, most: Any, start: int, times: int) -> Iterator[int]:
        if most is op.MAXREPEAT or times < most:
            for end in self.run(nodes, 0, start):
                if end > start:
                    yield from self._deep(nodes, least, most, end, times + 1)
        if times >= least:
            yield start

    def _takes(self, kind: Any, argument: Any, at: int) -> bool:
        self._step()
        if at >= len(self.text):
            return False
        value = self.text[at]
        if kind is op.ANY:
            return self.dotall or value != 10
        cases = {value, ord(chr(value).lower()), ord(chr(value).upper()[:1])} if self.fold and value < 128 else {value}
        if kind is op.IN:
            return any(_within(argument, each) for each in cases)
        return (argument in cases) is (kind is op.LITERAL)

    def _step(self) -> None:
        self.steps += 1
        if self.steps > self.most:
            raise Beyond(f"more than {self.most} steps")


def _within(items: Sequence[Any], value: int) -> bool:
    negated = items[0][0] is op.NEGATE
    for kind, argument in items:
        if (kind is op.LITERAL and value == argument) or (kind is op.RANGE and argument[0] <= value <= argument[1]):
            return not negated
        if kind is op.CATEGORY:
            raise NotImplementedError(argument)
    return negated
