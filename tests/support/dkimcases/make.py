# SPDX-License-Identifier: Apache-2.0
"""Writes all triples anew: python -m tests.support.dkimcases.make"""

import re
from pathlib import Path

from tests.support.dkimcases import NOW, Case, canon, keys, tags

DATA = Path(__file__).parent.parent.parent / "data" / "dkim"


def all_cases() -> list[Case]:
    return [*canon.cases(), *tags.cases(), *keys.cases()]


def files() -> dict[str, bytes]:
    """The content of every file, by its name."""
    result: dict[str, bytes] = {}
    for number, case in enumerate(all_cases(), 1):
        stem = f"{number:03}-{case.name}"
        result[f"{stem}.eml"] = case.content
        result[f"{stem}.dns"] = _dns(case).encode()
        now = [f"now: {case.now}"] if case.now != NOW else []
        result[f"{stem}.want"] = "".join(f"{text.rstrip()}\n" for text in (f"why: {case.why}", *now, *case.want)).encode()
    return result


def _dns(case: Case) -> str:
    lines = []
    for name, value in case.dns.items():
        for text in value if isinstance(value, list) else [value]:
            lines.append(f"{name} FAIL\n" if text == "FAIL" else f"{name} TXT {text}\n")
    return "".join(lines)


if __name__ == "__main__":
    for old in DATA.iterdir():
        if re.fullmatch(r"\d{3}-.*\.(eml|dns|want)", old.name):
            old.unlink()
    for name, content in files().items():
        (DATA / name).write_bytes(content)
