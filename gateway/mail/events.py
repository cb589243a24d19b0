# SPDX-License-Identifier: Apache-2.0
"""The life of a connection and a message as values.

Promises: everything that log, metrics and trace know comes from these; each holds facts, no references to live objects.
Not here: who listens (`ports.EventSink` and its makers).
"""

from gateway.mail.address import Address
from gateway.mail.envelope import Client, Envelope
from gateway.mail.job import Due, Outcome, QueueId
from gateway.mail.reply import Reply
from gateway.mail.value import value
from gateway.mail.verdict import Finding, Phase, Verdict


@value(frozen=True, slots=True, kw_only=True)
class Event:
    time: float  # Unix time at which it happened


@value(frozen=True, slots=True, kw_only=True)
class Connected(Event):
    """A client was let in. `client.session` ties this to the later events of the connection."""

    client: Client


@value(frozen=True, slots=True, kw_only=True)
class Disconnected(Event):
    """A connection ended; `reason` is "quit", "lost", "refused", "idle", "shutdown", "errors" …"""

    client: Client
    reason: str
    seconds: float
    messages: int
    commands: int


@value(frozen=True, slots=True, kw_only=True)
class AuthAttempted(Event):
    """Somebody tried to log in. `name` is the user's if `result` is "ok", else what was said, short and clean.

    `result` is "ok", "failed", "locked" (too many failures), "unavailable" (our trouble) or "malformed". `old_hash`: the
    password should be set anew, for better parameters.
    """

    client: Client
    name: str
    mechanism: str
    result: str
    detail: str = ""
    old_hash: bool = False


@value(frozen=True, slots=True, kw_only=True)
class Rejected(Event):
    """A command (or the message) was answered with 4yz or 5yz by a rule. One for each refused recipient or message.

    `final` marks a refusal of the message itself, at end of data: its disposition.
    """

    id: QueueId
    client: Client
    phase: Phase
    envelope: Envelope
    recipient: Address | None  # the one that was refused, in phase RCPT
    reply: Reply
    verdict: Verdict
    findings: tuple[Finding, ...] = ()
    detail: str = ""
    size: int = 0
    final: bool = False


@value(frozen=True, slots=True, kw_only=True)
class Accepted(Event):
    """A message is durable and the client is about to be told. `client` is None for our own bounces."""

    id: QueueId
    client: Client | None
    envelope: Envelope
    size: int
    verdict: Verdict
    findings: tuple[Finding, ...] = ()
    message_id: str = ""
    seconds: float = 0.0  # from MAIL to durable


@value(frozen=True, slots=True, kw_only=True)
class Attempted(Event):
    """One attempt for one recipient, settled. `due` is the time of the next try of a deferred one."""

    id: QueueId
    sender: Address
    recipient: Due
    outcome: Outcome
    due: float | None = None


@value(frozen=True, slots=True, kw_only=True)
class Bounced(Event):
    """A recipient failed for good. `notice` is the queue id of the bounce; None if nobody may be told (and why not)."""

    id: QueueId
    sender: Address
    recipient: Address
    reply: Reply
    notice: QueueId | None
    why_not: str = ""


@value(frozen=True, slots=True, kw_only=True)
class Held(Event):
    """A queued message is kept for a human; `reason` says by what."""

    id: QueueId
    reason: str


@value(frozen=True, slots=True, kw_only=True)
class Fate:
    """What became of one recipient in the end: "delivered", "bounced", "discarded", "deleted"."""

    address: str
    result: str
    attempts: int
    reply: str
    hop: str = ""


@value(frozen=True, slots=True, kw_only=True)
class Finished(Event):
    """The last recipient of a message is settled: its disposition."""

    id: QueueId
    sender: Address
    fates: tuple[Fate, ...]
    size: int
    accepted: float  # Unix time
    rule: str = ""  # what decided the verdict at acceptance, if anything
    symbols: tuple[str, ...] = ()


@value(frozen=True, slots=True, kw_only=True)
class Operated(Event):
    """An operator's command changed queued messages."""

    id: QueueId
    command: str  # "hold", "release", "retry", "bounce", "delete"


@value(frozen=True, slots=True, kw_only=True)
class Trouble(Event):
    """Something of ours went wrong: `area` is "queue", "filter.spf", "delivery", "config" …; one line of detail."""

    area: str
    detail: str
    id: QueueId | None = None
    session: str = ""


@value(frozen=True, slots=True, kw_only=True)
class Lifecycle(Event):
    """The daemon itself: "started", "ready", "reloaded", "draining", "stopped" …"""

    what: str
    detail: str = ""
