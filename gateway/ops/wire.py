# SPDX-License-Identifier: Apache-2.0
"""The queue's views and selectors as JSON, the same in the control API, its client and `gateway queue --json`.

Promises: what `*_to_json` writes, `*_from_json` reads back to the same value; times are RFC 3339 in UTC, to a millisecond.
Fails with: `BadSelector` for anything from outside that is not one.
Not here: HTTP (`ops/api.py`, `ops/client.py`).
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from gateway.infra.records import timestamp
from gateway.mail.job import parse_queue_id
from gateway.mail.listing import MessageView, RecipientView, Selector
from gateway.mail.units import parse_duration

COMMANDS = ("hold", "release", "retry", "bounce", "delete")
STATES = ("queued", "deferred", "held")
TEXT_FIELDS = ("domain", "sender", "recipient", "reason")
TEXT_MAX = 1000  # characters of one field of a selector


class BadSelector(ValueError):
    """The text says what is wrong with it."""


def view_to_json(view: MessageView) -> dict[str, Any]:
    """One queued message; `due` is null where nothing is planned."""
    return {
        "id": view.id,
        "state": view.state,
        "sender": view.sender,
        "size": view.size,
        "created": timestamp(view.created),
        "reason": view.reason,
        "shard": view.shard,
        "recipients": [_recipient(recipient) for recipient in view.recipients],
    }


def _recipient(view: RecipientView) -> dict[str, Any]:
    return {
        "address": view.address,
        "state": view.state,
        "attempts": view.attempts,
        "due": None if view.due is None else timestamp(view.due),
        "last_reply": view.last_reply,
    }


def view_from_json(data: Mapping[str, Any]) -> MessageView:
    """Read back our own server's word; raises KeyError or ValueError if it is not that."""
    queue_id = parse_queue_id(data["id"])
    if queue_id is None:
        raise ValueError(f"{data['id']!r} is not a queue id")
    return MessageView(
        id=queue_id,
        state=data["state"],
        sender=data["sender"],
        size=data["size"],
        created=moment(data["created"]),
        reason=data["reason"],
        shard=data["shard"],
        recipients=tuple(
            RecipientView(
                address=each["address"],
                state=each["state"],
                attempts=each["attempts"],
                due=None if each["due"] is None else moment(each["due"]),
                last_reply=each["last_reply"],
            )
            for each in data["recipients"]
        ),
    )


def moment(text: str) -> float:
    """Unix time of an RFC 3339 text."""
    return datetime.fromisoformat(text).astimezone(UTC).timestamp()


def selector_to_json(selector: Selector) -> dict[str, Any]:
    """Only the fields that are set."""
    data: dict[str, Any] = {name: getattr(selector, name) for name in (*TEXT_FIELDS, "state") if getattr(selector, name)}
    if selector.ids:
        data["ids"] = list(selector.ids)
    if selector.older:
        data["older"] = selector.older
    return data


def selector_from_json(data: Mapping[str, Any]) -> Selector:
    """A selector from outside, every field checked. Raises BadSelector."""
    unknown = set(data) - {*TEXT_FIELDS, "state", "ids", "older"}
    if unknown:
        raise BadSelector(f"unknown field {min(unknown)!r}")
    texts = {}
    for name in TEXT_FIELDS:
        text = data.get(name, "")
        if not isinstance(text, str) or len(text) > TEXT_MAX:
            raise BadSelector(f"{name} must be a text of at most {TEXT_MAX} characters")
        texts[name] = text
    return Selector(
        ids=_ids(data.get("ids", [])), older=_older(data.get("older", 0)), state=_state(data.get("state", "")), **texts
    )


def _ids(given: Any) -> tuple[Any, ...]:
    if not isinstance(given, Sequence) or isinstance(given, str):
        raise BadSelector("ids must be a list of queue ids")
    ids = [parse_queue_id(each) if isinstance(each, str) else None for each in given]
    if None in ids:
        raise BadSelector(f"{str(given[ids.index(None)])[:40]!r} is not a queue id")
    return tuple(ids)


def _older(given: Any) -> float:
    try:
        seconds = _seconds(given)
    except (TypeError, ValueError) as err:
        raise BadSelector(f'older must be seconds or a duration such as "2h": {str(given)[:40]!r}') from err
    if not 0 <= seconds < float("inf"):
        raise BadSelector("older must be a number of seconds, zero or more")
    return seconds


def _seconds(given: Any) -> float:
    try:
        return float(given)
    except ValueError:
        return parse_duration(given)


def _state(given: Any) -> str:
    if given not in ("", *STATES):
        raise BadSelector(f"state must be one of {', '.join(STATES)}")
    return str(given)


def is_empty(selector: Selector) -> bool:
    """True if it matches everything."""
    return not selector_to_json(selector)
