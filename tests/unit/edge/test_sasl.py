# SPDX-License-Identifier: Apache-2.0
"""PLAIN and LOGIN without a socket."""

from base64 import b64decode, b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.edge.sasl import MECHANISMS, Credentials, SaslError, decode, encode

ANN = Credentials("ann", "sesame")


def talk(mechanism: str, *responses: bytes) -> tuple[list[bytes], Credentials | None]:
    """The challenges, and the credentials if the exchange has come to its end."""
    exchange = MECHANISMS[mechanism]()
    challenges = [next(exchange)]
    for response in responses:
        try:
            challenges.append(exchange.send(response))
        except StopIteration as end:
            return challenges, end.value
    return challenges, None


@pytest.mark.parametrize("message", [b"\0ann\0sesame", b"ann\0ann\0sesame"])
def test_plain(message: bytes) -> None:
    assert talk("PLAIN", message) == ([b""], ANN)


def test_plain_takes_a_password_with_anything_but_nul() -> None:
    assert talk("PLAIN", "\0ren\u00e9\0p:a s\u00a0\u00df\n".encode())[1] == Credentials("ren\u00e9", "p:a s\u00a0\u00df\n")


@pytest.mark.parametrize(
    "message",
    [
        b"", b"\0", b"\0\0", b"ann", b"ann\0sesame", b"\0ann\0", b"\0\0sesame", b"\0ann\0sesame\0", b"bob\0ann\0sesame",
        b"ANN\0ann\0sesame", b"\0\xff\0sesame", b"\0ann\0\xff", b"\xff\0ann\0sesame",
    ],
)  # fmt: skip
def test_what_is_no_message_of_plain(message: bytes) -> None:
    with pytest.raises(SaslError) as raised:
        talk("PLAIN", message)
    assert "sesame" not in repr(raised.value)
    assert raised.value.__cause__ is None


def test_login_asks_twice() -> None:
    assert talk("LOGIN", b"ann") == ([b"Username:", b"Password:"], None)
    assert talk("LOGIN", b"ann", b"sesame") == ([b"Username:", b"Password:"], ANN)


@pytest.mark.parametrize(
    "responses", [(b"", b"sesame"), (b"ann", b""), (b"an\0n", b"x"), (b"ann", b"x\0"), (b"\xff", b"x"), (b"ann", b"\xff")]
)
def test_what_is_no_message_of_login(responses: tuple[bytes, ...]) -> None:
    with pytest.raises(SaslError):
        talk("LOGIN", *responses)


@pytest.mark.parametrize(
    "line",
    [b"=", b"====", b"A", b"AA", b"AAA", b"AB==", b"AAB=", b"AA==AA==", b"A A=", b" AAAA", b"AA-_", b"AAAA=", b"\xc3\xa9AA"],
)
def test_what_is_no_base64(line: bytes) -> None:
    with pytest.raises(SaslError):
        decode(line)


@given(st.binary(max_size=200))
def test_base64_there_and_back(octets: bytes) -> None:
    assert decode(b64encode(octets)) == octets
    assert b64decode(encode(octets)) == octets


@given(st.sampled_from(sorted(MECHANISMS)), st.lists(st.binary(max_size=50), min_size=1, max_size=3))
def test_whatever_is_said_gives_credentials_or_a_named_fault(mechanism: str, responses: list[bytes]) -> None:
    try:
        _, found = talk(mechanism, *responses)
    except SaslError:
        return
    if found is not None:
        assert found.name
        assert found.password
        assert "\0" not in found.name + found.password


def test_the_password_is_not_shown() -> None:
    assert "sesame" not in repr(ANN)
