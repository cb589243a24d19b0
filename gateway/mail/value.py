# SPDX-License-Identifier: Apache-2.0
"""`value`: a dataclass for the values that are made by the dozen for each message.

To the type checker it is `dataclass`, and a value declared `frozen=True` cannot be assigned to. The interpreter is told
everything but that: a frozen dataclass sets each field through `object.__setattr__` and costs three to four times as much
to make, for a guard against what mypy --strict has refused already.

Promises: equality, hash, slots and `dataclasses.replace` as of a frozen dataclass.
Not here: values made once a connection or a start, which are plain frozen dataclasses. The two do not inherit from each other.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dataclasses import dataclass as value
else:
    from dataclasses import dataclass

    def value(*, frozen: bool, **options: bool):
        """`dataclass(frozen=True, …)`, frozen by the type checker only."""
        return dataclass(unsafe_hash=frozen, **options)


__all__ = ["value"]
