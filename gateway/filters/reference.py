# SPDX-License-Identifier: Apache-2.0
"""The reference page of all filters, made from the table itself.

Promises: a filter, option or symbol that the page names exists, and none that exists is missing.
Not here: who prints it (`cli/docs.py`).
"""

import inspect
import json
from collections.abc import Iterator, Sequence

from gateway.filters.base import FilterOptions, ScoredOptions
from gateway.mail.verdict import Phase
from gateway.ports import Filter

INTRODUCTION = (
    "# Filters",
    "",
    "In the order in which they run. Each has a section `[filters.NAME]`;",
    "`mode`, `timeout` and `on_error` mean the same in all.",
    "The scores of all symbols add up; `filters.reject_score` and `filters.hold_score` say what follows.",
)
COMMON = frozenset(FilterOptions.model_fields)


def page(table: Sequence[tuple[Filter, FilterOptions]]) -> str:
    """Markdown; ends with a newline."""
    lines = [*INTRODUCTION]
    for judge, options in table:
        lines += ["", *_section(judge, options)]
    return "\n".join(lines) + "\n"


def _section(judge: Filter, options: FilterOptions) -> Iterator[str]:
    phases = [phase.value.upper() for phase in Phase if phase in judge.phases]
    yield f"## {judge.name}"
    yield ""
    yield _summary(judge)
    yield ""
    yield f"Phases: {', '.join(phases)}."
    own = {name: field for name, field in type(options).model_fields.items() if name not in COMMON}
    if own:
        yield from ("", "| option | default | meaning |", "|---|---|---|")
        defaults = options.model_dump()
        for name, field in own.items():
            meaning = (field.description or "").replace("|", "\\|")
            yield f"| `{name}` | `{json.dumps(defaults[name])}` | {meaning} |"
    if isinstance(options, ScoredOptions):
        yield from ("", "| symbol | score |", "|---|---|")
        for symbol in options.symbols().values():
            yield f"| `{symbol.name}` | {symbol.score:g} |"


def _summary(judge: Filter) -> str:
    """The first paragraphs of the file in which the filter is written, up to what it promises."""
    text = inspect.getdoc(inspect.getmodule(judge)) or ""
    return text.partition("\nPromises:")[0].strip()
