# SPDX-License-Identifier: Apache-2.0
"""What we say first: the banner, and the replies to HELO and EHLO, made once for each configuration.

RFCs: 5321 §4.1.1.1 (EHLO), 1870 (SIZE), 6152 (8BITMIME), 6531 (SMTPUTF8), 2920 (PIPELINING), 3207 (STARTTLS), 2034,
3030 §2 (CHUNKING) and §3 (BINARYMIME), 3461 §4 (DSN), 4954 §3 (AUTH), 8689 §3 (REQUIRETLS), 9422 §4 (LIMITS);
Postfix's XCLIENT_README.
"""

from dataclasses import replace
from functools import lru_cache

from gateway.edge.offers import Offers
from gateway.edge.verbs import VERBS
from gateway.mail import reply

LIMIT_MAX = 999_999  # RFC 9422 §4: six digits


@lru_cache(maxsize=16)
def banner(hostname: str) -> bytes:
    return replace(reply.BANNER, text=f"{hostname} {reply.BANNER.text}").wire()


@lru_cache(maxsize=16)
def hello(hostname: str) -> bytes:
    """To HELO, which offers nothing."""
    return replace(reply.GREETING, text=hostname).wire()


@lru_cache(maxsize=64)
def extended_hello(hostname: str, offers: Offers) -> bytes:
    """To EHLO: a line for each extension that is offered."""
    lines = [hostname, f"SIZE {offers.size}", "8BITMIME", "SMTPUTF8", "PIPELINING", "CHUNKING"]
    if offers.binary:
        lines.append("BINARYMIME")
    lines.append("DSN")
    if offers.starttls:
        lines.append("STARTTLS")
    if offers.auth:
        lines.append(f"AUTH {' '.join(offers.auth)}")
    if offers.require_tls:
        lines.append("REQUIRETLS")
    lines += _limits(offers)
    if offers.xclient:
        lines.append("XCLIENT NAME ADDR PORT PROTO HELO LOGIN DESTADDR DESTPORT")
    return replace(reply.GREETING, text="\n".join([*lines, "HELP", "ENHANCEDSTATUSCODES"])).wire()


@lru_cache(maxsize=64)
def helping(hostname: str, hidden: frozenset[str]) -> bytes:
    """To HELP: what may be said here, without the `hidden` verbs, and where to look further (RFC 5321 §4.1.1.8)."""
    verbs = [verb.name for verb in VERBS.values() if verb.implemented and verb.name not in hidden]
    text = f"{reply.HELP.text} {' '.join(verbs)}\n{reply.HELP_MORE}{hostname}"
    return replace(reply.HELP, text=text).wire()


def _limits(offers: Offers) -> list[str]:
    """RFC 9422: the limits there are; no line where there is none. A larger one than can be written is told as the largest."""
    limits = (("RCPTMAX", offers.recipients), ("MAILMAX", offers.messages))
    told = [f"{name}={min(limit, LIMIT_MAX)}" for name, limit in limits if limit]
    return [" ".join(["LIMITS", *told])] if told else []
