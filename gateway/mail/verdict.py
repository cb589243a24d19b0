# SPDX-License-Identifier: Apache-2.0
"""What filters say: symbols, verdicts, how verdicts add up, and the finding that explains one.

Promises: the severest action wins; of equal ones the first; symbols are never lost.
Not here: order, deadlines and modes of filters (`filters/chain.py`).
"""

from collections.abc import Iterable, Mapping
from dataclasses import field
from enum import Enum, IntEnum

from gateway.mail.reply import Reply
from gateway.mail.value import value


class Phase(str, Enum):
    """When a filter is asked. The value is the metric label."""

    CONNECT = "connect"
    HELO = "helo"
    MAIL = "mail"
    RCPT = "rcpt"
    DATA = "data"


class Action(IntEnum):
    """What shall become of the command or the message, mildest first."""

    ACCEPT = 0
    HOLD = 1  # take it, keep it for a human
    DISCARD = 2  # take it, tell nobody
    DEFER = 3  # 4yz
    REJECT = 4  # 5yz

    @property
    def label(self) -> str:
        return _LABELS[self]


_LABELS = tuple(action.name.lower() for action in Action)  # each finding of a message is labelled twice


@value(frozen=True, slots=True)
class Symbol:
    """One observation: a fixed upper-case `name`, its `score` (positive is bad), and a short detail."""

    name: str
    score: float = 0.0
    detail: str = ""


@value(frozen=True, slots=True)
class Verdict:
    """`reply` is set exactly for DEFER and REJECT. `rule` names what decided, such as "spf.fail".

    `facts` are the inputs that led there, for `gateway explain`; they hold short texts only.
    """

    action: Action = Action.ACCEPT
    reply: Reply | None = None
    symbols: tuple[Symbol, ...] = ()
    rule: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)

    @property
    def score(self) -> float:
        return sum(symbol.score for symbol in self.symbols)

    @property
    def stops(self) -> bool:
        """True if the client is told no."""
        return self.action >= Action.DEFER


ACCEPT = Verdict()


def combine(verdicts: Iterable[Verdict]) -> Verdict:
    """The severest of `verdicts` with the symbols of all."""
    everything = list(verdicts)
    if not everything:
        return ACCEPT
    decisive = max(everything, key=lambda verdict: verdict.action)  # max() keeps the first of equals
    symbols = tuple(symbol for verdict in everything for symbol in verdict.symbols)
    return Verdict(decisive.action, decisive.reply, symbols, decisive.rule, decisive.facts)


@value(frozen=True, slots=True)
class Lookup:
    """A DNS question that was asked for a message, and what came back."""

    name: str
    type: str
    answer: tuple[str, ...]  # records as text; empty for no data
    status: str  # "ok", "nodata", "nxdomain", "servfail", "timeout" …
    seconds: float = 0.0
    cached: bool = False


@value(frozen=True, slots=True)
class Finding:
    """One run of one filter in one phase: all that `gateway explain` shows about it."""

    filter: str
    phase: Phase
    mode: str  # "enforce" or "shadow"
    verdict: Verdict
    seconds: float
    lookups: tuple[Lookup, ...] = ()
    fault: str = ""  # why the filter could not do its work
    counts: bool = True  # it is part of the message's final verdict; not so in shadow mode or for a refused recipient


@value(frozen=True, slots=True)
class AuthResult:
    """One `method=result` of Authentication-Results (RFC 8601 §2.2).

    `properties` are (ptype.property, value) pairs such as ("smtp.mailfrom", "a@b.example").
    """

    method: str
    result: str
    reason: str = ""
    properties: tuple[tuple[str, str], ...] = ()
