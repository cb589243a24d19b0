# SPDX-License-Identifier: Apache-2.0
"""The door to pydantic: option models that stages declare beside the code that reads them.

    class SpfOptions(Options):
        \"\"\"[filters.spf]\"\"\"
        timeout: Duration = option("10s", doc="…")

Promises: unknown keys are refused; durations become seconds (float), sizes octets (int), networks `ipaddress` values;
each option has a doc line, from which the reference page is printed.
Not here: reading files and naming faults (`gateway/config.py`).
"""

import ipaddress
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer
from pydantic import field_validator as field_validator  # for options that are judged by more than their type

from gateway.mail.address import AddressError, parse_domain, to_ascii
from gateway.mail.units import format_duration, format_size, parse_duration, parse_size

IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network


class Options(BaseModel):
    """Base of all option models: frozen, and strict about unknown keys."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, arbitrary_types_allowed=True, hide_input_in_errors=False
    )


def option(default: Any = ..., *, doc: str, **limits: Any) -> Any:
    """A field with its one-line documentation; `limits` are pydantic's (`ge`, `le`, `min_length`, `pattern` …)."""
    if isinstance(default, (list, dict)):
        return Field(default_factory=lambda: type(default)(default), description=doc, **limits)
    return Field(default, description=doc, **limits)


check = AfterValidator  # `Annotated[str, check(function)]`: a stage's own rule; the function raises ValueError


def section(model: type[Options]) -> Any:
    """A nested section that is built from its defaults when it is not given."""
    return Field(default_factory=model)


def _duration(value: object) -> float:
    if isinstance(value, str):
        return parse_duration(value)
    if isinstance(value, float):  # a default that has been parsed already
        return value
    raise ValueError('write a duration as text with a unit, such as "30s"')


def _size(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise ValueError('write a size as text with a unit, such as "25MiB"')
    return value if isinstance(value, int) else parse_size(value)


def _auto_size(value: object) -> int | None:
    if value is None or value == "auto":  # None: a default that has been parsed already
        return None
    if (size := _size(value)) < 0:
        raise ValueError("a size is not negative")
    return size


def _network(value: object) -> IPNetwork:
    if isinstance(value, (ipaddress.IPv4Network, ipaddress.IPv6Network)):
        return value
    if not isinstance(value, str):
        raise ValueError('write a network as text, such as "192.0.2.0/24"')
    try:
        return ipaddress.ip_network(value)
    except ValueError as err:
        raise ValueError(f"{err}; write an address or a network, such as 192.0.2.0/24") from err


def _domain_name(value: str) -> str:
    try:
        return to_ascii(parse_domain(value.encode()))
    except AddressError as err:
        raise ValueError(f"{err}; write a name such as mail.example.org") from err


Duration = Annotated[float, BeforeValidator(_duration), PlainSerializer(format_duration, return_type=str)]
Size = Annotated[int, BeforeValidator(_size), PlainSerializer(format_size, return_type=str)]
# A size, or "auto" (None in the program): the code that reads it finds a size that fits the machine.
AutoSize = Annotated[
    int | None,
    BeforeValidator(_auto_size),
    PlainSerializer(lambda size: "auto" if size is None else format_size(size), return_type=str),
]
Network = Annotated[IPNetwork, BeforeValidator(_network), PlainSerializer(str, return_type=str)]
DomainName = Annotated[str, AfterValidator(_domain_name)]
