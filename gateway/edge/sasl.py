# SPDX-License-Identifier: Apache-2.0
"""The mechanisms of AUTH, as conversations without a socket: challenges out, responses in, credentials at the end.

A mechanism is a generator: it yields a challenge, is sent the response, and returns `Credentials`. An initial response
answers the first challenge.
Promises: nothing that is not strict base64 is decoded; no text here repeats what a client has sent.
Fails with: `SaslError`.
RFCs: 4954 §4 (the exchange), 4616 §2 (PLAIN), 4648 §3.5 and §4 (base64, its last bits too).
Not here: who may log in (`edge/login.py`); why there is no SCRAM (`docs/adr/0005-no-scram.md`).
"""

from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections.abc import Callable, Generator
from dataclasses import dataclass, field

Exchange = Generator[bytes, bytes, "Credentials"]


class SaslError(ValueError):
    """The response is none of this mechanism."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who the client says it is. The password is not shown by `repr`."""

    name: str
    password: str = field(repr=False)


def plain() -> Exchange:
    """RFC 4616 §2: message = [authzid] NUL authcid NUL passwd, in UTF-8."""
    parts = (yield b"").split(b"\x00")
    if len(parts) != 3:
        raise SaslError("not two NUL in the message")
    authzid, name, password = map(_text, parts)
    # To act for another is what RFC 4616 has authzid for; nobody may here.
    if authzid and authzid != name:
        raise SaslError("to act for another user is not possible")
    return _credentials(name, password)


def login() -> Exchange:
    """No RFC has it, every client does; the words are those that all servers say.

    Deviates: an initial response is taken for the name, as clients expect, although the server has the first word here
    (RFC 4954 §4 would have it refused).
    """
    name = _text((yield b"Username:"))
    password = _text((yield b"Password:"))
    if "\x00" in name or "\x00" in password:
        raise SaslError("a NUL in a response")
    return _credentials(name, password)


# In the order in which EHLO names them: clients take the first that they know.
MECHANISMS: dict[str, Callable[[], Exchange]] = {"PLAIN": plain, "LOGIN": login}


def decode(line: bytes) -> bytes:
    """A response from base64; an empty line is the empty one."""
    try:
        octets = b64decode(line, validate=True)
    except Base64Error as err:
        raise SaslError("not base64") from err
    if b64encode(octets) != line:
        raise SaslError("not the base64 of anything")  # RFC 4648 §3.5: unused bits are zero
    return octets


def encode(challenge: bytes) -> str:
    """A challenge as the text of its reply."""
    return b64encode(challenge).decode("ascii")


def _text(octets: bytes) -> str:
    try:
        return octets.decode("utf-8")
    except UnicodeDecodeError:
        raise SaslError("not UTF-8") from None  # the error would hold the octets


def _credentials(name: str, password: str) -> Credentials:
    if not name or not password:
        raise SaslError("the name or the password is empty")
    return Credentials(name, password)
