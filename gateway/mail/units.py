# SPDX-License-Identifier: Apache-2.0
"""Durations and sizes as people write them: "30s", "5m", "2h", "5d"; "64KiB", "25MiB".

Promises: `format_*` gives back text that `parse_*` reads to the same number.
Fails with: `ValueError` whose text says what is allowed.
Not here: the option types that use them (`infra/options.py`).
"""

import re

SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
OCTETS = {"": 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40, "KB": 10**3, "MB": 10**6, "GB": 10**9}

_DURATION = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,6})?)(ms|s|m|h|d|w)")
_SIZE = re.compile(r"([0-9]{1,15}) ?(|B|KiB|MiB|GiB|TiB|KB|MB|GB)")


def parse_duration(text: str) -> float:
    """Seconds from "30s", "5m", "2h", "5d", or a sum of them such as "1h30m"."""
    position, total = 0, 0.0
    while found := _DURATION.match(text, position):
        total += float(found[1]) * SECONDS[found[2]]
        position = found.end()
    if not text or position != len(text):
        raise ValueError(f'{text!r} is not a duration: write a number and ms, s, m, h, d or w, such as "30s" or "1h30m"')
    return total


def format_duration(seconds: float) -> str:
    """The shortest exact text for a duration."""
    if seconds == 0:
        return "0s"
    for unit in ("w", "d", "h", "m", "s"):
        if seconds >= SECONDS[unit] and seconds % SECONDS[unit] == 0:
            return f"{int(seconds // SECONDS[unit])}{unit}"
    number, unit = (seconds, "s") if seconds >= 1 else (seconds * 1000, "ms")
    return f"{number:.6f}".rstrip("0").rstrip(".") + unit


def parse_size(text: str) -> int:
    """Octets from "64KiB", "25MiB", "1GiB" (1024-based) or "64KB", "25MB" (1000-based)."""
    found = _SIZE.fullmatch(text)
    if not found:
        raise ValueError(f'{text!r} is not a size: write a whole number and KiB, MiB or GiB, such as "25MiB"')
    return int(found[1]) * OCTETS[found[2]]


def format_size(octets: int) -> str:
    """The shortest exact text for a size."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if octets and octets % OCTETS[unit] == 0:
            return f"{octets // OCTETS[unit]}{unit}"
    return f"{octets}B"
