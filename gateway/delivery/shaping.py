# SPDX-License-Identifier: Apache-2.0
"""How much goes to one destination at a time, and what a dead one may cost the others.

A *site* is a next hop with the shares that wait for it; a *lane* works through them one after another, over one session.

Promises, and the reasons for them:
- A site starts with `START` lanes, wins one with each success up to `concurrency`, and loses one when a session cannot be had.
- A host that takes only so many sessions is found out: while other lanes are at it, a share that got none goes back to
  wait, up to `AGAIN_MAX` times; and for `CAUTION` seconds no more lanes are tried than worked.
- When the last lane that was trying a site finds it down, all that wait there share that outcome: one attempt was made for
  all of them. It counts, so each goes on by its own schedule, and the queue is not walked through at one timeout a message.
- For `REST` seconds after that new shares are deferred at once and uncounted: a dead host is asked about once a second.
  That is shorter than any sensible retry interval, so a schedule is never held up by a site that has come back.
- Where a share has waited for `WAIT_MAX`, all that wait are deferred (uncounted): a job must not be held until the queue
  takes it for forgotten.
- A site that has moved nothing for `STUCK` seconds gives up its waiting shares when their room is needed (uncounted).

Pure bookkeeping: no tasks, no network. Not here: the lanes (`worker.py`).
RFCs: 5321 §4.5.4.1 (a host's state is apart from the retry of a message).
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from gateway.mail import reply
from gateway.mail.job import Deferred, Delivered, Job, NextHop, Outcome
from gateway.mail.value import value
from gateway.ports import Clock

START = 5  # lanes at once to a destination that nothing is known about
REST = 1.0  # seconds
STUCK = 5.0  # seconds
WAIT_MAX = 600.0  # seconds
AGAIN_MAX = 3
CAUTION = 60.0  # seconds
SITES_MAX = 10_000  # remembered; quiet ones are forgotten beyond
_DOWN = frozenset({reply.HOST_UNREACHABLE.status, reply.DNS_FAILED.status})


@dataclass(slots=True)
class Ticket:
    """A claimed job until each of its shares is settled or given back."""

    job: Job
    shares: int
    unfinished: bool = False  # something was not tried: the job must be released


@value(frozen=True, slots=True)
class Share:
    """The recipients of one job that take the same next hop, as a job of their own."""

    job: Job
    hop: NextHop
    ticket: Ticket
    since: float = 0.0  # monotonic time at which it began to wait
    again: int = 0  # how often it has been put back


@value(frozen=True, slots=True)
class Advice:
    """What an attempt means beyond its own outcomes."""

    again: bool = False  # put the share back instead of settling it
    fate: Deferred | None = None  # what all that wait there share


@dataclass(slots=True, eq=False)
class Site:
    """One destination. `active` are its lanes, `limit` how many it may have now."""

    hop: NextHop
    limit: int
    moved: float  # monotonic time at which something was last done here
    waiting: deque[Share] = field(default_factory=deque)
    active: int = 0
    worked: float = float("-inf")  # when a host last did anything for us
    cap: int = 0  # no more lanes than this
    cap_until: float = float("-inf")  # … for so long
    rest_until: float = float("-inf")
    why: Deferred | None = None  # how it was found down

    @property
    def wants_lane(self) -> bool:
        return bool(self.waiting) and self.active < self.limit

    @property
    def quiet(self) -> bool:
        return not self.waiting and not self.active


def found_down(outcomes: Sequence[Outcome]) -> Deferred | None:
    """The outcome that says that no session could be had at all, if all say so: one that a host gave must be settled."""
    down = [outcome for outcome in outcomes if isinstance(outcome, Deferred) and _is_down(outcome)]
    return down[0] if down and len(down) == len(outcomes) else None


def _is_down(outcome: Deferred) -> bool:
    return not outcome.remote and not outcome.ambiguous and outcome.reply.status in _DOWN


def turned_away(outcomes: Sequence[Outcome]) -> bool:
    """True if the host closed the session on us (421) before it took anybody."""
    return bool(outcomes) and all(
        isinstance(outcome, Deferred) and outcome.remote and outcome.reply.code == 421 for outcome in outcomes
    )


class Shaping:
    """All sites. `concurrency` may be changed at any time."""

    def __init__(self, concurrency: int, clock: Clock) -> None:
        self.concurrency = concurrency
        self._clock = clock
        self._sites: dict[str, Site] = {}

    def __iter__(self) -> Iterator[Site]:
        return iter(self._sites.values())

    def site(self, hop: NextHop) -> Site:
        """The site of a hop."""
        key = str(hop)
        site = self._sites.get(key)
        if site is None:
            if len(self._sites) >= SITES_MAX:
                self._sites = {name: known for name, known in self._sites.items() if not known.quiet}
            site = Site(hop, min(START, self.concurrency), self._clock.monotonic())
            self._sites[key] = site
        return site

    def resting(self, site: Site) -> Deferred | None:
        """The outcome for a share that comes while its site rests; None if it may be tried."""
        if site.why is None or self._clock.monotonic() >= site.rest_until:
            return None
        text = f"{reply.HOST_RESTING.text}: {site.why.reply.text}"
        return Deferred(reply=reply.HOST_RESTING.but(text), hop=site.why.hop, counted=False)

    def add(self, share: Share, site: Site) -> None:
        """A share waits for a lane."""
        if site.quiet:
            site.moved = self._clock.monotonic()
        site.waiting.append(share)

    def report(self, site: Site, share: Share, started: float, outcomes: Sequence[Outcome]) -> Advice:
        """An attempt that began at `started` is over; its lane still counts as active."""
        now = site.moved = self._clock.monotonic()
        down = found_down(outcomes)
        if down is None and not turned_away(outcomes):
            if any(outcome.remote or isinstance(outcome, Delivered) for outcome in outcomes):
                site.worked = now
                site.why = None
                site.limit = min(site.limit + 1, site.cap if now < site.cap_until else self.concurrency)
            return Advice()
        others = site.active - 1
        site.limit = max(1, others)
        if others:
            if now - site.worked < CAUTION:
                site.cap, site.cap_until = others, now + CAUTION
            return Advice(again=share.again < AGAIN_MAX)
        if site.worked >= started or down is None:
            return Advice()
        site.rest_until = now + REST
        site.why = down
        return Advice(fate=replace(down, seconds=0.0))

    def overdue(self) -> list[Site]:
        """Sites whose oldest share has waited for too long."""
        end = self._clock.monotonic() - WAIT_MAX
        return [site for site in self._sites.values() if site.waiting and site.waiting[0].since < end]

    def stuck(self) -> list[Site]:
        """Sites with waiting shares in which nothing has moved for long."""
        end = self._clock.monotonic() - STUCK
        return [site for site in self._sites.values() if site.waiting and site.moved < end]
