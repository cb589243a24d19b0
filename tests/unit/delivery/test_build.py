# SPDX-License-Identifier: Apache-2.0
"""The table of transports, and which addresses count as our own."""

from gateway.delivery.build import _own, transports
from gateway.delivery.options import DeliveryOptions
from tests.support.clock import FakeClock
from tests.support.fakes import Events
from tests.support.resolver import MapResolver


def test_each_kind_has_a_transport() -> None:
    built = transports(DeliveryOptions(), MapResolver(), hostname="mx.example", clock=FakeClock(), events=Events())
    assert set(built) == {"smtp", "mx", "maildir", "discard"}
    assert built["smtp"] is built["mx"]  # one pool, one limit


def test_only_listeners_on_the_port_of_mx_hosts_make_an_address_ours() -> None:
    listening = ["192.0.2.1:25", "192.0.2.2:2525", "[2001:db8::1]:25", "0.0.0.0:25", "[::]:25", "unix:/run/x", "systemd:smtp"]
    assert {str(ip) for ip in _own(listening, 25)} == {"192.0.2.1", "2001:db8::1"}
