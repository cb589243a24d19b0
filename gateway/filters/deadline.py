# SPDX-License-Identifier: Apache-2.0
"""A deadline that costs nothing to a coroutine which never waits.

`asyncio.timeout` costs 6 µs, as much as most filters, and a coroutine around the coroutine two more; most runs end without
waiting for anything. So who runs one takes its first step by hand (`send(None)`), and only if it then waits comes here,
where the rest of it is put under a timer, in the same task.
Promises: as `asyncio.timeout`: what is left of the coroutine is cancelled at the deadline, cancellation from outside passes.
Fails with: `Late`.
"""

import asyncio
from collections.abc import Coroutine, Generator
from types import coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Late(TimeoutError):
    """The deadline passed; a TimeoutError of the work itself is not this."""


async def within(seconds: float, work: Coroutine[Any, Any, T], waits_for: Any) -> T:
    """The result of `work`, whose first step gave `waits_for`; Late if it is not there in `seconds`.

    A step that does not wait is never cut.
    """
    try:
        async with asyncio.timeout(seconds) as timer:
            return await _resume(work, waits_for)
    except TimeoutError as err:
        if timer.expired():
            raise Late(f"no verdict within {seconds:g} s") from err
        raise


@coroutine
def _resume(work: Coroutine[Any, Any, T], waits_for: Any) -> Generator[Any, Any, T]:
    """What `await work` does after its first step (PEP 380, "Formal Semantics")."""
    while True:
        thrown: BaseException | None = None
        try:
            sent = yield waits_for
        except GeneratorExit:
            work.close()
            raise
        except BaseException as err:  # handed to the coroutine, as `await` does  # noqa: BLE001
            thrown = err
        try:
            waits_for = work.send(sent) if thrown is None else work.throw(thrown)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]
        finally:
            del thrown  # else its traceback, which holds this frame, would keep itself alive
