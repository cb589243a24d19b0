# SPDX-License-Identifier: Apache-2.0
"""The addresses in the From field of a message that a user submits.

Promises: what cannot be read without doubt gives nothing, so that it is refused; time and depth are bounded.
RFCs: 5322 §3.6.2 (one From, with one or more mailboxes), 6409 §6.1.
Not here: whose addresses they are (`infra/userfile.py`).
"""

from email.utils import getaddresses

from gateway.mail.address import Address, AddressError, parse_mailbox
from gateway.mail.message import find_values

FROM_MAX = 8192  # octets of the field; an honest one has some hundred
NESTED_MAX = 50  # comments, which the parser reads by recursion


def authors(header: bytes) -> list[Address]:
    """The mailboxes of the one From field; empty if there is none, or several fields, or anything odd in it."""
    fields = find_values(header, b"from", 2)
    if len(fields) != 1 or len(fields[0]) > FROM_MAX or fields[0].count(b"(") > NESTED_MAX:
        return []
    try:
        found = getaddresses([fields[0].decode("utf-8")])
        return [parse_mailbox(address.encode("utf-8")) for _, address in found]
    except (AddressError, UnicodeError, RecursionError):  # the parser goes one deeper for each group within a group
        return []
