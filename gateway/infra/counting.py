# SPDX-License-Identifier: Apache-2.0
"""Counting without a library: counters, gauges, histograms; capped vocabularies; findings counted once.

Promises: a count costs a dictionary lookup and no lock, since one thread, the loop's, does all of it; memory is bounded
whatever clients send.
Not here: what is counted (`infra/meters.py`), how it is shown (`infra/metrics.py`).
"""

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from gateway.mail.events import Accepted, Rejected
from gateway.mail.job import QueueId
from gateway.mail.verdict import Finding

OTHER = "other"
LONGEST_WORD = 64


class Vocabulary:
    """Label values as they turn up, up to `most` of them; any further one, and an odd one, becomes "other"."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._known: set[str] = set()

    def __call__(self, word: str) -> str:
        if word in self._known:
            return word
        if len(self._known) >= self._most or not 0 < len(word) <= LONGEST_WORD:
            return OTHER
        if not (word.isascii() and word.isprintable()):
            return OTHER
        self._known.add(word)
        return word


class NewFindings:
    """Tells the findings of an event that no earlier event of the same transaction has shown.

    Each refusal in a transaction, and its end, carry the findings so far: taken as they come, the first would count often.
    """

    def __init__(self, most: int = 4096) -> None:
        self._most = most
        self._shown: OrderedDict[QueueId, int] = OrderedDict()

    def of(self, event: Accepted | Rejected) -> Sequence[Finding]:
        """The findings that are new with this event. Call it once for each event, in their order."""
        findings = event.findings
        if not isinstance(event, Rejected) or event.final:
            shown = self._shown.pop(event.id, 0) if self._shown else 0
            return findings[shown:] if shown else findings
        shown = self._shown.get(event.id, 0)
        self._shown[event.id] = len(findings)
        if len(self._shown) > self._most:  # of a transaction that never ended; at worst it is told again
            self._shown.popitem(last=False)
        return findings[shown:]


@dataclass(slots=True)
class Counts:
    """A counter: numbers by label values. The library's own has a lock and costs five times as much."""

    name: str
    meaning: str
    labels: tuple[str, ...] = ()
    values: dict[tuple[str, ...], float] = field(default_factory=dict)

    def count(self, *labels: str) -> None:
        self.values[labels] = self.values.get(labels, 0) + 1

    def prepare(self, *labels: str) -> None:
        """Show a zero from the start, so that the first count is an increase."""
        self.values.setdefault(labels, 0)


@dataclass(slots=True)
class Level:
    """A gauge: numbers that go up and down, by label values."""

    name: str
    meaning: str
    labels: tuple[str, ...] = ()
    values: dict[tuple[str, ...], float] = field(default_factory=dict)

    def set(self, value: float, *labels: str) -> None:
        self.values[labels] = value


@dataclass(slots=True)
class Observations:
    """A histogram: how many observations fell into each bucket (up to and with its bound), by label values."""

    name: str
    meaning: str
    bounds: tuple[float, ...]
    labels: tuple[str, ...] = ()
    counts: dict[tuple[str, ...], list[int]] = field(default_factory=dict)
    sums: dict[tuple[str, ...], float] = field(default_factory=dict)

    def observe(self, value: float, *labels: str) -> None:
        counts = self.counts.get(labels)
        if counts is None:
            self.prepare(*labels)
            counts = self.counts[labels]
        counts[bisect_left(self.bounds, value)] += 1
        self.sums[labels] += value

    def prepare(self, *labels: str) -> None:
        """Show empty buckets from the start."""
        self.counts[labels] = [0] * (len(self.bounds) + 1)
        self.sums[labels] = 0.0


@dataclass(slots=True)
class Book:
    """All that is counted, in the order in which it was entered."""

    entries: list[Counts | Level | Observations] = field(default_factory=list)

    def counter(self, name: str, meaning: str, *labels: str) -> Counts:
        """`name` without `_total`."""
        entry = Counts(name, meaning, labels)
        if not labels:
            entry.prepare()
        self.entries.append(entry)
        return entry

    def gauge(self, name: str, meaning: str, *labels: str) -> Level:
        entry = Level(name, meaning, labels)
        if not labels:
            entry.set(0)
        self.entries.append(entry)
        return entry

    def histogram(self, name: str, meaning: str, bounds: Sequence[float], *labels: str) -> Observations:
        entry = Observations(name, meaning, tuple(bounds), labels)
        if not labels:
            entry.prepare()
        self.entries.append(entry)
        return entry
