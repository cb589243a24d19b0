# SPDX-License-Identifier: Apache-2.0
"""SPF: may this client use this domain?

`check_host` goes: parse (which identity), evaluate (pyspf, in a greenlet), result.

Promises: never blocks: each DNS question of the evaluator is awaited here; every result of RFC 7208 §2.6, never an
exception for what a client, a sender or a zone may contain; bounded in time, terms and questions; a cancelled caller
leaves nothing running behind.
Fails with: ValueError if `ip` is no address. RFCs: 7208; 8601 §2.7.2; 8616 §4 (internationalised senders).
Not here: what a result means for the mail (`filters/spf.py`); the rules (`auth/spf_query.py`, `auth/spf_record.py`).
"""

import asyncio
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import greenlet  # type: ignore[import-untyped]

from gateway.auth.spf_query import Evaluation, Identity, Query, TempError
from gateway.mail.address import AddressError, to_ascii
from gateway.mail.envelope import IP
from gateway.mail.verdict import AuthResult
from gateway.ports import LookupFailed, Resolver

TIMEOUT = 20.0  # RFC 7208 §4.6.4: a limit on the elapsed time SHOULD allow at least 20 seconds; beyond it: temperror
_UNWIND_MAX = 10  # how often an evaluator is told to end before we give up on it; once is enough


@dataclass(frozen=True, slots=True)
class SpfResult:
    """How a check ended.

    `result` is one of pass, fail, softfail, neutral, none, temperror, permerror. `explanation` is the text of exp=
    (fail only; printable ASCII). `lookups` counts terms as §4.6.4 does (0–10). `mechanism` is the term that decided,
    "default" if none did. `reason` says what went wrong, for the log.
    """

    result: str
    explanation: str
    lookups: int
    domain: str
    identity: str  # "mailfrom" or "helo"
    mechanism: str
    reason: str


# --- parse


def parse_identity(helo: str, sender: str) -> Identity:
    """Whom to check: the sender; for a null sender postmaster at the HELO name (§2.4). Raises AddressError (IDNA)."""
    if sender in ("", "<>"):
        return Identity("postmaster", _domain(helo), "helo")
    local, at, domain = sender.rpartition("@")
    return Identity(local if at and local else "postmaster", _domain(domain), "mailfrom")  # §4.3: no local part


def _domain(name: str) -> str:
    name = name.removesuffix(".")
    return name if name.isascii() else to_ascii(name)  # §4.3: A-labels


def parse_ip(ip: IP | str) -> IP:
    """The client's address; IPv4 in IPv6 clothes is IPv4 (§5), a scope id is dropped. Raises ValueError."""
    if isinstance(ip, str):
        ip = ipaddress.ip_address(ip.partition("%")[0])
    if isinstance(ip, ipaddress.IPv4Address):
        return ip
    return ip.ipv4_mapped or (ipaddress.IPv6Address(int(ip)) if ip.scope_id else ip)


# --- evaluate


async def check_host(
    resolver: Resolver, ip: IP | str, helo: str, sender: str, *, receiver: str = "unknown", timeout: float = TIMEOUT
) -> SpfResult:
    """Check one client (§4). `sender` is the reverse-path without brackets, "" if null; `receiver` is %{r}, our name."""
    client = parse_ip(ip)
    try:
        who = parse_identity(helo, sender)
    except AddressError as err:
        domain, kind = (sender.rpartition("@")[2], "mailfrom") if sender else (helo, "helo")
        return SpfResult("none", "", 0, domain, kind, "", f"malformed domain: {err}")  # §4.3
    query = Query(_switch, client, helo, who, receiver)
    try:
        async with asyncio.timeout(timeout):
            ended = await _run(query, resolver)
    except TimeoutError:  # of the check; while the explanation was on its way, the result is known already
        ended = query.decided or Evaluation("temperror", f"SPF check took longer than {timeout:g}s", "", "", query.lookups)
    return _result(who, ended)


def _switch(name: Any, qtype: str) -> Sequence[Any]:
    """Called by the evaluator inside its greenlet: leave it, and come back with the answer."""
    answer: Sequence[Any] = greenlet.getcurrent().parent.switch((name, qtype))
    return answer


async def _run(query: Query, resolver: Resolver) -> Evaluation:
    """Let the evaluator run from question to question, and await each answer for it.

    An exception of ours (cancellation, the deadline) goes up through the evaluator, so that nothing of it stays.
    """
    evaluator = greenlet.greenlet(query.evaluate)
    try:
        step = evaluator.switch()
        while not evaluator.dead:
            try:
                answer = await _ask(resolver, *step)
            except LookupFailed as err:
                step = evaluator.throw(TempError(str(err)))
            else:
                step = evaluator.switch(answer)
    finally:
        _unwind(evaluator)
    ended: Evaluation = step
    return ended


def _unwind(evaluator: greenlet.greenlet) -> None:
    """End a greenlet that waits for an answer, even if something in it should swallow the order."""
    for _ in range(_UNWIND_MAX):
        if evaluator.dead:
            return
        evaluator.throw(greenlet.GreenletExit())
    raise AssertionError("an SPF evaluator does not end")


async def _ask(resolver: Resolver, name: Any, qtype: str) -> Sequence[Any]:
    """One question in the form that the evaluator wants the answer."""
    match qtype:
        case "TXT":
            return (await resolver.txt(name)).records
        case "A":
            return (await resolver.a(name)).records
        case "AAAA":
            return (await resolver.aaaa(name)).records
        case "MX":
            return [(mx.preference, mx.host) for mx in (await resolver.mx(name)).records]
        case "PTR":
            return (await resolver.ptr(name)).records
    raise AssertionError(f"SPF does not ask for {qtype}")


# --- result


def _result(who: Identity, ended: Evaluation) -> SpfResult:
    return SpfResult(ended.result, ended.explanation, ended.lookups, who.domain, who.kind, ended.mechanism, ended.reason)


def to_auth_result(result: SpfResult, sender: str = "") -> AuthResult:
    """The `spf=` of Authentication-Results (RFC 8601 §2.7.2): of the sender if given, else of the domain checked."""
    if result.identity == "helo":
        return AuthResult("spf", result.result, result.reason, (("smtp.helo", result.domain),))
    return AuthResult("spf", result.result, result.reason, (("smtp.mailfrom", sender or result.domain),))
