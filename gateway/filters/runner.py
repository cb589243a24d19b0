# SPDX-License-Identifier: Apache-2.0
"""One run of one filter: deadline, circuit breaker, and what a fault means.

Promises: whatever a filter does (raise, hang, return nonsense, be cancelled from inside), a verdict comes out: its own,
or the one that `on_error` asks for, never a silent acceptance; each fault is told as a `Trouble` event, but those of a
filter at rest only once. Cancellation of the caller passes through.
Not here: order, modes and sums (`filters/chain.py`).
"""

import asyncio
import traceback
from dataclasses import dataclass
from typing import Literal

from gateway.filters.base import OnError
from gateway.filters.bounds import bounded
from gateway.filters.breaker import Breaker
from gateway.filters.deadline import Late, within
from gateway.mail import reply
from gateway.mail.envelope import Transaction
from gateway.mail.events import Trouble
from gateway.mail.units import format_duration
from gateway.mail.verdict import Action, Phase, Symbol, Verdict
from gateway.ports import Clock, EventSink, Filter

DETAIL_MAX = 300  # characters of a fault
RESTING = "at rest after repeated faults"


@dataclass(frozen=True, slots=True)
class BoundFilter:
    """A filter and how it is run. `timeout` is in seconds; `always` marks rules from which postmaster is not exempt."""

    filter: Filter
    mode: Literal["enforce", "shadow"]
    timeout: float
    on_error: OnError
    always: bool = False


class Runner:
    """Runs one filter, over and over. `faults` in a row let it rest for `rest` seconds."""

    def __init__(self, bound: BoundFilter, clock: Clock, events: EventSink, *, faults: int, rest: float) -> None:
        self.name = bound.filter.name
        self.phases = bound.filter.phases
        self.mode = bound.mode
        self.enforced = bound.mode == "enforce"
        self.always = bound.always
        self._check = bound.filter.check
        self._timeout = bound.timeout
        self._clock = clock
        self._events = events
        self._breaker = Breaker(faults, rest)
        self._rests = f"; {faults} faults in a row, now at rest for {format_duration(rest)}"
        self._instead = _verdict_of_fault(self.name, bound.on_error)

    async def run(self, phase: Phase, tx: Transaction, now: float, left: float) -> tuple[Verdict, str]:
        """The verdict, and the fault if there was one. `now` is monotonic; `left` is what the phase has of its time."""
        breaker = self._breaker
        probing = breaker.open
        if not breaker.admits(now):
            return self._instead, RESTING
        limit = min(self._timeout, left)
        try:
            if limit <= 0:
                raise Late("no time left in this phase")
            work = self._check(phase, tx)
            try:
                waits_for = work.send(None)  # see `deadline.py`
            except StopIteration as done:
                verdict = bounded(done.value)
            else:
                verdict = bounded(await within(limit, work, waits_for))
        except asyncio.CancelledError as err:
            breaker.abandoned() if probing else None
            if (task := asyncio.current_task()) is None or task.cancelling():
                raise
            return self._failed(err, tx)  # nobody cancelled us: something inside was cancelled and let it escape
        except Exception as err:  # the border between a filter and everything else  # noqa: BLE001
            if isinstance(err, Late) and limit < self._timeout:
                breaker.abandoned() if probing else None
                return self._starved(err, tx)
            return self._failed(err, tx)
        breaker.succeeded()
        return verdict, ""

    def _failed(self, err: BaseException, tx: Transaction) -> tuple[Verdict, str]:
        """A fault of the filter."""
        fault = _describe(err)
        opened = self._breaker.failed(self._clock.monotonic())
        self._tell(fault + (self._rests if opened else ""), tx)
        return self._instead, fault

    def _starved(self, err: Late, tx: Transaction) -> tuple[Verdict, str]:
        """Other filters have used up the time of the phase; that does not count against this one."""
        self._tell(str(err), tx)
        return self._instead, str(err)

    def _tell(self, detail: str, tx: Transaction) -> None:
        area = f"filter.{self.name}"
        self._events.emit(Trouble(time=self._clock.now(), area=area, detail=detail, id=tx.id, session=tx.client.session))


def _verdict_of_fault(name: str, on_error: OnError) -> Verdict:
    if on_error == "defer":
        return Verdict(Action.DEFER, reply.FILTER_FAULT, rule=f"{name}.fault")
    return Verdict(symbols=(Symbol(f"{name.upper()}_SKIPPED"),), rule=f"{name}.fault")


def _describe(err: BaseException) -> str:
    """One short line: what, and in which line of which file."""
    if isinstance(err, Late):
        return str(err)
    frames = traceback.extract_tb(err.__traceback__, limit=-1)
    place = f" at {frames[0].filename.rpartition('/')[2]}:{frames[0].lineno}" if frames else ""
    return reply.clean(f"{type(err).__name__}: {err}", DETAIL_MAX) + place
