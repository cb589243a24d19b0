# SPDX-License-Identifier: Apache-2.0
"""Whom we take mail for: the relay rule. Always on.

Promises: from a client outside of `relay.networks` mail is taken for `relay.domains` only, compared as A-labels whatever
the case; no other spelling (percent, bang, a quoted address, an address literal) makes us relay. Source routes were
dropped by the parser. `<postmaster>` without a domain is ours.
Fails with: 550 5.7.1 (relaying denied), 550 5.1.1 (no such user, where the users of a domain are known).
RFCs: 5321 §3.6.2 (relaying may be refused), §4.1.2, §4.5.1 (postmaster), Appendix C (source routes).
Not here: the grammar (`mail/address.py`), where the mail goes (`delivery/route.py`).
"""

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar

from gateway.filters.base import FilterOptions
from gateway.infra.options import IPNetwork, Network, Options, ValidationInfo, check, covers_everybody, field_validator, option
from gateway.mail import reply
from gateway.mail.address import Address, AddressError, parse_domain, parse_mailbox, to_ascii
from gateway.mail.envelope import Client, Transaction
from gateway.mail.reply import Reply
from gateway.mail.verdict import Action, Phase, Verdict

ROUTING = frozenset("@%!")  # user%host, host!user, "user@host" inside a local part name a second hop
# RFC 2606, 6761, 6762, 9476 and the habits of private networks: ".label" of these takes mail for nobody on the internet
PRIVATE = frozenset({"alt", "corp", "example", "home", "internal", "invalid", "lan", "local", "localhost", "test"})


def _domain_entry(entry: str, beside: ValidationInfo) -> str:
    """A domain of [relay] in lower-case A-labels, its leading dot kept."""
    dot, name = ("." if entry.startswith(".") else ""), entry.removeprefix(".")
    if name.startswith("["):
        raise ValueError("is an address literal, which is never relayed to; write a domain name")
    domain = to_ascii(_as_config_fault(parse_domain, name.encode()))
    # There is no list of public suffixes here, so a dot before "co.uk" is not noticed.
    if dot and "." not in domain and domain not in PRIVATE and not beside.data.get("open"):
        raise ValueError("stands for a whole top-level domain, most of which is not yours; relay.open = true if it is")
    return dot + domain


class RelayOptions(Options):
    """[relay]"""

    open: bool = option(
        False,
        doc="Allow what makes an open relay: networks, proxies or domains that cover the internet. Behind a firewall only.",
    )
    domains: list[Annotated[str, check(_domain_entry)]] = option(
        [], doc='Mail for these is taken from anyone; ".dest.example" stands for all its sub-domains.'
    )
    networks: list[Network] = option(
        ["127.0.0.0/8"],
        doc="Clients that may relay to anywhere; exempt from per-client limits, greylisting, DNSBL.",
    )
    postmaster: str = option("", doc="Where <postmaster> without a domain goes; default: postmaster@ the first of domains.")

    @field_validator("networks")
    @classmethod
    def _networks_are_not_everybody(cls, networks: list[IPNetwork], beside: ValidationInfo) -> list[IPNetwork]:
        if not beside.data.get("open") and covers_everybody(networks):
            raise ValueError("covers the whole internet: anyone could relay through us; relay.open = true if that is wanted")
        return networks

    @field_validator("postmaster")
    @classmethod
    def _postmaster_is_an_address(cls, text: str) -> str:
        if text:
            _as_config_fault(parse_mailbox, text.encode())
        return text


class RecipientsOptions(FilterOptions):
    """[filters.recipients]"""

    always_on: ClassVar[bool] = True

    known: dict[str, list[str]] = option(
        {},
        doc='All local parts of a domain, {"dest.example" = ["ann", "bob"]}: others get 550 5.1.1. Unlisted domains take all.',
    )
    extension: str = option(
        "+", doc='What follows it in a local part does not count in the look-up ("ann+news"); "" = none.', max_length=1
    )

    @field_validator("known")
    @classmethod
    def _known_domains_are_names(cls, known: dict[str, list[str]]) -> dict[str, list[str]]:
        return {to_ascii(_as_config_fault(parse_domain, domain.encode())): users for domain, users in known.items()}


class RelayRule:
    """Which domains, and whose postmaster, are ours."""

    def __init__(self, options: RelayOptions) -> None:
        names = [domain for domain in options.domains if not domain.startswith(".")]
        self._names = frozenset(names)
        self._parents = frozenset(domain for domain in options.domains if domain.startswith("."))
        self.postmaster = _postmaster(options.postmaster, names)

    def takes(self, domain: str) -> bool:
        """Is mail for this domain (in lower-case A-labels) taken from anyone?"""
        if domain in self._names:
            return True
        at = domain.find(".") if self._parents else -1
        while at >= 0:
            if domain[at:] in self._parents:
                return True
            at = domain.find(".", at + 1)
        return False

    def is_our_postmaster(self, address: Address) -> bool:
        """RFC 5321 §4.5.1: postmaster without a domain, of each domain that is ours, and who stands for the first."""
        if address == self.postmaster:
            return True
        return address.is_postmaster and (not address.domain or self.takes(address.ascii_domain))


class RecipientsFilter:
    """The rule at RCPT. It puts a postmaster without a domain in its place: `tx.candidate` has the address to deliver to."""

    name = "recipients"
    phases = frozenset({Phase.RCPT})

    def __init__(self, options: RecipientsOptions, relay: RelayOptions) -> None:
        self._rule = RelayRule(relay)
        self._extension = options.extension
        self._known = {domain: frozenset(user.casefold() for user in users) for domain, users in options.known.items()}

    async def check(self, phase: Phase, tx: Transaction) -> Verdict:
        recipient = tx.candidate
        if recipient is None or not recipient.address:
            return _refused(reply.RELAY_DENIED, "recipients.no_address", "")
        address = recipient.address
        if not address.domain:
            return self._bare(address, tx)
        domain = address.ascii_domain
        if not tx.client.may_relay and (refusal := self._relay_refusal(address, domain)):
            return refusal
        if domain in self._known and not self._is_user(address, self._known[domain]):
            return _refused(reply.NO_SUCH_USER, "recipients.unknown", str(address))
        return _taken(address, _because(tx.client))

    def _bare(self, address: Address, tx: Transaction) -> Verdict:
        if not address.is_postmaster:
            return _refused(reply.RELAY_DENIED, "recipients.no_domain", str(address))
        if self._rule.postmaster is not None:
            tx.candidate = replace(tx.candidate, address=self._rule.postmaster) if tx.candidate else None
        return _taken(tx.candidate.address if tx.candidate else address, "postmaster")

    def _relay_refusal(self, address: Address, domain: str) -> Verdict | None:
        if not self._rule.takes(domain):  # an address literal never is ours: nothing says whose mailboxes an address has
            return _refused(reply.RELAY_DENIED, "recipients.relay", str(address))
        if not ROUTING.isdisjoint(address.plain_local):
            return _refused(reply.RELAY_DENIED, "recipients.routing", str(address))
        return None

    def _is_user(self, address: Address, users: Collection[str]) -> bool:
        local = address.plain_local.casefold()
        if local in users or local == "postmaster":
            return True
        return bool(self._extension) and local.partition(self._extension)[0] in users


def _because(client: Client) -> str:
    if client.user:
        return "authenticated"
    return "relay.networks" if client.trusted else "relay.domains"


def _taken(address: Address, because: str) -> Verdict:
    return Verdict(facts={"recipient": str(address), "because": because})


def _refused(why: Reply, rule: str, recipient: str) -> Verdict:
    return Verdict(Action.REJECT, why, rule=rule, facts={"recipient": recipient})


def _postmaster(configured: str, names: Sequence[str]) -> Address | None:
    """Who gets mail for <postmaster>; None if nothing tells, then the address stays as it was given."""
    if configured:
        return parse_mailbox(configured.encode())
    return Address("postmaster", names[0]) if names else None


def _as_config_fault(parse: Any, raw: bytes) -> Any:
    try:
        return parse(raw)
    except AddressError as err:
        raise ValueError(f"{raw.decode(errors='replace')!r}: {err}") from err
