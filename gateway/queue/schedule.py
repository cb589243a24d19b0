# SPDX-License-Identifier: Apache-2.0
"""When is a recipient due next? Pure arithmetic on the queue's own time.

Promises: the wait after try k is `retry[k-1]` (the last one repeats), varied by 10 % either way so that mail that was
deferred together does not return together; the last try is made at the moment of expiry, not up to four hours after it.
RFCs: 5321 §4.5.4.1 (retries, give-up time).
Not here: where `now` comes from when the wall clock jumps (`steady.py`).
"""

from gateway.queue.options import QueueOptions

JITTER = 0.1
SOON = 60.0  # seconds, at most, until a recipient is due again for which nothing was tried


def next_due(now: float, attempts: int, created: float, options: QueueOptions, random: float) -> float | None:
    """The time of the next try after `attempts` (at least 1) have failed; None if the message has expired.

    `random` is in 0 … 1. A message from the future has age 0.
    """
    wait = options.retry[min(max(attempts, 1), len(options.retry)) - 1]
    return _after(now, wait, created, options, random)


def soon(now: float, created: float, options: QueueOptions, random: float) -> float | None:
    """The time of the next try when this one did not take place (the next hop is resting); None if expired."""
    return _after(now, min(options.retry[0], SOON), created, options, random)


def longest_wait(options: QueueOptions) -> float:
    """No due time is further away than this."""
    return max(options.retry) * (1 + JITTER)


def _after(now: float, wait: float, created: float, options: QueueOptions, random: float) -> float | None:
    expiry = min(created, now) + options.expire
    if now >= expiry:
        return None
    return min(now + wait * (1 - JITTER + 2 * JITTER * random), expiry)
