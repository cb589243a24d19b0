# SPDX-License-Identifier: Apache-2.0
"""Invariants of the grammars: addresses, parameters, xtext, the attributes of XCLIENT.

  - a reader raises the fault that its docstring names, and nothing else;
  - what it accepted means the same when it is written and read again, and has no control character in it;
  - it takes not one octet that belongs to what stands behind.

Hypothesis looks for small cases; the seeded fuzzer makes `--fuzz-examples` of each kind, and names the seed that fails.
"""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.edge.commands import check_vrfy, parse_helo, parse_mail, parse_rcpt
from gateway.edge.offers import NOTHING, Offers
from gateway.edge.xclient import ATTRIBUTES, parse_claim
from gateway.mail import address as a
from gateway.mail import notify as n
from gateway.mail.envelope import BodyType
from gateway.mail.reply import MailError
from tests.fuzz.mutants import some, spoilt

ALL = Offers(binary=True, require_tls=True, auth=("PLAIN",))
PATHS = (
    *("<", ">", "@", "a", ".", "-", '"', "\\", "[", "]", "b.example", "IPv6:", "::1", "192.0.2.1", ",", ":", "ü", "xn--"),
    *("postmaster", " "),
)
WORDS = (
    *(" ", "=", "SIZE", "BODY=8BITMIME", "SMTPUTF8", "RET=FULL", "ENVID=a", "NOTIFY=", "NEVER", ",DELAY", "ORCPT=", "rfc822;"),
    *("utf-8;", "+2B", "+0A", "\\x{41}", "\\x{FC}", "AUTH=<>", "REQUIRETLS", "1", "FROM:", "TO:", "<a@b.example>", "<>"),
)
CLAIMS = (
    *(" ", "ADDR=", "192.0.2.1", "IPV6:2001:db8::1", "NAME=", "PORT=", "HELO=", "LOGIN=", "PROTO=ESMTP", "[UNAVAILABLE]"),
    *("a", "+5B", "70000"),
)

# --- addresses and parameters


def check_path(raw: bytes) -> None:
    for utf8 in (True, False):
        try:
            found, rest = a.parse_path(raw, utf8=utf8)
        except a.AddressError:
            continue
        assert raw.endswith(rest)
        assert raw[: len(raw) - len(rest)].endswith(b">")
        assert str(found).isprintable()
        again, nothing = a.parse_path(f"<{found}>".encode(), utf8=utf8)
        assert (again, nothing) == (found, b"")
        if found.domain:
            assert a.parse_mailbox(str(found).encode()) == found
            assert found.is_literal or a.to_ascii(found.ascii_domain) == found.ascii_domain
        assert utf8 or not found.needs_smtputf8


def check_domain(raw: bytes) -> None:
    try:
        found = a.parse_domain(raw)
    except a.AddressError:
        return
    assert a.parse_domain(found.encode()) == found
    if found.startswith("["):
        a.literal_ip(found)


def check_parameters(raw: bytes) -> None:
    try:
        found = a.parse_parameters(raw)
    except a.AddressError:
        return
    written = " ".join(key if value is None else f"{key}={value}" for key, value in found.items())
    assert a.parse_parameters(written.encode()) == found
    assert len(found) == len(raw.split())


def check_commands(raw: bytes) -> None:
    """Nothing but MailError comes out, and who was offered nothing has no parameters."""
    for offers in (ALL, NOTHING):
        for read in (
            lambda: parse_mail(raw, offers),  # noqa: B023
            lambda: parse_rcpt(raw, offers, smtputf8=True),  # noqa: B023
            lambda: parse_helo(raw),
            lambda: check_vrfy(raw),
        ):
            try:
                read()
            except MailError as err:
                assert err.reply.permanent  # noqa: PT017
    try:
        command = parse_mail(raw, ALL)
    except MailError:
        return
    assert command.sender.domain or not command.sender
    assert not command.sender.needs_smtputf8 or command.smtputf8
    assert command.envid.isprintable()


# --- xtext and what is written in it


def check_notify(text: str) -> None:
    try:
        decoded = n.decode_xtext(text)
        assert n.decode_xtext(n.encode_xtext(decoded)) == decoded
        assert len(decoded) <= len(text)
    except n.NotifyError:
        pass
    for check in (n.check_ret, n.check_envid, n.check_orcpt):
        try:
            assert check(text) == text
        except n.NotifyError:
            continue
        assert text.isprintable()
        if check is n.check_orcpt:
            for utf8 in (True, False):
                shown = n.original_recipient(text, utf8=utf8)
                assert shown.isprintable()
                assert utf8 or shown.isascii()
            assert n.check_orcpt(n.ascii_orcpt(text))
    try:
        words = n.parse_notify(text)
    except n.NotifyError:
        return
    assert ",".join(words) == text
    assert n.wants(words, n.FAILURE) == ("FAILURE" in text.upper())


# --- XCLIENT


def check_claim(raw: bytes) -> None:
    try:
        claim = parse_claim(raw)
    except MailError as err:
        assert err.reply.code == 501  # noqa: PT017
        return
    names = [word.partition(b"=")[0].upper().decode() for word in raw.split()]
    assert set(names) <= set(ATTRIBUTES)
    assert len(set(names)) == len(names)
    said = {"ADDR": claim.ip, "PORT": claim.port, "NAME": claim.name, "LOGIN": claim.user}
    assert {name for name, value in said.items() if value is not None} == set(names) & set(said)
    assert claim.port is None or 0 <= claim.port <= 65535
    assert (claim.name or "").isprintable()
    assert (claim.user or "").isprintable()


# --- hypothesis


@settings(deadline=None)
@given(some(*PATHS))
def test_paths(raw: bytes) -> None:
    check_path(raw)
    check_path(b"<" + raw + b">")
    check_domain(raw)


@settings(deadline=None)
@given(some(*WORDS))
def test_parameters_and_commands(raw: bytes) -> None:
    check_parameters(raw)
    for first in (b"", b"FROM:<a@b.example> ", b"TO:<a@b.example> "):
        check_commands(first + raw)


@settings(deadline=None)
@given(some(*WORDS) | st.binary(max_size=30))
def test_notices(raw: bytes) -> None:
    check_notify(raw.decode("utf-8", "replace"))


@settings(deadline=None)
@given(some(*CLAIMS))
def test_claims(raw: bytes) -> None:
    check_claim(raw)


# --- seeded


def check_all(chance: random.Random) -> None:
    path = spoilt(chance, PATHS)
    check_path(b"<" + path + b"@" + spoilt(chance, PATHS) + b">" + spoilt(chance, WORDS))
    check_domain(path)
    words = spoilt(chance, WORDS)
    check_parameters(words)
    check_commands(chance.choice((b"FROM:<a@b.example> ", b"TO:<a@b.example> ", b"FROM:<" + path + b"> ")) + words)
    check_notify(words.decode("utf-8", "replace"))
    check_claim(spoilt(chance, CLAIMS))


def test_octets_from_anywhere(request: pytest.FixtureRequest) -> None:
    for seed in range(request.config.getoption("--fuzz-examples")):
        try:
            check_all(random.Random(seed))
        except Exception as err:
            raise AssertionError(f"seed {seed}: {err!r}") from err


def test_the_words_reach_what_is_accepted() -> None:
    """Or the checks above would see refusals only."""
    assert parse_mail(b"FROM:<a@b.example> BODY=8BITMIME SMTPUTF8", ALL).body is BodyType.EIGHT_BIT
    chance, taken = random.Random(0), 0
    for _ in range(3000):
        try:
            parse_claim(spoilt(chance, CLAIMS))
            taken += 1
        except MailError:
            continue
    assert taken > 100
