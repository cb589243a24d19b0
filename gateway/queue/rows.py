# SPDX-License-Identifier: Apache-2.0
"""Queued messages as rows: the operations that the store runs.

Promises: each function is one operation and may be run again after a rollback; none holds state.
Not here: transactions and commits (`store.py`), what happens on the loop afterwards (`shard.py`).
"""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.mail.job import QueueId
from gateway.mail.message import FileBody, Message
from gateway.queue.disk import Connection
from gateway.queue.model import Addressee, Queued, State, read_address
from gateway.queue.sql import QUERIES

_EIGHT_BIT, _SMTPUTF8, _FILED, _BINARY, _REQUIRE_TLS = 1, 2, 4, 8, 16
_ADD_MESSAGE, _ADD_CONTENT, _ADD_RECIPIENT = (QUERIES[name] for name in ("add_message", "add_content", "add_recipient"))
_REMOVE_MESSAGE, _SET_RECIPIENT = QUERIES["remove_message"], QUERIES["set_recipient"]

Place = tuple[float, int]  # (due, n): where in the schedule
START: Place = (-math.inf, 0)


@dataclass(frozen=True, slots=True)
class Change:
    """The new state of one recipient after an attempt."""

    index: int
    state: State
    attempts: int
    due: float
    reply: str
    hop: str


@dataclass(frozen=True, slots=True)
class Settled:
    """What an attempt left of a message: `due` of its next recipient; None if all are settled and the message is gone."""

    due: float | None


def add(connection: Connection, item: Queued, message: Message) -> None:
    """A new message with its recipients and octets; the file of a large body is in its place already."""
    connection.execute(
        _ADD_MESSAGE,
        (
            item.n,
            item.id,
            int(item.held),
            None if item.held else item.due(),
            item.created,
            item.size,
            str(item.sender),
            _flags(item),
            item.rule,
            " ".join(item.symbols),
            item.reason,
            _options(RET=item.ret, ENVID=item.envid) if item.ret or item.envid else None,
        ),
    )
    body = message.body
    head = message.trace + message.header
    octets, start = (None, body.offset) if isinstance(body, FileBody) else (body, 0)
    connection.execute(_ADD_CONTENT, (item.n, len(message.trace), head, octets, start))
    connection.executemany(_ADD_RECIPIENT, [_recipient_row(item.n, each) for each in item.addressees])


def _flags(item: Queued) -> int:
    flags = _EIGHT_BIT * item.eight_bit | _SMTPUTF8 * item.smtputf8 | _FILED * item.filed
    return flags | _BINARY * item.binary | _REQUIRE_TLS * item.require_tls


def _recipient_row(n: int, each: Addressee) -> tuple[int | float | str | None, ...]:
    address, state = each.address, each.state
    options = _options(NOTIFY=",".join(each.notify), ORCPT=each.orcpt) if each.notify or each.orcpt else None
    return (n, each.index, str(address), address.ascii_domain, state, each.attempts, each.due, each.reply, each.hop, options)


def _options(**values: str) -> str:
    """Parameters as they stood in MAIL or RCPT; no value of one has a blank."""
    return " ".join(f"{keyword}={value}" for keyword, value in values.items() if value)


def _read_options(text: str | None) -> dict[str, str]:
    pairs = (word.partition("=") for word in text.split(" ")) if text else ()
    return {keyword: value for keyword, _, value in pairs}


def remove(connection: Connection, n: int) -> None:
    """A message with all that belongs to it."""
    connection.execute(_REMOVE_MESSAGE, (n,))


def settle(connection: Connection, n: int, changes: Sequence[Change]) -> Settled:
    """Record attempts; take the message away if no recipient is left open. Done twice, it is the same as done once."""
    connection.executemany(_SET_RECIPIENT, [(c.state, c.attempts, c.due, c.reply, c.hop, n, c.index) for c in changes])
    due: float | None = connection.execute(QUERIES["next_due"], (n,)).fetchone()[0]
    if due is None:
        remove(connection, n)
    else:
        connection.execute(QUERIES["set_due"], (due, n))
    return Settled(due)


def ready(connection: Connection, place: Place, limit: int) -> list[Place]:
    """Up to `limit` messages in the order of the schedule, from `place` on."""
    return connection.execute(QUERIES["ready"], (*place, limit)).fetchall()


def read(connection: Connection, numbers: Iterable[int]) -> list[Queued]:
    """These messages with their recipients, without content; those that are gone are left out."""
    wanted = json.dumps(list(numbers))
    items = {row[0]: _item(row) for row in connection.execute(QUERIES["messages"], (wanted,))}
    for n, *columns in connection.execute(QUERIES["recipients"], (wanted,)):
        if n in items:
            items[n].addressees.append(_addressee(columns))
    return list(items.values())


def _addressee(columns: Sequence[Any]) -> Addressee:
    index, address, state, attempts, due, reply, hop, text = columns
    options = _read_options(text)
    notify = options.get("NOTIFY")
    return Addressee(
        index,
        read_address(address),
        due,
        State(state),
        attempts,
        reply,
        hop,
        tuple(notify.split(",")) if notify else (),
        options.get("ORCPT", ""),
    )


def _item(row: Sequence[Any]) -> Queued:
    n, queue_id, state, created, size, sender, flags, rule, symbols, reason, text = row
    options = _read_options(text)
    return Queued(
        n=n,
        id=QueueId(queue_id),
        sender=read_address(sender),
        addressees=[],
        created=created,
        size=size,
        eight_bit=bool(flags & _EIGHT_BIT),
        smtputf8=bool(flags & _SMTPUTF8),
        filed=bool(flags & _FILED),
        binary=bool(flags & _BINARY),
        require_tls=bool(flags & _REQUIRE_TLS),
        ret=options.get("RET", ""),
        envid=options.get("ENVID", ""),
        held=bool(state),
        reason=reason,
        rule=rule,
        symbols=tuple(symbols.split()),
    )


def content(connection: Connection, n: int, path: Path, size: int) -> Message | None:
    """The octets of a message of `size`; `path` is the file that a large body is in."""
    row = connection.execute(QUERIES["content"], (n,)).fetchone()
    if row is None:
        return None
    trace, head, body, start = row
    return Message(head[:trace], head[trace:], FileBody(path, start, size - len(head)) if body is None else body)


def number(connection: Connection, queue_id: QueueId) -> int | None:
    """The row of an id."""
    row = connection.execute(QUERIES["number"], (queue_id,)).fetchone()
    return None if row is None else int(row[0])


def hold(connection: Connection, numbers: Sequence[int], reason: str) -> None:
    """Keep messages for a human; held ones keep their reason."""
    connection.execute(QUERIES["hold"], (reason, json.dumps(numbers)))


def release(connection: Connection, numbers: Sequence[int], now: float) -> None:
    """Let held messages go on, at once."""
    wanted = json.dumps(numbers)
    connection.execute(QUERIES["release"], (now, wanted))
    connection.execute(QUERIES["recipients_due"], (now, wanted))


def retry(connection: Connection, numbers: Sequence[int], now: float) -> None:
    """Try messages that are not held now."""
    wanted = json.dumps(numbers)
    connection.execute(QUERIES["retry"], (now, wanted))
    connection.execute(QUERIES["recipients_due"], (now, wanted))
