# SPDX-License-Identifier: Apache-2.0
"""DKIM beyond single messages: lookups, limits, threads, hostile input, a second opinion, and the way into results."""

import asyncio
import base64
import time
from pathlib import Path

import dkim as dkimpy
import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicNumbers
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.auth import dkim
from gateway.auth.dkim import DkimResult, to_auth_results, verify, verify_message
from gateway.auth.dkim_signature import NAMES_MAX
from gateway.mail.message import FileBody, Message
from gateway.mail.verdict import AuthResult
from tests.support.dkimcases import BODY, CONTENT, HEADER, NOW, ed25519, rsa, signed
from tests.support.resolver import MapResolver
from tests.support.sign import KEYS, NAMES, load, sign

RESULTS = {"pass", "fail", "policy", "neutral", "temperror", "permerror"}  # RFC 8601 §2.7.1; "none" is no signature at all


def resolver() -> MapResolver:
    return MapResolver({key.where(): {"TXT": [key.record]} for key in (rsa, ed25519, load("rsa2048"))})


def by_selector(selector: str) -> bytes:
    return sign(CONTENT, rsa, tags={"s": selector})


async def results_of(content: bytes) -> list[str]:
    return [result.result for result in await verify(resolver(), content, NOW)]


# --- results


async def test_a_result_holds_what_there_is_to_know() -> None:
    [result] = await verify(resolver(), signed(tags={"i": "ann@mail.example.test"}), NOW)
    assert result.signature
    assert result == DkimResult(
        domain="example.test",
        selector="rsa1024",
        result="pass",
        algorithm="rsa-sha256",
        identity="ann@mail.example.test",
        bits=1024,
        signature=result.signature,
    )


@pytest.mark.parametrize(
    ("written", "identity"),
    [
        (None, "@example.test"),
        ("@MAIL.example.test", "@mail.example.test"),
        ("Ann=3D=40x@example.test", "Ann=@x@example.test"),
        ("a n\r\n\tn@example.test", "ann@example.test"),
        ("ä@example.test", "ä@example.test"),
    ],
)
async def test_the_identity_is_decoded(written: str | None, identity: str) -> None:
    """RFC 6376 §2.11 and §3.5, i=: quoted-printable, white space ignored, the default @d."""
    [result] = await verify(resolver(), signed(tags={"i": written}), NOW)
    assert (result.result, result.identity) == ("pass", identity)


async def test_a_testing_key_is_marked_also_when_it_fails() -> None:
    names = MapResolver({rsa.where(): {"TXT": [f"t=y; p={rsa.public}"]}})
    [good, bad] = await verify(names, signed() + b"\r\n", NOW) + await verify(names, signed() + b"x\r\n", NOW)
    assert (good.result, good.testing) == ("pass", True)
    assert (bad.result, bad.testing) == ("fail", True)


def test_results_become_lines_of_authentication_results() -> None:
    result = DkimResult("d.test", "s1", "pass", "", "rsa-sha256", "@d.test", 2048, signature="abcd/f==")
    assert to_auth_results([result]) == [
        AuthResult(
            "dkim",
            "pass",
            "",
            (("header.d", "d.test"), ("header.s", "s1"), ("header.a", "rsa-sha256"), ("header.b", "abcd/f==")),
        )
    ]
    other = DkimResult("d.test", "s1", "fail", "why", identity="a@m.d.test")
    assert ("header.i", "a@m.d.test") in to_auth_results([other])[0].properties
    assert to_auth_results([other])[0].reason == "why"
    assert to_auth_results([]) == [AuthResult("dkim", "none")]
    assert to_auth_results([DkimResult("", "", "permerror", "no")]) == [AuthResult("dkim", "permerror", "no")]


# --- lookups


async def test_keys_are_fetched_at_once_and_each_name_once() -> None:
    names = MapResolver()
    names.hold = asyncio.Event()
    content = b"".join(map(by_selector, "abca")) + CONTENT
    task = asyncio.create_task(verify(names, content, NOW))  # nothing answers before all three have asked
    while names.count < 3:  # noqa: ASYNC110
        await asyncio.sleep(0)
    names.hold.set()
    results = await task
    assert sorted(name for name, _ in names.questions) == [f"{each}._domainkey.example.test" for each in "abc"]
    assert [result.selector for result in results] == list("abca")


async def test_only_eight_of_a_thousand_signatures_are_looked_up() -> None:
    names = MapResolver()
    content = b"".join(by_selector(f"s{number}") for number in range(20)) + by_selector("x") * 980 + CONTENT
    results = await verify(names, content, NOW)
    assert names.count == 8
    assert [result.result for result in results] == ["permerror"] * 8 + ["neutral"] * 992
    assert results[19].selector == "s19"  # described, though not evaluated
    assert results[60].selector == ""
    assert len(to_auth_results(results)) == 8


async def test_a_broken_signature_is_not_looked_up() -> None:
    names = resolver()
    await verify(names, signed(tags={"v": "2"}), NOW)
    assert names.count == 0


async def test_not_more_than_four_records_are_tried() -> None:
    names = MapResolver({rsa.where(): {"TXT": ["v=DKIM1; p="] * 4 + [rsa.record]}})
    [result] = await verify(names, signed(), NOW)
    assert (result.result, result.reason) == ("permerror", "key revoked")


# --- where the message is


async def test_a_body_in_a_file_is_verified_like_one_in_memory(tmp_path: Path) -> None:
    content = signed(HEADER + b"\r\n" + BODY * 20_000)
    message = Message.parse(content)
    path = tmp_path / "content"
    path.write_bytes(b"before" + content)
    body = FileBody(path, 6 + len(message.header), message.body_size)
    in_file = Message(b"From: our trace is not signed\r\n", message.header, body)
    assert [result.result for result in await verify_message(resolver(), in_file, NOW)] == ["pass"]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(OSError, match="missing"):
        await verify_message(resolver(), in_file, NOW)


@pytest.mark.parametrize(("size", "hops"), [(1, 0), (dkim.INLINE_MAX, 2)])
async def test_large_messages_are_worked_on_in_a_thread(size: int, hops: int, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []
    to_thread = asyncio.to_thread

    async def counted(*arguments: object) -> object:
        taken.append(arguments)
        return await to_thread(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(asyncio, "to_thread", counted)
    assert await results_of(signed(HEADER + b"\r\n" + b"x" * size + b"\r\n")) == ["pass"]
    assert len(taken) == hops


# --- hostile input: what is not linear runs into the suite's time limit


MEGABYTES = 10 << 20


async def test_hostile_blanks_in_header_and_body() -> None:
    blanks = b"Subject:" + b" " * (MEGABYTES // 2) + b"x\r\n"
    content = HEADER.replace(b"Subject: A  folded\r\n subject\r\n", blanks) + b"\r\n" + b" \t" * (MEGABYTES // 4) + b"\r\n"
    fields = b"".join(
        sign(CONTENT, key, canon=canon, tags={"bh": "/".join(["a" * 21, "b" * 21 + "="])})
        for key in (rsa, ed25519)
        for canon in ("relaxed/relaxed", "relaxed/simple", "simple/simple", "simple/relaxed")
    )
    assert await results_of(fields + content) == ["fail"] * 8


async def test_a_hundred_thousand_fields_and_a_thousand_names() -> None:
    names = ["From", *(f"X-{number}" for number in range(NAMES_MAX - 1))]
    many = b"".join(b"X-%d: y\r\n" % number for number in range(100_000))
    field = sign(CONTENT, rsa, names=names)
    assert await results_of(field * 8 + many + CONTENT) == ["fail"] * 8
    field = sign(CONTENT, rsa, names=["From", *["X-1"] * (NAMES_MAX - 1)])
    assert await results_of(field * 8 + b"X-1: y\r\n" * 100_000 + CONTENT) == ["fail"] * 8


async def test_more_names_than_the_limit() -> None:
    [result] = await verify(resolver(), signed(names=["From"] * (NAMES_MAX + 1)), NOW)
    assert (result.result, result.reason) == ("permerror", f"more than {NAMES_MAX} names in h=")
    [result] = await verify(resolver(), signed(names=["From", *["X-" + "y" * 60] * 10_000]), NOW)
    assert (result.result, result.reason) == ("permerror", "tag list is too long")


async def test_more_tags_than_the_limit() -> None:
    [result] = await verify(resolver(), signed(tags={f"x{number}": "y" for number in range(100)}), NOW)
    assert (result.result, result.reason) == ("permerror", "too many tags")


async def test_a_header_of_endless_lines_is_not_looked_into() -> None:
    content = b"a:\r\n" * (dkim.HEADER_LINES_MAX + 1) + CONTENT
    assert await results_of(content) == []
    assert await results_of(by_selector("s") * 8 + content) == ["neutral"]


async def test_a_field_of_endless_folds() -> None:
    assert await results_of(b"DKIM-Signature: v=1;" + b"\r\n " * 200_000 + b"\r\n" + CONTENT) == ["permerror"]
    assert await results_of(b"DKIM-Signature: " + b"v=1;" * 20 * 1024 + b"\r\n" + CONTENT) == ["permerror"]


@pytest.mark.parametrize(
    "octets", [b"\x30", b"\x30\x84\xff\xff\xff\xff", b"\x30\x80\x02\x01\x00", b"\x30\x06\x02\x01\x00\x02\x01\x00"]
)
async def test_a_key_that_is_no_key(octets: bytes) -> None:
    names = MapResolver({rsa.where(): {"TXT": [b"p=" + base64.b64encode(octets * 10)]}})
    [result] = await verify(names, signed(), NOW)
    assert (result.result, result.reason) == ("permerror", "key cannot be read")


async def test_a_key_with_a_huge_exponent_is_refused() -> None:
    """Raising to it costs a hundred times what 65537 does."""
    private = load("rsa2048").private
    assert isinstance(private, RSAPrivateKey)
    public = RSAPublicNumbers((1 << 2000) + 1, private.public_key().public_numbers().n).public_key()
    octets = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    names = MapResolver({rsa.where(): {"TXT": [b"p=" + base64.b64encode(octets)]}})
    [result] = await verify(names, signed(), NOW)
    assert result.result == "policy"


# --- nothing raises, nothing forged passes


TAGS = st.sampled_from(["v", "a", "b", "bh", "c", "d", "h", "i", "l", "q", "s", "t", "x", "z", "k", "p", "", " ", "\r\n "])
VALUES = st.one_of(
    st.sampled_from(
        ["", "1", "rsa-sha256", "relaxed/", "/", "@", "From", "From:", ":", "example.test", "xn--a", "=", "A===", "é"]
    ),
    st.text(max_size=12),
)
LISTS = st.lists(st.tuples(TAGS, VALUES), max_size=14).map(lambda tags: ";".join(f"{name}={value}" for name, value in tags))


@settings(max_examples=300)
@given(LISTS, LISTS, st.binary(max_size=40))
def test_no_field_no_key_and_no_body_raises(field: str, record: str, body: bytes) -> None:
    good = sign(CONTENT, ed25519, tags={"s": "odd"})
    content = b"DKIM-Signature:" + field.encode("utf-8", "replace") + b"\r\n" + good + HEADER + b"\r\n" + body
    names = MapResolver({"odd._domainkey.example.test": {"TXT": [record.encode("utf-8", "replace")]}})
    for result in asyncio.run(verify(names, content, NOW)):
        assert result.result in RESULTS - {"pass"}


@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_no_change_to_what_is_signed_passes(data: st.DataObject) -> None:
    """One octet becomes another, anywhere but in the unsigned Received fields."""
    content = signed(canon="simple/simple", names=(*NAMES, "Message-ID"))
    unsigned = range(content.index(b"Received:"), content.index(b"From: Ann"))
    at = data.draw(st.sampled_from([at for at in range(len(content)) if at not in unsigned]))
    octet = data.draw(st.integers(0, 255).filter(lambda octet: octet != content[at]))
    changed = content[:at] + bytes((octet,)) + content[at + 1 :]
    results = asyncio.run(verify(resolver(), changed, NOW))
    if "pass" in [result.result for result in results]:
        assert _same_signature(content, changed)


def _same_signature(content: bytes, changed: bytes) -> bool:
    """The name of the field has no case, and b= may spell the same octets in another way."""
    start = content.index(b"\tb=") + 3
    end = content.index(b"Received:")
    spelled = base64.b64decode(content[start:end]) == base64.b64decode(changed[start:end])
    rest = content[14:start] == changed[14:start] and content[end:] == changed[end:]
    return spelled and rest and content[:14].lower() == changed[:14].lower()


# --- a second opinion


@pytest.mark.parametrize("canon", ["relaxed/relaxed", "relaxed/simple", "simple/relaxed", "simple/simple"])
async def test_what_dkimpy_signs_we_verify(canon: str) -> None:
    pem = (KEYS / "rsa2048.pem").read_bytes()
    ways = tuple(word.encode() for word in canon.split("/"))
    for extra in ({}, {"length": True}, {"identity": b"ann@mail.example.test"}):
        field = dkimpy.sign(CONTENT, b"rsa2048", b"example.test", pem, canonicalize=ways, **extra)
        [result] = await verify(resolver(), field + CONTENT, time.time())  # dkimpy writes t=
        assert result.result == "pass", extra


@pytest.mark.parametrize("canon", ["relaxed/relaxed", "relaxed/simple", "simple/relaxed", "simple/simple"])
def test_what_we_sign_dkimpy_verifies(canon: str) -> None:
    """So the helper that signs our cases is not wrong in the same way as the verifier."""
    for key in (rsa, ed25519):
        records = {f"{key.where()}.".encode(): key.record.encode()}
        assert dkimpy.verify(signed(key=key, canon=canon), dnsfunc=lambda name, timeout, r=records: r.get(name))  # type: ignore[misc]
