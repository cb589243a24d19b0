# SPDX-License-Identifier: Apache-2.0
"""Guessing: who is locked out, where, and for how long; and who is not."""

from ipaddress import ip_address

import pytest

from gateway.edge.lockout import SHARE, Lockout
from gateway.edge.options import SubmissionOptions

RULE = SubmissionOptions(lockout_failures=3, lockout_period="10m", lockout_time="15m")
HERE, ELSEWHERE = ip_address("192.0.2.1"), ip_address("198.51.100.1")


def fail(lockout: Lockout, name: str = "ann", ip: str = "192.0.2.1", *, now: float = 0.0, times: int = 1) -> int:
    """How many tries were let through."""
    return sum(lockout.enter(name, ip_address(ip), now, RULE) for _ in range(times))


def test_so_many_tries_and_no_more() -> None:
    lockout = Lockout()
    assert fail(lockout, times=100) == 3


def test_the_lock_ends_by_itself_however_often_one_knocks() -> None:
    lockout = Lockout()
    fail(lockout, times=3)
    for minute in range(15):
        assert not fail(lockout, now=60.0 * minute)
    assert fail(lockout, now=900, times=10) == 3, "and everything begins anew"


def test_failures_far_apart_do_not_add_up() -> None:
    lockout = Lockout()
    assert sum(fail(lockout, now=301.0 * at) for at in range(50)) == 50


def test_nobody_elsewhere_is_locked_out() -> None:
    """The owner of the name is not at the guesser's address."""
    lockout = Lockout()
    fail(lockout, times=100)
    assert fail(lockout, ip="198.51.100.1") == 1


def test_another_name_from_the_same_address_is_let_through_until_the_address_has_failed_too_often() -> None:
    lockout = Lockout()
    fail(lockout, times=3)
    assert sum(fail(lockout, f"user{at}") for at in range(1000)) == 3 * SHARE - 3
    assert fail(lockout, "bob", ip="198.51.100.1") == 1


def test_an_ipv6_network_is_one_address() -> None:
    lockout = Lockout()
    assert sum(fail(lockout, ip=f"2001:db8::{at:x}") for at in range(100)) == 3
    assert fail(lockout, ip="2001:db8:0:1::1") == 1


def test_a_success_forgets_the_failures_of_its_name_only() -> None:
    lockout = Lockout()
    for at in range(3 * SHARE - 1):
        lockout.enter(f"user{at}", HERE, 0.0, RULE)
    for _ in range(50):  # who knows one password
        assert lockout.enter("ann", HERE, 0.0, RULE)
        lockout.succeeded("ann", HERE)
    assert lockout.enter("last", HERE, 0.0, RULE)
    assert not lockout.enter("ann", HERE, 0.0, RULE), "guesses at other names stay counted"


def test_the_last_try_may_be_the_right_one() -> None:
    lockout = Lockout()
    fail(lockout, times=3)
    lockout.succeeded("ann", HERE)
    assert fail(lockout, times=10) == 3


def test_what_could_not_be_judged_does_not_count() -> None:
    lockout = Lockout()
    for _ in range(100):
        assert lockout.enter("ann", HERE, 0.0, RULE)
        lockout.not_judged("ann", HERE)
    assert len(lockout) == 0


def test_a_million_names_take_bounded_memory() -> None:
    lockout = Lockout(entries=100)
    for at in range(5000):
        lockout.enter("x" * 1000 + str(at), ip_address(at << 64 | 1 << 127), 0.0, RULE)
    assert len(lockout) == 100
    lockout.succeeded("forgotten", HERE)
    lockout.not_judged("forgotten", HERE)


@pytest.mark.parametrize("times", [1000])
def test_zero_is_never(times: int) -> None:
    lockout = Lockout()
    rule = SubmissionOptions(lockout_failures=0)
    assert all(lockout.enter("ann", HERE, 0.0, rule) for _ in range(times))
    assert len(lockout) == 0
