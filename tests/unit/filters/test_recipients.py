# SPDX-License-Identifier: Apache-2.0
"""The relay rule: no spelling of an address makes an open relay of us (RULES of faults 24)."""

from typing import Any

import pytest

from gateway.filters.recipients import RecipientsFilter, RecipientsOptions, RelayOptions, RelayRule
from gateway.mail import reply
from gateway.mail.address import NULL_SENDER, Address, AddressError, parse_path
from gateway.mail.envelope import Recipient
from gateway.mail.verdict import Action, Phase, Verdict
from tests.unit.filters.kit import asking, transaction

RELAY = RelayOptions(domains=["dest.example", ".sub.example", "bücher.example"])


async def decide(address: Address, *, trusted: bool = False, relay: RelayOptions = RELAY, **options: Any) -> Verdict:
    judge = RecipientsFilter(RecipientsOptions.model_validate(options), relay)
    return await judge.check(Phase.RCPT, asking(transaction(None, trusted=trusted), address))


async def outcome(path: bytes, *, trusted: bool = False) -> str:
    """What becomes of a path as a client writes it: "syntax", "denied" or "taken"."""
    try:
        address, rest = parse_path(path, utf8=True)
    except AddressError:
        return "syntax"
    if rest:
        return "syntax"
    verdict = await decide(address, trusted=trusted)
    assert verdict.action in (Action.ACCEPT, Action.REJECT)
    assert verdict.reply == (reply.RELAY_DENIED if verdict.stops else None)
    return "denied" if verdict.stops else "taken"


FOREIGN = {
    # somewhere else, plainly
    b"<bob@else.example>": "denied",
    b"<bob@ELSE.example>": "denied",
    b"<bob@example>": "denied",
    b"<bob@localhost>": "denied",
    b"<bob@dest.example.else.example>": "denied",
    b"<bob@notdest.example>": "denied",
    b"<bob@dest-example>": "denied",
    b"<bob@x.dest.example>": "denied",  # sub-domains are not included unless written so
    b"<bob@sub.example>": "denied",  # ".sub.example" is the sub-domains only
    b"<bob@evilsub.example>": "denied",
    "<bob@dest.exämple>".encode(): "denied",
    "<bob@dеst.example>".encode(): "denied",  # a Cyrillic letter
    b"<postmaster@else.example>": "denied",
    # the percent hack and its kin
    b"<bob%else.example@dest.example>": "denied",
    b"<bob%else.example%third.example@dest.example>": "denied",
    b'<"bob%else.example"@dest.example>': "denied",
    b'<"bob\\%else.example"@dest.example>': "denied",
    b"<%@dest.example>": "denied",
    # bang paths
    b"<else.example!bob@dest.example>": "denied",
    b"<a!b!c@dest.example>": "denied",
    b'<"else.example!bob"@dest.example>': "denied",
    b'<"else.example\\!bob"@dest.example>': "denied",
    b"<bob@else.example!dest.example>": "syntax",
    # quoted addresses
    b'<"bob@else.example"@dest.example>': "denied",
    b'<"bob\\@else.example"@dest.example>': "denied",
    b'<"bob\\@else.example"@else.example>': "denied",
    b"<bob@else.example@dest.example>": "syntax",
    b'<"bob@else.example">': "syntax",
    # source routes: the parser drops the route, what is left is judged
    b"<@dest.example:bob@else.example>": "denied",
    b"<@dest.example,@x.example:bob@else.example>": "denied",
    b"<@dest.example:bob%else.example@dest.example>": "denied",
    b"<@[127.0.0.1]:bob@else.example>": "syntax",
    b"<dest.example:bob@else.example>": "syntax",
    # address literals, our own ones too
    b"<bob@[192.0.2.25]>": "denied",
    b"<bob@[127.0.0.1]>": "denied",
    b"<bob@[IPv6:::1]>": "denied",
    b"<bob@[IPv6:::ffff:127.0.0.1]>": "denied",
    b"<postmaster@[127.0.0.1]>": "denied",
    b"<bob@[dest.example]>": "syntax",
    b"<bob@127.0.0.1>": "denied",
    b"<bob@2130706433>": "denied",
    # oddities of names
    b"<bob@dest.example.>": "syntax",
    b"<bob@.dest.example>": "syntax",
    b"<bob@dest.example:25>": "syntax",
    b"<bob@dest..example>": "syntax",
    b"<bob@dest.example/else.example>": "syntax",
    b"<bob@dest.example else.example>": "syntax",
    b"<bob@dest.example\0.else.example>": "syntax",
    b"<bob@dest.example>,<eve@else.example>": "syntax",
    b"<bob>": "syntax",
    b"<else.example!bob>": "syntax",
    b"<root@>": "syntax",
    b"<>": "denied",
    b"bob@dest.example": "syntax",
}


@pytest.mark.parametrize(("path", "expected"), FOREIGN.items(), ids=[repr(path)[2:-1] for path in FOREIGN])
async def test_form_that_tries_to_relay_is_refused(path: bytes, expected: str):
    assert await outcome(path) == expected


@pytest.mark.parametrize(
    "path",
    [
        b"<bob@dest.example>",
        b"<Bob@DEST.Example>",
        b'<"bob jones"@dest.example>',
        b"<bob+tag@dest.example>",
        b"<@else.example:bob@dest.example>",
        b"<bob@a.sub.example>",
        b"<bob@a.b.SUB.example>",
        "<bob@bücher.example>".encode(),
        "<bob@BÜCHER.example>".encode(),
        b"<bob@xn--bcher-kva.example>",
        "<bob@dest。example>".encode(),  # IDNA's other full stop, RFC 5895 §2
        "<bób@dest.example>".encode(),
        b"<postmaster>",
        b"<PostMaster>",
        b"<postmaster@dest.example>",
    ],
)
async def test_mail_for_our_domains_is_taken_from_anyone(path: bytes):
    assert await outcome(path) == "taken"


@pytest.mark.parametrize("path", [path for path, result in FOREIGN.items() if result == "denied" and path != b"<>"])
async def test_trusted_client_may_relay_anywhere(path: bytes):
    assert await outcome(path, trusted=True) == "taken"


async def test_nothing_is_ours_by_default():
    assert (await decide(Address("bob", "dest.example"), relay=RelayOptions())).reply == reply.RELAY_DENIED


@pytest.mark.parametrize("address", [NULL_SENDER, Address("bob", "")])
@pytest.mark.parametrize("trusted", [True, False])
async def test_address_without_a_domain_is_refused_unless_postmaster(address: Address, trusted: bool):
    assert (await decide(address, trusted=trusted)).reply == reply.RELAY_DENIED


async def test_refusal_names_rule_and_recipient():
    verdict = await decide(Address("bob", "else.example"))
    assert (verdict.rule, verdict.facts) == ("recipients.relay", {"recipient": "bob@else.example"})


# --- postmaster without a domain


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"domains": ["dest.example", "b.example"]}, Address("postmaster", "dest.example")),
        ({"domains": [".sub.example", "b.example"]}, Address("postmaster", "b.example")),
        ({"domains": ["dest.example"], "postmaster": "ops@team.example"}, Address("ops", "team.example")),
        ({"domains": [".sub.example"]}, Address("Postmaster", "")),
        ({}, Address("Postmaster", "")),
    ],
)
async def test_bare_postmaster_is_put_where_mail_for_it_goes(options: dict[str, Any], expected: Address):
    tx = asking(transaction(None), Address("Postmaster", ""))
    verdict = await RecipientsFilter(RecipientsOptions(), RelayOptions.model_validate(options)).check(Phase.RCPT, tx)
    assert verdict.action is Action.ACCEPT
    assert tx.candidate == Recipient(expected)


def test_who_stands_for_postmaster_is_our_postmaster():
    rule = RelayRule(RelayOptions(domains=["dest.example"], postmaster="ops@team.example"))
    assert rule.is_our_postmaster(Address("ops", "team.example"))
    assert rule.is_our_postmaster(Address("postmaster", "dest.example"))
    assert not rule.is_our_postmaster(Address("postmaster", "team.example"))


# --- known users

KNOWN = {"Dest.example": ["Ann", "bob"], "bücher.example": []}


@pytest.mark.parametrize(
    ("address", "known"),
    [
        (Address("ann", "dest.example"), True),
        (Address("ANN", "DEST.example"), True),
        (Address('"ann"', "dest.example"), True),
        (Address("bob+news", "dest.example"), True),
        (Address("postmaster", "dest.example"), True),
        (Address("eve", "dest.example"), False),
        (Address("+ann", "dest.example"), False),
        (Address("ann.", "dest.example"), False),
        (Address("anyone", "a.sub.example"), True),
        (Address("anyone", "xn--bcher-kva.example"), False),
    ],
)
@pytest.mark.parametrize("trusted", [True, False])
async def test_domain_with_a_list_takes_its_users_only(address: Address, known: bool, trusted: bool):
    verdict = await decide(address, trusted=trusted, known=KNOWN)
    assert verdict.reply == (None if known else reply.NO_SUCH_USER)


async def test_extension_may_be_another_or_none():
    assert (await decide(Address("bob-news", "dest.example"), known=KNOWN, extension="-")).action is Action.ACCEPT
    assert (await decide(Address("bob+news", "dest.example"), known=KNOWN, extension="")).reply == reply.NO_SUCH_USER


async def test_list_does_not_open_a_foreign_domain():
    assert (await decide(Address("ann", "else.example"), known={"else.example": ["ann"]})).reply == reply.RELAY_DENIED
