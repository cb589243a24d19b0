# SPDX-License-Identifier: Apache-2.0
"""What SPF must withstand beside the rules of the RFC (those are in tests/data/spf)."""

import asyncio
import gc
import ipaddress
import time

import greenlet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.auth import spf_query
from gateway.auth.spf import SpfResult, check_host, parse_ip, to_auth_result
from gateway.auth.spf_record import RECORD_MAX, RecordError, parse
from gateway.ports import LookupFailed
from tests.support.resolver import MapResolver

RESULTS = {"pass", "fail", "softfail", "neutral", "none", "temperror", "permerror"}


def zone(record: str, **more: object) -> MapResolver:
    return MapResolver({"a.example": {"TXT": [record]}, **more})  # type: ignore[dict-item]


async def check(resolver: MapResolver, ip: str = "192.0.2.1", sender: str = "joe@a.example") -> SpfResult:
    return await check_host(resolver, ip, "h.example", sender)


def evaluators() -> int:
    """Greenlets that were left in the middle of their work."""
    return sum(isinstance(thing, greenlet.greenlet) and bool(thing) for thing in gc.get_objects()) - 1  # this one's own


async def asked(resolver: MapResolver, count: int) -> None:
    """Let the other tasks run until `count` questions have been asked."""
    for _ in range(1000):
        if resolver.count >= count:
            return
        await asyncio.sleep(0)
    raise AssertionError(f"only {resolver.count} questions")


async def test_a_cancelled_check_leaves_no_evaluator_behind() -> None:
    resolver = zone("v=spf1 a:b.example -all")
    resolver.hold = asyncio.Event()
    task = asyncio.create_task(check(resolver))
    await asked(resolver, 1)
    assert evaluators() == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert evaluators() == 0


async def test_cancellation_while_the_explanation_is_fetched_is_not_swallowed() -> None:
    """pyspf fetches exp= inside `except: pass`."""
    resolver = zone("v=spf1 -all exp=e.example")
    fetching = asyncio.Event()

    async def hang(name: str) -> None:
        if name == "e.example":
            fetching.set()
            await asyncio.Event().wait()
        return await MapResolver.txt(resolver, name)  # type: ignore[return-value]

    resolver.txt = hang  # type: ignore[assignment, method-assign]
    task = asyncio.create_task(check(resolver))
    await fetching.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_the_deadline_of_the_check_is_a_temperror() -> None:
    resolver = zone("v=spf1 a:b.example -all")
    resolver.hold = asyncio.Event()
    result = await check_host(resolver, "192.0.2.1", "h", "joe@a.example", timeout=0.01)
    assert (result.result, result.domain, result.identity) == ("temperror", "a.example", "mailfrom")
    assert "longer than" in result.reason


async def test_a_deadline_during_the_explanation_keeps_the_result() -> None:
    resolver = zone("v=spf1 -all exp=e.example")

    async def slow(name: str) -> None:
        if name == "e.example":
            await asyncio.Event().wait()
        return await MapResolver.txt(resolver, name)  # type: ignore[return-value]

    resolver.txt = slow  # type: ignore[assignment, method-assign]
    result = await check_host(resolver, "192.0.2.1", "h", "joe@a.example", timeout=0.05)
    assert (result.result, result.explanation, result.mechanism) == ("fail", "", "-all")


async def test_a_fault_of_the_resolver_itself_is_not_taken_for_a_result() -> None:
    resolver = zone("v=spf1 -all")

    async def broken(name: str) -> None:
        raise KeyError(name)

    resolver.txt = broken  # type: ignore[assignment, method-assign]
    with pytest.raises(KeyError):
        await check(resolver)
    assert evaluators() == 0


async def test_checks_run_side_by_side_without_mixing_answers() -> None:
    resolver = MapResolver({f"d{n}.example": {"TXT": [f"v=spf1 ip4:192.0.2.{n} -all"]} for n in range(50)})
    resolver.hold = asyncio.Event()
    tasks = [asyncio.create_task(check(resolver, f"192.0.2.{n}", f"a@d{n // 2 * 2}.example")) for n in range(50)]
    await asked(resolver, 50)
    resolver.hold.set()
    results = [(await task).result for task in tasks]
    assert results == ["pass", "fail"] * 25


def test_pyspf_has_no_way_to_the_network_of_its_own() -> None:
    with pytest.raises(AssertionError, match="blocked the loop"):
        spf_query.spf.DNSLookup("a.example", "TXT")


async def test_worst_allowed_record_asks_a_bounded_number_of_questions() -> None:
    """Attack: each mail checked makes us ask for hundreds of names of a victim (RFC 7208 §11.1)."""
    hosts = [f"{n} m{n}.v{{}}.example" for n in range(10)]
    data = {f"v{k}.example": {"MX": [host.format(k) for host in hosts]} for k in range(10)}
    data |= {f"m{n}.v{k}.example": {"A": ["198.51.100.1"]} for n in range(10) for k in range(10)}
    resolver = zone("v=spf1 " + " ".join(f"mx:v{k}.example" for k in range(10)) + " -all", **data)
    assert (await check(resolver)).result == "fail"
    assert len(resolver.questions) == 111 <= spf_query.QUESTIONS_MAX


async def test_more_questions_than_any_right_record_needs_end_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spf_query, "QUESTIONS_MAX", 3)
    result = await check(zone("v=spf1 a:b.example a:c.example exists:d.example -all"))
    assert result.result == "permerror"
    assert "DNS questions" in result.reason


@pytest.mark.parametrize(
    "record",
    [
        "v=spf1 a:" + "a." * 7000 + "example",
        "v=spf1 a:a." + "a" * 14000 + ".example -all",
        "v=spf1 a:a." + "a" * 14000 + "!",
        "v=spf1 exists:" + "%{s}" * 3500 + ".example -all",
        "v=spf1 exists:" + "%{lr-}" * 2000 + ".example -all",
        "v=spf1 a/" + "1" * 14000,
        "v=spf1 a" + "/1" * 7000,
        "v=spf1 " + "=" * 14000,
        "v=spf1 " + "ip4:198.51.100.1 " * 900 + "-all",
        "v=spf1 exists:%{" + "d" * 14000,
        "v=spf1 exists:" + "%" * 14001,
        "v=spf1" + " " * 16000,
        "v=spf1 x=" + "%{i}" * 3000,
        "v=spf1 ip6:" + ":" * 14000,
    ],
    ids=lambda record: record[7:25],
)
async def test_hostile_records_take_no_time(record: str) -> None:
    """Attack: patterns that go back and forth. The slowest takes some 20 ms here; quadratic ones took minutes."""
    begun = time.process_time()
    result = await check(zone(record), sender="-".join("x" * 60) + "@a.example")
    assert result.result in RESULTS
    assert time.process_time() - begun < 5


async def test_a_record_that_is_no_record_in_size_is_a_permerror() -> None:
    result = await check(zone("v=spf1 " + "x=y " * RECORD_MAX + "+all"))
    assert (result.result, result.reason.endswith("too long")) == ("permerror", True)


async def test_an_explanation_cannot_grow_without_end() -> None:
    resolver = zone("v=spf1 -all exp=e.example", **{"e.example": {"TXT": ["%{s}" * 3000]}})
    assert len((await check(resolver)).explanation) == spf_query.EXPLANATION_MAX


async def test_what_the_log_gets_is_one_line() -> None:
    result = await check(zone("v=spf1 a:\r\n\x00bad -all"))
    assert result.result == "permerror"
    assert result.reason.isprintable()


LOOKING = ["a", "mx", "ptr", "exists:%{i}.x", "include:b.example", "mx/24//64", "~include:a.example", "exists:%{hr}.example"]
OTHERS = [
    "ip4:192.0.2.0/24",
    "ip6:::/0",
    "-all",
    "redirect=b.example",
    "exp=e.example",
    "a:%{l}.%{p}",
    "moo=%{d2}",
    "a:%{dr-}.b.example",
]
TERMS = st.sampled_from(LOOKING + OTHERS)
RECORDS = st.one_of(
    st.lists(TERMS, max_size=14).map(lambda terms: "v=spf1 " + " ".join(terms)),
    st.text(st.characters(max_codepoint=255), max_size=60).map(lambda text: "v=spf1 " + text),
    st.text("aemxit:/.%{}-0123rR=+~?\\ ", max_size=60).map(lambda text: "v=spf1 " + text),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(one=RECORDS, other=RECORDS, text=st.text(max_size=40), helo=st.text(max_size=40), local=st.text(max_size=20))
def test_whatever_is_published_or_said_there_is_a_result(one: str, other: str, text: str, helo: str, local: str) -> None:
    """Invariant: one of the seven results, a printable explanation, no more questions and terms than allowed."""
    resolver = MapResolver(
        {
            "a.example": {"TXT": [one], "A": ["192.0.2.1"], "MX": ["10 a.example", "20 c.example"]},
            "b.example": {"TXT": [other], "CNAME": ["c.example"]},
            "e.example": {"TXT": [text.encode()]},
            "c.example": "SERVFAIL",
            "1.2.0.192.in-addr.arpa": {"PTR": ["a.example", "c.example"]},
        }
    )
    for sender in (f"{local}@a.example", ""):
        result = asyncio.run(check_host(resolver, "192.0.2.1", helo, sender))
        assert result.result in RESULTS
        assert result.explanation == "".join(c for c in result.explanation if " " <= c <= "~")
        assert 0 <= result.lookups <= 10
    assert len(resolver.questions) <= 2 * spf_query.QUESTIONS_MAX


@given(RECORDS)
def test_a_record_is_read_or_refused(text: str) -> None:
    try:
        record = parse(text)
    except RecordError:
        return
    assert all(mechanism in text for mechanism in record.mechanisms)


def test_addresses_are_put_into_one_form() -> None:
    assert parse_ip("::ffff:192.0.2.1") == ipaddress.IPv4Address("192.0.2.1")
    assert parse_ip(ipaddress.IPv6Address("fe80::1%eth0")) == ipaddress.IPv6Address("fe80::1")
    with pytest.raises(ValueError, match="does not appear"):
        parse_ip("192.0.2.256")


async def test_authentication_results_names_the_identity() -> None:
    resolver = zone("v=spf1 -all")
    result = await check(resolver)
    assert to_auth_result(result, "joe@a.example").properties == (("smtp.mailfrom", "joe@a.example"),)
    assert to_auth_result(result).properties == (("smtp.mailfrom", "a.example"),)
    resolver.add("h.example", "TXT", "v=spf1 +all")
    helo = to_auth_result(await check(resolver, sender=""), "")
    assert (helo.method, helo.result, helo.properties) == ("spf", "pass", (("smtp.helo", "h.example"),))


async def test_a_lookup_that_failed_says_what_in_the_reason() -> None:
    resolver = zone("v=spf1 a:b.example -all")
    resolver.fail("b.example", "A", "SERVFAIL")
    result = await check(resolver)
    assert (result.result, "b.example A: SERVFAIL" in result.reason) == ("temperror", True)
    with pytest.raises(LookupFailed):
        await resolver.a("b.example")
