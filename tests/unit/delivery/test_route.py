# SPDX-License-Identifier: Apache-2.0
"""Routing: the first match wins, and domains are compared in one form."""

import pytest

from gateway.delivery import route
from gateway.delivery.options import RouteOptions
from gateway.delivery.route import Router, all_take_binary
from gateway.mail.address import Address, parse_mailbox

ROUTES = [
    RouteOptions(domains=["dest.example", "Other.Example"], to="smtp://127.0.0.1:2626"),
    RouteOptions(domains=[".dest.example"], to="smtp://sub.example"),
    RouteOptions(domains=["bücher.example"], to="maildir:/var/mail/books"),
    RouteOptions(domains=["own.example"], to="mx:"),
    RouteOptions(domains=["alias.example"], to="mx:real.example"),
]


def hop(text: str, *routes: RouteOptions) -> str:
    return str(Router(routes or ROUTES).route(parse_mailbox(text.encode())))


@pytest.mark.parametrize(
    ("recipient", "expected"),
    [
        ("a@dest.example", "smtp:127.0.0.1:2626"),
        ("a@DEST.example", "smtp:127.0.0.1:2626"),
        ("a@other.example", "smtp:127.0.0.1:2626"),
        ("a@x.dest.example", "smtp:sub.example:25"),
        ("a@x.y.dest.example", "smtp:sub.example:25"),
        ("a@xdest.example", "mx:xdest.example"),
        ("a@bücher.example", "maildir:/var/mail/books"),
        ("a@xn--bcher-kva.example", "maildir:/var/mail/books"),
        ("a@own.example", "mx:own.example"),
        ("a@alias.example", "mx:real.example"),
        ("a@elsewhere.example", "mx:elsewhere.example"),
        ("a@[192.0.2.1]", "mx:[192.0.2.1]"),
    ],
)
def test_a_recipient_finds_its_hop(recipient: str, expected: str) -> None:
    assert hop(recipient) == expected


def test_the_first_match_wins() -> None:
    everything = RouteOptions(domains=["*"], to="discard:")
    special = RouteOptions(domains=["dest.example"], to="smtp://special.example")
    assert hop("a@dest.example", everything, special) == "discard:"
    assert hop("a@dest.example", special, everything) == "smtp:special.example:25"


def test_the_wildcard_takes_address_literals_too() -> None:
    assert hop("a@[192.0.2.1]", RouteOptions(domains=["*"], to="smtp://smart.example")) == "smtp:smart.example:25"


def test_bare_postmaster_is_ours() -> None:
    router = Router([RouteOptions(domains=["mx.example"], to="maildir:/var/mail/postmaster")], hostname="mx.example")
    assert str(router.route(Address("postmaster", ""))) == "maildir:/var/mail/postmaster"


def test_the_memory_of_domains_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(route, "REMEMBERED", 10)
    router = Router([])
    for number in range(100):
        assert str(router.route(Address("a", f"d{number}.example"))) == f"mx:d{number}.example"
    assert len(router._known) <= 10


@pytest.mark.parametrize(
    ("routes", "expected"),
    [
        ([], False),  # the rest goes by MX
        ([("dest.example", "maildir:/var/mail/x", False)], False),
        ([("*", "maildir:/var/mail/x", False)], True),
        ([("*", "discard:", False)], True),
        ([("*", "smtp://smart.example", False)], False),
        ([("*", "smtp://smart.example", True)], True),
        ([("*", "mx:", True)], False),
        ([("dest.example", "smtp://old.example", False), ("*", "discard:", False)], False),
        ([("dest.example", "smtp://new.example", True), ("*", "maildir:/var/mail/x", False)], True),
        ([("*", "discard:", False), ("dest.example", "smtp://old.example", False)], True),  # never reached
    ],
)
def test_binary_content_is_taken_only_if_everybody_behind_us_takes_it(
    routes: list[tuple[str, str, bool]], expected: bool
) -> None:
    """RFC 3030 §3: what was taken with BINARYMIME cannot be given to a host without it."""
    assert all_take_binary([RouteOptions(domains=[domain], to=to, binary=binary) for domain, to, binary in routes]) is expected
