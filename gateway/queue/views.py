# SPDX-License-Identifier: Apache-2.0
"""Queued messages as operators see them."""

from gateway.mail.listing import MessageView, RecipientView
from gateway.queue.model import Addressee, Queued, State


def message_view(item: Queued, shard: int) -> MessageView:
    """The whole message; it is "deferred" if one of its open recipients is."""
    return MessageView(
        id=item.id,
        state=_state(item),
        sender=str(item.sender),
        size=item.size,
        created=item.created,
        reason=item.reason,
        recipients=tuple(_recipient_view(each, held=item.held) for each in item.addressees),
        shard=shard,
    )


def _state(item: Queued) -> str:
    if item.held:
        return "held"
    return "deferred" if any(each.state is State.DEFERRED for each in item.addressees) else "queued"


def _recipient_view(each: Addressee, *, held: bool) -> RecipientView:
    return RecipientView(
        address=str(each.address),
        state=each.state.label,
        attempts=each.attempts,
        due=each.due if each.open and not held else None,
        last_reply=each.reply,
    )
