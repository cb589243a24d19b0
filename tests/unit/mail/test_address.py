# SPDX-License-Identifier: Apache-2.0
"""Every form an address may have, and many it may not: RFC 5321 §4.1.2, §4.1.3, §4.5.3.1; RFC 6531 §3.3."""

import ipaddress
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.mail.address import (
    NULL_SENDER,
    Address,
    AddressError,
    NeedsSmtputf8,
    literal_ip,
    mixes_scripts,
    parse_domain,
    parse_mailbox,
    parse_parameters,
    parse_path,
    to_ascii,
)

L64, L63 = "x" * 64, "y" * 63
D254 = ".".join([L63, L63, L63, "y" * 62])  # with a one-letter local part and the brackets: 258

GOOD_PATHS = [
    # path, local part, domain, why
    ("<>", "", "", "§4.5.5 null reverse-path"),
    ("<a@b>", "a", "b", "a domain may be one label"),
    ("<a@b.example>", "a", "b.example", "plain"),
    ("<A.B@Example.COM>", "A.B", "Example.COM", "the case is kept"),
    ("<a.b.c.d@b.example>", "a.b.c.d", "b.example", "Dot-string"),
    ("<1234567890@b.example>", "1234567890", "b.example", "digits are atext"),
    ("<!#$%&'*+-/=?^_`{|}~@b.example>", "!#$%&'*+-/=?^_`{|}~", "b.example", "all of atext, RFC 5322 §3.2.3"),
    ("<-@b.example>", "-", "b.example", "atext"),
    ("<_______@b.example>", "_______", "b.example", "atext"),
    ("<a+tag@b.example>", "a+tag", "b.example", "sub-addressing"),
    ("<a%b@c.example>", "a%b", "c.example", "an atom; what it means is for the recipient filter"),
    ("<a!b@c.example>", "a!b", "c.example", "an atom"),
    ('<""@b.example>', '""', "b.example", "*QcontentSMTP may be empty"),
    ('<" "@b.example>', '" "', "b.example", "a blank is qtextSMTP"),
    ('<"a b"@b.example>', '"a b"', "b.example", "Quoted-string"),
    ('<"a@b"@c.example>', '"a@b"', "c.example", "an @ in quotes is text"),
    ('<"a..b."@c.example>', '"a..b."', "c.example", "dots in quotes are text"),
    ('<"a\\"b"@c.example>', '"a\\"b"', "c.example", "quoted-pair"),
    ('<"\\\\"@c.example>', '"\\\\"', "c.example", "quoted backslash"),
    ('<"\\a"@c.example>', '"\\a"', "c.example", "any of %d32-126 may be quoted"),
    ('<"\\ "@c.example>', '"\\ "', "c.example", "quoted blank"),
    ('<"<>,:;()[]"@c.example>', '"<>,:;()[]"', "c.example", "specials in quotes"),
    ('<">"@c.example>', '">"', "c.example", "the path does not end in quotes"),
    (f"<{L64}@b.example>", L64, "b.example", "§4.5.3.1.1: 64 octets"),
    (f"<a@{L63}.example>", "a", f"{L63}.example", "label of 63"),
    (f"<a@{D254[:252]}>", "a", D254[:252], "§4.5.3.1.3: a path of 256"),
    ("<a@b-c.example>", "a", "b-c.example", "hyphen inside"),
    ("<a@b--c.example>", "a", "b--c.example", "Ldh-str"),
    ("<a@1.example>", "a", "1.example", "RFC 1123 §2.1: a label may begin with a digit"),
    ("<a@1.2.3.4>", "a", "1.2.3.4", "no literal, but Let-dig labels"),
    ("<a@123>", "a", "123", "Let-dig"),
    ("<a@x--y.z>", "a", "x--y.z", "hyphens at 3 and 4 without xn"),
    ("<a@[192.0.2.1]>", "a", "[192.0.2.1]", "§4.1.3 IPv4 literal"),
    ("<a@[0.0.0.0]>", "a", "[0.0.0.0]", "Snum"),
    ("<a@[255.255.255.255]>", "a", "[255.255.255.255]", "Snum up to 255"),
    ("<a@[192.0.2.001]>", "a", "[192.0.2.001]", "Snum = 1*3DIGIT"),
    ("<a@[IPv6:2001:db8::1]>", "a", "[IPv6:2001:db8::1]", "IPv6 literal"),
    ("<a@[ipv6:2001:DB8::1]>", "a", "[ipv6:2001:DB8::1]", "RFC 5234 §2.3: tag without case"),
    ("<a@[IPv6:::]>", "a", "[IPv6:::]", "IPv6-comp"),
    ("<a@[IPv6:::1]>", "a", "[IPv6:::1]", "IPv6-comp"),
    ("<a@[IPv6:1:2:3:4:5:6:7:8]>", "a", "[IPv6:1:2:3:4:5:6:7:8]", "IPv6-full"),
    ("<a@[IPv6:1:2:3:4:5:6::]>", "a", "[IPv6:1:2:3:4:5:6::]", "six groups beside ::"),
    ("<a@[IPv6:::3:4:5:6:7:8]>", "a", "[IPv6:::3:4:5:6:7:8]", "six groups beside ::"),
    ("<a@[IPv6:1:2:3:4:5:6:192.0.2.1]>", "a", "[IPv6:1:2:3:4:5:6:192.0.2.1]", "IPv6v4-full"),
    ("<a@[IPv6:::192.0.2.1]>", "a", "[IPv6:::192.0.2.1]", "IPv6v4-comp"),
    ("<a@[IPv6:::192.0.02.001]>", "a", "[IPv6:::192.0.02.001]", "Snum = 1*3DIGIT also at the end of IPv6"),
    ("<a@[IPv6:1:2:3:4::192.0.2.1]>", "a", "[IPv6:1:2:3:4::192.0.2.1]", "four groups beside :: and IPv4"),
    ("<@hop.example:a@b.example>", "a", "b.example", "§3.3: a source route is read and dropped"),
    ("<@one.example,@two.example:a@b.example>", "a", "b.example", "A-d-l"),
    ("<postmaster>", "postmaster", "", "§4.5.1"),
    ("<PostMaster>", "PostMaster", "", "§4.5.1: in any case"),
    ("<postmaster@b.example>", "postmaster", "b.example", "§4.5.1"),
    ("<jörg@b.example>", "jörg", "b.example", "RFC 6531 §3.3: UTF8-non-ascii in an atom"),
    ('<"jörg ü"@b.example>', '"jörg ü"', "b.example", "RFC 6531 §3.3: in quotes"),
    ("<a@bücher.example>", "a", "bücher.example", "RFC 6531 §3.3: U-label"),
    ("<用户@例え.テスト>", "用户", "例え.テスト", "RFC 6531"),
    ("<a@xn--bcher-kva.example>", "a", "xn--bcher-kva.example", "A-label"),
    ("<a@XN--BCHER-KVA.example>", "a", "XN--BCHER-KVA.example", "A-label in upper case"),
    ("<a@ab--cd.xn--bcher-kva.example>", "a", "ab--cd.xn--bcher-kva.example", "the other label is no IDN"),
]

BAD_PATHS = [
    ("", "nothing"),
    ("a@b.example", "no brackets"),
    ("<a@b.example", "unclosed"),
    ("a@b.example>", "unopened"),
    (" <a@b.example>", "blank before"),
    ("< a@b.example>", "blank inside"),
    ("<a@b.example >", "blank inside"),
    ("<a @b.example>", "blank before @"),
    ("<a@ b.example>", "blank after @"),
    ("< >", "no null path"),
    ("<a>", "no domain"),
    ("<postmaster@>", "empty domain"),
    ("<@>", "nothing at all"),
    ("<a@>", "empty domain"),
    ("<@b.example>", "no local part"),
    ("<a@@b.example>", "two @"),
    ("<a@b@c.example>", "two @"),
    ("<.a@b.example>", "dot first"),
    ("<a.@b.example>", "dot last"),
    ("<a..b@c.example>", "two dots"),
    ("<.@b.example>", "only a dot"),
    ("<a b@c.example>", "blank without quotes"),
    ("<a(comment)@b.example>", "no comments in paths"),
    ("<(comment)a@b.example>", "no comments in paths"),
    ("<a@b.example(comment)>", "no comments in paths"),
    ("<a@(comment)b.example>", "no comments in paths"),
    ("<a@[192.0.2.1](c)>", "no comments in paths"),
    ("<a\r\n @b.example>", "no folding in paths"),
    ("<a@b.example\r\n>", "no folding in paths"),
    ("<a\t@b.example>", "no white space"),
    ("Name <a@b.example>", "no display name"),
    ("<<a@b.example>>", "brackets in brackets"),
    ("<a,b@c.example>", "comma is no atext"),
    ("<a:b@c.example>", "colon is no atext"),
    ("<a;b@c.example>", "semicolon is no atext"),
    ("<a\\b@c.example>", "backslash is no atext"),
    ("<a\\@b@c.example>", "quoted-pair outside of quotes"),
    ("<a[b@c.example>", "bracket is no atext"),
    ('<a"b@c.example>', "quote inside an atom"),
    ('<"a"b@c.example>', "obsolete: mixed quotes"),
    ('<"a".b@c.example>', "obsolete: local part of words"),
    ('<a."b"@c.example>', "obsolete: local part of words"),
    ('<"a"."b"@c.example>', "obsolete: local part of words"),
    ('<"a@b.example>', "unclosed quote"),
    ('<"a\\"@b.example>', "the quote is quoted"),
    ('<"a"b"@c.example>', "quote in quotes"),
    ('<"a\x00b"@c.example>', "NUL"),
    ('<"a\tb"@c.example>', "tab is no qtextSMTP"),
    ('<"a\r\nb"@c.example>', "line break in quotes"),
    ('<"a\\\nb"@c.example>', "quoted line feed: only %d32-126"),
    ('<"a\\\x7fb"@c.example>', "quoted DEL"),
    ("<a\x00@b.example>", "NUL"),
    ("<a\x7f@b.example>", "DEL"),
    ("<a\x1b[31m@b.example>", "escape sequence"),
    (f"<x{L64}@b.example>", "local part of 65"),
    (f'<"{L64}"@b.example>', "the quotes count"),
    (f"<a@y{L63}.example>", "label of 64"),
    (f"<a@{D254[:253]}>", "path of 257"),
    (f"<a@{D254}.{D254}>", "domain over 255"),
    ("<@" + ",@".join(["hop.example"] * 30) + ":a@b.example>", "path over 256 by its route"),
    ("<a@.b.example>", "empty label"),
    ("<a@b..example>", "empty label"),
    ("<a@b.example.>", "final dot"),
    ("<a@.>", "only a dot"),
    ("<a@-b.example>", "hyphen first"),
    ("<a@b-.example>", "hyphen last"),
    ("<a@b.example->", "hyphen last"),
    ("<a@b_c.example>", "underscore"),
    ("<a@b!c.example>", "character"),
    ("<a@b.example:25>", "port"),
    ("<a@b/c.example>", "slash"),
    ('<a@"b.example">', "quoted domain"),
    ("<a@b c.example>", "blank in domain"),
    ("<a@[192.0.2.1>", "unclosed literal"),
    ("<a@192.0.2.1]>", "unopened literal"),
    ("<a@[192.0.2]>", "three numbers"),
    ("<a@[192.0.2.1.2]>", "five numbers"),
    ("<a@[192.0.2.256]>", "over 255"),
    ("<a@[192.0.2.0001]>", "four digits"),
    ("<a@[192.0.2.-1]>", "sign"),
    ("<a@[]>", "empty literal"),
    ("<a@[ 192.0.2.1]>", "blank in literal"),
    ("<a@[192.0.2.1].example>", "literal and name"),
    ("<a@[b.example]>", "name in literal"),
    ("<a@[2001:db8::1]>", "no tag"),
    ("<a@[IPv6:]>", "empty IPv6"),
    ("<a@[IPv5:::1]>", "unknown tag"),
    ("<a@[IPv6:1:2:3:4:5:6:7]>", "seven groups"),
    ("<a@[IPv6:1:2:3:4:5:6:7:8:9]>", "nine groups"),
    ("<a@[IPv6:1:2:3:4:5:6:7::]>", "§4.1.3: :: for one group"),
    ("<a@[IPv6:1:2:3:4::6:7:8]>", "§4.1.3: :: for one group"),
    ("<a@[IPv6:1:2:3:4:5::192.0.2.1]>", "§4.1.3: :: for one group, IPv4 is two"),
    ("<a@[IPv6:1::2::3]>", "two ::"),
    ("<a@[IPv6:::12345]>", "five digits"),
    ("<a@[IPv6:::g]>", "no hex"),
    ("<a@[IPv6:::192.0.2.256]>", "bad IPv4 end"),
    ("<a@[IPv6:::192.0.2.0001]>", "Snum = 1*3DIGIT"),
    ("<a@[IPv6:1:2:3:4:::192.0.2.1]>", "a group without digits"),
    ("<a@[IPv6:192.0.2.1::]>", "IPv4 not at the end"),
    ("<a@[IPv6:fe80::1%eth0]>", "scope"),
    ("<hop.example:a@b.example>", "route without @"),
    ("<@hop.example;a@b.example>", "route without colon"),
    ("<@hop.example a@b.example>", "route without colon"),
    ("<@one.example,two.example:a@b.example>", "second hop without @"),
    ("<@one.example,:a@b.example>", "empty hop"),
    ("<@hop.example:>", "route to nobody"),
    ("<@hop.example:postmaster>", "the short form has no route"),
    ("<@[192.0.2.1]:a@b.example>", '§4.1.2: At-domain = "@" Domain'),
    ("<abuse>", "only postmaster has no domain"),
    ("<postmaster >", "blank"),
    ("<a@xn--->", "bad A-label"),
    ("<a@xn--.example>", "A-label of nothing"),
    ("<a@xn--0.example>", "no Punycode"),
    ("<a@xn--a.example>", "Punycode of a control character"),
    ("<a@xn--99999999.example>", "Punycode out of range"),
    ("<a@xn--bcher-kv.example>", "other Punycode than its own"),
    ("<a@☃.example>", "RFC 5892: not allowed in IDNA2008"),
    ("<a@bü..example>", "empty label beside an IDN"),
    ("<a@bü。>", "an ideographic full stop is a dot, here a final one"),
    ("<a@b。。example>", "two of them"),
    ("<a@b／c.example>", "a fullwidth slash is a slash"),
    ("<a@b＠c.example>", "a fullwidth @ is an @"),
    ("<a@\u0300b.example>", "RFC 5891 §4.2.3.2: leading combining mark"),
    ("<a@אa.example>", "RFC 5893: direction"),
    ("<a@b\u200d.example>", "invisible joiner"),
    ("<a@b\u00ad.example>", "invisible hyphen"),
    ("<a\u202eb@c.example>", "text direction override"),
    ("<a\u0085b@c.example>", "C1 control: next line"),
    ("<a\u2028b@c.example>", "line separator"),
    ("<a\ufeffb@c.example>", "byte order mark"),
    (f"<a@{'ü' * 40}{'ö' * 40}.example>", "A-label over 63"),
]


@pytest.mark.parametrize(("path", "local", "domain", "why"), GOOD_PATHS, ids=[row[0][:40] for row in GOOD_PATHS])
def test_path_that_is_one(path: str, local: str, domain: str, why: str) -> None:
    address, rest = parse_path(path.encode() + b" SIZE=1", utf8=True)
    assert (address, rest) == (Address(local, domain), b" SIZE=1"), why
    if path.isascii():
        assert parse_path(path.encode(), utf8=False) == (address, b"")


@pytest.mark.parametrize(("path", "why"), BAD_PATHS, ids=[repr(row[0][:40]) for row in BAD_PATHS])
def test_path_that_is_none(path: str, why: str) -> None:
    with pytest.raises(AddressError):
        print(parse_path(path.encode(), utf8=True), why)


@pytest.mark.parametrize("path", [path for path, *_ in GOOD_PATHS if "@" in path and not path.startswith("<@")])
def test_good_addresses_are_good_without_brackets(path: str) -> None:
    assert str(parse_mailbox(path[1:-1].encode())) == path[1:-1]


@pytest.mark.parametrize("path", [path for path, _ in BAD_PATHS if path[:1] == "<" and path[-1:] == ">" and len(path) < 250])
def test_bad_addresses_are_bad_without_brackets(path: str) -> None:
    with pytest.raises(AddressError):
        parse_mailbox(path[1:-1].encode())


@pytest.mark.parametrize("path", ["<", "<>", "<a@b>", "<@a:b@c>"])
def test_a_mailbox_has_no_brackets_and_no_route(path: str) -> None:
    with pytest.raises(AddressError):
        parse_mailbox(path.encode())
    with pytest.raises(AddressError):
        parse_mailbox(path[1:-1].encode() if path.startswith("<@") else b"postmaster")


@pytest.mark.parametrize(
    "octets",
    [
        b"<\xff@b.example>",
        b"<\xc3@b.example>",
        b"<\xc0\x80@b.example>",
        b"<\xed\xa0\x80@b.example>",
        b'<"\xf5\x80\x80\x80"@b>',
        b"<a@\xff.example>",
    ],
)
def test_what_is_no_utf8_is_no_address(octets: bytes) -> None:
    """Overlong forms, surrogates, Latin-1."""
    with pytest.raises(AddressError) as caught:
        parse_path(octets, utf8=True)
    assert not isinstance(caught.value, NeedsSmtputf8)


@pytest.mark.parametrize("path", ["<jörg@b.example>", "<a@bücher.example>", '<"ü"@b.example>'])
def test_without_smtputf8_only_the_extension_is_missing(path: str) -> None:
    with pytest.raises(NeedsSmtputf8):
        parse_path(path.encode(), utf8=False)


def test_what_follows_the_path_is_given_back() -> None:
    assert parse_path(b"<>", utf8=False) == (NULL_SENDER, b"")
    assert parse_path(b"<a@b>x", utf8=False)[1] == b"x"
    assert parse_path(b"<postmaster> A=1", utf8=False)[1] == b" A=1"


# --- domains


@pytest.mark.parametrize("domain", ["a", "a.b", "1", "a-b.c", "[192.0.2.1]", "[IPv6:::1]", f"{L63}.{L63}.{L63}.{L63}"])
def test_domain_that_is_one(domain: str) -> None:
    assert parse_domain(domain.encode()) == domain


@pytest.mark.parametrize(
    "domain",
    [
        "",
        ".",
        "a.",
        ".a",
        "a..b",
        "-a",
        "a-",
        "a_b",
        "a b",
        "a@b",
        "[",
        "[]",
        "[1.2.3]",
        "[a]",
        "a:25",
        "a\r\n",
        "a\x00",
        "xn---",
        f"{D254}yy",
    ],
)
def test_domain_that_is_none(domain: str) -> None:
    with pytest.raises(AddressError):
        parse_domain(domain.encode())


def test_domain_in_utf8_needs_leave() -> None:
    assert parse_domain("bücher.example".encode()) == "bücher.example"
    with pytest.raises(NeedsSmtputf8):
        parse_domain("bücher.example".encode(), utf8=False)


@pytest.mark.parametrize(
    ("domain", "ascii_domain"),
    [
        ("Example.COM", "example.com"),
        ("Bücher.Example", "xn--bcher-kva.example"),
        ("BÜCHER.example", "xn--bcher-kva.example"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("faß.example", "xn--fa-hia.example"),
        ("bücher。example", "xn--bcher-kva.example"),
        ("ＡＢＣ.example", "abc.example"),
        ("[IPv6:2001:DB8::1]", "[ipv6:2001:db8::1]"),
    ],
)
def test_names_are_compared_as_a_labels(domain: str, ascii_domain: str) -> None:
    assert Address("a", domain).ascii_domain == ascii_domain == to_ascii(domain)


def test_literals_give_their_address() -> None:
    assert literal_ip("[192.0.2.010]") == ipaddress.IPv4Address("192.0.2.10")
    assert literal_ip("[IPv6:2001:db8::1]") == ipaddress.IPv6Address("2001:db8::1")


# --- the value


def test_two_spellings_of_one_mailbox_are_equal_when_plain() -> None:
    assert [parse_mailbox(text).plain_local for text in (b"a.b@c", b'"a.b"@c', b'"a\\.b"@c', b'"\\a.\\b"@c')] == ["a.b"] * 4
    assert parse_mailbox(b'"a\\\\\\"b"@c').plain_local == 'a\\"b'


def test_facts_about_an_address() -> None:
    assert not NULL_SENDER
    assert str(NULL_SENDER) == ""
    assert parse_mailbox(b"a@b")
    assert str(parse_path(b"<PostMaster>", utf8=False)[0]) == "PostMaster"
    assert parse_mailbox(b'"Postmaster"@b').is_postmaster
    assert not parse_mailbox(b"postmaster1@b").is_postmaster
    assert parse_mailbox(b"a@[192.0.2.1]").is_literal
    assert not parse_mailbox(b"a@b").is_literal
    assert parse_mailbox("ü@b".encode()).needs_smtputf8
    assert parse_mailbox("a@ü.b".encode()).needs_smtputf8
    assert not parse_mailbox(b"a@xn--tda.b").needs_smtputf8


# --- parameters


@pytest.mark.parametrize(
    ("raw", "parameters"),
    [
        ("", {}),
        (" ", {}),
        (" SIZE=1000", {"SIZE": "1000"}),
        (" size=1 BODY=8BITMIME", {"SIZE": "1", "BODY": "8BITMIME"}),
        ("  A   B=c ", {"A": None, "B": "c"}),
        (" SMTPUTF8", {"SMTPUTF8": None}),
        (" ENVID=AbC+3D", {"ENVID": "AbC+3D"}),
        (" ORCPT=utf-8;jörg@b.example", {"ORCPT": "utf-8;jörg@b.example"}),
        (" X-1=<>", {"X-1": "<>"}),
        (" A=" + "b" * 1000, {"A": "b" * 1000}),
        (" " + "K" * 64, {"K" * 64: None}),
        (" AUTH=<>", {"AUTH": "<>"}),
    ],
)
def test_parameters_that_are_some(raw: str, parameters: dict[str, str | None]) -> None:
    assert parse_parameters(raw.encode()) == parameters


@pytest.mark.parametrize(
    "raw",
    [
        " =1",
        " SIZE=",
        " SIZE==1",
        " A=b=c",
        " -A",
        " A_B=1",
        " A:1",
        " A=\x00",
        " A=\x7f",
        " A=b\r\n",
        " A\tB",
        " A,B",
        " Ä=1",
        " A=1 a=2",
        " SIZE SIZE",
        " A=" + "b" * 1001,
        " " + "K" * 65,
        " A=b\u2028c",
    ],
)
def test_parameters_that_are_none(raw: str) -> None:
    with pytest.raises(AddressError):
        parse_parameters(raw.encode())


@pytest.mark.parametrize(
    ("domain", "mixed"),
    [
        ("p\u0430ypal.example", True),
        ("xn--pypal-4ve.example", True),
        ("www.XN--PYPAL-4VE.example", True),
        ("\u03bfk.example", True),
        ("b\u00fccher.example", False),
        ("\u043f\u043e\u0447\u0442\u0430.example", False),  # a label each is what counts
        ("xn--bcher-kva.example", False),
        ("xn--\u00e4.example", False),
        ("xn--a.example", False),
        ("a-1.example", False),
        ("[192.0.2.1]", False),
        ("", False),
    ],
)
def test_fault_23_scripts_that_look_alike_in_one_label_are_noticed(domain: str, mixed: bool) -> None:
    assert mixes_scripts(domain) is mixed


def test_parameters_must_be_utf8() -> None:
    with pytest.raises(AddressError):
        parse_parameters(b" A=\xff")


# --- whatever comes

PARSERS: list[Callable[[bytes], object]] = [
    lambda raw: parse_path(raw, utf8=True),
    lambda raw: parse_path(raw, utf8=False),
    parse_mailbox,
    parse_domain,
    parse_parameters,
]
SHAPES = [
    "a",
    "-",
    "a-",
    ".",
    "a.",
    '"',
    "\\",
    '\\"',
    "@a",
    "@a,",
    ",@a",
    "<",
    "[",
    "1",
    ":",
    "ü",
    "。",
    "=",
    " A=1",
    " ",
    "xn--a.",
    "a-.",
    "\x00",
]
FRAMES = [("<", ">"), ("<a@", ">"), ("<@", ":a@b>"), ('<"', '"@b>'), ("<a@[", "]>"), ("<@a,", ""), ("", ""), ("a@", "")]


@pytest.mark.parametrize("shape", SHAPES, ids=repr)
def test_a_megabyte_takes_no_time(shape: str) -> None:
    """Attack: text that makes a pattern go back and forth. Linear takes milliseconds; quadratic would take minutes."""
    begun = time.process_time()
    for before, after in FRAMES:
        raw = (before + shape * (1_000_000 // len(shape.encode())) + after).encode()
        for parse in PARSERS:
            with pytest.raises(AddressError) if parse is not parse_parameters else _whatever():
                parse(raw)
    assert time.process_time() - begun < 20


class _whatever:  # noqa: N801
    """A megabyte of blanks is a right list of no parameters."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        return kind is not None and issubclass(kind, AddressError)


@given(st.one_of(st.binary(max_size=80), st.text(max_size=80).map(str.encode)))
def test_octets_are_an_address_or_an_address_error(raw: bytes) -> None:
    for parse in PARSERS:
        for octets in (raw, b"<" + raw + b">", b"<a@" + raw + b">", b"<a@xn--" + raw + b">"):
            try:
                parse(octets)
            except AddressError:
                continue


@given(st.text('aZ09.-@"\\<>[]:,ü。 ', max_size=30))
def test_what_is_an_address_is_clean_and_reads_back(text: str) -> None:
    """Invariant: no control character, no bracket to leave by, the same address when read again."""
    try:
        address = parse_mailbox(text.encode())
    except AddressError:
        return
    assert str(address) == text
    assert text.isprintable()
    assert parse_path(f"<{address}>".encode(), utf8=True) == (address, b"")
    assert address.ascii_domain.isascii()
    assert parse_domain(address.ascii_domain.encode()) == address.ascii_domain
