# SPDX-License-Identifier: Apache-2.0
"""Targets and patterns of routes: what is taken, and what is said about what is not."""

import pytest

from gateway.delivery.options import DeliveryOptions, RouteOptions, parse_target
from gateway.mail.hostport import split_host_port


@pytest.mark.parametrize(
    ("text", "kind", "target"),
    [
        ("smtp://127.0.0.1:2626", "smtp", "127.0.0.1:2626"),
        ("smtp://relay.example", "smtp", "relay.example:25"),
        ("smtp://relay.example/", "smtp", "relay.example:25"),
        ("SMTP://Relay.Example:587", "smtp", "relay.example:587"),
        ("smtp://[2001:DB8::1]", "smtp", "[2001:db8::1]:25"),
        ("smtp://[::1]:2525", "smtp", "[::1]:2525"),
        ("smtp://bücher.example", "smtp", "xn--bcher-kva.example:25"),
        ("maildir:/var/mail/archive", "maildir", "/var/mail/archive"),
        ("maildir:///var/mail/archive", "maildir", "/var/mail/archive"),
        ("discard:", "discard", ""),
        ("mx:", "mx", ""),
        ("mx:Other.Example", "mx", "other.example"),
    ],
)
def test_a_target_is_read(text: str, kind: str, target: str) -> None:
    hop = parse_target(text)
    assert (hop.kind, hop.target) == (kind, target)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("relay.example", "no scheme"),
        ("ftp://relay.example", "unknown scheme 'ftp'"),
        ("smtps://relay.example", "not supported yet"),
        ("lmtp://127.0.0.1:24", "not supported yet"),
        ("https://api.example/mail", "not supported yet"),
        ("smtp:relay.example", "two slashes"),
        ("smtp://", "host is missing"),
        ("smtp://:25", "host is missing"),
        ("smtp://relay.example:0", "port '0'"),
        ("smtp://relay.example:65536", "port '65536'"),
        ("smtp://relay.example:smtp", "port 'smtp'"),
        ("smtp://relay.example:", "port ''"),
        ("smtp://2001:db8::1", "brackets"),
        ("smtp://[2001:db8::zz]:25", "not an IPv6 address"),
        ("smtp://192.0.2.256", "not an IPv4 address"),
        ("smtp://user@relay.example", "user name"),
        ("smtp://relay.example/path", "nothing may follow"),
        ("smtp://relay example", "not a domain name"),
        ("smtp://relay.example\r\nQUIT", "port|domain name"),
        ("maildir:relative/path", "absolute"),
        ("maildir://host/path", "absolute"),
        ("maildir:/var/../etc", '".."'),
        ("discard:all", "nothing may follow"),
        ("mx:not a name", "not a domain name"),
    ],
)
def test_a_bad_target_is_named(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_target(text)
    with pytest.raises(ValueError, match="to"):
        RouteOptions(domains=["dest.example"], to=text)


@pytest.mark.parametrize("pattern", ["*.dest.example", "a b", "", ".", "dest..example", "@dest.example"])
def test_a_bad_pattern_is_named(pattern: str) -> None:
    with pytest.raises(ValueError, match="domains"):
        RouteOptions(domains=[pattern], to="discard:")


def test_a_route_needs_a_domain() -> None:
    with pytest.raises(ValueError, match="domains"):
        RouteOptions(domains=[], to="discard:")


def test_timeouts_default_to_what_the_rfc_asks_for() -> None:
    options = DeliveryOptions()
    assert (options.greeting_timeout, options.mail_timeout, options.rcpt_timeout) == (300, 300, 300)
    assert (options.data_timeout, options.block_timeout, options.dot_timeout) == (120, 180, 600)
    assert options.recipients_per_transaction >= 100
    assert options.addresses_per_attempt >= 2


def test_an_attempt_ends_before_the_queue_takes_the_job_for_forgotten() -> None:
    from gateway.delivery.shaping import WAIT_MAX
    from gateway.queue.options import QueueOptions

    assert DeliveryOptions().attempt_timeout + WAIT_MAX < QueueOptions().lease


def test_inside_addresses_are_forbidden_by_default() -> None:
    forbidden = [str(network) for network in DeliveryOptions().forbidden_networks]
    assert {"127.0.0.0/8", "::1/128", "10.0.0.0/8", "fc00::/7", "169.254.0.0/16"} <= set(forbidden)


@pytest.mark.parametrize(
    ("text", "pair"), [("a:1", ("a", 1)), ("a", ("a", 25)), ("[::1]:2", ("[::1]", 2)), ("[::1]", ("[::1]", 25))]
)
def test_host_and_port_are_split(text: str, pair: tuple[str, int]) -> None:
    assert split_host_port(text, 25) == pair
