# SPDX-License-Identifier: Apache-2.0
"""Passwords: one in all forms of Unicode, and hashes that we can afford."""

import unicodedata

import pytest

from gateway.infra import passwords
from tests.support.logins import cheap


def test_a_new_hash_fits_its_password_and_no_other() -> None:
    stored = passwords.make("sesame")
    assert stored.startswith("$argon2id$v=19$m=65536,t=3,p=4$")
    assert passwords.matches(stored, "sesame")
    assert not passwords.matches(stored, "sesamE")
    assert not passwords.outdated(stored)


def test_two_hashes_of_one_password_differ() -> None:
    assert passwords.make("sesame") != passwords.make("sesame")


@pytest.mark.parametrize(("one", "other"), [("caf\u00e9", "cafe\u0301"), ("a\u00a0b", "a b"), ("a\u3000b", "a b")])
def test_two_forms_of_one_password_are_one(one: str, other: str) -> None:
    """RFC 8265 §4.2.2: the keyboard decides which form is sent, and the user does not know."""
    assert passwords.matches(passwords.make(one), other)


@pytest.mark.parametrize("password", ["", "a\nb", "a\x00b", "a\x7f", "x" * 1025, "\u00e9" * 513, "\ud800"])
def test_what_nobody_should_have_as_a_password(password: str) -> None:
    with pytest.raises(ValueError):
        passwords.make(password)


def test_an_old_hash_is_known_and_still_good() -> None:
    assert passwords.outdated(cheap("sesame"))
    assert passwords.matches(cheap("sesame"), "sesame")


@pytest.mark.parametrize(
    ("stored", "why"),
    [
        ("", "not an argon2id hash"),
        ("sesame", "not an argon2id hash"),
        ("$2b$12$abcdefghijklmnopqrstuv", "not an argon2id hash"),
        ("$argon2i$v=19$m=65536,t=3,p=4$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAA", "not an argon2id hash"),
        ("$argon2id$v=19$m=4194304,t=3,p=4$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAA", "costs too much"),
        ("$argon2id$v=19$m=65536,t=1000,p=4$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAA", "costs too much"),
        ("$argon2id$v=19$m=65536,t=3,p=400$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAA", "costs too much"),
        ("$argon2id$v=19$m=x,t=3,p=4$AAAA$AAAA", "not an argon2id hash"),
        ("$argon2id$v=19$m=65536,t=3,p=4$!!!!$AAAA", "not an argon2id hash"),
        ("$argon2id$v=19$m=65536,t=3,p=4$$", "not an argon2id hash"),
        ("$argon2id$v=19$m=65536,t=0,p=4$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAA", "not an argon2id hash"),
        ("$argon2id$v=19$m=1,t=1,p=4$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAA", "not an argon2id hash"),
        ("$argon2id$v=99$m=65536,t=3,p=4$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAA", "not an argon2id hash"),
    ],
)
def test_a_hash_that_cannot_be_used_is_told_without_showing_it(stored: str, why: str) -> None:
    with pytest.raises(ValueError, match=why) as raised:
        passwords.check_hash(stored)
    assert not stored or stored not in str(raised.value)


def test_the_decoy_is_as_expensive_as_a_new_hash_and_fits_nothing() -> None:
    decoy = passwords.decoy()
    passwords.check_hash(decoy)
    assert not passwords.outdated(decoy)
    assert not passwords.matches(decoy, "sesame")


def test_a_password_that_nobody_may_have_is_not_normalised(monkeypatch: pytest.MonkeyPatch) -> None:
    """Accents in the wrong order: the time goes with the square of their number, and no other thread runs meanwhile."""
    asked: list[int] = []
    monkeypatch.setattr(unicodedata, "normalize", lambda form, text: asked.append(len(text)) or text)
    assert not passwords.matches(cheap("sesame"), "a" + "\u0345" * 2000 + "\u0334" * 2000)
    assert not asked
    assert passwords.matches(cheap("x" * passwords.PASSWORD_MAX), "x" * passwords.PASSWORD_MAX)
    assert asked
