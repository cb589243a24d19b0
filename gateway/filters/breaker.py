# SPDX-License-Identifier: Apache-2.0
"""A circuit breaker: a filter that fails again and again is left alone for a while.

Promises: open after `faults` failures in a row; while open nothing runs; after `rest` seconds one run is the probe, and
its outcome closes the breaker or opens it for another rest. Pure: time is an argument.
Not here: what happens to the message meanwhile (`filters/runner.py`).
"""


class Breaker:
    """`faults` in a row open it (at least 1) for `rest` seconds."""

    __slots__ = ("_count", "_faults", "_probing", "_rest", "_until")

    def __init__(self, faults: int, rest: float) -> None:
        self._faults = faults
        self._rest = rest
        self._count = 0
        self._until: float | None = None
        self._probing = False

    @property
    def open(self) -> bool:
        return self._until is not None

    def admits(self, now: float) -> bool:
        """May the filter run? While the breaker is open only the one probe may, once the rest is over."""
        if self._until is None:
            return True
        if self._probing or now < self._until:
            return False
        self._probing = True
        return True

    def succeeded(self) -> None:
        self._count = 0
        self._until = None
        self._probing = False

    def failed(self, now: float) -> bool:
        """Count a fault. True if it opened a closed breaker; a failed probe only lengthens the rest."""
        self._count += 1
        was_open = self.open
        if self._count >= self._faults:  # so it is after a failed probe, which adds to the count
            self._until = now + self._rest
            self._probing = False
        return self.open and not was_open

    def abandoned(self) -> None:
        """The probe was broken off before it had an outcome: the next run is the probe."""
        self._probing = False
