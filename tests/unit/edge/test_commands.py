# SPDX-License-Identifier: Apache-2.0
"""The table of verbs and the arguments of EHLO, MAIL and RCPT."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.edge.commands import check_vrfy, parse_helo, parse_mail, parse_rcpt
from gateway.edge.offers import NOTHING, Offers
from gateway.edge.session import SmtpSession
from gateway.edge.verbs import ALIEN, VERBS, State, look_up
from gateway.mail import reply
from gateway.mail.address import NULL_SENDER, Address
from gateway.mail.envelope import BodyType, Recipient
from gateway.mail.reply import MailError, Reply


def refusal(line: bytes, state: State, *, esmtp: bool = True) -> Reply | None:
    try:
        look_up(line, state, esmtp=esmtp)
    except MailError as err:
        return err.reply
    return None


def test_each_implemented_verb_has_a_handler_and_no_handler_is_left_over() -> None:
    assert {verb.name for verb in VERBS.values() if verb.implemented} == set(SmtpSession._HANDLERS)


@pytest.mark.parametrize(
    ("line", "good"),
    [
        (b"EHLO x", set(State) - {State.CLOSED}),
        (b"MAIL FROM:<>", {State.GREETED, State.CHUNKS_REFUSED}),
        (b"RCPT TO:<a@b>", {State.IN_MAIL, State.NO_RCPT, State.HAS_RCPT}),
        (b"DATA", {State.NO_RCPT, State.HAS_RCPT}),
        (b"QUIT", set(State)),
        (b"STARTTLS", set(State) - {State.CLOSED, State.START, State.IN_CHUNKS}),
    ],
)
def test_what_stands_out_of_place_is_bad_sequence(line: bytes, good: set[State]) -> None:
    for state in State:
        assert refusal(line, state) is (None if state in good else reply.BAD_SEQUENCE)


def test_only_mail_and_rcpt_may_be_long_and_only_after_ehlo() -> None:
    long = b" " + b"x" * 600
    assert refusal(b"MAIL" + long, State.GREETED) is None
    assert refusal(b"MAIL" + long, State.GREETED, esmtp=False) is reply.LINE_TOO_LONG
    assert refusal(b"NOOP" + long, State.GREETED) is reply.LINE_TOO_LONG


def test_other_protocols_are_known_by_their_first_word() -> None:
    assert all(refusal(word + b" /x", State.START) is reply.NOT_SMTP for word in ALIEN)
    assert refusal(b"get / HTTP/1.0", State.START) is reply.NOT_SMTP
    assert not ALIEN & VERBS.keys()


def test_mail_with_everything() -> None:
    command = parse_mail(b"FROM:<a@b.example> SIZE=7 body=8BitMime SMTPUTF8", Offers())
    assert command.sender == Address("a", "b.example")
    assert (command.size, command.body, command.smtputf8) == (7, BodyType.EIGHT_BIT, True)


def test_mail_without_anything() -> None:
    command = parse_mail(b"FROM:<>", NOTHING)
    assert (command.sender, command.size, command.body, command.smtputf8) == (NULL_SENDER, None, BodyType.SEVEN_BIT, False)


@pytest.mark.parametrize(
    "bad", [b"FROM:<a@b.example>x", b"FROM:<a@b.example>\x0b", b"FROM:<a@xn--a>", b"FROM:<a@b\xff.example>"]
)
def test_a_bad_sender_is_501(bad: bytes) -> None:
    with pytest.raises(MailError) as caught:
        parse_mail(bad, Offers())
    assert caught.value.reply is reply.BAD_SENDER


@pytest.mark.parametrize("value", [b"SIZE=-1", b"SIZE=1e3", b"SIZE=", "SIZE=²".encode(), b"BODY=", b"BODY", b"SMTPUTF8="])
def test_a_bad_value_is_501(value: bytes) -> None:
    with pytest.raises(MailError) as caught:
        parse_mail(b"FROM:<a@b.example> " + value, Offers())
    assert caught.value.reply is reply.BAD_PARAMETER


OFFERS = Offers(require_tls=True, binary=True, auth=("PLAIN",))


def refused_mail(parameters: bytes, offers: Offers = OFFERS) -> Reply | None:
    try:
        parse_mail(b"FROM:<a@b.example> " + parameters, offers)
    except MailError as err:
        return err.reply
    return None


def refused_rcpt(parameters: bytes, *, smtputf8: bool = False) -> Reply | None:
    try:
        parse_rcpt(b"TO:<c@dest.example> " + parameters, OFFERS, smtputf8=smtputf8)
    except MailError as err:
        return err.reply
    return None


def test_what_a_sender_asks_for_is_kept_as_it_was_given() -> None:
    command = parse_mail(b"FROM:<a@b.example> ret=Hdrs ENVID=Qq+2B1 RequireTLS body=BinaryMIME AUTH=<>", OFFERS)
    assert (command.ret, command.envid, command.require_tls, command.body) == ("Hdrs", "Qq+2B1", True, BodyType.BINARY)
    recipient = parse_rcpt(b"TO:<c@dest.example> notify=Success,DELAY ORCPT=RFC822;C+2Bx@Dest.example", OFFERS, smtputf8=False)
    assert recipient == Recipient(Address("c", "dest.example"), ("Success", "DELAY"), "RFC822;C+2Bx@Dest.example")


@pytest.mark.parametrize(
    ("parameters", "offers", "answer"),
    [
        (b"REQUIRETLS", Offers(), reply.UNKNOWN_PARAMETER),
        (b"REQUIRETLS=", OFFERS, reply.BAD_PARAMETER),
        (b"REQUIRETLS=NO", OFFERS, reply.BAD_PARAMETER),
        (b"BODY=BINARYMIME", Offers(), reply.BAD_PARAMETER),
        ("BODY=8B\u0131TMIME".encode(), OFFERS, reply.BAD_PARAMETER),  # a dotless i becomes I in upper case
        (b"AUTH=<>", Offers(), reply.UNKNOWN_PARAMETER),
        (b"AUTH=<>", OFFERS, None),
        (b"AUTH=e+3Dmc2@b.example", OFFERS, None),
        (b"AUTH=", OFFERS, reply.BAD_PARAMETER),
        (b"AUTH", OFFERS, reply.BAD_PARAMETER),
        (b"AUTH=<a@b.example>", OFFERS, reply.BAD_PARAMETER),
        (b"AUTH=nobody", OFFERS, reply.BAD_PARAMETER),
        (b"AUTH=a+0Ab@b.example", OFFERS, reply.BAD_PARAMETER),
        (b"AUTH=<> AUTH=<>", OFFERS, reply.BAD_PARAMETER),
        (b"NOTIFY=NEVER", OFFERS, reply.UNKNOWN_PARAMETER),  # of RCPT
        (b"RET=HDRS", NOTHING, reply.UNKNOWN_PARAMETER),
        (b"RET=HDRS ENVID=x X-OTHER=1", OFFERS, reply.UNKNOWN_PARAMETER),
    ],
)
def test_a_parameter_of_mail_is_taken_where_it_was_offered(parameters: bytes, offers: Offers, answer: Reply | None) -> None:
    assert refused_mail(parameters, offers) is answer


def test_an_original_recipient_in_utf_8_wants_smtputf8() -> None:
    """RFC 6533 §3, fault 22."""
    parameter = "ORCPT=utf-8;bücher@dest.example".encode()
    assert refused_rcpt(parameter) is reply.NEEDS_SMTPUTF8
    assert refused_rcpt(parameter, smtputf8=True) is None
    assert refused_rcpt(b"ORCPT=utf-8;b\\x{FC}cher@dest.example") is None
    assert refused_rcpt(b"ORCPT=utf-8;\xff@dest.example", smtputf8=True) is reply.BAD_PARAMETER


@pytest.mark.parametrize("octet", [0x00, 0x01, 0x09, 0x0A, 0x0D, 0x1B, 0x7F])
def test_no_control_character_gets_into_a_value(octet: int) -> None:
    """Fault 5: as it stands, and as xtext."""
    for value in (bytes([octet]), b"+%02X" % octet, b"+%02x" % octet):
        assert refused_mail(b"ENVID=a" + value + b"b") is reply.BAD_PARAMETER
        assert refused_mail(b"AUTH=a" + value + b"@b.example") is reply.BAD_PARAMETER
        assert refused_rcpt(b"ORCPT=rfc822;a" + value + b"b") is reply.BAD_PARAMETER
        assert refused_rcpt(b"NOTIFY=NEVER" + value) is reply.BAD_PARAMETER


def test_vrfy_with_other_letters_wants_smtputf8() -> None:
    """RFC 6531 §3.7.4.2."""
    check_vrfy(b"bob")
    check_vrfy("bücher SmtpUtf8".encode())
    for argument, answer in (("bücher", reply.NEEDS_SMTPUTF8), ("bücher \u017fmtputf8", reply.NEEDS_SMTPUTF8)):
        with pytest.raises(MailError) as caught:
            check_vrfy(argument.encode())
        assert caught.value.reply is answer
    with pytest.raises(MailError) as caught:
        check_vrfy(b"\xff SMTPUTF8")
    assert caught.value.reply is reply.SYNTAX


def test_a_name_in_utf8_is_refused_before_smtputf8_was_agreed_on() -> None:
    with pytest.raises(MailError):
        parse_helo("bücher.example".encode())
    assert parse_helo(b"my_host.example") == "my_host.example"


def test_a_recipient_keeps_its_local_part_octet_for_octet() -> None:
    assert parse_rcpt(b'TO:<"A b\\"c"@Dest.Example>', Offers(), smtputf8=False).address == Address('"A b\\"c"', "Dest.Example")


_WORDS = st.lists(
    st.sampled_from(
        [
            b"FROM:",
            b"TO:",
            b"<",
            b">",
            b"a@b",
            b"@",
            b'"',
            b"\\",
            b" ",
            b"SIZE=",
            b"BODY=8BITMIME",
            b"SMTPUTF8",
            b"ENVID=",
            b"ORCPT=utf-8;",
            b"NOTIFY=",
            b"+0A",
            b"AUTH=",
            b"\xff",
            b"[",
            b"]",
        ]
    )
).map(b"".join)


@given(st.one_of(_WORDS, st.binary(max_size=80)), st.sampled_from(list(State)), st.booleans())
def test_any_line_is_either_understood_or_refused_with_a_reply(line: bytes, state: State, esmtp: bool) -> None:
    """No other exception, and nothing that is understood holds a control character."""
    for verb in (b"", b"MAIL ", b"RCPT ", b"EHLO "):
        answer = outcome(verb + line, state, esmtp=esmtp)
        assert answer.isprintable() if isinstance(answer, str) else answer.permanent


def outcome(line: bytes, state: State, *, esmtp: bool) -> str | Reply:
    """What was understood, as text, or the refusal."""
    try:
        verb, argument = look_up(line, state, esmtp=esmtp)
        match verb.name:
            case "MAIL":
                command = parse_mail(argument, replace(OFFERS, esmtp=esmtp))
                return f"{command.sender}{command.envid}{command.ret}"
            case "RCPT":
                recipient = parse_rcpt(argument, replace(OFFERS, esmtp=esmtp), smtputf8=True)
                return f"{recipient.address}{recipient.orcpt}{recipient.notify}"
            case "EHLO" | "HELO":
                return parse_helo(argument)
        return verb.name
    except MailError as err:
        return err.reply
