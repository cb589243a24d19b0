# SPDX-License-Identifier: Apache-2.0
"""The table of built-in filters, in the order in which they run within a phase.

| phase | filters |
|---|---|
| MAIL | size |
| RCPT | recipients, spf |
| DATA | size, spf, headers, dkim |

What refuses most cheaply stands first: a refusal ends the round.
Not here: what a filter does (the file of its name).
"""

from typing import cast

from gateway.filters.base import FilterOptions, Mode
from gateway.filters.dkim import DkimFilter
from gateway.filters.headers import HeadersFilter
from gateway.filters.options import FiltersOptions
from gateway.filters.recipients import RecipientsFilter, RelayOptions, RelayRule
from gateway.filters.reference import page
from gateway.filters.runner import BoundFilter
from gateway.filters.size import SizeFilter
from gateway.filters.spf import SpfFilter
from gateway.ports import Filter, Resolver


def build(options: FiltersOptions, relay: RelayOptions, message_size: int, resolver: Resolver) -> list[BoundFilter]:
    """The filters that are not off. `message_size` is limits.message_size in octets."""
    made = _table(options, relay, message_size, resolver)
    return [bound for judge, own in made if (bound := _bind(judge, own, options.mode)) is not None]


def reference() -> str:
    """The reference page of all filters, in Markdown."""
    nobody = cast(Resolver, None)  # the page asks no filter for a verdict
    return page(_table(FiltersOptions(), RelayOptions(), 0, nobody))


def _table(
    options: FiltersOptions, relay: RelayOptions, message_size: int, resolver: Resolver
) -> tuple[tuple[Filter, FilterOptions], ...]:
    return (
        (RecipientsFilter(options.recipients, relay), options.recipients),
        (SizeFilter(options.size, message_size), options.size),
        (SpfFilter(options.spf, resolver, RelayRule(relay).takes), options.spf),
        (HeadersFilter(options.headers), options.headers),
        (DkimFilter(options.dkim, resolver), options.dkim),
    )


def _bind(judge: Filter, own: FilterOptions, general: Mode) -> BoundFilter | None:
    """A filter with its own mode, else the general one; None if it is off. What is always on heeds neither."""
    mode = "enforce" if own.always_on else own.mode or general
    if mode == "off":
        return None
    return BoundFilter(judge, mode, own.timeout, own.on_error, own.always_on)
