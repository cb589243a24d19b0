# SPDX-License-Identifier: Apache-2.0
"""`[filters]`: what holds for all filters, and one section for each.

Not here: the keys of one filter (beside its code), those that all have (`filters/base.py`).
"""

from gateway.filters.base import FilterOptions as FilterOptions
from gateway.filters.base import Mode
from gateway.filters.dkim import DkimOptions
from gateway.filters.headers import HeadersOptions
from gateway.filters.recipients import RecipientsOptions
from gateway.filters.size import SizeOptions
from gateway.filters.spf import SpfOptions
from gateway.infra.options import Duration, Options, option, section


class FiltersOptions(Options):
    """[filters]"""

    mode: Mode = option("enforce", doc="For every filter that does not say otherwise; `recipients` and `size` are always on.")
    deadline: Duration = option("60s", doc="How long all filters of one phase may take; the client waits for its reply.", gt=0)
    reject_score: float = option(
        15.0, doc="Refuse a message whose symbols add up to this (554 5.7.1); 0 = never.", ge=0, le=1e6
    )
    # Off at first: held mail was answered 250, and stays unseen where nobody looks at `gateway queue list --state held`.
    hold_score: float = option(0.0, doc="Keep a message for a human from this sum on; 0 = never.", ge=0, le=1e6)
    breaker_faults: int = option(10, doc="After so many faults in a row a filter is given a rest.", ge=1)
    breaker_rest: Duration = option("30s", doc="How long; until then its on_error decides at once.", ge=0)
    recipients: RecipientsOptions = section(RecipientsOptions)
    size: SizeOptions = section(SizeOptions)
    spf: SpfOptions = section(SpfOptions)
    dkim: DkimOptions = section(DkimOptions)
    headers: HeadersOptions = section(HeadersOptions)
