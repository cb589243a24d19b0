# SPDX-License-Identifier: Apache-2.0
"""The caps on connections, kept by one process and by several together."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from gateway.edge.admission import Admission
from gateway.edge.options import LimitsOptions
from gateway.infra.tally import Tally, make_memory

LIMITS = LimitsOptions(connections=6, connections_per_client=4)
ANN, BOB = ip_address("192.0.2.1"), ip_address("192.0.2.2")


@pytest.fixture
def memory() -> Iterator[int]:
    descriptor = make_memory(2)
    yield descriptor
    os.close(descriptor)


@pytest.fixture
def doors(memory: int) -> list[Admission]:
    """Those of two workers."""
    return [Admission(Tally(memory, 2, row)) for row in range(2)]


def test_one_client_has_its_share_over_all_workers(doors: list[Admission]) -> None:
    assert [doors[at % 2].enter(ANN, LIMITS, trusted=False) for at in range(6)] == [True] * 4 + [False] * 2
    assert doors[1].enter(BOB, LIMITS, trusted=False)
    doors[0].leave(ANN)
    assert doors[1].enter(ANN, LIMITS, trusted=False)
    assert not doors[0].enter(ANN, LIMITS, trusted=False)


def test_all_workers_together_have_the_whole(doors: list[Admission]) -> None:
    clients = [ip_address(f"198.51.100.{number}") for number in range(8)]
    assert [doors[at % 2].enter(ip, LIMITS, trusted=False) for at, ip in enumerate(clients)] == [True] * 6 + [False] * 2
    assert not doors[0].enter(ANN, LIMITS, trusted=True), "the whole is for trusted ones too"
    doors[1].leave(clients[1])
    assert doors[0].enter(ANN, LIMITS, trusted=True)


def test_what_was_refused_is_not_counted(doors: list[Admission]) -> None:
    for _ in range(20):
        doors[0].enter(ANN, LIMITS, trusted=False)
    assert doors[1].enter(BOB, LIMITS, trusted=False)
    assert doors[1].enter(BOB, LIMITS, trusted=False)
    assert not doors[1].enter(BOB, LIMITS, trusted=False), "there are six"


def test_ipv6_clients_are_the_same_64_in_each_worker(doors: list[Admission]) -> None:
    addresses = [ip_address(f"2001:db8::{number}:1") for number in range(5)]
    assert [doors[at % 2].enter(ip, LIMITS, trusted=False) for at, ip in enumerate(addresses)] == [True] * 4 + [False]


def test_a_process_never_takes_more_than_it_has_room_for() -> None:
    door = Admission(room=2)
    free = LimitsOptions(connections=0, connections_per_client=0)
    assert [door.enter(ANN, free, trusted=True) for _ in range(3)] == [True, True, False]
    door.room = 3
    assert door.enter(ANN, free, trusted=True)


@pytest.mark.parametrize("shared", [False, True])
def test_one_that_speaks_for_another_is_counted_as_that_one(memory: int, shared: bool) -> None:
    door = Admission(Tally(memory, 2, 0) if shared else None)
    assert all(door.enter(BOB, LIMITS, trusted=False) for _ in range(4))
    assert door.enter(ANN, LIMITS, trusted=True)
    assert not door.move(ANN, BOB, LIMITS, trusted=False)
    assert door.move(ANN, BOB, LIMITS, trusted=True)
    door.leave(BOB)
    door.leave(BOB)
    assert door.enter(ANN, LIMITS, trusted=False)
    assert door.move(ANN, ip_address("192.0.2.3"), LIMITS, trusted=False)
    for ip in (BOB, BOB, BOB, ip_address("192.0.2.3")):
        door.leave(ip)
    assert not door._clients
    assert not door._total
    assert not Tally(memory, 2, 1).total


def test_two_processes_that_let_in_at_once_never_let_in_too_many(memory: int) -> None:
    """Each counts first and looks then: both may refuse the last place, never both give it away."""
    code = """
import json, sys, time
from ipaddress import ip_address
from gateway.edge.admission import Admission
from gateway.edge.options import LimitsOptions
from gateway.infra.tally import Tally
door = Admission(Tally(int(sys.argv[1]), 2, int(sys.argv[2])))
limits, ip, most = LimitsOptions(connections=0, connections_per_client=100), ip_address("192.0.2.1"), 0
print("ready", flush=True)
sys.stdin.readline()
entered = sum(door.enter(ip, limits, trusted=False) for _ in range(5000))
print(json.dumps(entered), flush=True)
"""
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(memory), str(row)],
            pass_fds=[memory],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for row in range(2)
    ]
    for worker in workers:
        assert worker.stdout
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        assert worker.stdin
        worker.stdin.write("\n")
        worker.stdin.flush()
    entered = [json.loads(worker.communicate(timeout=30)[0]) for worker in workers]
    assert sum(entered) == 100
