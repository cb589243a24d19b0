# SPDX-License-Identifier: Apache-2.0
"""The resolver against a real server on loopback: answers, faults, and what must not happen."""

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gateway.infra import dnssocket, dnswire
from gateway.infra.dns import DnsOptions, DnsResolver, record_lookups
from gateway.infra.dnscache import OCTETS_PER_ENTRY, OVERHEAD, Cache
from gateway.infra.dnsservers import ServerList, parse_server, system_servers
from gateway.ports import MX, LookupFailed
from tests.support.clock import FakeClock
from tests.support.dnsserver import DnsServer

NOBODY = "127.0.0.1:1"  # nothing listens there: the kernel refuses at once


@pytest.fixture
async def server() -> AsyncIterator[DnsServer]:
    async with DnsServer() as server:
        yield server


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def resolver(server: DnsServer, clock: FakeClock) -> AsyncIterator[DnsResolver]:
    resolver = DnsResolver(DnsOptions(nameservers=[server.address]), clock=clock)
    yield resolver
    await resolver.close()


def quick(*nameservers: str, **more: object) -> DnsResolver:
    """For servers that do not answer."""
    return DnsResolver(DnsOptions(nameservers=list(nameservers), timeout="100ms", lifetime="1s", **more))


# --- answers


async def test_each_type_comes_as_its_value(server: DnsServer, resolver: DnsResolver) -> None:
    server.add("a.example", "A", "192.0.2.1", "192.0.2.2")
    server.add("a.example", "AAAA", "2001:db8::1")
    server.add("a.example", "MX", "20 MX2.a.example", "10 mx1.A.example")
    server.add("a.example", "TXT", 'plain; "text"', '"two" "strings"', b"\xff\x00" + b"x" * 300)
    server.add("1.2.0.192.in-addr.arpa", "PTR", "Host.a.example")
    server.add(IPv6Address("2001:db8::1").reverse_pointer, "PTR", "six.a.example")
    assert set((await resolver.a("a.example")).records) == {IPv4Address("192.0.2.1"), IPv4Address("192.0.2.2")}
    assert (await resolver.aaaa("A.Example.")).records == (IPv6Address("2001:db8::1"),)
    assert sorted((await resolver.mx("a.example")).records) == [MX(10, "mx1.a.example"), MX(20, "mx2.a.example")]
    assert set((await resolver.txt("a.example")).records) == {b'plain; "text"', b"twostrings", b"\xff\x00" + b"x" * 300}
    assert (await resolver.ptr(IPv4Address("192.0.2.1"))).records == ("host.a.example",)
    assert (await resolver.ptr(IPv6Address("2001:db8::1"))).records == ("six.a.example",)


async def test_null_mx_is_an_empty_host(server: DnsServer, resolver: DnsResolver) -> None:
    server.add("null.example", "MX", "0 .")
    assert (await resolver.mx("null.example")).records == (MX(0, ""),)


async def test_no_such_name_and_no_such_record_are_empty_and_told_apart(server: DnsServer, resolver: DnsResolver) -> None:
    server.add("a.example", "A", "192.0.2.1")
    nodata, nxdomain = await resolver.mx("a.example"), await resolver.mx("b.example")
    assert (nodata.records, nodata.nxdomain) == ((), False)
    assert (nxdomain.records, nxdomain.nxdomain) == ((), True)


@pytest.mark.parametrize("name", ["", ".", "a..example", ".example", "x" * 64 + ".example", "x." * 127 + "xx", "jörg.example"])
async def test_a_name_that_cannot_be_asked_for_does_not_exist(server: DnsServer, resolver: DnsResolver, name: str) -> None:
    """Macros of SPF records make such names."""
    answer = await resolver.a(name)
    assert (answer.records, answer.nxdomain, server.queries) == ((), True, [])


@pytest.mark.parametrize(
    "name", ["x" * 63 + ".example", "x." * 126 + "x", "a b%c.example", "foo:bar/baz.example", "_x.a\\b.example"]
)
async def test_odd_names_that_can_be_asked_for_are(server: DnsServer, resolver: DnsResolver, name: str) -> None:
    server.add(name.replace("\\", "\\\\"), "A", "192.0.2.1")
    assert (await resolver.a(name)).records == (IPv4Address("192.0.2.1"),)


async def test_the_octets_of_a_message_are_those_of_the_rfc() -> None:
    asked = dnswire.question("a.example", "MX")
    assert asked
    wire = dnswire.encode(asked, 0x1234, 1232)
    assert wire == bytes.fromhex(
        "1234 0120 0001 0000 0000 0001  01 61 07 6578616d706c65 00  000f 0001  00 0029 04d0 00000000 0000"
    )
    assert dnswire.encode(asked, 0x1234, 0) == bytes.fromhex(
        "1234 0120 0001 0000 0000 0000  01 61 07 6578616d706c65 00  000f 0001"
    )


# --- CNAME


@pytest.mark.parametrize("follow", [True, False], ids=["server-follows", "server-leaves-it-to-us"])
async def test_a_cname_leads_to_the_records(follow: bool) -> None:
    async with DnsServer(follow_cname=follow) as server:
        for n in range(8):
            server.add(f"c{n}.example", "CNAME", f"c{n + 1}.example")
        server.add("c8.example", "MX", "10 mx.example", ttl=20)
        server.add("to-nowhere.example", "CNAME", "nowhere.example")
        server.add("to-nodata.example", "CNAME", "c8.example")
        resolver = quick(server.address)
        answer = await resolver.mx("c0.example")
        assert (answer.records, answer.ttl <= 20) == ((MX(10, "mx.example"),), True)
        assert (await resolver.a("to-nowhere.example")).nxdomain
        assert not (await resolver.a("to-nodata.example")).nxdomain
        await resolver.close()


@pytest.mark.parametrize("follow", [True, False])
async def test_a_cname_loop_is_a_failure_and_ends(follow: bool) -> None:
    async with DnsServer(follow_cname=follow) as server:
        server.add("self.example", "CNAME", "self.example")
        server.add("one.example", "CNAME", "two.example")
        server.add("two.example", "CNAME", "one.example")
        for n in range(30):
            server.add(f"c{n}.example", "CNAME", f"c{n + 1}.example")
        resolver = quick(server.address)
        for name in ("self.example", "one.example", "c0.example"):
            with pytest.raises(LookupFailed, match="CNAME loop"):
                await resolver.a(name)
        assert len(server.queries) <= 3 * (dnswire.CHAIN_MAX + 1)
        await resolver.close()


# --- faults


@pytest.mark.parametrize("how", ["SERVFAIL", "REFUSED"])
async def test_a_server_that_says_no_is_a_failure_not_an_empty_answer(
    server: DnsServer, resolver: DnsResolver, how: str
) -> None:
    server.add("a.example", "A", "192.0.2.1")
    server.fail("a.example", "A", how)
    with pytest.raises(LookupFailed, match=how):
        await resolver.a("a.example")
    assert len(server.queries) == 1


async def test_no_answer_is_a_failure_after_the_last_try(server: DnsServer) -> None:
    server.fail("a.example", None, "TIMEOUT")
    resolver = quick(server.address)
    with pytest.raises(LookupFailed, match="no answer"):
        await resolver.a("a.example")
    assert len(server.queries) == 2
    await resolver.close()


async def test_the_lifetime_bounds_all_tries(server: DnsServer) -> None:
    server.fail("a.example", None, "TIMEOUT")
    resolver = DnsResolver(DnsOptions(nameservers=[server.address], timeout="1h", lifetime="50ms"))
    with pytest.raises(LookupFailed, match="within"):
        await resolver.a("a.example")
    await resolver.close()


async def test_a_port_where_nobody_listens_fails_at_once() -> None:
    resolver = DnsResolver(DnsOptions(nameservers=[NOBODY], timeout="1h", lifetime="1h"))
    with pytest.raises(LookupFailed, match="refused"):
        await resolver.a("a.example")
    await resolver.close()


async def test_a_server_that_comes_back_on_its_port_is_used_again(server: DnsServer, resolver: DnsResolver) -> None:
    server.add("a.example", "A", "192.0.2.1")
    await server.stop()
    with pytest.raises(LookupFailed):
        await resolver.a("a.example")
    await server.start()
    assert (await resolver.a("a.example")).records


async def test_a_truncated_answer_is_fetched_over_tcp(server: DnsServer, resolver: DnsResolver) -> None:
    server.add("a.example", "A", "192.0.2.1")
    server.fail("a.example", "A", "TRUNCATE")
    assert (await resolver.a("a.example")).records == (IPv4Address("192.0.2.1"),)
    assert server.tcp_queries == [("a.example", "A")]


async def test_an_answer_too_large_for_udp_arrives_whole(server: DnsServer, resolver: DnsResolver) -> None:
    server.add("big.example", "TXT", *(f"{n}" + "y" * 200 for n in range(250)))
    assert len((await resolver.txt("big.example")).records) == 250


async def test_a_tcp_connection_that_breaks_is_a_failure(server: DnsServer, resolver: DnsResolver) -> None:
    server.fail("a.example", None, "CUT")
    with pytest.raises(LookupFailed, match="closed"):
        await resolver.a("a.example")


async def test_garbage_is_passed_over_until_the_time_is_up(server: DnsServer) -> None:
    server.fail("a.example", None, "GARBAGE")
    resolver = quick(server.address)
    with pytest.raises(LookupFailed):
        await resolver.a("a.example")
    await resolver.close()


async def test_a_server_without_edns_is_asked_without(server: DnsServer, resolver: DnsResolver) -> None:
    server.add("a.example", "A", "192.0.2.1")
    server.fail("a.example", None, "BADEDNS")
    assert (await resolver.a("a.example")).records
    assert len(server.queries) == 2


# --- forgery


async def test_forged_answers_are_passed_over(server: DnsServer, resolver: DnsResolver) -> None:
    """Attack: answers with a wrong id, and answers to another question, arrive before the right one (RFC 5452)."""
    server.add("a.example", "A", "192.0.2.1")
    server.fail("a.example", None, "SPOOF")
    assert (await resolver.a("a.example")).records == (IPv4Address("192.0.2.1"),)


async def test_a_flood_of_forged_answers_ends_the_try() -> None:
    """Attack: ids are guessed by sending all of them."""

    class Flood(asyncio.DatagramProtocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = transport

        def datagram_received(self, data: bytes, addr: object) -> None:
            ident = struct.unpack_from("!H", data)[0]
            for n in range(1, dnssocket.STRAYS_MAX + 1):
                self.transport.sendto(struct.pack("!H", (ident + n) % 65536) + b"\x81\x80" + data[4:], addr)  # type: ignore[attr-defined]

    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(Flood, ("127.0.0.1", 0))
    resolver = DnsResolver(
        DnsOptions(nameservers=[f"127.0.0.1:{transport.get_extra_info('sockname')[1]}"], timeout="1h", lifetime="1h")
    )
    with pytest.raises(LookupFailed, match="not asked"):
        await resolver.a("a.example")
    await resolver.close()
    transport.close()


async def test_each_question_has_its_own_port_and_id() -> None:
    seen: set[tuple[int, bytes]] = set()

    class Note(asyncio.DatagramProtocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = transport

        def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
            seen.add((addr[1], data[:2]))
            self.transport.sendto(data[:2] + b"\x81\x83" + data[4:10] + b"\0\0" + data[12:-11], addr)  # type: ignore[attr-defined]

    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(Note, ("127.0.0.1", 0))
    port = transport.get_extra_info("sockname")[1]
    resolver = DnsResolver(DnsOptions(nameservers=[f"127.0.0.1:{port}"]))  # patient: a slow machine asks nothing twice
    answers = await asyncio.gather(*(resolver.a(f"n{n}.example") for n in range(40)))
    assert all(answer.nxdomain for answer in answers)
    assert len(seen) == 40
    assert len({port for port, _ in seen}) > 30
    assert len({ident for _, ident in seen}) > 30
    await resolver.close()
    transport.close()


async def test_ad_is_believed_from_loopback_only_and_only_if_the_whole_way_had_it() -> None:
    async with DnsServer(authentic=True) as server:
        server.add("a.example", "A", "192.0.2.1")
        resolver = quick(server.address)
        assert (await resolver.a("a.example")).authentic
        far = parse_server("192.0.2.53")
        resolver._servers.order = lambda now: [far]  # type: ignore[method-assign]
        reply = dnswire.Reply(0, (IPv4Address("192.0.2.1"),), 60, authentic=True)

        async def ask(*_: object) -> dnswire.Reply:
            return reply

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(dnssocket, "ask", ask)
            assert not (await resolver.a("b.example")).authentic
            trusting = DnsResolver(DnsOptions(nameservers=["192.0.2.53"], trust_ad=True))
            assert (await trusting.a("b.example")).authentic
        await resolver.close()


# --- several servers


async def test_a_dead_server_is_tried_last_and_later_in_its_place_again(clock: FakeClock) -> None:
    async with DnsServer() as first, DnsServer() as second:
        for server in (first, second):
            server.add("a.example", "A", "192.0.2.1")
        options = DnsOptions(nameservers=[first.address, second.address], cache_size=0, retry_after="30s")
        resolver = DnsResolver(options, clock=clock)
        await first.stop()
        await resolver.a("a.example")
        await resolver.a("a.example")
        assert len(second.queries) == 2
        await first.start()
        await resolver.a("a.example")
        assert (len(first.queries), len(second.queries)) == (0, 3)
        await clock.advance(31)
        await resolver.a("a.example")
        assert (len(first.queries), len(second.queries)) == (1, 3)
        await resolver.close()


async def test_one_servers_servfail_is_not_the_last_word(server: DnsServer) -> None:
    async with DnsServer() as other:
        server.fail("a.example", None, "SERVFAIL")
        other.add("a.example", "A", "192.0.2.1")
        resolver = quick(server.address, other.address)
        assert (await resolver.a("a.example")).records
        await resolver.close()


def test_a_sick_server_is_probed_by_one_question_only() -> None:
    servers = ServerList(["192.0.2.1", "192.0.2.2"], 30)
    sick, well = servers.order(0)
    servers.down(sick, 0)
    assert servers.order(10) == [well, sick]
    assert servers.order(31) == [sick, well]
    assert servers.order(31) == [well, sick]
    servers.up(sick)
    assert servers.order(31) == [sick, well]


# --- cache and single flight


async def test_a_cached_answer_asks_nobody_and_its_ttl_runs_down(
    server: DnsServer, resolver: DnsResolver, clock: FakeClock
) -> None:
    server.add("a.example", "A", "192.0.2.1", ttl=100)
    await resolver.a("a.example")
    await clock.advance(60)
    assert (await resolver.a("A.EXAMPLE")).ttl == 40
    assert len(server.queries) == 1
    await clock.advance(41)
    await resolver.a("a.example")
    assert len(server.queries) == 2


@pytest.mark.parametrize(("ttl", "kept"), [(0, 1), (10, 10), (999_999, 3600)])
async def test_ttls_are_kept_within_bounds(
    server: DnsServer, resolver: DnsResolver, clock: FakeClock, ttl: int, kept: int
) -> None:
    server.add("a.example", "A", "192.0.2.1", ttl=ttl)
    await resolver.a("a.example")
    await clock.advance(kept - 0.5)
    await resolver.a("a.example")
    assert len(server.queries) == 1
    await clock.advance(1)
    await resolver.a("a.example")
    assert len(server.queries) == 2


@pytest.mark.parametrize(("minimum", "kept"), [(60, 60), (0, 1), (999_999, 300)])
async def test_negative_answers_live_as_long_as_the_soa_says_but_not_for_ever(
    server: DnsServer, resolver: DnsResolver, clock: FakeClock, minimum: int, kept: int
) -> None:
    server.negative_ttl = minimum
    await resolver.a("no.example")
    await clock.advance(kept - 0.5)
    assert (await resolver.a("no.example")).nxdomain
    assert len(server.queries) == 1
    server.add("no.example", "A", "192.0.2.1")
    await clock.advance(1)
    assert (await resolver.a("no.example")).records


async def test_servfail_is_remembered_for_a_moment(server: DnsServer, resolver: DnsResolver, clock: FakeClock) -> None:
    """RFC 9520 §3.2: a failing zone must not be asked again for each mail."""
    server.fail("a.example", None, "SERVFAIL")
    for _ in range(3):
        with pytest.raises(LookupFailed, match="SERVFAIL"):
            await resolver.a("a.example")
    assert len(server.queries) == 1
    server.heal("a.example")
    await clock.advance(1.1)
    assert (await resolver.a("a.example")).nxdomain


async def test_flush_forgets_everything(server: DnsServer, resolver: DnsResolver) -> None:
    server.add("a.example", "A", "192.0.2.1")
    await resolver.a("a.example")
    resolver.flush()
    await resolver.a("a.example")
    assert len(server.queries) == 2


async def test_equal_questions_at_the_same_time_are_one(server: DnsServer, resolver: DnsResolver) -> None:
    server.add("a.example", "A", "192.0.2.1")
    server.fail("a.example", None, "HOLD")
    tasks = [asyncio.create_task(resolver.a("a.example")) for _ in range(20)]
    await server.wait_queries(1)
    server.heal("a.example")
    answers = await asyncio.gather(*tasks)
    assert all(answer.records for answer in answers)
    assert len(server.queries) == 1


async def test_a_caller_that_is_cancelled_takes_nobody_with_it(server: DnsServer, resolver: DnsResolver) -> None:
    server.add("a.example", "A", "192.0.2.1")
    server.fail("a.example", None, "HOLD")
    first = asyncio.create_task(resolver.a("a.example"))
    await server.wait_queries(1)
    second = asyncio.create_task(resolver.a("a.example"))
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    server.heal("a.example")
    assert (await second).records
    assert len(server.queries) == 1


async def test_no_more_questions_are_in_flight_than_allowed(server: DnsServer) -> None:
    resolver = DnsResolver(DnsOptions(nameservers=[server.address], in_flight=3))
    for n in range(9):
        server.fail(f"n{n}.example", None, "HOLD")
    tasks = [asyncio.create_task(resolver.a(f"n{n}.example")) for n in range(9)]
    await server.wait_queries(3)
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(server.queries) == 3
    for n in range(9):
        server.heal(f"n{n}.example")
    await asyncio.gather(*tasks)
    assert len(server.queries) == 9
    await resolver.close()


async def test_closing_ends_what_is_under_way(server: DnsServer) -> None:
    resolver = DnsResolver(DnsOptions(nameservers=[server.address]))
    server.fail("a.example", None, "HOLD")
    waiting = asyncio.create_task(resolver.a("a.example"))
    await server.wait_queries(1)
    await resolver.close()
    with pytest.raises(LookupFailed, match="closed"):
        await waiting
    with pytest.raises(LookupFailed, match="closed"):
        await resolver.a("b.example")


def test_the_cache_is_bounded_in_number_and_octets() -> None:
    cache: Cache[int] = Cache(10)
    for n in range(100):
        cache.put(n, n, 1.0, 10)
    assert len(cache) == 10
    assert cache.get(89, 0.0) is None
    for n in range(100):
        cache.put(n, n, 1.0, OCTETS_PER_ENTRY * 3 - OVERHEAD)
    assert len(cache) == 3
    cache.put("huge", 1, 1.0, OCTETS_PER_ENTRY * 10)
    assert (cache.get("huge", 0.0), len(cache)) == (None, 3)
    cache.clear()
    assert len(cache) == 0


def test_the_least_recently_used_goes_first() -> None:
    cache: Cache[str] = Cache(2)
    cache.put("a", "a", 9.0, 0)
    cache.put("b", "b", 9.0, 0)
    cache.get("a", 0.0)
    cache.put("c", "c", 9.0, 0)
    assert [key for key in "abc" if cache.get(key, 0.0)] == ["a", "c"]
    assert cache.get("a", 9.0) is None


async def test_a_cache_of_size_zero_remembers_nothing(server: DnsServer) -> None:
    resolver = DnsResolver(DnsOptions(nameservers=[server.address], cache_size=0))
    await resolver.a("a.example")
    await resolver.a("a.example")
    assert len(server.queries) == 2
    await resolver.close()


# --- what is told


async def test_lookups_are_recorded_cached_and_failed_ones_too(server: DnsServer, resolver: DnsResolver) -> None:
    server.add("a.example", "MX", "10 mx.example")
    server.add("a.example", "TXT", b"caf\xe9\n")
    server.fail("bad.example", None, "SERVFAIL")

    async def other() -> None:
        with pytest.raises(LookupFailed):
            await resolver.a("bad.example")

    with record_lookups() as lookups:
        await resolver.mx("a.example")
        await resolver.mx("a.example")
        await resolver.txt("a.example")
        await asyncio.create_task(other())
        await resolver.a("no.example")
    await resolver.a("a.example")
    assert [(each.name, each.type, each.answer, each.status, each.cached) for each in lookups] == [
        ("a.example", "MX", ("10 mx.example",), "ok", False),
        ("a.example", "MX", ("10 mx.example",), "ok", True),
        ("a.example", "TXT", ("caf\\xe9\n",), "ok", False),
        ("bad.example", "A", (), "servfail", False),
        ("no.example", "A", (), "nxdomain", False),
    ]


async def test_two_messages_at_a_time_do_not_see_each_others_lookups(server: DnsServer, resolver: DnsResolver) -> None:
    async def message(name: str) -> list[str]:
        with record_lookups() as lookups:
            await resolver.a(name)
            await resolver.a("shared.example")
        return [lookup.name for lookup in lookups]

    found = await asyncio.gather(message("a.example"), message("b.example"))
    assert found == [["a.example", "shared.example"], ["b.example", "shared.example"]]


async def test_the_observer_hears_of_each_lookup(server: DnsServer) -> None:
    heard: list[tuple[str, str, bool]] = []
    resolver = DnsResolver(
        DnsOptions(nameservers=[server.address]),
        observer=lambda kind, status, seconds, *, cached: heard.append((kind, status, cached)),
    )
    server.fail("bad.example", None, "REFUSED")
    await resolver.a("a.example")
    await resolver.a("a.example")
    with pytest.raises(LookupFailed):
        await resolver.mx("bad.example")
    assert heard == [("A", "nxdomain", False), ("A", "nxdomain", True), ("MX", "refused", False)]
    await resolver.close()


# --- messages that nobody sane sends


@given(st.binary(max_size=200))
def test_whatever_octets_come_back_they_are_read_or_refused(body: bytes) -> None:
    """Invariant: `decode` gives a Reply or raises BadReply."""
    asked = dnswire.question("a.example", "TXT")
    assert asked
    data = struct.pack("!HHHHHH", 7, 0x8180, 1, 1, 0, 0) + asked.wire + body
    assert dnswire.answers(data, 7, asked)
    with contextlib.suppress(dnswire.BadReply):
        assert isinstance(dnswire.decode(data, asked), dnswire.Reply)


@given(st.binary(max_size=40))
def test_short_octets_answer_nothing(data: bytes) -> None:
    asked = dnswire.question("a.example", "A")
    assert asked
    assert not dnswire.answers(data, 7, asked) or len(data) >= 12


async def test_an_answer_with_broken_records_is_a_failure(server: DnsServer, resolver: DnsResolver) -> None:
    asked = dnswire.question("a.example", "A")
    assert asked
    broken = (
        struct.pack("!HHHHHH", 7, 0x8180, 1, 1, 0, 0) + asked.wire + b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, 60, 3) + b"abc"
    )
    with pytest.raises(dnswire.BadReply):
        dnswire.decode(broken, asked)


# --- options


@pytest.mark.parametrize(
    ("text", "address", "loopback"),
    [
        ("192.0.2.1", ("192.0.2.1", 53), False),
        ("127.0.0.1:5353", ("127.0.0.1", 5353), True),
        ("localhost:5353", ("127.0.0.1", 5353), True),
        ("::1", ("::1", 53, 0, 0), True),
        ("[2001:db8::1]:5353", ("2001:db8::1", 5353, 0, 0), False),
        ("[2001:db8::1]", ("2001:db8::1", 53, 0, 0), False),
    ],
)
def test_name_servers_are_read(text: str, address: tuple[object, ...], loopback: bool) -> None:
    server = parse_server(text)
    assert (server.address, server.loopback, server.text) == (address, loopback, text)


@pytest.mark.parametrize(
    "text",
    ["", "ns.example", "192.0.2.1:0", "192.0.2.1:65536", "192.0.2.1:x", "192.0.2", "[::1", "[::1]53", "1.2.3.4:", "[::1]:"],
)
def test_what_is_no_name_server_is_refused_with_its_text(text: str) -> None:
    with pytest.raises(ValidationError, match="is not a name server"):
        DnsOptions(nameservers=[text])


def test_the_systems_servers_are_found(tmp_path: Path) -> None:
    conf = tmp_path / "resolv.conf"
    conf.write_text(
        "# comment\nsearch example\nnameserver 192.0.2.53\nnameserver nonsense\n nameserver 2001:db8::53 \nnameserver\n"
    )
    assert [server.address[0] for server in system_servers(conf)] == ["192.0.2.53", "2001:db8::53"]
    conf.write_text("options edns0\n")
    assert [server.text for server in system_servers(conf)] == ["127.0.0.1"]
    assert [server.text for server in system_servers(tmp_path / "missing")] == ["127.0.0.1"]


async def test_an_ipv6_server_works_for_both_protocols() -> None:
    try:
        server = DnsServer(host="::1")
        await server.start()
    except OSError:
        pytest.skip("no IPv6 on loopback")
    server.add("a.example", "A", "192.0.2.1")
    server.fail("a.example", None, "TRUNCATE")
    resolver = quick(server.address)
    assert (await resolver.a("a.example")).records
    await resolver.close()
    await server.stop()
