# SPDX-License-Identifier: Apache-2.0
"""The door to argon2-cffi: passwords become argon2id strings, and are held against them.

Promises: the same password written in two forms of Unicode is one password; what cannot be judged raises and is never
taken for a wrong password. Each call takes some 50 ms of a core and 64 MiB: make it in a thread.
Fails with: `ValueError` for what cannot be a password or a hash; argon2's own errors for want of memory.
RFCs: 9106 §4 (parameters: the second recommended option), 8265 §4.2 (forms of one password).
Not here: whose password it is (`infra/userfile.py`), how many at a time (`infra/users.py`).
"""

import re
import unicodedata
from base64 import b64encode

import argon2
from argon2.exceptions import Argon2Error as Argon2Error
from argon2.exceptions import VerifyMismatchError

PASSWORD_MAX = 1024  # octets of UTF-8; far below what a line of an AUTH exchange may bring
# A hash that costs more would let one login hold up all others. In KiB, passes, threads.
MEMORY_MAX, TIME_MAX, LANES_MAX = 1 << 20, 64, 64

# $argon2id$v=19$m=…,t=…,p=…$salt$digest; RFC 9106 §3.1: a salt of 8 octets at least, a digest of 4; here up to 64 of each.
# The library looks at a hash only when it judges by it, and not at all of it then.
_HASH = re.compile(
    r"\$argon2id\$v=19\$m=([1-9][0-9]{0,9}),t=([1-9][0-9]{0,9}),p=([1-9][0-9]{0,9})"
    r"\$([A-Za-z0-9+/]{11,86})\$([A-Za-z0-9+/]{6,86})"
)
_HASHER = argon2.PasswordHasher()


def check_password(password: str) -> None:
    """Raise ValueError, whose text may be shown, if nobody should have this password."""
    if not password:
        raise ValueError("an empty password is none")
    if _octets(password) > PASSWORD_MAX:
        raise ValueError(f"the password is longer than {PASSWORD_MAX} octets")
    if any(unicodedata.category(char) in ("Cc", "Cs") for char in password):
        raise ValueError("the password has a control character or is not UTF-8")


def make(password: str) -> str:
    """The argon2id string of a new password, with a salt of its own. Raises ValueError as `check_password`."""
    check_password(password)
    return _HASHER.hash(_one_form(password))


def matches(stored: str, password: str) -> bool:
    """Is this the password of that string? Raises argon2's errors if it cannot be said.

    One that nobody may have is nobody's: to normalise some KiB of accents takes 0.1 s, in which no other thread runs.
    """
    if _octets(password) > PASSWORD_MAX:
        return False
    try:
        return _HASHER.verify(stored, _one_form(password))
    except VerifyMismatchError:
        return False


def outdated(stored: str) -> bool:
    """True if a hash made now would have other parameters."""
    return _HASHER.check_needs_rehash(stored)


def check_hash(stored: str) -> None:
    """Raise ValueError, whose text does not show the hash, if it is no argon2id string that we can afford."""
    found = _HASH.fullmatch(stored)
    # RFC 9106 §3.1: eight KiB a lane at least. A length of 4n+1 is no base64.
    if not found or int(found[1]) < 8 * int(found[3]) or any(len(found[part]) % 4 == 1 for part in (4, 5)):
        raise ValueError("the second field is not an argon2id hash")
    if any(int(found[part]) > most for part, most in ((1, MEMORY_MAX), (2, TIME_MAX), (3, LANES_MAX))):
        raise ValueError(f"the hash costs too much: at most m={MEMORY_MAX}, t={TIME_MAX}, p={LANES_MAX}")


def decoy() -> str:
    """A well-formed hash, as expensive as a new one, that no password is known for."""
    costs = f"m={_HASHER.memory_cost},t={_HASHER.time_cost},p={_HASHER.parallelism}"
    salt, digest = (b64encode(bytes(size)).decode().rstrip("=") for size in (_HASHER.salt_len, _HASHER.hash_len))
    return f"$argon2id$v=19${costs}${salt}${digest}"


def _octets(password: str) -> int:
    return len(password.encode("utf-8", "surrogatepass"))


def _one_form(password: str) -> str:
    """RFC 8265 §4.2.2: blanks of every kind are the ASCII one, then normalisation form C."""
    blanks = "".join(" " if unicodedata.category(char) == "Zs" else char for char in password)
    return unicodedata.normalize("NFC", blanks)
