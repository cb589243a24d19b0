# SPDX-License-Identifier: Apache-2.0
"""pyspf with the RFC's edges: its `query` walks one mechanism at a time, and this subclass does the rest around it.

Promises: no lookup leaves by another door than `ask`; records are read by our strict grammar first; terms are expanded
and counted when they are evaluated, not before; at most `QUESTIONS_MAX` questions; no exception is swallowed.
Fails with: `spf.TempError`, `spf.PermError` inside; `evaluate` turns them into results.
RFCs: 7208 §4 to §7. Each method says in which way pyspf 2.0.14 differs.
Not here: the event loop (`auth/spf.py`), the grammar (`auth/spf_record.py`).
"""

import ipaddress
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import spf

from gateway.auth import spf_record
from gateway.auth.spf_record import RecordError
from gateway.mail.envelope import IP

# What of pyspf is called or replaced. Another version must be looked through before it is used.
_USED = ("check", "check0", "check1", "check_lookups", "cidrmatch", "dns", "dns_a", "dns_mx", "dns_ptr", "dns_spf", "dns_txt")
_MISSING = [
    name for name in (*_USED, "expand_domain", "set_ip", "validate_mechanism", "validated_ptrs") if not hasattr(spf.query, name)
]
if (
    _MISSING
    or not hasattr(spf, "DNSLookup")
    or (spf.MAX_LOOKUP, spf.MAX_MX, spf.MAX_PTR, spf.MAX_VOID_LOOKUPS) != (10, 10, 10, 2)
):
    raise ImportError(f"this pyspf is not the one that gateway/auth/spf_query.py is written for (missing: {_MISSING})")

# RFC 7208 §4.6.4 allows 10 terms, each of at most 1 + 10 questions, after the first record; %{p} adds 1 + 10, exp= 1.
QUESTIONS_MAX = 1 + 10 * 11 + 11 + 1
LABEL_MAX = 63
EXPLANATION_MAX = 1000

# §4.5: "v=spf1" alone or before a space; case does not count (§12: ABNF strings)
_VERSION = re.compile(rb"v=spf1(?: .*)?", re.I | re.S)
_BLANK = re.compile(r"[^!-~]")

# Asks a question of type A, AAAA, MX, TXT or PTR (of PTR the name is the address): the records. Raises spf.TempError.
Ask = Callable[[Any, str], Sequence[Any]]

TempError, PermError = spf.TempError, spf.PermError


def _no_other_door(*_: object, **__: object) -> NoReturn:
    raise AssertionError("pyspf would have asked the DNS by itself, and blocked the loop")


spf.DNSLookup = _no_other_door


@dataclass(frozen=True, slots=True)
class Identity:
    """Who is checked (§2.3, §2.4): `domain` is what the check begins with. `kind` is "mailfrom" or "helo"."""

    local: str
    domain: str
    kind: str


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What became of one check; fields as in `auth/spf.py`."""

    result: str
    reason: str
    mechanism: str
    explanation: str
    lookups: int


class Query(spf.query):  # type: ignore[misc]
    """One check. Single-letter attributes are pyspf's names of the macro letters."""

    def __init__(self, ask: Ask, ip: IP, helo: str, who: Identity, receiver: str) -> None:
        sender = f"{who.local}@{who.domain}"
        super().__init__(i=str(ip), s=sender, h=helo, receiver=receiver)
        # Deviates: pyspf splits at the first "@", also inside a quoted local part, and leaves %{s} without "postmaster"
        self.s, self.l, self.o, self.d = sender, who.local, who.domain, who.domain
        self._ask = ask
        self._answers: dict[tuple[str, str], Sequence[Any]] = {}
        self._questions = 0
        self.mechanism: str | None = None
        self.decided: Evaluation | None = None
        self._term_was_void = False
        self._names_of_ip: list[str] | None = None
        self._explain: tuple[str, str] | None = None

    def evaluate(self) -> Evaluation:
        """Run the check, and fetch the explanation if there is one to give. `decided` has the result before that."""
        result, _, text = self.check()
        reason = text if result in ("temperror", "permerror") else ""
        mechanism = str(self.mechanism or ("default" if result == "neutral" else ""))
        self.decided = Evaluation(result, reason, mechanism, "", min(self.lookups, spf.MAX_LOOKUP))
        return replace(self.decided, explanation=self._explanation()) if result == "fail" else self.decided

    # --- records and terms

    def dns_spf(self, domain: str) -> str | None:
        """The record of a domain; None if there is none (§4.3 to §4.5).

        Deviates: pyspf asks for single labels too, and takes a final line feed for the end of the version.
        """
        if not _is_domain(domain):
            return None
        records = [text for text in self.dns_txt(domain) if _VERSION.fullmatch(text)]
        if len(records) > 1:
            raise PermError(f"more than one SPF record at {domain}")
        try:
            return records[0].decode("ascii") if records else None
        except UnicodeDecodeError as err:
            raise PermError(f"the SPF record of {domain} is not ASCII") from err

    def check0(self, text: str | None, recursion: int) -> tuple[str, int, str]:
        """One record for the domain `self.d`. `recursion` is 0 outside of any include.

        Deviates: pyspf expands and counts all terms first, also those that a match makes needless; counts redirect=
        even if it is not followed; takes modifier names in lower case only; refuses an unknown modifier that comes
        twice; fetches exp= for every record, in an `except: pass`. Here it gets one mechanism at a time.
        """
        if text is None:
            return "none", 250, ""
        try:
            record = spf_record.parse(text)
        except RecordError as err:
            raise PermError(f"{self.d}: {err}") from err
        if not recursion:
            self._explain = (record.exp, self.d)
        for mechanism in record.mechanisms:
            outcome: tuple[str, int, str] = super().check0(f"v=spf1 {mechanism}", 0)
            if self.mechanism is not None:
                return outcome
        if record.redirect:
            return self._redirect(record.redirect, recursion)
        return "neutral", 250, ""  # §4.7

    def _redirect(self, spec: str, recursion: int) -> tuple[str, int, str]:
        """§6.1: the record of another domain decides as if it were asked itself, its exp= included."""
        self.check_lookups()
        target = self.expand_domain(spec)
        text = self.dns_spf(target)
        if text is None:
            raise PermError(f"redirect={target} has no SPF record")
        outcome: tuple[str, int, str] = self.check1(text, target, recursion)
        return outcome

    def check_lookups(self) -> None:
        """A term that asks the DNS begins (§4.6.4)."""
        self._term_was_void = False
        super().check_lookups()

    def validate_mechanism(self, mech: str) -> tuple[str, str, str, int, str]:
        """Deviates: pyspf refuses include: of the domain itself when it sees it; here the limit of terms ends the loop."""
        try:
            validated: tuple[str, str, str, int, str] = super().validate_mechanism(mech)
        except PermError as err:
            if not str(err).startswith("include has trivial recursion"):
                raise
            return mech, "include", self.d, self.cidrmax, spf.RESULTS.get(mech[0], "pass")
        return validated

    # --- macros

    def expand_domain(self, arg: str) -> str:
        """A domain-spec, checked by the grammar before.

        Deviates: pyspf lets control characters, "%%%x", "%{d0}" and unknown transformers pass, joins the parts of
        some macros with the delimiter they were split at, and shortens a long name by one label only.
        """
        return spf_record.expand_name(arg, self._macro) or "."  # a name that macros leave empty matches nothing (§4.8)

    def _macro(self, letter: str) -> str:
        """What a macro letter stands for now (§7.2)."""
        return self.getp() if letter == "p" else str(getattr(self, letter))

    def getp(self) -> str:
        """%{p}: a validated name of the client, `self.d` itself or one below it if there is; else "unknown" (§7.3)."""
        names = self._client_names()
        domain = self.d.lower()
        below = [name for name in names if name.endswith(f".{domain}")]
        return next(iter([name for name in names if name == domain] + below + names), "unknown")

    # --- questions

    def dns(self, name: str, qtype: str, cnames: object = None, *, ignore_void: bool = False) -> Sequence[Any]:
        """The records of a name; one answer for one question throughout a check. CNAMEs are the resolver's work."""
        if not _labels_fit(name):
            return ()  # §4.3, §4.8: nothing to ask, nothing there
        values = self._ask_once(name.lower(), qtype)
        if not values and not ignore_void:
            self._count_void()
        return values

    def _ask_once(self, name: str, qtype: str, subject: object = None) -> Sequence[Any]:
        values = self._answers.get((name, qtype))
        if values is None:
            self._questions += 1
            if self._questions > QUESTIONS_MAX:
                raise PermError(f"more than {QUESTIONS_MAX} DNS questions")
            values = self._answers[name, qtype] = self._ask(subject or name, qtype)
        return values

    def _count_void(self) -> None:
        """§4.6.4 limits the *terms* whose questions find nothing.

        Deviates: pyspf counts questions, so that three mail hosts without AAAA are an error for each IPv6 client.
        """
        if self._term_was_void:
            return
        self._term_was_void = True
        self.void_lookups += 1
        if self.void_lookups > spf.MAX_VOID_LOOKUPS:
            raise PermError(f"more than {spf.MAX_VOID_LOOKUPS} void lookups")

    def dns_txt(self, domainname: str, rr: str = "TXT", *, ignore_void: bool = False) -> list[bytes]:
        return list(self.dns(domainname, rr, ignore_void=ignore_void))

    def dns_mx(self, domainname: str) -> Iterator[IP]:
        """The addresses of the mail hosts, best first, each host asked for when its turn comes (§5.4).

        Deviates: pyspf asks for all before it compares, so that a broken second host spoils a match of the first.
        """
        hosts = self.dns(domainname, "MX")
        if len(hosts) > spf.MAX_MX:
            raise PermError(f"more than {spf.MAX_MX} MX records at {domainname}")
        for _, host in sorted(hosts):
            if host:
                yield from self.dns_a(host, self.A)

    def cidrmatch(self, ipaddrs: Any, n: int) -> bool:
        """Is the client in a network of length `n` around one of these addresses? They may be made while we look."""
        ours, shift = int(self.ipaddr), self.ipaddr.max_prefixlen - n
        for found in ipaddrs:
            ip = ipaddress.ip_address(found)
            if ip.version == self.ipaddr.version and int(ip) >> shift == ours >> shift:
                return True
        return False

    def validated_ptrs(self) -> list[str]:
        """The same for the mechanism `ptr`, where an address without any name is a void lookup."""
        names = self._client_names()
        if not self._answers.get((self.i, "PTR"), True):
            self._count_void()
        return names

    def _client_names(self) -> list[str]:
        """The names of the client's address that lead back to it: of the first ten (§4.6.4, §5.5).

        Deviates: a lookup that fails is no error here but a name less (§5.5, §7.3); pyspf ends the check.
        """
        if self._names_of_ip is None:
            try:
                names = self._ask_once(self.i, "PTR", self.ipaddr)
            except TempError:
                names = ()
            self._names_of_ip = [name.lower() for name in names[: spf.MAX_PTR] if self._leads_back(name)]
        return self._names_of_ip

    def _leads_back(self, name: str) -> bool:
        try:
            return self.cidrmatch(self.dns(name, self.A, ignore_void=True), self.ipaddr.max_prefixlen)
        except TempError:
            return False

    # --- explanation

    def _explanation(self) -> str:
        """§6.2: the text that exp= names; empty if there is none, or anything is wrong with it."""
        spec, self.d = self._explain or ("", self.d)
        if not spec:
            return ""
        try:
            texts = self.dns_txt(self.expand_domain(spec), ignore_void=True)
            text = spf_record.expand_text(texts[0].decode("ascii"), self._macro) if len(texts) == 1 else ""
        except (TempError, PermError, RecordError, UnicodeDecodeError):
            return ""
        # what macros have put in is the client's: nothing of it may leave a line or a quoted string
        return "".join(c if " " <= c <= "~" else "?" for c in text[:EXPLANATION_MAX])


def _labels_fit(name: str) -> bool:
    return len(name) <= spf_record.NAME_MAX and all(0 < len(label) <= LABEL_MAX for label in name.split("."))


def _is_domain(name: str) -> bool:
    """§4.3: well formed and of several labels; an address literal is none, nor is anything with a blank or control in it."""
    return "." in name and not name.startswith("[") and _labels_fit(name) and not _BLANK.search(name)
