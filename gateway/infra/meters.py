# SPDX-License-Identifier: Apache-2.0
"""What is counted of each event, in groups: messages, filters, delivery, sessions, the daemon.

Promises: labels come from fixed or capped vocabularies, never from an address, a remote domain or a reply text.
What is counted as what:
  accepted   one a message that a client was told 250 for; our own bounces are counted apart
  rejected   one a `Rejected` event, that is: one for each refused recipient, refused command or refused message
  delivered, deferred   one a recipient and attempt; a deferral without an attempt (the host rests) is counted apart
  bounced    one a recipient that failed for good, whether or not a notice could be sent
Not here: how it is shown (`infra/metrics.py`).
"""

from collections.abc import Callable, Mapping
from typing import Any

from gateway.infra.counting import OTHER, Book, NewFindings, Vocabulary
from gateway.infra.records import outcome_label
from gateway.mail.events import (
    Accepted,
    Attempted,
    AuthAttempted,
    Bounced,
    Connected,
    Disconnected,
    Event,
    Finished,
    Held,
    Lifecycle,
    Operated,
    Rejected,
    Trouble,
)
from gateway.mail.job import Deferred, Delivered
from gateway.mail.verdict import Action, Finding, Phase

Handlers = Mapping[type[Event], Callable[[Any], None]]

SIZES = tuple(1024.0 * 4**power for power in range(9))  # 1 KiB … 64 MiB
SECONDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
FILTER_SECONDS = (0.0001, 0.001, 0.005, 0.025, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0)
LIFETIMES = (1.0, 10.0, 60.0, 300.0, 1800.0, 7200.0, 21600.0, 86400.0, 432000.0)  # up to queue.expire

LOGINS = frozenset({"ok", "failed", "locked", "unavailable", "malformed"})
DNS_TYPES = frozenset({"A", "AAAA", "MX", "TXT", "PTR", "CNAME", "TLSA", "NS", "SOA", "SPF"})


class Messages:
    """What became of messages at the door, and what the filters said about them."""

    def __init__(self, book: Book) -> None:
        self._rules = Vocabulary(100)
        self._accepted = book.counter(
            "gateway_messages_accepted", "Messages taken over: a client is told 250 after end of data."
        )
        self._notices = book.counter("gateway_notices_queued", "Bounces of our own that entered the queue.")
        self._rejected = book.counter(
            "gateway_messages_rejected",
            "Refusals by a rule: one for each refused recipient, refused command, or message refused at end of data. "
            "`code` is 4yz or 5yz, `rule` what decided.",
            "phase",
            "code",
            "rule",
        )
        for phase in Phase:
            for code in ("4yz", "5yz"):
                self._rejected.prepare(phase.value, code, OTHER)
        self._size = book.histogram("gateway_message_size_bytes", "Accepted messages.", SIZES)
        self._seconds = book.histogram("gateway_accept_seconds", "From MAIL to durable, accepted messages.", SECONDS)
        self._filters = Filters(book)
        self.handlers: Handlers = {Accepted: self._on_accepted, Rejected: self._on_rejected}

    def _on_accepted(self, event: Accepted) -> None:
        if event.client is None:
            self._notices.count()
            return
        self._accepted.count()
        self._size.observe(event.size)
        self._seconds.observe(event.seconds)
        self._filters.count(event)

    def _on_rejected(self, event: Rejected) -> None:
        code = "4yz" if event.reply.temporary else "5yz"
        self._rejected.count(event.phase.value, code, self._rules(event.verdict.rule))
        self._filters.count(event)


class Filters:
    """Runs of filters."""

    def __init__(self, book: Book) -> None:
        self._new = NewFindings()
        self._labels: dict[tuple[str, Phase, str, Action], tuple[str, str, str, str]] = {}
        self._names = Vocabulary(60)
        self._runs = book.counter(
            "gateway_filter_runs",
            "Runs of a filter by its verdict, in transactions that ended in a refusal or an acceptance; "
            "in mode `shadow` the verdict is what would have been.",
            "filter",
            "phase",
            "mode",
            "verdict",
        )
        self._faults = book.counter("gateway_filter_faults", "Runs in which a filter could not do its work.", "filter")
        self._seconds = book.histogram("gateway_filter_seconds", "What a run of a filter took.", FILTER_SECONDS, "filter")

    def count(self, event: Accepted | Rejected) -> None:
        for finding in self._new.of(event):
            run = (finding.filter, finding.phase, finding.mode, finding.verdict.action)
            labels = self._labels.get(run) or self._label(finding)
            self._runs.count(*labels)
            name = labels[0]
            self._seconds.observe(finding.seconds, name)
            if finding.fault:
                self._faults.count(name)

    def _label(self, finding: Finding) -> tuple[str, str, str, str]:
        """The labels of a run; remembered, for each message has the same ones."""
        action = finding.verdict.action
        name = self._names(finding.filter)
        labels = (name, finding.phase.value, "shadow" if finding.mode == "shadow" else "enforce", action.label)
        if name == finding.filter:  # a word of the vocabulary, which is bounded
            self._labels[name, finding.phase, labels[2], action] = labels
        return labels


class Delivery:
    """What became of recipients."""

    def __init__(self, book: Book) -> None:
        self._delivered = book.counter("gateway_recipients_delivered", "Recipients that a next hop took over.")
        self._deferred = book.counter(
            "gateway_recipients_deferred", "Attempts that ended in a deferral, one a recipient and attempt."
        )
        self._postponed = book.counter(
            "gateway_recipients_postponed", "Deferrals without an attempt: the next hop is given a rest."
        )
        self._bounced = book.counter("gateway_recipients_bounced", "Recipients that failed for good, with or without a notice.")
        self._held = book.counter("gateway_messages_held", "Messages kept for a human.")
        self._lifetime = book.histogram(
            "gateway_message_lifetime_seconds", "From acceptance until the last recipient is settled.", LIFETIMES
        )
        self._attempts = book.histogram("gateway_attempt_seconds", "What delivery attempts took.", SECONDS, "outcome")
        for outcome in ("delivered", "deferred", "failed"):
            self._attempts.prepare(outcome)
        self.handlers: Handlers = {
            Attempted: self._attempted,
            Bounced: lambda event: self._bounced.count(),
            Held: lambda event: self._held.count(),
            Finished: lambda event: self._lifetime.observe(max(0.0, event.time - event.accepted)),
        }

    def _attempted(self, event: Attempted) -> None:
        outcome = event.outcome
        if isinstance(outcome, Delivered):
            self._delivered.count()
        elif isinstance(outcome, Deferred):
            if not outcome.counted:
                self._postponed.count()
                return
            self._deferred.count()
        self._attempts.observe(outcome.seconds, outcome_label(outcome))


class Sessions:
    """Connections of clients."""

    def __init__(self, book: Book) -> None:
        self._live: set[str] = set()
        self._reasons = Vocabulary(30)
        self._open = book.gauge("gateway_connections", "Client connections open now.")
        self._opened = book.counter("gateway_connections_opened", "Client connections let in.")
        self._ended = book.counter("gateway_sessions_ended", "Ended client sessions by reason.", "reason")
        self._seconds = book.histogram("gateway_session_seconds", "How long sessions lasted.", SECONDS)
        self._logins = book.counter(
            "gateway_auth",
            "Logins by result: ok, failed, locked (too many failures), unavailable (our trouble), malformed.",
            "result",
        )
        for result in LOGINS:
            self._logins.prepare(result)
        self.handlers: Handlers = {
            Connected: self._connected,
            Disconnected: self._disconnected,
            AuthAttempted: lambda event: self._logins.count(event.result if event.result in LOGINS else OTHER),
        }

    def _connected(self, event: Connected) -> None:
        self._opened.count()
        self._live.add(event.client.session)
        self._open.set(len(self._live))

    def _disconnected(self, event: Disconnected) -> None:
        self._live.discard(event.client.session)  # a refused connection was never let in
        self._open.set(len(self._live))
        self._ended.count(self._reasons(event.reason))
        self._seconds.observe(event.seconds)


class Daemon:
    """Ourselves and our operators."""

    def __init__(self, book: Book) -> None:
        commands, areas, steps = Vocabulary(20), Vocabulary(60), Vocabulary(30)
        operated = book.counter("gateway_operations", "Messages changed by an operator's command.", "command")
        troubles = book.counter("gateway_troubles", "Faults of our own, by area.", "area")
        lifecycle = book.counter("gateway_lifecycle_events", "The daemon started, became ready, reloaded, drained …", "what")
        self.handlers: Handlers = {
            Operated: lambda event: operated.count(commands(event.command)),
            Trouble: lambda event: troubles.count(areas(event.area)),
            Lifecycle: lambda event: lifecycle.count(steps(event.what)),
        }


class Lookups:
    """DNS lookups of all parts, as the resolver tells of them."""

    def __init__(self, book: Book) -> None:
        self._states = Vocabulary(30)
        self._lookups = book.counter("gateway_dns_lookups", "DNS lookups by type and outcome.", "type", "status", "cached")
        self._seconds = book.histogram("gateway_dns_seconds", "What lookups took that no cache answered.", SECONDS)

    def count(self, kind: str, status: str, seconds: float, *, cached: bool) -> None:
        """An observer for `infra/dns.py`."""
        self._lookups.count(kind if kind in DNS_TYPES else OTHER, self._states(status), "yes" if cached else "no")
        if not cached:
            self._seconds.observe(seconds)
