# SPDX-License-Identifier: Apache-2.0
"""What a session has been offered: the extensions of its EHLO, and so the parameters that it may use.

Promises: a parameter is taken if, and only if, its extension was offered to this client in its present state.
RFCs: 5321 §4.1.1.1; the extension of each field beside it.
Not here: the text of the reply to EHLO (`edge/greeting.py`).
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Offers:
    """What may be offered or not. Always offered to who says EHLO: SIZE, 8BITMIME, SMTPUTF8, PIPELINING, CHUNKING, DSN, HELP,
    ENHANCEDSTATUSCODES, LIMITS.
    """

    esmtp: bool = True  # False after HELO: nothing is offered
    size: int = 0  # octets; 0 says that there is no fixed limit (RFC 1870 §4)
    recipients: int = 0  # in one transaction; 0 is no limit (RFC 9422, RCPTMAX)
    messages: int = 0  # in one connection; 0 is no limit (RFC 9422, MAILMAX)
    starttls: bool = False  # RFC 3207
    auth: tuple[str, ...] = ()  # mechanisms (RFC 4954)
    require_tls: bool = False  # under TLS only (RFC 8689 §3)
    binary: bool = False  # BINARYMIME, where the way on takes it (RFC 3030 §3)
    xclient: bool = False  # to proxies that we know


NOTHING = Offers(esmtp=False)
