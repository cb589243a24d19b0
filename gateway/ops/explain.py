# SPDX-License-Identifier: Apache-2.0
"""A trace as a page for people: what became of the message, what each filter saw, what each attempt brought.

Promises: any mapping that a trace file may hold is shown, missing parts are left out; every text is free of control
characters; a line is a list of (text, style) so that the same page goes to a terminal and to a file.
Not here: colours (`cli/output.py`), finding the trace (`ops/trace.py`), what the entries say (`infra/records.py`).
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gateway.infra.records import full
from gateway.mail.envelope import Transaction
from gateway.mail.events import Accepted, Rejected
from gateway.mail.reply import clean
from gateway.mail.verdict import Phase, Verdict

Entry = Mapping[str, Any]
Span = tuple[str, str]  # text, style: "" "head" "good" "bad" "warn" "dim" "key"
Line = list[Span]

MOST_RECIPIENTS = 20  # named in the head of the page
MOST_ANSWERS = 10  # records shown of one DNS answer
LOCAL = ("maildir:", "discard:")  # hops without a connection that could have TLS

_STYLES = {
    "accept": "good",
    "delivered": "good",
    "hold": "warn",
    "discard": "warn",
    "defer": "warn",
    "deferred": "warn",
    "discarded": "warn",
    "deleted": "warn",
    "reject": "bad",
    "failed": "bad",
    "bounced": "bad",
}


def explain(trace: Entry) -> list[Line]:
    """The whole page."""
    events: Sequence[Entry] = trace.get("events", ())
    judged = [entry for entry in events if entry.get("event") in ("accepted", "rejected")]
    later = [entry for entry in events if entry.get("event") not in ("accepted", "rejected")]
    outcome = _would_be(judged) if trace.get("hypothetical") else disposition(events)
    lines = [*_head(str(trace.get("file") or trace.get("id", "")), outcome, judged)]
    for entry in judged:
        lines += [[], *_judgement(entry)]
    if later:
        lines += [[], [("Afterwards", "head")]]
        for entry in later:
            lines += _afterwards(entry)
    return [[(clean(text), style) for text, style in line] for line in lines]


def hypothetical(tx: Transaction, verdict: Verdict, now: float, *, file: str) -> Entry:
    """The trace of a message that was only judged: what `explain` would show if it had come in. `file` is its name."""
    common: dict[str, Any] = {"time": now, "id": tx.id, "client": tx.client, "envelope": tx.envelope(), "verdict": verdict}
    common["size"] = tx.message.size if tx.message else 0
    event: Accepted | Rejected
    if verdict.stops and verdict.reply is not None:
        event = Rejected(**common, phase=Phase.DATA, recipient=None, reply=verdict.reply, final=True)
    else:
        event = Accepted(**common)
    return {"id": tx.id, "file": file, "hypothetical": True, "events": [full(event, tx.findings)]}


def disposition(events: Sequence[Entry]) -> Span:
    """What became of the message, in a few words."""
    kinds = {str(entry.get("event")): entry for entry in events}
    if "finished" in kinds:
        results = Counter(str(fate.get("result")) for fate in kinds["finished"].get("recipients", ()))
        text = ", ".join(f"{number} {result}" if len(results) > 1 else result for result, number in results.items())
        return text or "finished", _STYLES.get(text, "warn")
    if "accepted" in kinds:
        if "held" in kinds and not any(entry.get("command") == "release" for entry in events):
            return "accepted, held", "warn"
        deferred = any(entry.get("result") == "deferred" for entry in events)
        return ("accepted, deferred", "warn") if deferred else ("accepted, in the queue", "good")
    if any(entry.get("event") == "rejected" and entry.get("disposition") for entry in events):
        return "refused", "bad"
    return ("refused before the message came", "bad") if "rejected" in kinds else ("unknown", "warn")


# --- the head


def _would_be(judged: Sequence[Entry]) -> Span:
    verdict = str(judged[-1].get("verdict")) if judged else ""
    return f"would be: {verdict}", _STYLES.get(verdict, "")


def _head(title: str, outcome: Span, judged: Sequence[Entry]) -> Iterator[Line]:
    yield [(title, "head"), ("  ", ""), outcome]
    if not judged:
        return
    last = judged[-1]
    yield _fact("from", str(last.get("sender") or "<>"))
    yield from _recipients(last)
    if asked := _asked(last):
        yield _fact("asked for", asked)
    if "client" in last:
        yield _fact("client", f"{last['client']}  helo {last.get('helo', '')}  {last.get('tls', '')}".rstrip())
        if last.get("session"):
            yield _fact("session", str(last["session"]))
    else:
        yield _fact("client", "none: a bounce of our own")
    if last.get("message_id"):
        yield _fact("message-id", str(last["message_id"]))
    if last.get("size"):
        yield _fact("size", f"{last['size']:,} octets")
    yield _fact("time", str(last.get("time", "")))


def _recipients(entry: Entry) -> Iterator[Line]:
    wishes = {str(each["recipient"]): each for each in entry.get("dsn", ())}
    recipients = [" ".join([each, *_wishes(wishes.get(each, {}))]) for each in map(str, entry.get("recipients", ()))]
    for at, address in enumerate(recipients[:MOST_RECIPIENTS]):
        yield _fact("to" if at == 0 else "", address)
    more = max(len(recipients) - MOST_RECIPIENTS, 0) + int(entry.get("more_recipients", 0))
    if more:
        yield _fact("", f"and {more} more")


def _wishes(asked: Entry) -> Iterator[str]:
    """NOTIFY and ORCPT as they stood behind a recipient."""
    return (f"{key.upper()}={asked[key]}" for key in ("notify", "orcpt") if key in asked)


def _asked(entry: Entry) -> str:
    """What the sender asked of the way on, as it stood in MAIL."""
    words = [f"{key.upper()}={entry[key]}" for key in ("ret", "envid") if key in entry]
    words += [word for key, word in (("require_tls", "REQUIRETLS"), ("binary", "BODY=BINARYMIME")) if entry.get(key)]
    return " ".join(words)


def _fact(key: str, value: str) -> Line:
    return [(f"  {key:<12}", "key"), (value, "")]


# --- what the filters said


def _judgement(entry: Entry) -> Iterator[Line]:
    """One decision: the filters that led to it, then what was decided."""
    findings: Sequence[Entry] = entry.get("findings", ())
    deciding = _deciding(entry, findings)
    phase = ""
    for at, finding in enumerate(findings):
        if finding.get("phase") != phase:
            phase = str(finding.get("phase"))
            yield [(f"At {phase}", "head")]
        yield from _finding(finding, decided=at == deciding)
    yield _decision(entry)


def _deciding(entry: Entry, findings: Sequence[Entry]) -> int:
    """The place of the finding whose rule became the verdict; -1 if it was none of them."""
    for at in range(len(findings) - 1, -1, -1):
        finding = findings[at]
        if entry.get("rule") and finding.get("rule") == entry["rule"] and finding.get("mode") != "shadow":
            return at
    return -1


def _finding(finding: Entry, *, decided: bool) -> Iterator[Line]:
    verdict = str(finding.get("verdict", ""))
    shadow = finding.get("mode") == "shadow"
    line: Line = [
        (f"  {finding.get('filter', '')!s:<12}", "key"),
        (f"{'would ' if shadow else ''}{verdict}".ljust(14), "dim" if shadow else _STYLES.get(verdict, "")),
        (f"{_milliseconds(finding.get('seconds', 0)):>10}", "dim"),
    ]
    if finding.get("rule"):
        line.append((f"  {finding['rule']}", ""))
    if decided:
        line.append(("  <- this decided", "head"))
    yield line
    if finding.get("fault"):
        yield _detail("fault", str(finding["fault"]), "bad")
    for symbol in finding.get("symbols", ()):
        score = f"{symbol.get('score', 0):+g}"
        yield _detail(score, f"{symbol.get('name', '')}  {symbol.get('detail', '')}".rstrip(), "")
    for key, value in dict(finding.get("facts", {})).items():
        yield [(f"      {key} = ", "dim"), (str(value), "")]
    for lookup in finding.get("lookups", ()):
        yield _lookup(lookup)


def _lookup(lookup: Entry) -> Line:
    answers = [str(answer) for answer in lookup.get("answer", ())]
    shown = ", ".join(answers[:MOST_ANSWERS]) + (
        f" and {len(answers) - MOST_ANSWERS} more" if len(answers) > MOST_ANSWERS else ""
    )
    status = str(lookup.get("status", ""))
    how = "cached" if lookup.get("cached") else _milliseconds(lookup.get("seconds", 0))
    style = "" if status == "ok" else "dim" if status in ("nodata", "nxdomain") else "bad"
    return [
        ("      dns ", "dim"),
        (f"{lookup.get('name', '')} {lookup.get('type', '')} -> ", ""),
        (shown or status, style),
        (f"  ({how})", "dim"),
    ]


def _decision(entry: Entry) -> Line:
    verdict = str(entry.get("verdict", ""))
    line: Line = [("Verdict", "head"), (f"  {verdict}", _STYLES.get(verdict, ""))]
    if entry.get("recipient"):
        line.append((f"  for {entry['recipient']}", ""))
    if entry.get("rule"):
        line.append((f"  by {entry['rule']}", ""))
    if entry.get("score"):
        line.append((f"  score {entry['score']:+g}", ""))
    if entry.get("reply"):
        line.append((f"  {entry['reply']}", ""))
    if entry.get("detail"):
        line.append((f"  ({entry['detail']})", "dim"))
    return line


# --- what happened afterwards


def _afterwards(entry: Entry) -> Iterator[Line]:
    stamp: Span = (f"  {entry.get('time', '')}  ", "dim")
    kind = str(entry.get("event", ""))
    if kind == "attempted":
        yield [stamp, *_attempt(entry)]
    elif kind == "bounced":
        told = f"notice {entry['notice']}" if entry.get("notice") else f"nobody told: {entry.get('why_not', '')}"
        yield [stamp, ("bounced", "bad"), (f"  {entry.get('recipient', '')}  {entry.get('reply', '')}  {told}", "")]
    elif kind == "finished":
        yield [stamp, ("finished", "head"), (f"  after {_seconds(entry.get('seconds', 0))}", "")]
        for fate in entry.get("recipients", ()):
            yield _fate(fate)
    elif kind == "held":
        yield [stamp, ("held", "warn"), (f"  {entry.get('reason', '')}", "")]
    elif kind == "operated":
        yield [stamp, (f"operator: {entry.get('command', '')}", "warn")]
    else:
        yield [stamp, (kind, "bad"), (f"  {entry.get('area', '')}  {entry.get('detail', '')}".rstrip(), "")]


def _attempt(entry: Entry) -> Line:
    result = str(entry.get("result", ""))
    line: Line = [
        (result, _STYLES.get(result, "")),
        (f"  {entry.get('recipient', '')}  try {entry.get('attempt', '')}  {entry.get('reply', '')}", ""),
    ]
    if entry.get("hop"):
        line.append((f"  by {entry['hop']}", ""))
    tls = entry.get("tls") or ("" if str(entry.get("hop", "")).startswith(LOCAL) else "clear")
    line.append((f"{'  ' if tls else ''}{tls}  {_seconds(entry.get('seconds', 0))}", "dim"))
    if entry.get("due"):
        line.append((f"  next try {entry['due']}", "warn"))
    if entry.get("ambiguous"):
        line.append(("  lost after the final dot: a duplicate is possible", "warn"))
    return line


def _fate(fate: Entry) -> Line:
    result = str(fate.get("result", ""))
    attempts = fate.get("attempts", 0)
    return [
        ("    ", ""),
        (result, _STYLES.get(result, "")),
        (f"  {fate.get('address', '')}  {attempts} {'try' if attempts == 1 else 'tries'}  {fate.get('reply', '')}", ""),
    ]


def _detail(key: str, value: str, style: str) -> Line:
    return [(f"      {key:>6} ", "dim"), (value, style)]


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.2f} ms" if seconds < 1 else _seconds(seconds)


def _seconds(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds < 100 else f"{seconds:,.0f} s"
