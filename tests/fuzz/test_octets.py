# SPDX-License-Identifier: Apache-2.0
"""Invariants of the edge under any octets in any pieces, on every kind of listener (`houses.py`) and on both event loops:

no exception goes unhandled, no fault of ours is told or answered; every session ends in a bounded number of steps once its
client has said all, leaves no file, task or count, and is freed; memory does not grow with their number; what is stored
obeys the rules of content and was told to the client; and replies and messages depend on the octets, not on their cuts.

Each seed is held once on each loop, and cut differently there. A failure names its seed and how to hold it again.
"""

import asyncio
import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from gateway.edge import connection
from gateway.edge.incoming import Incoming
from gateway.infra.memory import resident
from tests.fuzz.houses import STORE_FROM, Outcome, Street, Trust
from tests.support.edges import LOOPS

BATCH = 250  # seeds on one loop, then on the other
SHARE = 0.15  # of --fuzz-examples, which are cheaper elsewhere
GROWTH = 4000  # objects that may come to stay, of whatever kind: caches, not sessions


@pytest.fixture(autouse=True)
def _in_good_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing depends on time but this: how long an odd beginning of a line is waited for."""
    monkeypatch.setattr(connection, "PATIENCE", 9 * 3600.0)
    monkeypatch.setattr(Incoming, "STORE_FROM", STORE_FROM)


def batch(loop: str, seeds: range, folder: Path, trust: Trust) -> dict[int, Outcome]:
    """Hold them all; nothing of them may stay."""
    factory: Any = uvloop.new_event_loop if loop == "uvloop" else None
    spool = folder / loop
    spool.mkdir(exist_ok=True)
    with asyncio.Runner(loop_factory=factory) as runner:
        street = Street(runner.get_loop(), spool, trust)

        async def all_of_them() -> dict[int, Outcome]:
            return {seed: await street.hold(seed) for seed in seeds}

        outcomes = runner.run(all_of_them())
        gc.collect()
        assert not list(street.sessions), "sessions stay in memory"
    assert not street.unhandled, street.unhandled
    return outcomes


def batches(count: int) -> Iterator[range]:
    for start in range(0, count, BATCH):
        yield range(start, min(start + BATCH, count))


def hold(count: int, folder: Path) -> list[Outcome]:
    """So many seeds, on either loop; the outcomes on one of them."""
    trust, outcomes = Trust.made(folder), list[Outcome]()
    for seeds in batches(count):
        one, other = (batch(loop, seeds, folder, trust) for loop in LOOPS)
        for seed in seeds:
            if one[seed].replies is not None:
                assert one[seed].replies == other[seed].replies, f"seed {seed}: another cut, other replies"
                assert one[seed].stored == other[seed].stored, f"seed {seed}: another cut, other messages"
        outcomes += one.values()
    return outcomes


def test_any_octets_in_any_pieces(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    outcomes = hold(int(request.config.getoption("--fuzz-examples") * SHARE), tmp_path)
    if len(outcomes) >= 300:  # the seeds reach what they are for
        assert sum(len(outcome.stored) for outcome in outcomes) > len(outcomes) // 20
        codes = {text[:3] for outcome in outcomes for text in outcome.replies or []}
        assert codes >= {"220", "250", "354", "221", "334", "421", "500", "501", "503", "550", "554"}


@pytest.mark.parametrize("loop", LOOPS)
def test_a_real_socket_makes_no_difference(loop: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """The transport in memory is true to the one that it stands for. A reset may take the last replies away."""
    factory: Any = uvloop.new_event_loop if loop == "uvloop" else None
    with asyncio.Runner(loop_factory=factory) as runner:
        street, same = Street(runner.get_loop(), tmp_path, Trust.made(tmp_path)), 0
        for seed in range(request.config.getoption("--fuzz-examples") // 20):
            if (pair := runner.run(street.hold_by_socket(seed))) is not None:
                in_memory, by_socket = pair
                assert by_socket == in_memory[: len(by_socket)], f"seed {seed}"
                same += by_socket == in_memory
        assert same >= 10


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_twenty_thousand_sessions_leave_nothing_behind(tmp_path: Path) -> None:
    hold(1000, tmp_path)
    gc.collect()
    objects, memory = len(gc.get_objects()), resident()
    hold(10_000, tmp_path)
    gc.collect()
    assert len(gc.get_objects()) - objects < GROWTH
    assert resident() - memory < 32 << 20
