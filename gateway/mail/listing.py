# SPDX-License-Identifier: Apache-2.0
"""The queue as an operator sees it: which messages he means, and what he is shown of each.

Not here: the commands themselves (`ports.QueueAdmin`).
"""

from dataclasses import dataclass

from gateway.mail.job import QueueId


@dataclass(frozen=True, slots=True, kw_only=True)
class Selector:
    """Which queued messages a command is about. Empty fields match everything; all given ones must match."""

    ids: tuple[QueueId, ...] = ()
    domain: str = ""  # of a recipient
    sender: str = ""
    recipient: str = ""
    older: float = 0.0  # seconds since acceptance
    state: str = ""  # "queued", "deferred", "held"
    reason: str = ""  # part of the last reply


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipientView:
    address: str
    state: str  # "queued", "deferred", "delivered", "failed", "discarded"
    attempts: int
    due: float | None
    last_reply: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageView:
    id: QueueId
    state: str  # "queued", "deferred", "held"
    sender: str
    size: int
    created: float
    reason: str  # why it is held
    recipients: tuple[RecipientView, ...]
    shard: int = 0
