# SPDX-License-Identifier: Apache-2.0
"""The text of SPF: records, terms, macro strings. What the grammar of RFC 7208 §12 allows, and nothing else.

Promises: pure; linear in the length of the text, whatever it is; `parse` finds an error anywhere in the record before
any term is looked at (§4.6); what it returns, pyspf reads as the RFC means it.
Fails with: `RecordError`.
RFCs: 7208 §4.6, §5, §6, §7.1, §7.3, §12.
Not here: evaluation (`auth/spf_query.py`).
"""

import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import quote

# Deviates: RFC 7208 §3.4 asks records to be small and names no limit. No real one is near this; a forged one could be 64 KiB.
RECORD_MAX = 16384
NAME_MAX = 253  # RFC 7208 §7.3: longer names lose labels on the left

# RFC 7208 §7.1:
#   macro-expand     = ( "%{" macro-letter transformers *delimiter "}" ) / "%%" / "%_" / "%-"
#   macro-literal    = %x21-24 / %x26-7E
#   transformers     = *DIGIT [ "r" ]      (§7.3: a number MUST NOT be zero)
#   delimiter        = "." / "-" / "+" / "," / "/" / "_" / "="
_EXPAND = r"%\{([A-Za-z])([0-9]*+)([rR]?)([.\-+,/_=]*+)\}|%([%_-])"
_MACRO = re.compile(_EXPAND)
_MACRO_STRING = re.compile(rf"(?:{_EXPAND}|[!-$&-~]++)*+")
_EXPLANATION = re.compile(rf"(?:{_EXPAND}|[ -$&-~]++)*+")  # explain-string = *( macro-string / SP ), §6.2
_LETTERS = frozenset("slodiphv")
_LETTERS_IN_TEXT = _LETTERS | frozenset("crt")  # §7.2: these three in the text of exp= only
# domain-end = ( "." toplabel [ "." ] ) / macro-expand
# toplabel   = ( *alphanum ALPHA *alphanum ) / ( 1*alphanum "-" *( alphanum / "-" ) alphanum )
_TOPLABEL = re.compile(r"(?!-)(?![0-9]+\Z)[A-Za-z0-9-]+(?<!-)")
# name = ALPHA *( ALPHA / DIGIT / "-" / "_" / "." ), of modifiers and mechanisms alike
_NAME = r"[A-Za-z][A-Za-z0-9._-]*+"
_MODIFIER = re.compile(rf"({_NAME})=(.*)", re.S)
_MECHANISM = re.compile(rf"[+?~-]?({_NAME})(.*)", re.S)
# ip4-cidr-length = "/" ("0" / %x31-39 0*1DIGIT), ip6-cidr-length = "/" ("0" / %x31-39 0*2DIGIT); §5.6: at most 32, 128
_CIDR4, _CIDR6 = r"/(0|[1-9][0-9]?)", r"/(0|[1-9][0-9]{0,2})"
_DUAL_CIDR = re.compile(rf"(.*?)(?:{_CIDR4})?(?:/{_CIDR6})?", re.S)
_ONE_CIDR = re.compile(rf"(.*?)(?:{_CIDR6})?", re.S)


class RecordError(ValueError):
    """The record breaks the grammar: a permerror."""


@dataclass(frozen=True, slots=True)
class Record:
    """A record that is right by the grammar. `mechanisms` are terms as they stand; empty `redirect`, `exp`: not given."""

    mechanisms: tuple[str, ...]
    redirect: str = ""
    exp: str = ""


def parse(text: str) -> Record:
    """Read a record. Mechanism and modifier names in any case (RFC 5234 §2.3). Raises RecordError."""
    if len(text) > RECORD_MAX:
        raise RecordError("record is too long")
    version, *terms = text.split(" ")
    if version.lower() != "v=spf1":
        raise RecordError("not a version 1 record")
    mechanisms, modifiers = [], {"redirect": "", "exp": ""}
    for term in filter(None, terms):
        found = _MODIFIER.fullmatch(term)
        if not found:
            _check_mechanism(term)
            mechanisms.append(term)
            continue
        name, value = found[1].lower(), found[2]
        if name not in modifiers:  # §6: unknown ones are ignored, but must be macro strings
            _check_macros(value, _LETTERS_IN_TEXT, _MACRO_STRING)
        elif modifiers[name]:
            raise RecordError(f"{name}= appears twice")  # §6
        else:
            _check_domain(value, term)
            modifiers[name] = value
    return Record(tuple(mechanisms), **modifiers)


def _check_mechanism(term: str) -> None:
    found = _MECHANISM.fullmatch(term)
    check = _ARGUMENTS.get(found[1].lower()) if found else None
    if not found or not check:
        raise RecordError(f"unknown mechanism {term[:60]!r}")
    check(found[2], term)


def _no_argument(argument: str, term: str) -> None:
    if argument:
        raise RecordError(f"nothing may follow in {term[:60]!r}")


def _domain_needed(argument: str, term: str) -> None:
    if not argument.startswith(":"):
        raise RecordError(f"a domain is missing in {term[:60]!r}")
    _check_domain(argument[1:], term)


def _domain_allowed(argument: str, term: str) -> None:
    if argument:
        _domain_needed(argument, term)


def _domain_and_cidr(argument: str, term: str) -> None:
    found = _DUAL_CIDR.fullmatch(argument)
    if not found or int(found[2] or 0) > 32 or int(found[3] or 0) > 128:
        raise RecordError(f"bad prefix length in {term[:60]!r}")
    _domain_allowed(found[1], term)


def _ip4(argument: str, term: str) -> None:
    _check_network(argument, term, ipaddress.IPv4Address, 32)


def _ip6(argument: str, term: str) -> None:
    _check_network(argument, term, ipaddress.IPv6Address, 128)


def _check_network(argument: str, term: str, read: Callable[[str], object], longest: int) -> None:
    found = _ONE_CIDR.fullmatch(argument)
    if not found or not found[1].startswith(":") or int(found[2] or 0) > longest or "%" in argument:
        raise RecordError(f"bad network in {term[:60]!r}")
    try:
        read(found[1][1:])
    except ValueError as err:
        raise RecordError(f"bad address in {term[:60]!r}") from err


_ARGUMENTS: Mapping[str, Callable[[str, str], None]] = {
    "all": _no_argument,  # §5.1
    "include": _domain_needed,  # §5.2
    "a": _domain_and_cidr,  # §5.3
    "mx": _domain_and_cidr,  # §5.4
    "ptr": _domain_allowed,  # §5.5
    "ip4": _ip4,  # §5.6
    "ip6": _ip6,
    "exists": _domain_needed,  # §5.7
}


def _check_domain(spec: str, term: str) -> None:
    """domain-spec = macro-string domain-end (§7.1): it ends in a macro, or in a dot and a name that is no number."""
    _check_macros(spec, _LETTERS, _MACRO_STRING)
    tail = _MACRO.sub("\n", spec).rpartition("\n")  # a line feed is no macro-literal, so it can stand for a macro
    if tail[1] and not tail[2]:
        return
    _, dot, label = tail[2].removesuffix(".").rpartition(".")
    if not dot or not _TOPLABEL.fullmatch(label):
        raise RecordError(f"no domain in {term[:60]!r}")


def _check_macros(text: str, letters: frozenset[str], grammar: re.Pattern[str]) -> None:
    if not grammar.fullmatch(text):
        raise RecordError(f"bad macro or character in {text[:60]!r}")
    for found in _MACRO.finditer(text):
        letter, digits = found[1], found[2]
        if letter and (letter.lower() not in letters or (digits and not digits.strip("0"))):
            raise RecordError(f"macro {found[0][:60]!r} is not allowed here")


def expand_name(spec: str, value: Callable[[str], str]) -> str:
    """The name that a domain-spec means now; `value` tells what stands for a (lower-case) letter.

    Without final dot; a name over 253 octets loses labels on the left until it fits (§7.3).
    """
    name = _expand(spec, value).removesuffix(".")
    if len(name) > NAME_MAX:
        name = name[name.find(".", len(name) - NAME_MAX - 1) + 1 :]
    return name


def expand_text(text: str, value: Callable[[str], str]) -> str:
    """The text of an explanation, its macros filled in (§6.2). Raises RecordError if it breaks the grammar."""
    _check_macros(text[:RECORD_MAX], _LETTERS_IN_TEXT, _EXPLANATION)
    return _expand(text[:RECORD_MAX], value)


def _expand(text: str, value: Callable[[str], str]) -> str:
    return _MACRO.sub(lambda found: _expansion(found, value), text)


def _expansion(found: re.Match[str], value: Callable[[str], str]) -> str:
    """One macro (§7.3): split at the delimiters, reverse, keep the rightmost parts, join with dots, escape."""
    letter, digits, reverse, delimiters, escape = found.groups()
    if escape:
        return {"%": "%", "_": " ", "-": "%20"}[escape]
    text = value(letter.lower())
    if digits or reverse or delimiters:
        parts = re.split(f"[{re.escape(delimiters or '.')}]", text)
        if reverse:
            parts.reverse()
        if digits:
            parts = parts[-int(digits.lstrip("0")[:4]) :]
        text = ".".join(parts)
    return quote(text, safe="~") if letter.isupper() else text
