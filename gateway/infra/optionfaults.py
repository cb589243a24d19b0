# SPDX-License-Identifier: Apache-2.0
"""What is wrong with options, in words for whoever wrote them.

    limits.commands = "25": write a whole number, without quotes

Promises: one fault for one mistake, each with the path of its key, the value as it was written (not what had become of it
when it was refused) and the mend where one is near.
Not here: the rules of single options (beside the code that reads them), files (`gateway/config.py`).
"""

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gateway.infra.options import FieldInfo, Options, ValidationError, in_units, model_of

Location = Sequence[int | str]

SHOWN = 80  # characters of a value

_TYPES = {
    "bool_type": "write true or false, without quotes",
    "int_type": "write a whole number, without quotes",
    "float_type": "write a number, without quotes",
    "string_type": "write text, in quotes",
    "path_type": "write a path, in quotes",
}
_LIMITS = {
    "greater_than": ("gt", "must be more than {}"),
    "greater_than_equal": ("ge", "must be {} or more"),
    "less_than": ("lt", "must be less than {}"),
    "less_than_equal": ("le", "must be {} or less"),
}


@dataclass(frozen=True, slots=True)
class BadOption:
    """One mistake. `value` is the text of what was written, empty if nothing was."""

    key: str
    value: str
    reason: str


def told(model: type[Options], data: Mapping[str, Any], err: ValidationError) -> list[BadOption]:
    """All that `err` says about `data`, which was to become a `model`."""
    return [_told(model, data, dict(each)) for each in err.errors(include_url=False)]


def shown(value: object) -> str:
    """A value as TOML has it, cut to what fits a line."""
    if isinstance(value, list):
        text = f"[{', '.join(map(shown, value))}]"
    elif isinstance(value, dict):
        text = f"{{{', '.join(f'{key} = {shown(each)}' for key, each in value.items())}}}"
    else:
        text = f'"{value}"' if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else str(value)
    return text if len(text) <= SHOWN else text[: SHOWN - 3] + "…"


def _told(model: type[Options], data: Mapping[str, Any], error: Mapping[str, Any]) -> BadOption:
    location: Location = error["loc"]
    key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).lstrip(".")
    if error["type"] == "missing":
        return BadOption(key, "", "is missing and has no default")
    if error["type"] == "extra_forbidden":
        reason = "unknown key" + _nearest_key(_model_at(model, location[:-1]), str(location[-1]))
        return BadOption(key, shown(error["input"]), reason)
    written = _written(data, location, error["input"])
    return BadOption(key, shown(written), _reason(model, location, key, written, error))


def _reason(model: type[Options], location: Location, key: str, written: object, error: Mapping[str, Any]) -> str:
    kind = str(error["type"])
    if kind in _TYPES:
        return _TYPES[kind]
    if kind == "list_type":
        section = _model_at(model, location)
        return f"there may be several: write [[{key}]]" if section else f"is a list: write [{shown(written)}]"
    if kind in ("model_type", "dict_type"):
        return f"is a section: write [[{key.rpartition('[')[0]}]]" if key.endswith("]") else f"is a section: write [{key}]"
    if kind == "literal_error":
        return _choice(str(error["ctx"]["expected"]), written)
    if kind in _LIMITS:
        name, words = _LIMITS[kind]
        limit, field = error["ctx"][name], _field_at(model, location)
        return words.format(in_units(field, limit) if field else limit)
    return str(error["msg"]).removeprefix("Value error, ")


def _choice(expected: str, written: object) -> str:
    """What may be written, from "'mx' or 'submission'"."""
    known = re.findall(r"'([^']*)'", expected)
    near = difflib.get_close_matches(str(written), known, 1)
    reason = f"write {' or '.join(map(shown, known))}"
    return f"{reason}; did you mean {shown(near[0])}?" if near else reason


def _nearest_key(model: type[Options] | None, key: str) -> str:
    """The known key that an unknown one was probably meant to be."""
    known = list(model.model_fields) if model else []
    near = difflib.get_close_matches(key, known, 1)
    return f"; did you mean {near[0]!r}?" if near else (f"; known here: {', '.join(known)}" if known else "")


def _written(data: Any, location: Location, otherwise: object) -> object:
    """What stands at a place; `otherwise` if that is a default or the name of a key."""
    for part in location:
        try:
            data = data[part]
        except (KeyError, IndexError, TypeError):
            return otherwise
    return data


def _model_at(model: type[Options] | None, location: Location) -> type[Options] | None:
    """The section behind a key path; None for what is none."""
    for part in location:
        if isinstance(part, str) and model is not None:
            field = model.model_fields.get(part)
            model = model_of(field.annotation) if field else None
    return model


def _field_at(model: type[Options], location: Location) -> FieldInfo | None:
    """The option at a key path; None for an entry of one."""
    section = _model_at(model, location[:-1])
    return section.model_fields.get(str(location[-1])) if section else None
