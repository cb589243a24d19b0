# SPDX-License-Identifier: Apache-2.0
"""Choosing hosts, rule by rule (RFC 5321 §5.1, RFC 7505)."""

import random
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from gateway.delivery.mx import Host, HostFinder
from gateway.delivery.options import PRIVATE
from gateway.mail import reply
from gateway.mail.job import NextHop
from gateway.mail.reply import MailError, Reply
from tests.support.resolver import MapResolver

Zone = dict[str, Any]


def finder(zone: Zone, **arguments: Any) -> HostFinder:
    arguments.setdefault("forbidden", [ip_network(network) for network in PRIVATE])
    arguments.setdefault("rng", random.Random(1))
    return HostFinder(MapResolver(zone), hostname="mx.ours.example", port=25, **arguments)


async def find(zone: Zone, target: str = "dest.example", kind: str = "mx", **arguments: Any) -> list[Host]:
    return await finder(zone, **arguments).find(NextHop(kind=kind, target=target))


async def names(zone: Zone, **arguments: Any) -> list[str]:
    return [host.name for host in await find(zone, **arguments)]


async def refusal(zone: Zone, target: str = "dest.example", kind: str = "mx", **arguments: Any) -> Reply:
    with pytest.raises(MailError) as caught:
        await find(zone, target, kind, **arguments)
    return caught.value.reply


def hosts(*numbers: int) -> Zone:
    return {f"mx{number}.dest.example": {"A": [f"192.0.2.{number}"]} for number in numbers}


async def test_the_best_preference_goes_first() -> None:
    zone = hosts(1, 2, 3) | {"dest.example": {"MX": ["30 mx3.dest.example", "10 mx1.dest.example", "20 mx2.dest.example"]}}
    assert await names(zone) == ["mx1.dest.example", "mx2.dest.example", "mx3.dest.example"]


async def test_equal_preferences_are_shuffled_and_stay_before_worse_ones() -> None:
    zone = hosts(1, 2, 3, 9) | {
        "dest.example": {"MX": ["10 mx1.dest.example", "10 mx2.dest.example", "10 mx3.dest.example", "20 mx9.dest.example"]}
    }
    orders = {tuple(await names(zone, rng=random.Random(seed))) for seed in range(40)}
    assert len({order[:3] for order in orders}) == 6
    assert {order[3] for order in orders} == {"mx9.dest.example"}


async def test_without_mx_the_domain_is_its_own_host() -> None:
    (host,) = await find({"dest.example": {"A": ["192.0.2.7"]}})
    assert (host.name, str(host.ip), host.port, host.found) == ("dest.example", "192.0.2.7", 25, True)


async def test_a_domain_that_does_not_exist_fails_for_good() -> None:
    assert await refusal({}) is reply.NO_SUCH_DOMAIN


@pytest.mark.parametrize("fault", ["SERVFAIL", "TIMEOUT"])
async def test_a_failed_lookup_is_never_taken_for_no_such_domain(fault: str) -> None:
    assert await refusal({"dest.example": fault}) is reply.DNS_FAILED


async def test_a_failed_mx_lookup_does_not_fall_back_to_the_address() -> None:
    assert await refusal({"dest.example": {"MX": "SERVFAIL", "A": ["192.0.2.7"]}}) is reply.DNS_FAILED


async def test_null_mx_refuses_all_mail() -> None:
    given = await refusal({"dest.example": {"MX": ["0 ."], "A": ["192.0.2.7"]}})
    assert (given.code, given.enhanced) == (556, "5.1.10")


async def test_a_null_mx_among_others_is_not_one() -> None:
    zone = hosts(1) | {"dest.example": {"MX": ["0 .", "10 mx1.dest.example"]}}
    assert await names(zone) == ["mx1.dest.example"]


async def test_mx_without_any_address_does_not_fall_back_to_the_domain() -> None:
    zone = {"dest.example": {"MX": ["10 gone.dest.example"], "A": ["192.0.2.7"]}}
    given = await refusal(zone)
    assert given is reply.NO_USABLE_MX
    assert given.permanent


async def test_a_host_whose_lookup_fails_is_skipped_while_another_works() -> None:
    zone = hosts(2) | {"dest.example": {"MX": ["10 mx1.dest.example", "20 mx2.dest.example"]}, "mx1.dest.example": "SERVFAIL"}
    assert await names(zone) == ["mx2.dest.example"]


async def test_if_the_only_usable_host_cannot_be_looked_up_mail_waits() -> None:
    zone = {"dest.example": {"MX": ["10 mx1.dest.example", "20 none.dest.example"]}, "mx1.dest.example": "TIMEOUT"}
    assert await refusal(zone) is reply.DNS_FAILED


async def test_one_family_may_fail_if_the_other_answers() -> None:
    zone = {"dest.example": {"MX": ["10 mx.dest.example"]}, "mx.dest.example": {"AAAA": "TIMEOUT", "A": ["192.0.2.1"]}}
    assert [str(host.ip) for host in await find(zone)] == ["192.0.2.1"]


async def test_families_take_turns() -> None:
    zone = {
        "dest.example": {"MX": ["10 mx.dest.example"]},
        "mx.dest.example": {"A": ["192.0.2.1", "192.0.2.2"], "AAAA": ["2001:db8::1", "2001:db8::2"]},
    }
    assert [host.ip.version for host in await find(zone)] == [6, 4, 6, 4]


async def test_only_ipv6_is_enough() -> None:
    zone = {"dest.example": {"MX": ["10 mx.dest.example"]}, "mx.dest.example": {"AAAA": ["2001:db8::1"]}}
    (host,) = await find(zone)
    assert str(host) == "mx.dest.example[2001:db8::1]:25"


async def test_addresses_are_capped_and_one_host_does_not_take_them_all() -> None:
    zone = {
        "dest.example": {"MX": ["10 many.dest.example", "20 mx2.dest.example"]},
        "many.dest.example": {"A": [f"192.0.2.{number}" for number in range(100, 150)]},
    } | hosts(2)
    found = await find(zone)
    assert len(found) == 5
    assert found[-1].name == "mx2.dest.example"


async def test_a_hundred_mx_records_are_not_all_asked() -> None:
    zone = hosts(*range(1, 100)) | {"dest.example": {"MX": [f"{number} mx{number}.dest.example" for number in range(1, 100)]}}
    resolver = MapResolver(zone)
    found = await HostFinder(resolver, hostname="mx.ours.example", port=25).find(NextHop(kind="mx", target="dest.example"))
    assert len(found) == 5
    assert len(resolver.questions) < 20


async def test_one_address_under_two_names_is_tried_once() -> None:
    zone = {
        "dest.example": {"MX": ["10 a.dest.example", "20 b.dest.example"]},
        "a.dest.example": {"A": ["192.0.2.1"]},
        "b.dest.example": {"A": ["192.0.2.1"]},
    }
    assert len(await find(zone)) == 1


async def test_our_own_name_cuts_itself_and_all_that_is_no_better() -> None:
    zone = hosts(1, 2, 3) | {
        "dest.example": {"MX": ["10 mx1.dest.example", "20 mx.ours.example", "20 mx2.dest.example", "30 mx3.dest.example"]},
        "mx.ours.example": {"A": ["192.0.2.200"]},
    }
    assert await names(zone) == ["mx1.dest.example"]


async def test_our_own_address_cuts_like_our_name() -> None:
    zone = hosts(1, 2) | {
        "dest.example": {"MX": ["10 mx1.dest.example", "20 alias.example", "30 mx2.dest.example"]},
        "alias.example": {"A": ["192.0.2.200"]},
    }
    assert await names(zone, own={ip_address("192.0.2.200")}) == ["mx1.dest.example"]


async def test_if_we_are_the_best_host_mail_loops_and_fails() -> None:
    zone = hosts(1) | {"dest.example": {"MX": ["10 mx.ours.example", "20 mx1.dest.example"]}}
    given = await refusal(zone)
    assert (given.code, given.enhanced) == (554, "5.4.6")


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.1.2.3", "192.168.0.1", "169.254.169.254", "172.31.0.1", "0.0.0.0", "224.0.0.1"],
)
async def test_mx_data_cannot_send_us_inside(address: str) -> None:
    assert (
        await refusal({"dest.example": {"MX": ["10 mx.dest.example"]}, "mx.dest.example": {"A": [address]}})
        is reply.FORBIDDEN_HOST
    )


@pytest.mark.parametrize("address", ["::1", "fe80::1", "fd00::1", "::", "::ffff:127.0.0.1", "::ffff:10.0.0.1"])
async def test_nor_can_ipv6(address: str) -> None:
    zone = {"dest.example": {"MX": ["10 mx.dest.example"]}, "mx.dest.example": {"AAAA": [address]}}
    assert await refusal(zone) is reply.FORBIDDEN_HOST


async def test_the_implicit_mx_is_held_to_the_same() -> None:
    assert await refusal({"dest.example": {"A": ["127.0.0.1"]}}) is reply.FORBIDDEN_HOST


async def test_a_forbidden_address_beside_a_good_one_is_skipped() -> None:
    zone = {"dest.example": {"MX": ["10 mx.dest.example"]}, "mx.dest.example": {"A": ["127.0.0.1", "192.0.2.1"]}}
    assert [str(host.ip) for host in await find(zone)] == ["192.0.2.1"]


async def test_without_forbidden_networks_loopback_may_be_used() -> None:
    assert len(await find({"dest.example": {"A": ["127.0.0.1"]}}, forbidden=[])) == 1


async def test_this_machine_by_the_unspecified_address_is_forbidden_even_then() -> None:
    assert await refusal({"dest.example": {"A": ["0.0.0.0"]}}, forbidden=[]) is reply.FORBIDDEN_HOST


@pytest.mark.parametrize("host", ["192.0.2.1", "[192.0.2.1]", "mx host.example", "mx\x00.example", "a" * 300])
async def test_an_mx_that_is_no_host_name_has_no_address(host: str) -> None:
    class Odd(MapResolver):
        async def mx(self, domain: str) -> Any:
            from gateway.ports import MX, Answer

            return Answer((MX(10, host),))

    odd = Odd({host: {"A": ["192.0.2.1"]}})
    with pytest.raises(MailError) as caught:
        await HostFinder(odd, hostname="mx.ours.example", port=25).find(NextHop(kind="mx", target="dest.example"))
    assert caught.value.reply is reply.NO_USABLE_MX


@pytest.mark.parametrize(("literal", "ip"), [("[192.0.2.1]", "192.0.2.1"), ("[IPv6:2001:db8::1]", "2001:db8::1")])
async def test_an_address_literal_is_its_own_host(literal: str, ip: str) -> None:
    (host,) = await find({}, literal)
    assert (str(host.ip), host.found) == (ip, True)


@pytest.mark.parametrize("literal", ["[127.0.0.1]", "[10.0.0.1]", "[IPv6:::1]", "[IPv6:::ffff:127.0.0.1]", "[0.0.0.0]"])
async def test_a_literal_cannot_send_us_inside_either(literal: str) -> None:
    assert await refusal({}, literal) is reply.FORBIDDEN_HOST


async def test_a_literal_of_ours_is_a_loop() -> None:
    assert await refusal({}, "[192.0.2.9]", own={ip_address("192.0.2.9")}) is reply.MX_LOOP


# --- routes


async def test_a_route_to_an_address_asks_no_dns_and_may_go_anywhere() -> None:
    resolver = MapResolver({})
    found = await HostFinder(resolver, hostname="mx.ours.example", port=25, forbidden=[ip_network("127.0.0.0/8")]).find(
        NextHop(kind="smtp", target="127.0.0.1:2626")
    )
    assert [(str(host.ip), host.port, host.found) for host in found] == [("127.0.0.1", 2626, False)]
    assert not resolver.questions


async def test_a_route_to_an_ipv6_address() -> None:
    (host,) = await find({}, "[::1]:2626", "smtp")
    assert (str(host.ip), host.port) == ("::1", 2626)


async def test_a_route_to_a_name_looks_up_addresses_and_no_mx() -> None:
    zone = {"relay.example": {"A": ["10.0.0.5"], "MX": ["10 wrong.example"]}}
    (host,) = await find(zone, "relay.example:587", "smtp")
    assert (str(host.ip), host.port, host.name) == ("10.0.0.5", 587, "relay.example")


async def test_localhost_needs_no_dns() -> None:
    assert {str(host.ip) for host in await find({}, "localhost:2626", "smtp")} == {"127.0.0.1", "::1"}


@pytest.mark.parametrize("zone", [{}, {"relay.example": "SERVFAIL"}, {"relay.example": {"TXT": ["x"]}}])
async def test_a_route_host_without_address_is_our_mistake_and_mail_waits(zone: Zone) -> None:
    assert await refusal(zone, "relay.example:25", "smtp") is reply.DNS_FAILED


# --- IPv4 within IPv6

INSIDE = ["::ffff:10.0.0.1", "64:ff9b::10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "2002:a00:1:2::3", "2002:c0a8:1::1"]


@pytest.mark.parametrize("address", [*INSIDE, "ff02::1", "64:ff9b::224.0.0.1", "2002:e000:1::"])
async def test_a_forbidden_ipv4_address_within_an_ipv6_one_is_forbidden_too(address: str) -> None:
    """NAT64 and 6to4 would carry it there."""
    zone = {"dest.example": {"MX": ["10 mx.dest.example"]}, "mx.dest.example": {"AAAA": [address]}}
    assert await refusal(zone) is reply.FORBIDDEN_HOST
    assert await refusal({}, f"[IPv6:{address}]") is reply.FORBIDDEN_HOST


@pytest.mark.parametrize("address", ["64:ff9b::192.0.2.1", "2002:c000:201::1", "64:ff9a::10.0.0.1", "2003:7f00:1::"])
async def test_other_addresses_of_these_kinds_may_be_used(address: str) -> None:
    (host,) = await find({"dest.example": {"AAAA": [address]}})
    assert host.ip == ip_address(address)


@pytest.mark.parametrize("address", ["0.0.0.1", "0.255.255.255", "224.0.0.1", "239.1.2.3"])
async def test_addresses_that_no_host_has_are_refused_whatever_the_configuration_says(address: str) -> None:
    assert await refusal({"dest.example": {"A": [address]}}, forbidden=[]) is reply.FORBIDDEN_HOST


@pytest.mark.parametrize("address", ["::", "ff02::1", "::ffff:0.0.0.1", "64:ff9b::0.0.0.1", "2002::1"])
async def test_nor_as_ipv6(address: str) -> None:
    assert await refusal({"dest.example": {"AAAA": [address]}}, forbidden=[]) is reply.FORBIDDEN_HOST


@pytest.mark.parametrize("authentic", [True, False])
async def test_a_name_is_sure_if_dnssec_or_the_configuration_says_it(authentic: bool) -> None:
    """RFC 8689 §4.2.1: what REQUIRETLS builds on."""
    zone = hosts(1) | {"dest.example": {"MX": ["10 mx1.dest.example"]}, "alone.example": {"A": ["192.0.2.7"]}}
    resolver = MapResolver(zone, authentic=authentic)
    found = HostFinder(resolver, hostname="mx.ours.example", port=25)
    for target in ("dest.example", "alone.example"):
        assert [host.sure for host in await found.find(NextHop(kind="mx", target=target))] == [authentic]
    assert (await found.find(NextHop(kind="smtp", target="mx1.dest.example:25")))[0].sure
    assert (await found.find(NextHop(kind="mx", target="[192.0.2.7]")))[0].sure
