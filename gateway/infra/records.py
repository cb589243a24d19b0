# SPDX-License-Identifier: Apache-2.0
"""Events as plain dictionaries: what a log line and a trace entry say.

`RECORDS` is the one table: event class → level, name, function. `record` is the short form (the log), `full` adds the
findings of the filters (the trace).
Promises: total over the event classes (a test walks them); values are JSON types only; keys are the same everywhere:
`time`, `level`, `event`, `id`, `session`, `client`, `helo`, `sender`, `recipients` …; nothing is read but the event.
Not here: writing them (`infra/log.py`, `ops/trace.py`), showing them (`ops/explain.py`).
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

from gateway.mail.envelope import BodyType, Client, Envelope, Recipient
from gateway.mail.events import (
    Accepted,
    Attempted,
    AuthAttempted,
    Bounced,
    Connected,
    Disconnected,
    Event,
    Fate,
    Finished,
    Held,
    Lifecycle,
    Operated,
    Rejected,
    Trouble,
)
from gateway.mail.job import Deferred, Delivered, Outcome
from gateway.mail.verdict import Finding, Lookup, Symbol, Verdict

Record = dict[str, Any]

LEVELS = {"debug": 0, "info": 1, "warning": 2, "error": 3}
BESIDE = 20  # recipients taken before that the refusal of one more lists: thousands may be refused behind a thousand

_last = (0, "1970-01-01T00:00:00")  # one tuple, so that threads see both parts or neither


def timestamp(moment: float) -> str:
    """RFC 3339 in UTC with milliseconds: "2026-11-22T08:00:00.123Z". The text of the last second is kept."""
    global _last
    second, milliseconds = divmod(int(moment * 1000), 1000)
    known, text = _last
    if second != known:
        text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        _last = (second, text)
    return f"{text}.{milliseconds:03d}Z"


def record(event: Event) -> Record:
    """The short form of an event."""
    level, name, fill = RECORDS[type(event)]
    entry: Record = {"time": timestamp(event.time), "level": level, "event": name}
    fill(entry, event)
    return entry


def full(event: Event, findings: Sequence[Finding]) -> Record:
    """The form for the trace: with these findings."""
    return record(event) | (finding_records(findings) if findings else {})


def finding_records(findings: Sequence[Finding]) -> Record:
    """What the trace adds to the short form."""
    return {"findings": [finding_record(finding) for finding in findings]}


def _connected(entry: Record, event: Connected) -> None:
    _client(entry, event.client)
    entry["port"] = event.client.port
    entry["listener"] = event.client.listener
    entry["role"] = event.client.role


def _disconnected(entry: Record, event: Disconnected) -> None:
    _client(entry, event.client)
    entry["reason"] = event.reason
    entry["seconds"] = round(event.seconds, 4)
    entry["messages"] = event.messages
    entry["commands"] = event.commands


def _auth(entry: Record, event: AuthAttempted) -> None:
    _client(entry, event.client)
    entry["user"] = event.name
    entry["mechanism"] = event.mechanism
    entry["result"] = event.result
    if event.detail:
        entry["detail"] = event.detail
    if event.old_hash:
        entry["old_hash"] = True


def _rejected(entry: Record, event: Rejected) -> None:
    entry["id"] = event.id
    _client(entry, event.client)
    _envelope(entry, event.envelope, None if event.recipient is None else BESIDE)
    entry["phase"] = event.phase.value
    if event.recipient is not None:
        entry["recipient"] = str(event.recipient)
    _verdict(entry, event.verdict)
    entry["reply"] = str(event.reply)
    if event.size:
        entry["size"] = event.size
    if event.detail:
        entry["detail"] = event.detail
    if event.final:
        entry["disposition"] = True


def _accepted(entry: Record, event: Accepted) -> None:
    entry["id"] = event.id
    if event.client is not None:
        _client(entry, event.client)
    _envelope(entry, event.envelope)
    entry["size"] = event.size
    _verdict(entry, event.verdict)
    entry["message_id"] = event.message_id
    entry["seconds"] = round(event.seconds, 4)


def _attempted(entry: Record, event: Attempted) -> None:
    entry["id"] = event.id
    entry["sender"] = str(event.sender)
    entry["recipient"] = str(event.recipient.address)
    entry["attempt"] = event.recipient.attempts + 1
    _outcome(entry, event.outcome)
    if event.due is not None:
        entry["due"] = timestamp(event.due)


def _outcome(entry: Record, outcome: Outcome) -> None:
    entry["result"] = outcome_label(outcome)
    entry["reply"] = str(outcome.reply)
    entry["remote"] = outcome.remote
    entry["hop"] = outcome.hop
    entry["tls"] = outcome.tls
    entry["seconds"] = round(outcome.seconds, 4)
    if isinstance(outcome, Deferred):
        if outcome.ambiguous:
            entry["ambiguous"] = True  # the next try may make a duplicate
        if not outcome.counted:
            entry["counted"] = False  # nothing was tried: the host rests


def outcome_label(outcome: Outcome) -> str:
    """ "delivered", "deferred" or "failed"."""
    if isinstance(outcome, Delivered):
        return "delivered"
    return "deferred" if isinstance(outcome, Deferred) else "failed"


def _bounced(entry: Record, event: Bounced) -> None:
    entry["id"] = event.id
    entry["sender"] = str(event.sender)
    entry["recipient"] = str(event.recipient)
    entry["reply"] = str(event.reply)
    entry["notice"] = event.notice
    if event.why_not:
        entry["why_not"] = event.why_not


def _held(entry: Record, event: Held) -> None:
    entry["id"] = event.id
    entry["reason"] = event.reason


def _finished(entry: Record, event: Finished) -> None:
    entry["id"] = event.id
    entry["sender"] = str(event.sender)
    entry["recipients"] = [_fate(fate) for fate in event.fates]
    entry["size"] = event.size
    entry["verdict"] = "discard" if {fate.result for fate in event.fates} == {"discarded"} else "accept"
    entry["rule"] = event.rule
    entry["symbols"] = list(event.symbols)
    entry["accepted"] = timestamp(event.accepted)
    entry["seconds"] = round(event.time - event.accepted, 4)
    entry["disposition"] = True


def _fate(fate: Fate) -> Record:
    return {
        "address": fate.address,
        "result": fate.result,
        "attempts": fate.attempts,
        "reply": fate.reply,
        "hop": fate.hop,
    }


def _operated(entry: Record, event: Operated) -> None:
    entry["id"] = event.id
    entry["command"] = event.command


def _trouble(entry: Record, event: Trouble) -> None:
    entry["area"] = event.area
    entry["detail"] = event.detail
    if event.id is not None:
        entry["id"] = event.id
    if event.session:
        entry["session"] = event.session


def _lifecycle(entry: Record, event: Lifecycle) -> None:
    entry["what"] = event.what
    if event.detail:
        entry["detail"] = event.detail


# Level, name, and the function that fills in the rest. Functions take their own class: the key guarantees it.
RECORDS: dict[type[Event], tuple[str, str, Callable[[Record, Any], None]]] = {
    Connected: ("debug", "connected", _connected),
    Disconnected: ("debug", "disconnected", _disconnected),
    AuthAttempted: ("info", "auth", _auth),
    Rejected: ("info", "rejected", _rejected),
    Accepted: ("info", "accepted", _accepted),
    Attempted: ("info", "attempted", _attempted),
    Bounced: ("warning", "bounced", _bounced),
    Held: ("warning", "held", _held),
    Finished: ("info", "finished", _finished),
    Operated: ("info", "operated", _operated),
    Trouble: ("error", "trouble", _trouble),
    Lifecycle: ("info", "lifecycle", _lifecycle),
}


# --- parts that several events have


def _client(entry: Record, client: Client) -> None:
    entry["session"] = client.session
    entry["client"] = str(client.ip)
    entry["helo"] = client.helo
    if client.user:
        entry["user"] = client.user
    if client.tls is not None:
        entry["tls"] = client.tls.version
        entry["cipher"] = client.tls.cipher


def _envelope(entry: Record, envelope: Envelope, most: int | None = None) -> None:
    """The envelope, with `most` of its recipients and the number of the others."""
    recipients = envelope.recipients[:most]
    entry["sender"] = str(envelope.sender)
    entry["recipients"] = [str(recipient.address) for recipient in recipients]
    if len(recipients) < len(envelope.recipients):
        entry["more_recipients"] = len(envelope.recipients) - len(recipients)
    if envelope.ret:
        entry["ret"] = envelope.ret
    if envelope.envid:
        entry["envid"] = envelope.envid
    if envelope.require_tls:
        entry["require_tls"] = True
    if envelope.body is BodyType.BINARY:
        entry["binary"] = True
    if asked := [_asked(each) for each in recipients if each.notify or each.orcpt]:
        entry["dsn"] = asked


def _asked(recipient: Recipient) -> Record:
    """Which notices about a recipient were asked for (RFC 3461 §4)."""
    asked: Record = {"recipient": str(recipient.address)}
    if recipient.notify:
        asked["notify"] = ",".join(recipient.notify)
    if recipient.orcpt:
        asked["orcpt"] = recipient.orcpt
    return asked


def _verdict(entry: Record, verdict: Verdict) -> None:
    entry["verdict"] = verdict.action.label
    entry["rule"] = verdict.rule
    entry["score"] = round(verdict.score, 3)
    entry["symbols"] = [symbol.name for symbol in verdict.symbols]


# --- findings, for the trace


def finding_record(finding: Finding) -> Record:
    """One run of a filter with all that it saw; parts that are empty are left out."""
    verdict = finding.verdict
    entry: Record = {
        "filter": finding.filter,
        "phase": finding.phase.value,
        "mode": finding.mode,
        "verdict": verdict.action.label,
        "seconds": round(finding.seconds, 6),
    }
    if verdict.rule:
        entry["rule"] = verdict.rule
    if verdict.symbols:
        entry["symbols"] = [_symbol(symbol) for symbol in verdict.symbols]
    if verdict.facts:
        entry["facts"] = {str(key): str(value) for key, value in verdict.facts.items()}
    if finding.lookups:
        entry["lookups"] = [_lookup(lookup) for lookup in finding.lookups]
    if verdict.reply is not None:
        entry["reply"] = str(verdict.reply)
    if finding.fault:
        entry["fault"] = finding.fault
    return entry


def _symbol(symbol: Symbol) -> Record:
    entry: Record = {"name": symbol.name, "score": round(symbol.score, 3)}
    if symbol.detail:
        entry["detail"] = symbol.detail
    return entry


def _lookup(lookup: Lookup) -> Record:
    entry: Record = {"name": lookup.name, "type": lookup.type, "status": lookup.status}
    if lookup.answer:
        entry["answer"] = lookup.answer
    if lookup.cached:
        entry["cached"] = True
    else:
        entry["seconds"] = round(lookup.seconds, 6)
    return entry
