# SPDX-License-Identifier: Apache-2.0
"""A `Selector` as a query.

Promises: what the operator wrote only ever becomes a parameter. Recipients that are settled already select nothing.
Not here: what is done with the messages (`admin.py`).
"""

import json
from typing import Any

from gateway.mail.address import AddressError, to_ascii
from gateway.mail.listing import Selector

# An operator who has to hold back half a million messages must not need half a million ids in memory at once.
PART = 500

_OPEN = "SELECT 1 FROM recipients AS r WHERE r.n = m.n AND r.state < 2"
_STATES = {
    "held": "m.state = 1",
    "queued": f"m.state = 0 AND NOT EXISTS ({_OPEN} AND r.state = 1)",
    "deferred": f"m.state = 0 AND EXISTS ({_OPEN} AND r.state = 1)",
}


def query(selector: Selector, now: float, span: range, limit: int) -> tuple[str, list[Any]]:
    """Statement and parameters: up to `limit` rows (n, id) with a number in `span`, oldest first."""
    conditions, values = ["m.n >= ?", "m.n < ?"], [span.start, span.stop]
    for condition, value in _conditions(selector, now):
        conditions.append(condition)
        values.extend(value)
    return f"SELECT m.n, m.id FROM messages AS m WHERE {' AND '.join(conditions)} ORDER BY m.n LIMIT ?", [*values, limit]  # noqa: S608


def _conditions(selector: Selector, now: float) -> list[tuple[str, list[Any]]]:
    found: list[tuple[str, list[Any]]] = []
    if selector.ids:
        found.append(("m.id IN (SELECT value FROM json_each(?))", [json.dumps(selector.ids)]))
    if selector.sender:
        found.append(("m.sender = ? COLLATE NOCASE", [selector.sender.removeprefix("<").removesuffix(">")]))
    if selector.older:
        found.append(("m.created <= ?", [now - selector.older]))
    if selector.state:
        found.append((_STATES.get(selector.state, "FALSE"), []))
    if selector.reason:
        text = selector.reason.lower()
        found.append((f"(instr(lower(m.reason), ?) OR EXISTS ({_OPEN} AND instr(lower(r.reply), ?)))", [text, text]))
    if selector.domain or selector.recipient:
        found.append(_recipient(selector))
    return found


def _recipient(selector: Selector) -> tuple[str, list[Any]]:
    """Domain and address must be those of one and the same recipient."""
    text, values = _OPEN, []
    if selector.domain:
        text += " AND r.domain = ?"
        values.append(_ascii(selector.domain))
    if selector.recipient:
        text += " AND r.address = ? COLLATE NOCASE"
        values.append(selector.recipient)
    return f"EXISTS ({text})", values


def _ascii(domain: str) -> str:
    try:
        return to_ascii(domain)
    except AddressError:
        return domain.lower()
