# SPDX-License-Identifier: Apache-2.0
"""The door to pydantic: option models that stages declare beside the code that reads them.

    class SpfOptions(Options):
        \"\"\"[filters.spf]\"\"\"
        timeout: Duration = option("10s", doc="…")

Promises: unknown keys are refused, and values of another type ("25" is no number); durations become seconds (float), sizes
octets (int), networks `ipaddress` values; each option has a doc line, from which the reference page is printed.
Not here: faults in words (`infra/optionfaults.py`), reading files (`gateway/config.py`).
"""

import ipaddress
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, Strict
from pydantic import ValidationError as ValidationError
from pydantic import ValidationInfo as ValidationInfo
from pydantic import field_validator as field_validator  # for options that are judged by more than their type
from pydantic.fields import FieldInfo as FieldInfo

from gateway.mail.address import AddressError, parse_domain, to_ascii
from gateway.mail.units import format_duration, format_size, parse_duration, parse_size

IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network
_ALL_V4 = ipaddress.IPv4Network("0.0.0.0/0")
# RFC 4291 §2.4: global unicast as far as it is given out; and every IPv4 address, in the clothes of IPv6
_ALL_V6 = (ipaddress.IPv6Network("2000::/3"), ipaddress.IPv6Network("::ffff:0:0/96"))


class Options(BaseModel):
    """Base of all option models: frozen, and strict about unknown keys and about types."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        validate_default=True,
        arbitrary_types_allowed=True,
        hide_input_in_errors=False,
    )


def option(default: Any = ..., *, doc: str, **limits: Any) -> Any:
    """A field with its one-line documentation; `limits` are pydantic's (`ge`, `le`, `min_length`, `pattern` …)."""
    if isinstance(default, (list, dict)):
        return Field(default_factory=lambda: type(default)(default), description=doc, **limits)
    return Field(default, description=doc, **limits)


# `Annotated[str, check(function)]`: a stage's own rule. The function takes the value (and a `ValidationInfo`, whose `data` are
# the options that stand before this one) and raises ValueError. In a list it judges each entry, and each bad one is told.
check = AfterValidator
check_first = BeforeValidator  # the same before the type is looked at: its words stand in place of those for the type


def section(model: type[Options]) -> Any:
    """A nested section that is built from its defaults when it is not given."""
    return Field(default_factory=model)


def model_of(annotation: Any) -> type[Options] | None:
    """The section that a field holds, itself or in a list or a union; None for a plain option."""
    if isinstance(annotation, type) and issubclass(annotation, Options):
        return annotation
    return next((found for inner in get_args(annotation) if (found := model_of(inner)) is not None), None)


def in_units(field: FieldInfo, number: float) -> str:
    """A number as one would write it for this option: with the unit of a duration or a size."""
    written = next((each.func for each in field.metadata if isinstance(each, PlainSerializer)), None)
    return f'"{written(number)}"' if written else str(number)  # type: ignore[call-arg]  # ours take the value only


def among(ip: ipaddress.IPv4Address | ipaddress.IPv6Address, networks: Sequence[IPNetwork]) -> bool:
    """True if one of the networks, of which there mostly are few or none, has this address."""
    return any(ip in network for network in networks)


def covers_everybody(networks: Sequence[IPNetwork]) -> bool:
    """True if they hold half of the internet or more, of IPv4 or of IPv6, in one piece or in several.

    Nobody owns so much; and of ::/0 only 2000::/3 is in use, so whoever writes that means everybody as well.
    """
    v4 = ipaddress.collapse_addresses(each for each in networks if isinstance(each, ipaddress.IPv4Network))
    v6 = ipaddress.collapse_addresses(each for each in networks if isinstance(each, ipaddress.IPv6Network))
    if sum(each.num_addresses for each in v4) * 2 >= _ALL_V4.num_addresses:
        return True
    shares = [min(each.num_addresses, whole.num_addresses) for each in v6 for whole in _ALL_V6 if each.overlaps(whole)]
    return sum(shares) * 2 >= _ALL_V6[0].num_addresses or any(share == _ALL_V6[1].num_addresses for share in shares)


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
        name = to_ascii(parse_domain(value.encode()))
    except AddressError as err:
        raise ValueError(f"{err}; write a name such as mail.example.org") from err
    if name.startswith("[") or name.rpartition(".")[2].isdigit():  # no top-level domain is a number
        raise ValueError("is an address; write a name such as mail.example.org")
    return name


Duration = Annotated[float, BeforeValidator(_duration), PlainSerializer(format_duration, return_type=str)]
Size = Annotated[int, BeforeValidator(_size), PlainSerializer(format_size, return_type=str)]
# A size, or "auto" (None in the program): the code that reads it finds a size that fits the machine.
AutoSize = Annotated[
    int | None,
    BeforeValidator(_auto_size),
    PlainSerializer(lambda size: "auto" if size is None else format_size(size), return_type=str),
]
Network = Annotated[IPNetwork, BeforeValidator(_network), PlainSerializer(str, return_type=str)]
DomainName = Annotated[str, AfterValidator(_domain_name)]  # not an address
LocalPath = Annotated[Path, Strict(False)]  # written as text
