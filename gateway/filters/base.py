# SPDX-License-Identifier: Apache-2.0
"""What the option sections of all filters have in common, and the table of symbol scores.

Promises: the same keys mean the same in every `[filters.NAME]`; a score is given only to a symbol that the filter knows.
Fails with: `ValueError` whose text says what is allowed (it becomes a configuration fault).
Not here: the options of one filter (beside its code), the whole of `[filters]` (`filters/options.py`).
"""

from collections.abc import Mapping
from math import isfinite
from typing import ClassVar, Literal

from gateway.infra.options import Duration, Options, field_validator, option
from gateway.mail.verdict import Symbol

Mode = Literal["enforce", "shadow", "off"]
OnError = Literal["defer", "skip"]
OnFail = Literal["reject", "hold", "score"]


class FilterOptions(Options):
    """The keys that every filter has. `always_on` filters cannot be switched off; `default_scores` names its symbols."""

    always_on: ClassVar[bool] = False
    default_scores: ClassVar[Mapping[str, float]] = {}

    mode: Mode | None = option(
        None, doc="enforce | shadow (runs and is recorded, never acts) | off; default: that of [filters]."
    )
    timeout: Duration = option("10s", doc="How long one run may take; then on_error applies.", gt=0)
    on_error: OnError = option(
        "defer", doc="What a fault or timeout of this filter means: defer (451) | skip (go on without it)."
    )

    @field_validator("mode")
    @classmethod
    def _may_be_off(cls, mode: Mode | None) -> Mode | None:
        if cls.always_on and mode in ("shadow", "off"):
            raise ValueError('this filter is always on: leave the key out or write "enforce"')
        return mode


class ScoredOptions(FilterOptions):
    """For filters that give symbols."""

    scores: dict[str, float] = option({}, doc="Scores of symbols that shall differ from the built-in ones (positive is bad).")

    @field_validator("scores")
    @classmethod
    def _scores_are_known(cls, scores: dict[str, float]) -> dict[str, float]:
        if unknown := sorted(set(scores) - set(cls.default_scores)):
            raise ValueError(f"unknown symbol {unknown[0]}; this filter has {', '.join(sorted(cls.default_scores))}")
        if odd := [name for name, score in scores.items() if not isfinite(score)]:
            raise ValueError(f"the score of {odd[0]} must be a number")
        return scores

    def symbols(self) -> dict[str, Symbol]:
        """One ready-made symbol for each name, with the score that holds here."""
        return {name: Symbol(name, score) for name, score in {**self.default_scores, **self.scores}.items()}
