# SPDX-License-Identifier: Apache-2.0
"""REQUIRETLS on its way on (RFC 8689 §4.2.1): verified TLS to a host that passes it on, or not at all."""

import ssl
from collections.abc import Iterator
from dataclasses import replace

import pytest
import trustme

from gateway.infra.tls import client_context
from gateway.mail.job import Deferred, Delivered, Failed, Job
from tests.support.delivering import delivering
from tests.support.fakework import job
from tests.support.resolver import MapResolver
from tests.support.sink import Sink

OFFERED = ("REQUIRETLS",)


def strict(number: int = 1, *recipients: str, sender: str = "ann@client.example") -> Job:
    return replace(job(*recipients or ("bob@dest.example",), number=number, sender=sender), require_tls=True)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(autouse=True)
def _trusted(
    authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """The authority is one that this machine knows."""
    path = tmp_path_factory.mktemp("authority") / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    client_context.cache_clear()
    yield
    client_context.cache_clear()


def certificate(authority: trustme.CA, *names: str) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names).configure_cert(made)
    return made


def secure(authority: trustme.CA, *names: str, offered: tuple[str, ...] = OFFERED) -> Sink:
    return Sink(tls=certificate(authority, *names or ("127.0.0.1",)), secure_extensions=offered)


async def test_it_is_passed_on_over_verified_tls(authority: trustme.CA) -> None:
    async with secure(authority) as sink, delivering({"*": f"smtp://{sink.address}"}) as rig:
        for number in (1, 2):
            await rig.work.put(strict(number))
            await rig.work.wait(number)
        assert all(message.tls and message.mail_line.endswith(b" REQUIRETLS") for message in sink.messages)
        assert (len(sink.messages), sink.connections) == (2, 1)


async def test_other_mail_is_not_under_it_and_uses_another_session(authority: trustme.CA) -> None:
    async with secure(authority) as sink, delivering({"*": f"smtp://{sink.address}"}) as rig:
        for number, one in enumerate((strict(1), job("bob@dest.example", number=2), strict(3)), 1):
            await rig.work.put(one)
            await rig.work.wait(number)
        assert [b"REQUIRETLS" in message.mail_line for message in sink.messages] == [True, False, True]
        assert [message.connection for message in sink.messages] == [1, 2, 1]


@pytest.mark.parametrize(
    "why", ["no-starttls", "unknown-authority", "other-name", "not-offered", "offered-in-clear", "taken-back"]
)
async def test_a_host_that_cannot_meet_it_gets_nothing(authority: trustme.CA, why: str) -> None:
    sink, code = {
        "no-starttls": (Sink(), "5.7.10"),
        "unknown-authority": (secure(trustme.CA()), "5.7.10"),
        "other-name": (secure(authority, "elsewhere.example"), "5.7.10"),
        "not-offered": (secure(authority, offered=()), "5.7.30"),
        "offered-in-clear": (Sink(extensions=("PIPELINING", "REQUIRETLS")), "5.7.10"),
        "taken-back": (replace_behaviours(secure(authority), "502-at-starttls"), "5.7.10"),
    }[why]
    async with sink, delivering({"*": f"smtp://{sink.address}"}) as rig:
        await rig.work.put(strict())
        await rig.work.wait(1)
        outcome = rig.outcome()
        assert isinstance(outcome, Failed)
        assert outcome.reply.enhanced == code
        assert not outcome.remote
        assert not [line for _, line in sink.commands if line.startswith(b"MAIL")]
        await rig.work.put(job("bob@dest.example", number=2))  # nobody else suffers
        await rig.work.wait(2)
        assert len(sink.messages) == 1


def replace_behaviours(sink: Sink, *behaviours: str) -> Sink:
    sink.behaviours = set(behaviours)
    return sink


async def test_a_handshake_that_fails_by_chance_is_tried_again_later(authority: trustme.CA) -> None:
    async with (
        replace_behaviours(secure(authority), "drop-at-starttls") as sink,
        delivering({"*": f"smtp://{sink.address}"}) as rig,
    ):
        await rig.work.put(strict())
        await rig.work.wait(1)
        outcome = rig.outcome()
        assert isinstance(outcome, Deferred)
        assert outcome.reply.enhanced == "4.7.5"
        assert sink.connections == 1  # and never once more in clear


async def test_tls_that_is_not_to_be_had_at_present_is_waited_for(authority: trustme.CA) -> None:
    """RFC 3207 §4: 454."""
    async with (
        replace_behaviours(secure(authority), "454-at-starttls") as sink,
        delivering({"*": f"smtp://{sink.address}"}) as rig,
    ):
        await rig.work.put(strict())
        await rig.work.wait(1)
        outcome = rig.outcome()
        assert isinstance(outcome, Deferred)
        assert outcome.reply.code == 454
        assert not sink.messages


async def test_with_tls_switched_off_it_goes_nowhere(authority: trustme.CA) -> None:
    async with secure(authority) as sink, delivering({"*": f"smtp://{sink.address}"}, tls="none") as rig:
        await rig.work.put(strict())
        await rig.work.wait(1)
        assert isinstance(rig.outcome(), Failed)
        assert not sink.connections


async def test_a_notice_needs_tls_but_not_the_word(authority: trustme.CA) -> None:
    """RFC 8689 §5: it is not to be lost because a relay has never heard of REQUIRETLS. It is not sent in clear either."""
    async with secure(authority, offered=()) as sink, delivering({"*": f"smtp://{sink.address}"}) as rig:
        await rig.work.put(strict(sender=""))
        await rig.work.wait(1)
        assert isinstance(rig.outcome(), Delivered)
        assert sink.messages[0].tls
        assert b"REQUIRETLS" not in sink.messages[0].mail_line
        await rig.work.put(strict(2))  # mail does not profit from the session of a notice
        await rig.work.wait(2)
        assert len(sink.messages) == 1


async def test_a_notice_is_never_sent_in_clear() -> None:
    async with Sink() as sink, delivering({"*": f"smtp://{sink.address}"}) as rig:
        await rig.work.put(strict(sender=""))
        await rig.work.wait(1)
        assert isinstance(rig.outcome(), Failed)
        assert not sink.messages


# --- by MX


def zone(*, authentic: bool) -> MapResolver:
    """dest.example has a host that is not fit for it, and one that is."""
    resolver = MapResolver(authentic=authentic)
    resolver.add("dest.example", "MX", "10 poor.dest.example", "20 good.dest.example")
    resolver.add("poor.dest.example", "A", "127.0.0.1")
    resolver.add("good.dest.example", "A", "127.0.0.2")
    return resolver


async def test_a_better_host_is_looked_for(authority: trustme.CA) -> None:
    """RFC 8689 §4.2.1: each MX is asked before the mail is given up."""
    poor = secure(authority, "poor.dest.example", offered=())
    async with poor, secure(authority, "good.dest.example") as good:
        await restart_at(good, "127.0.0.2", poor.port)
        async with delivering({}, resolver=zone(authentic=True), port=poor.port, forbidden_networks=[]) as rig:
            await rig.work.put(strict())
            await rig.work.wait(1)
            outcome = rig.outcome()
            assert isinstance(outcome, Delivered)
            assert outcome.hop.startswith("good.dest.example")
            assert not poor.messages


async def test_a_host_that_is_down_may_yet_be_fit(authority: trustme.CA) -> None:
    poor = secure(authority, "poor.dest.example", offered=())
    async with poor, delivering({}, resolver=zone(authentic=True), port=poor.port, forbidden_networks=[]) as rig:
        await rig.work.put(strict())
        await rig.work.wait(1)
        assert isinstance(rig.outcome(), Deferred)


async def test_a_name_that_anybody_could_have_given_us_is_not_enough(authority: trustme.CA) -> None:
    """RFC 8689 §4.2.1: the certificate fits the name, but the name came without DNSSEC."""
    poor = secure(authority, "poor.dest.example")
    async with poor, delivering({}, resolver=zone(authentic=False), port=poor.port, forbidden_networks=[]) as rig:
        await rig.work.put(strict())
        await rig.work.wait(1)
        outcome = rig.outcome()
        assert isinstance(outcome, Failed)
        assert outcome.reply.enhanced == "5.7.10"
        assert "DNSSEC" in outcome.reply.text
        assert not poor.messages


async def restart_at(sink: Sink, host: str, port: int) -> None:
    await sink.stop()
    sink.host, sink.port = host, port
    await sink.start()
