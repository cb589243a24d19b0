# SPDX-License-Identifier: Apache-2.0
"""Shedding of load: saying "later" while it can still be said in good order.

    reason   what is looked at                       what is refused
    memory   this process in memory, once a second   new connections (421 4.3.2), MAIL (452 4.3.1); beyond the hard mark
                                                     sessions without a transaction as well (421 4.3.2)
    queue    recipients that wait in our queue       MAIL (452 4.3.1)
    disk     what the queue says of its disk         MAIL (452 4.3.1)

Promises: what was taken is delivered meanwhile, and a transaction that began may end; shedding that began at a limit ends
only below nine tenths of it, so the answer does not flap; its begin and end are told once each; a look costs a comparison,
once a second some microseconds more.
RFCs: 5321 §3.8 and §4.2.1 (421 at any time), 3463 §3.4 (4.3.1, 4.3.2).
Not here: how many connections there may be (`edge/admission.py`), when a disk is full (`queue/space.py`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from gateway.infra import memory
from gateway.mail.events import Lifecycle
from gateway.mail.units import format_size
from gateway.ports import Clock, EventSink, Intake

PERIOD = 1.0  # seconds for which a look at the memory holds
RELIEF = 0.9  # of a limit: below that it is over
HARD = 1.25  # times the limit of memory: from there on whoever is idle must go
REASONS = ("memory", "queue", "disk")


@dataclass(frozen=True, slots=True)
class Marks:
    """Where shedding begins: octets of memory, recipients in the queue. 0 is never."""

    memory: int = 0
    queued: int = 0


class Shedding:
    """The pressure on one process. `marks` tells the present limits, which a reload changes."""

    def __init__(
        self,
        marks: Callable[[], Marks],
        intake: Intake,
        clock: Clock,
        events: EventSink,
        *,
        resident: Callable[[], int] = memory.resident,
    ) -> None:
        self.refused: dict[tuple[str, str], int] = {}  # by reason and what was refused: "connection", "mail", "session"
        self._marks = marks
        self._intake = intake
        self._clock = clock
        self._events = events
        self._resident = resident
        self._until = float("-inf")
        self._memory = 0
        self._pressed = dict.fromkeys(REASONS, False)

    # --- asked by sessions

    def refuses_connection(self) -> bool:
        """True if a new connection is to be told 421; it is counted as refused then."""
        self._look()
        return self._pressed["memory"] and self._refuse("memory", "connection")

    def refuses_mail(self) -> str:
        """Why MAIL is to be told 452, and counted as refused; empty if it is not."""
        self._look()
        for reason, pressed in self._pressed.items():
            if pressed:
                self._refuse(reason, "mail")
                return reason
        return ""

    def count_sent_away(self) -> None:
        """A session was told to go for want of memory."""
        self._refuse("memory", "session")

    # --- asked and told by the daemon

    def feel(self, queued: int) -> None:
        """So many recipients wait in our queue now. Also a good moment to look at the rest."""
        mark = self._marks().queued
        self._press("queue", queued, mark, f"{queued} recipients wait, limits.queued is {mark}")
        self._look()

    @property
    def desperate(self) -> bool:
        """True beyond the hard mark: what is not in use has to go."""
        mark = self._marks().memory
        return self._pressed["memory"] and self._memory >= mark * HARD

    def states(self) -> Mapping[str, bool]:
        """Each reason: does it hold now?"""
        return self._pressed

    def reasons(self) -> list[str]:
        """The reasons that hold now, in words for `/readyz`."""
        self._look()
        words = {"memory": "too little memory for new mail", "queue": "too much mail waits", "disk": "no space for new mail"}
        return [words[reason] for reason, pressed in self._pressed.items() if pressed]

    # --- inside

    def _look(self) -> None:
        self._pressed["disk"] = self._intake.pressure()  # the queue has its own pace of looking, and tells the log
        now = self._clock.monotonic()
        if now < self._until:
            return
        self._until = now + PERIOD
        mark = self._marks().memory
        self._memory = self._resident() if mark or self._pressed["memory"] else 0
        self._press("memory", self._memory, mark, f"{format_size(self._memory >> 20 << 20)} of {format_size(mark)} in use")

    def _press(self, reason: str, value: int, mark: int, detail: str) -> None:
        before = self._pressed[reason]
        self._pressed[reason] = pressed = mark > 0 and value >= mark * (RELIEF if before else 1.0)
        if pressed is not before:
            what = "shedding" if pressed else "relieved"
            self._events.emit(Lifecycle(time=self._clock.now(), what=what, detail=f"{reason}: {detail}"))

    def _refuse(self, reason: str, what: str) -> bool:
        self.refused[reason, what] = self.refused.get((reason, what), 0) + 1
        return True
