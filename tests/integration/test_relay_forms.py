# SPDX-License-Identifier: Apache-2.0
"""Is it an open relay? Every form of address that has ever led mail through somebody else's server, against a live daemon.

Fault 24. A client that may relay nowhere asks for each form at RCPT, alone and between recipients that are ours. It must be
refused, its neighbours must not suffer, and what arrives behind the daemon is for the domain in `relay.domains` only.
"""

from collections.abc import Iterator

import pytest

from gateway.mail.address import parse_mailbox
from tests.support.daemon import Daemon
from tests.support.world import Wire, World, until

OURS = "dest.example"

# What stands behind RCPT TO: — nothing in here is mail for dest.example alone.
FORMS = {
    "plain": b"<c@evil.example>",
    "upper-case": b"<C@EVIL.EXAMPLE>",
    "percent-hack": b"<c%evil.example@dest.example>",
    "percent-twice": b"<c%evil.example%dest.example@dest.example>",
    "percent-without-domain": b"<c%evil.example>",
    "percent-literal": b"<c%[192.0.2.1]@dest.example>",
    "bang": b"<evil.example!c@dest.example>",
    "bang-without-domain": b"<evil.example!c>",
    "bang-path": b"<one.example!evil.example!c@dest.example>",
    "bang-and-percent": b"<evil.example!c%one.example@dest.example>",
    "decnet": b"<evil.example::c@dest.example>",
    "quoted-at": b'<"c@evil.example"@dest.example>',
    "quoted-at-alone": b'<"c@evil.example">',
    "quoted-percent": b'<"c%evil.example"@dest.example>',
    "quoted-bang": b'<"evil.example!c"@dest.example>',
    "quoted-escaped-at": b'<"c\\@evil.example"@dest.example>',
    "quoted-escaped-percent": b'<"c\\%evil.example"@dest.example>',
    "quoted-local": b'<"c"@evil.example>',
    "quoted-nothing": b'<""@evil.example>',
    "nested-quotes": b'<"\\"c@evil.example\\""@dest.example>',
    "nested-quotes-open": b'<""c@evil.example""@dest.example>',
    "quoted-end": b'<"c@dest.example>"@evil.example>',
    "route-to-them": b"<@dest.example:c@evil.example>",
    "route-through-two": b"<@dest.example,@one.example:c@evil.example>",
    "route-and-percent": b"<@dest.example:c%evil.example@dest.example>",
    "route-and-bang": b"<@dest.example:evil.example!c@dest.example>",
    "route-in-route": b"<@dest.example:@evil.example:c@dest.example>",
    "route-empty": b"<@:c@evil.example>",
    "route-empty-name": b"<@dest.example,:c@evil.example>",
    "two-ats": b"<c@evil.example@dest.example>",
    "two-ats-turned": b"<c@dest.example@evil.example>",
    "escaped-at": b"<c\\@evil.example@dest.example>",
    "trailing-dot": b"<c@evil.example.>",
    "our-trailing-dot": b"<c@dest.example.>",
    "two-trailing-dots": b"<c@dest.example..>",
    "empty-label": b"<c@evil..example>",
    "empty-first-label": b"<c@.dest.example>",
    "only-a-dot": b"<c@.>",
    "empty-domain": b"<c@>",
    "empty-local": b"<@evil.example>",
    "dots-in-local": b"<c..d@evil.example>",
    "ipv4-literal": b"<c@[127.0.0.1]>",
    "ipv4-literal-elsewhere": b"<c@[192.0.2.1]>",
    "ipv6-literal": b"<c@[IPv6:::1]>",
    "ipv6-literal-mapped": b"<c@[IPv6:::ffff:127.0.0.1]>",
    "literal-name": b"<c@[dest.example]>",
    "literal-hexadecimal": b"<c@[0x7f.0.0.1]>",
    "ipv4-bare": b"<c@127.0.0.1>",
    "ipv4-number": b"<c@2130706433>",
    "literal-with-zeros": b"<c@[0127.0.0.001]>",
    "port": b"<c@evil.example:25>",
    "our-port": b"<c@dest.example:25>",
    "literal-port": b"<c@[127.0.0.1]:25>",
    "our-name": b"<c@mx.gateway.test>",
    "localhost": b"<c@localhost>",
    "below-ours": b"<c@sub.dest.example>",
    "above-ours": b"<c@example>",
    "ours-below-theirs": b"<c@dest.example.evil.example>",
    "ours-as-suffix": b"<c@evildest.example>",
    "ours-as-prefix": b"<c@dest.example-evil.example>",
    "comment": b"<c(x)@evil.example>",
    "comment-domain": b"<c@evil.example(@dest.example)>",
    "comment-our-domain": b"<c@dest.example(evil.example)>",
    "comment-behind": b"<c@evil.example> (c@dest.example)",
    "display-name": b"Dest <c@evil.example>",
    "two-paths": b"<c@dest.example><c@evil.example>",
    "two-paths-comma": b"<c@dest.example>,<c@evil.example>",
    "list-in-path": b"<c@dest.example,c@evil.example>",
    "list-semicolon": b"<c@dest.example;c@evil.example>",
    "path-in-path": b"<<c@evil.example>@dest.example>",
    "no-brackets": b"c@evil.example",
    "open-bracket": b"<c@evil.example",
    "blank-inside": b"<c@evil.example @dest.example>",
    "tab-inside": b"<c@evil.example\t@dest.example>",
    "nul-behind": b"<c@dest.example\0.evil.example>",
    "nul-before-at": b"<c\0@evil.example>",
    "nul-hides-ours": b"<c@evil.example\0@dest.example>",
    "bare-lf": b"<c@dest.example\n@evil.example>",
    "bare-cr": b"<c@dest.example\r@evil.example>",
    "slash": b"<c@evil.example/dest.example>",
    "backslash": b"<c@evil.example\\@dest.example>",
    "url-encoded": b"<c@evil%2eexample>",
    "url-encoded-at": b"<c%40evil.example@dest.example>",
    "postmaster-of-them": b"<postmaster@evil.example>",
    "postmaster-routed": b"<postmaster%evil.example@dest.example>",
    "xtext": b"<c+40evil.example@evil.example>",
    "a-label-bad": b"<c@xn--dest-.example>",
    "idn-look-alike": "<c@dеst.example>".encode(),  # a Cyrillic letter
    "idn-look-alike-as-a-label": b"<c@xn--dst-qdd.example>",
    "idn-dot": "<c@evil\u3002example>".encode(),  # an ideographic full stop
    "idn-dot-behind-ours": "<c@dest.example\u3002evil.example>".encode(),
    "idn-full-width-at": "<c\uff20evil.example@evil.example>".encode(),
    "idn-full-width-percent": "<c@evil\uff05dest.example>".encode(),
    "idn-slash": "<c@evil.example\u2044dest.example>".encode(),
    "idn-joiner": "<c@de\u200dst.example>".encode(),
    "idn-override": "<c@\u202etsed.example>".encode(),
    "utf8-overlong-dot": b"<c@evil\xc0\xaeexample>",
    "utf8-broken": b"<c@dest.example\xff>",
    "original-recipient": b"<c@evil.example> ORCPT=rfc822;c@dest.example",
}
# These are mail for us, whatever else stands there: taken, and for dest.example when they arrive.
HARMLESS = {
    "source-route": b"<@evil.example:route@dest.example>",
    "source-route-of-many": b"<@evil.example,@two.example,@one.example:routes@dest.example>",
    "upper-case": b"<upper@DEST.EXAMPLE>",
    "verp": b"<verp=evil.example@dest.example>",
    "tag": b"<tag+evil.example@dest.example>",
    "original-recipient": b"<orcpt@dest.example> ORCPT=rfc822;c@evil.example",
    "quoted": b'<"quoted"@dest.example>',
    "full-width": "<wide@ｄｅｓｔ.example>".encode(),  # IDNA maps it to our name, and so do routes
    "postmaster": b"<postmaster>",
}


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with World() as instance:
        yield instance


@pytest.fixture(scope="module")
def daemon(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    route = f'[[route]]\ndomains = ["*"]\nto = "smtp://{world.sink.address}"'
    tables = world.tables("[limits]\nerrors = 0\ncommands = 0\n", route=route)
    with Daemon(tmp_path_factory.mktemp("relay"), tables) as instance:
        yield instance
        assert instance.stop() == 0


@pytest.fixture(scope="module")
def client(daemon: Daemon) -> Iterator[Wire]:
    with Wire(daemon.smtp_port) as wire:
        assert wire.ask(b"EHLO client.example").startswith(b"250")
        yield wire


def content(subject: str) -> bytes:
    """A whole message with its end."""
    fields = f"From: a@client.example\r\nTo: c@dest.example\r\nSubject: {subject}\r\nMessage-ID: <x@client.example>"
    return f"{fields}\r\nDate: Sun, 22 Nov 2026 08:00:00 +0000\r\n\r\nx\r\n.".encode()


def begin(client: Wire) -> None:
    assert client.ask(b"RSET").startswith(b"250")
    assert client.ask(b"MAIL FROM:<a@client.example> SMTPUTF8").startswith(b"250")


def test_there_are_enough_forms() -> None:
    assert len(FORMS) >= 40


@pytest.mark.parametrize("name", FORMS)
def test_fault_24_a_form_alone_is_refused_for_good(client: Wire, name: str) -> None:
    begin(client)
    answer = client.ask(b"RCPT TO:" + FORMS[name])
    assert answer.startswith(b"5"), answer
    assert client.ask(b"DATA").startswith(b"5")


@pytest.mark.parametrize("name", FORMS)
def test_fault_24_a_form_between_good_recipients_is_refused_and_they_get_theirs(world: World, client: Wire, name: str) -> None:
    begin(client)
    neighbours = [f"before-{name}@{OURS}", f"behind-{name}@{OURS}"]
    assert client.ask(b"RCPT TO:<%s>" % neighbours[0].encode()).startswith(b"250")
    assert client.ask(b"RCPT TO:" + FORMS[name]).startswith(b"5")
    assert client.ask(b"RCPT TO:<%s>" % neighbours[1].encode()).startswith(b"250")
    assert client.ask(b"DATA").startswith(b"354")
    assert client.ask(content(f"between {name}")).startswith(b"250")
    assert sorted(world.arrived(f"between {name}").recipients) == sorted(neighbours)


@pytest.mark.parametrize("name", HARMLESS)
def test_what_is_for_us_all_the_same_is_taken(world: World, client: Wire, name: str) -> None:
    begin(client)
    assert client.ask(b"RCPT TO:" + HARMLESS[name]).startswith(b"250")
    assert client.ask(b"DATA").startswith(b"354")
    assert client.ask(content(f"harmless {name}")).startswith(b"250")
    (recipient,) = world.arrived(f"harmless {name}").recipients
    assert parse_mailbox(recipient.encode()).ascii_domain == OURS


def test_all_that_ever_arrived_was_for_us(world: World) -> None:
    """Runs last: everything that the daemon has passed on in this file."""
    recipients = [recipient for received in world.sink.messages for recipient in received.recipients]
    assert recipients
    assert {parse_mailbox(recipient.encode()).ascii_domain for recipient in recipients} == {OURS}


def test_the_log_tells_of_each_refusal_on_a_line_of_its_own(daemon: Daemon, client: Wire) -> None:
    """Fault 27: what the forms hold ends no line; `log` reads each as JSON."""
    client.ask(b"RSET")
    rows = until("refusals in the log", lambda: [row for row in daemon.log() if row["event"] == "rejected"])
    assert all(str(row["recipient"]).isprintable() for row in rows)
