# SPDX-License-Identifier: Apache-2.0
"""What we say first: the banner, and the replies to HELO and EHLO, made once for each configuration.

RFCs: 5321 §4.1.1.1 (EHLO), 1870 (SIZE), 6152 (8BITMIME), 6531 (SMTPUTF8), 2920 (PIPELINING), 3207 (STARTTLS), 2034.
"""

from dataclasses import replace
from functools import lru_cache

from gateway.mail import reply


@lru_cache(maxsize=16)
def banner(hostname: str) -> bytes:
    return replace(reply.BANNER, text=f"{hostname} {reply.BANNER.text}").wire()


@lru_cache(maxsize=16)
def hello(hostname: str) -> bytes:
    """To HELO, which offers nothing."""
    return replace(reply.GREETING, text=hostname).wire()


@lru_cache(maxsize=16)
def extended_hello(hostname: str, size: int, *, starttls: bool) -> bytes:
    """To EHLO. A size of 0 says that there is no fixed limit (RFC 1870 §4)."""
    lines = [hostname, f"SIZE {size}", "8BITMIME", "SMTPUTF8", "PIPELINING"]
    if starttls:
        lines.append("STARTTLS")
    return replace(reply.GREETING, text="\n".join([*lines, "HELP", "ENHANCEDSTATUSCODES"])).wire()
