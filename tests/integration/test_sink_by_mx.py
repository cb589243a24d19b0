# SPDX-License-Identifier: Apache-2.0
"""From a domain to its hosts, with a real DNS server and real hosts on loopback addresses."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from gateway.infra.dns import DnsOptions, DnsResolver
from gateway.mail.job import Outcome
from tests.support.delivering import HOSTNAME, delivering
from tests.support.dnsserver import DnsServer
from tests.support.fakework import job
from tests.support.sink import Sink


@asynccontextmanager
async def two_hosts(**first: Any) -> AsyncIterator[tuple[DnsServer, Sink, Sink]]:
    """dest.example has mx1 (preference 10, 127.0.0.1) and mx2 (20, 127.0.0.2), on one port."""
    async with DnsServer() as dns, Sink(**first) as one, Sink(host="127.0.0.2", port=one.port) as two:
        dns.add("dest.example", "MX", "10 mx1.dest.example", "20 mx2.dest.example")
        dns.add("mx1.dest.example", "A", "127.0.0.1")
        dns.add("mx2.dest.example", "A", "127.0.0.2")
        yield dns, one, two


async def deliver(dns: DnsServer, port: int, recipient: str = "bob@dest.example", **options: Any) -> Outcome:
    options.setdefault("forbidden_networks", [])
    resolver = DnsResolver(DnsOptions(nameservers=[dns.address], timeout=0.5, lifetime=1.0))
    try:
        async with delivering({}, resolver=resolver, port=port, **options) as rig:
            await rig.work.put(job(recipient))
            await rig.work.wait(1)
            return rig.outcome()
    finally:
        await resolver.close()


async def test_the_best_host_gets_the_mail() -> None:
    async with two_hosts() as (dns, one, two):
        outcome = await deliver(dns, one.port)
        assert outcome.hop == f"mx1.dest.example[127.0.0.1]:{one.port}"
        assert (len(one.messages), two.connections) == (1, 0)


@pytest.mark.parametrize(
    "behaviour", ["450-at-greeting", "554-at-greeting", "drop-at-connect", "421-at-ehlo", "garbage-at-greeting"]
)
async def test_the_next_host_is_tried_if_the_first_will_not_have_us(behaviour: str) -> None:
    async with two_hosts(behaviours={behaviour}) as (dns, one, two):
        outcome = await deliver(dns, one.port)
        assert outcome.hop.startswith("mx2.dest.example[127.0.0.2]")
        assert len(two.messages) == 1


async def test_the_next_host_is_tried_if_the_first_is_down() -> None:
    async with two_hosts() as (dns, one, two):
        await one.stop()
        await deliver(dns, two.port)
        assert len(two.messages) == 1


async def test_the_next_host_is_tried_if_the_first_hangs() -> None:
    async with two_hosts(behaviours={"hang-in-greeting"}) as (dns, one, two):
        await deliver(dns, one.port, greeting_timeout="100ms")
        assert len(two.messages) == 1


async def test_a_refused_message_is_not_shopped_around() -> None:
    async with two_hosts() as (dns, one, two):
        outcome = await deliver(dns, one.port, "bob+550-at-rcpt@dest.example")
        assert outcome.reply.code == 550
        assert two.connections == 0


async def test_one_host_that_says_later_is_enough_to_wait() -> None:
    async with two_hosts(behaviours={"450-at-greeting"}) as (dns, one, two):
        two.behaviours = {"554-at-greeting"}
        outcome = await deliver(dns, one.port)
        assert outcome.reply.code == 450
        assert type(outcome).__name__ == "Deferred"


async def test_if_every_host_refuses_us_for_good_mail_bounces() -> None:
    async with two_hosts(behaviours={"521-at-greeting"}) as (dns, one, two):
        two.behaviours = {"554-at-greeting"}
        outcome = await deliver(dns, one.port)
        assert type(outcome).__name__ == "Failed"
        assert outcome.remote


async def test_no_more_addresses_are_tried_than_allowed() -> None:
    async with DnsServer() as dns, Sink(behaviours={"450-at-greeting"}) as sink:
        dns.add("dest.example", "MX", *(f"{number} mx{number}.dest.example" for number in range(1, 9)))
        for number in range(1, 9):
            dns.add(f"mx{number}.dest.example", "A", f"127.0.0.{number}")
        others = [Sink(host=f"127.0.0.{number}", port=sink.port, behaviours={"450-at-greeting"}) for number in range(2, 9)]
        for other in others:
            await other.start()
        await deliver(dns, sink.port, addresses_per_attempt=3)
        assert sink.connections + sum(other.connections for other in others) == 3
        for other in others:
            await other.stop()


@pytest.mark.parametrize("fault", ["SERVFAIL", "TIMEOUT", "REFUSED"])
async def test_dns_trouble_is_temporary(fault: str) -> None:
    async with DnsServer() as dns:
        dns.fail("dest.example", None, fault)
        outcome = await deliver(dns, 25)
        assert type(outcome).__name__ == "Deferred"
        assert outcome.reply.enhanced == "4.4.3"


async def test_a_domain_that_does_not_exist_bounces() -> None:
    async with DnsServer() as dns:
        outcome = await deliver(dns, 25)
        assert type(outcome).__name__ == "Failed"
        assert outcome.reply.enhanced == "5.1.2"


async def test_null_mx_bounces_without_a_connection() -> None:
    async with DnsServer() as dns, Sink() as sink:
        dns.add("dest.example", "MX", "0 .")
        dns.add("dest.example", "A", "127.0.0.1")
        outcome = await deliver(dns, sink.port)
        assert (outcome.reply.code, outcome.reply.enhanced) == (556, "5.1.10")
        assert sink.connections == 0


async def test_a_domain_that_is_an_alias_is_followed() -> None:
    async with two_hosts() as (dns, one, _):
        dns.add("alias.example", "CNAME", "dest.example")
        await deliver(dns, one.port, "bob@alias.example")
        assert one.messages[0].recipients == ("bob@alias.example",)


async def test_mx_data_that_points_inside_is_not_followed() -> None:
    async with two_hosts() as (dns, one, _):
        outcome = await deliver(dns, one.port, forbidden_networks=["127.0.0.0/8"])
        assert type(outcome).__name__ == "Failed"
        assert outcome.reply.enhanced == "5.4.4"
        assert one.connections == 0


async def test_a_host_that_turns_out_to_be_ourselves_is_a_loop() -> None:
    """Under another name and address in the DNS, but it says who it is."""
    async with two_hosts(name=HOSTNAME) as (dns, one, _):
        outcome = await deliver(dns, one.port)
        assert type(outcome).__name__ == "Failed"
        assert outcome.reply.enhanced == "5.4.6"
        assert not one.messages


async def test_an_address_literal_goes_to_that_address() -> None:
    async with DnsServer() as dns, Sink() as sink:
        await deliver(dns, sink.port, "bob@[127.0.0.1]")
        assert sink.messages[0].recipients == ("bob@[127.0.0.1]",)
