# SPDX-License-Identifier: Apache-2.0
"""DKIM: what each signature of a message is worth.

parse (`dkim_signature.py`) → fetch keys → evaluate → result, one for each DKIM-Signature field, in the order of the header.
Promises: never raises for what is in a message or a key; time is linear in the message; keys are fetched at once, each name
once; the body is canonicalised once for each c=; large messages are worked on in a thread.
Fails with: OSError for a body file that cannot be read.
RFCs: 6376, 8301, 8463, 8616 §5; results: 8601 §2.7.1.
Not here: DMARC alignment; what a result means for the message (`filters/dkim.py`); making signatures (`dkim_sign.py`).

What is found, and the result:
- pass: body hash and signature are right (RFC 6376 §6.1.3).
- fail: one of them is wrong (§6.1.3); there is a From field that h= does not cover (§8.15).
- temperror: no answer from the DNS (§6.1.2, "TEMPFAIL (key unavailable)").
- permerror: all that §6.1.1 and §6.1.2 call PERMFAIL: malformed or incomplete field, unknown a=, c= or q=, i= outside d=,
  From not in h=, expired, l= beyond the body; no key; key malformed, revoked, or not for this use. Besides: rsa-sha1 and RSA
  keys under 1,024 bits (RFC 8301 §3, "permanently failed evaluation"); no From field at all.
  RFC 8601 would also allow "neutral" for syntax errors; "permerror" keeps one word for what no later attempt can mend.
- policy: the RFCs allow it, we do not: octets of the body behind l=, RSA keys over 4,096 bits, t= far ahead.
- neutral: not evaluated, because `SIGNATURES_MAX` newer signatures stand above it, or for `HEADER_LINES_MAX`.
`testing` (t=y of the key, §3.6.1) asks that a failure be treated like no signature.

dkimpy reads the tag lists. Its verifier is not used: it takes quadratic time over header fields and blanks, has one False
for every fault, and its RSA arithmetic is ten times slower than that of `cryptography`.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from gateway.auth.dkim_canon import BodyHash, Way, hash_body
from gateway.auth.dkim_header import SIGNATURE, SignedHeader
from gateway.auth.dkim_key import Key, parse_key
from gateway.auth.dkim_signature import Signature, Unverifiable, parse_signature, read_name, read_tags
from gateway.mail.message import Message
from gateway.mail.verdict import AuthResult
from gateway.ports import LookupFailed, Resolver

SIGNATURES_MAX = 8  # evaluated in one message, from the top: the newest; chasquid takes 5, others up to 10
DESCRIBED_MAX = 50  # beyond this many, a result does not even name the domain
KEYS_MAX = 4  # TXT records tried for one signature; RFC 6376 §3.6.2.2 wants exactly one
HEADER_LINES_MAX = 250_000  # a header section with more is not looked into; real ones have 50 to 200
INLINE_MAX = 64 << 10  # octets of a message that is worked on in the event loop; larger ones in a thread

R = TypeVar("R")
Records = Mapping[str, Sequence[bytes] | None]  # TXT records by the name of the key; None: the lookup failed


@dataclass(frozen=True, slots=True)
class DkimResult:
    """What one signature is worth. Texts are empty where the field is too broken to tell.

    `domain` is d= in lower-case A-labels, `identity` i= (or its default), `bits` the size of the key (0: none was used),
    `signature` the first letters of b=, by which RFC 6008 tells signatures of one domain apart.
    """

    domain: str
    selector: str
    result: str
    reason: str = ""
    algorithm: str = ""
    identity: str = ""
    bits: int = 0
    testing: bool = False
    signature: str = ""


@dataclass(slots=True)
class _Case:
    """One signature field on its way. `found.result` is empty until it is decided."""

    index: int
    found: DkimResult
    signature: Signature | None = None
    keys: Sequence[Key] = ()

    def decide(self, result: str, reason: str = "", key: Key | None = None) -> None:
        self.found = replace(
            self.found, result=result, reason=reason, bits=key.bits if key else 0, testing=bool(key and key.testing)
        )


async def verify(resolver: Resolver, content: bytes, now: float) -> list[DkimResult]:
    """One result for each signature of `content`, in the order of the header; none, no result. `now` is Unix time."""
    return await verify_message(resolver, Message.parse(content), now)


async def verify_message(resolver: Resolver, message: Message, now: float) -> list[DkimResult]:
    """The same for a message whose body may be in a file. Our own trace fields are not part of what was signed.

    Raises OSError if the file cannot be read.
    """
    large = message.size > INLINE_MAX
    header, cases = await _run(_parse, message, now, in_thread=large)
    if not cases:
        return []
    records = await _fetch_keys(resolver, cases)
    await _run(_evaluate, message, header, cases, records, in_thread=large)
    return [case.found for case in cases]


async def _run(work: Callable[..., R], *arguments: Any, in_thread: bool) -> R:
    return await asyncio.to_thread(work, *arguments) if in_thread else work(*arguments)


# --- parse


def _parse(message: Message, now: float) -> tuple[SignedHeader, list[_Case]]:
    if message.header.count(b"\r\n") > HEADER_LINES_MAX:
        signed = SIGNATURE in message.header.lower()
        return SignedHeader(()), [_Case(0, DkimResult("", "", "neutral", "header has too many lines"))] * signed
    header = SignedHeader(message.fields)
    places = header.places(SIGNATURE)
    cases = [_parse_case(header, index, now) for index in places[:SIGNATURES_MAX]]
    cases += [_leave_out(header, index) for index in places[SIGNATURES_MAX:DESCRIBED_MAX]]
    cases += [_Case(index, _LEFT_OUT) for index in places[DESCRIBED_MAX:]]
    return header, cases


def _parse_case(header: SignedHeader, index: int, now: float) -> _Case:
    tags: Mapping[bytes, bytes] = {}
    try:
        tags = read_tags(header.fields[index].value)
        signature = parse_signature(tags, now)
    except Unverifiable as fault:
        return _Case(index, _describe(tags, fault.result, fault.reason))
    found = _describe(tags, "", "")
    return _Case(index, replace(found, algorithm=signature.algorithm, identity=signature.identity), signature)


def _leave_out(header: SignedHeader, index: int) -> _Case:
    try:
        tags = read_tags(header.fields[index].value)
    except Unverifiable:
        return _Case(index, _LEFT_OUT)
    return _Case(index, _describe(tags, _LEFT_OUT.result, _LEFT_OUT.reason))


def _describe(tags: Mapping[bytes, bytes], result: str, reason: str) -> DkimResult:
    """As much of the signature's name as can be read."""
    start = tags.get(b"b", b"").translate(None, b" \t")[:8]
    return DkimResult(_readable(tags, b"d"), _readable(tags, b"s"), result, reason, signature=start.decode("ascii", "replace"))


def _readable(tags: Mapping[bytes, bytes], tag: bytes) -> str:
    try:
        return read_name(tags.get(tag, b""), "")
    except Unverifiable:
        return ""


_LEFT_OUT = DkimResult("", "", "neutral", f"not evaluated: there are more than {SIGNATURES_MAX} signatures")


# --- keys


async def _fetch_keys(resolver: Resolver, cases: Iterable[_Case]) -> Records:
    """All lookups at once. Their deadline is the resolver's."""
    names = list(dict.fromkeys(case.signature.key_name for case in cases if case.signature))
    if len(names) < 2:  # the usual case needs no task
        return {name: await _fetch(resolver, name) for name in names}
    async with asyncio.TaskGroup() as group:
        tasks = {name: group.create_task(_fetch(resolver, name)) for name in names}
    return {name: task.result() for name, task in tasks.items()}


async def _fetch(resolver: Resolver, name: str) -> Sequence[bytes] | None:
    try:
        return (await resolver.txt(name)).records
    except LookupFailed:
        return None


def _parse_keys(signature: Signature, records: Sequence[bytes] | None) -> list[Key]:
    """The usable keys of RFC 6376 §6.1.2; raises the first record's fault if there is none."""
    if records is None:
        raise Unverifiable("temperror", "key could not be fetched")
    faults: list[Unverifiable] = []
    keys: list[Key] = []
    for record in records[:KEYS_MAX]:
        try:
            keys.append(parse_key(record, signature))
        except Unverifiable as fault:
            faults.append(fault)
    if not keys:
        raise faults[0] if faults else Unverifiable("permerror", "no key for signature")
    return keys


# --- evaluate


def _evaluate(message: Message, header: SignedHeader, cases: Sequence[_Case], records: Records) -> None:
    """Decides all cases that are still open."""
    ready: list[tuple[_Case, Signature]] = []
    for case in cases:
        if not case.signature:
            continue
        try:
            case.keys = _parse_keys(case.signature, records[case.signature.key_name])
            ready.append((case, case.signature))
        except Unverifiable as fault:
            case.decide(fault.result, fault.reason)
    if not ready:
        return
    hashes = hash_body(_body(message), {_way(signature) for _, signature in ready})
    for case, signature in ready:
        _compare(case, signature, header, hashes[_way(signature)])


def _compare(case: _Case, signature: Signature, header: SignedHeader, body: BodyHash) -> None:
    """RFC 6376 §6.1.3, and what must hold besides."""
    key = case.keys[0]
    froms = len(header.places(b"from"))
    if not froms:
        case.decide("permerror", "message has no From field", key)
    elif signature.length is not None and signature.length > body.size:
        case.decide("permerror", "l= is more than the body has", key)  # RFC 6376 §3.5, l=
    elif body.digest != signature.body_hash:
        case.decide("fail", "body hash did not verify", key)
    elif froms > signature.names.count(b"from"):
        case.decide("fail", "a From field is not signed", key)  # RFC 6376 §8.15
    else:
        _check_signature(case, signature, header.digest(signature, case.index), body)


def _check_signature(case: _Case, signature: Signature, digest: bytes, body: BodyHash) -> None:
    key = next((key for key in case.keys if key.verifies(signature.octets, digest)), None)
    if not key:
        case.decide("fail", "signature did not verify", case.keys[0])
    elif signature.length is not None and signature.length < body.size:
        # RFC 6376 §8.2: what stands behind l= octets may come from anyone
        case.decide("policy", f"{body.size - signature.length} octets of the body are not signed", key)
    else:
        case.decide("pass", "testing key" if key.testing else "", key)


def _way(signature: Signature) -> Way:
    return signature.relaxed_body, signature.length


def _body(message: Message) -> Iterator[bytes]:
    """The octets behind the empty line that ends the header."""
    chunks = message.body_chunks()
    yield next(chunks, b"")[2:]
    yield from chunks


# --- result


def to_auth_results(results: Sequence[DkimResult]) -> list[AuthResult]:
    """For Authentication-Results (RFC 8601 §2.7.1). Signatures that were not evaluated are left out."""
    if not results:
        return [AuthResult("dkim", "none")]
    return [_to_auth_result(result) for result in results[:SIGNATURES_MAX]]


def _to_auth_result(result: DkimResult) -> AuthResult:
    identity = result.identity if result.identity != f"@{result.domain}" else ""  # the default says nothing new
    properties = {
        "header.d": result.domain,
        "header.i": identity,
        "header.s": result.selector,
        "header.a": result.algorithm,
        "header.b": result.signature,
    }
    return AuthResult("dkim", result.result, result.reason, tuple((name, value) for name, value in properties.items() if value))
