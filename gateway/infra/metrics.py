# SPDX-License-Identifier: Apache-2.0
"""Metrics made from events, as pages in the Prometheus text format. The door to prometheus-client.

Promises: `emit` costs some microseconds, never blocks, never raises; it is called by one thread, the loop's. `merge`
keeps the samples of each worker apart by a `worker` label.
Not here: what is counted as what (`infra/meters.py`), serving the page (`ops/api.py`), reading queue depth and store
counters (whoever calls `set_queue` and `set_store`), what is shed and when certificates end.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import accumulate
from typing import Any

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from gateway import __version__
from gateway.infra.counting import LONGEST_WORD, Book, Counts, Level, Observations
from gateway.infra.meters import Daemon, Delivery, Lookups, Messages, Sessions
from gateway.mail.events import Event

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
MOST_CERTIFICATES = 100


class _Exposition(Collector):
    """A book as the library's metric families."""

    def __init__(self, book: Book) -> None:
        self._book = book

    def collect(self) -> Iterable[Metric]:
        return [_family(entry) for entry in self._book.entries]


def _family(entry: Counts | Level | Observations) -> Metric:
    if isinstance(entry, Observations):
        histogram = HistogramMetricFamily(entry.name, entry.meaning, labels=entry.labels)
        bounds = [*map(floatToGoString, entry.bounds), "+Inf"]
        for labels, counts in entry.counts.items():
            histogram.add_metric(labels, list(zip(bounds, accumulate(counts), strict=True)), entry.sums[labels])
        return histogram
    kind = CounterMetricFamily if isinstance(entry, Counts) else GaugeMetricFamily
    family = kind(entry.name, entry.meaning, labels=entry.labels)
    for labels, value in entry.values.items():
        family.add_metric(labels, value)
    return family


class Metrics:
    """An EventSink, and the page that it makes."""

    def __init__(self) -> None:
        book = Book()
        self._book = book
        self._began = time.monotonic()
        self._handlers: dict[type[Event], Callable[[Any], None]] = {}
        for group in (Messages, Delivery, Sessions, Daemon):
            self._handlers.update(group(book).handlers)
        self.lookup = Lookups(book).count  # an observer for the resolver
        self._depth = book.gauge("gateway_queue_recipients", "Recipients in the queue now, by state.", "state")
        self.set_queue({})
        self._store = book.counter(
            "gateway_store_work",
            "Work of the queue's store since the start: commits (one sync each) and the operations that shared them.",
            "kind",
        )
        self.set_store({"commits": 0, "operations": 0})
        self._trace = book.counter(
            "gateway_trace_dropped", "Events that are missing from traces: too many at once, or no space."
        )
        self.set_trace(0)
        self._shedding = book.gauge("gateway_shedding", "1 while load is shed for that reason.", "reason")
        self._shed = book.counter(
            "gateway_shed", "What was refused for want of room: `what` is connection, mail or session.", "reason", "what"
        )
        self._certificates = book.gauge(
            "gateway_tls_certificate_expiry_timestamp_seconds", "When a certificate of ours ends, in Unix time.", "name"
        )
        self._uptime = book.gauge("gateway_uptime_seconds", "Seconds since this process began to count.")
        book.gauge("gateway_build_info", "Always 1; the label is the version.", "version").set(1, __version__)
        self._registry = CollectorRegistry()
        self._registry.register(_Exposition(book))
        ProcessCollector(registry=self._registry)

    def emit(self, event: Event) -> None:
        """Count an event. A class that is not known here counts nothing."""
        handler = self._handlers.get(type(event))
        if handler is not None:
            handler(event)

    def set_queue(self, counts: Mapping[str, int]) -> None:
        """Recipients by state, as `QueueAdmin.counts` tells them (summed over the shards of this process)."""
        for state in ("queued", "deferred", "held"):
            self._depth.set(counts.get(state, 0), state)

    def set_store(self, counts: Mapping[str, int]) -> None:
        """Totals since the start by kind: {"commits": …, "operations": …}. They may only grow."""
        for kind, number in counts.items():
            self._store.values[kind,] = number

    def set_trace(self, dropped: int) -> None:
        """Events that the trace has left out since the start."""
        self._trace.values[()] = dropped

    def set_shedding(self, states: Mapping[str, bool], refused: Mapping[tuple[str, str], int]) -> None:
        """Is load shed now, by reason; and what was refused since the start, by reason and what it was."""
        for reason, pressed in states.items():
            self._shedding.set(int(pressed), reason)
        for labels, number in refused.items():
            self._shed.values[labels] = number

    def set_certificates(self, ends: Mapping[str, float]) -> None:
        """The end of each certificate by its name, of those that are in use now."""
        self._certificates.values = {(name[:LONGEST_WORD],): end for name, end in list(ends.items())[:MOST_CERTIFICATES]}

    def render(self) -> bytes:
        """The page of this process, as `CONTENT_TYPE`."""
        self._uptime.set(time.monotonic() - self._began)
        return generate_latest(self._registry)

    def families(self) -> Iterator[tuple[str, str, tuple[str, ...], str]]:
        """Name, type, labels and meaning of every metric."""
        labels = {entry.name: entry.labels for entry in self._book.entries}
        for family in self._registry.collect():
            name = family.name + ("_total" if family.type == "counter" else "")
            yield name, family.type, labels.get(family.name, ()), family.documentation


def reference() -> str:
    """The reference page of all metrics, in Markdown."""
    lines = [
        "# Metrics",
        "",
        "Served at `/metrics` of the admin address. With several workers each sample has a `worker` label as well.",
        "",
        "| name | type | labels | meaning |",
        "|---|---|---|---|",
    ]
    for name, kind, labels, meaning in sorted(Metrics().families()):
        lines.append(f"| `{name}` | {kind} | {', '.join(f'`{label}`' for label in labels)} | {meaning} |")
    return "\n".join(lines) + "\n"


def merge(pages: Mapping[str, bytes]) -> bytes:
    """Pages of several workers (by their name) as one: each family once, each sample with a `worker` label.

    Works on lines: what stands under a TYPE line belongs to that family, as Prometheus client libraries write it.
    `sum()` over `worker` is right for counters, gauges and histograms alike.
    """
    heads: dict[str, dict[str, str]] = {}  # family → "# HELP " and "# TYPE " lines
    samples: dict[str, list[str]] = {}
    for worker, page in pages.items():
        label = 'worker="' + worker.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n") + '"'
        family = ""
        for line in page.decode("utf-8", "replace").split("\n"):
            if line.startswith(("# HELP ", "# TYPE ")):
                family = line.split(" ", 3)[2]
                heads.setdefault(family, {}).setdefault(line[:7], line)
            elif line and not line.startswith("#"):
                samples.setdefault(family, []).append(_labelled(line, label))
    lines = [line for family, head in heads.items() for line in (*head.values(), *samples.get(family, ()))]
    return ("\n".join(lines) + "\n").encode() if lines else b""


def _labelled(sample: str, label: str) -> str:
    """`name{a="b"} 1` or `name 1` with one more label in front."""
    brace, space = sample.find("{"), sample.find(" ")
    if 0 <= brace < space:
        separator = "" if sample[brace + 1] == "}" else ","
        return f"{sample[: brace + 1]}{label}{separator}{sample[brace + 1 :]}"
    return f"{sample[:space]}{{{label}}}{sample[space:]}"
