# SPDX-License-Identifier: Apache-2.0
"""The table of verbs and the arguments of EHLO, MAIL and RCPT."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.edge.commands import parse_helo, parse_mail, parse_rcpt
from gateway.edge.session import SmtpSession
from gateway.edge.verbs import ALIEN, VERBS, State, look_up
from gateway.mail import reply
from gateway.mail.address import NULL_SENDER, Address
from gateway.mail.envelope import BodyType
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
        (b"EHLO x", {State.START, State.GREETED, State.IN_MAIL, State.NO_RCPT, State.HAS_RCPT}),
        (b"MAIL FROM:<>", {State.GREETED}),
        (b"RCPT TO:<a@b>", {State.IN_MAIL, State.NO_RCPT, State.HAS_RCPT}),
        (b"DATA", {State.NO_RCPT, State.HAS_RCPT}),
        (b"QUIT", set(State)),
        (b"STARTTLS", {State.GREETED, State.IN_MAIL, State.NO_RCPT, State.HAS_RCPT}),
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
    command = parse_mail(b"FROM:<a@b.example> SIZE=7 body=8BitMime SMTPUTF8", esmtp=True)
    assert command.sender == Address("a", "b.example")
    assert (command.size, command.body, command.smtputf8) == (7, BodyType.EIGHT_BIT, True)


def test_mail_without_anything() -> None:
    command = parse_mail(b"FROM:<>", esmtp=False)
    assert (command.sender, command.size, command.body, command.smtputf8) == (NULL_SENDER, None, BodyType.SEVEN_BIT, False)


@pytest.mark.parametrize(
    "bad", [b"FROM:<a@b.example>x", b"FROM:<a@b.example>\x0b", b"FROM:<a@xn--a>", b"FROM:<a@b\xff.example>"]
)
def test_a_bad_sender_is_501(bad: bytes) -> None:
    with pytest.raises(MailError) as caught:
        parse_mail(bad, esmtp=True)
    assert caught.value.reply is reply.BAD_SENDER


@pytest.mark.parametrize("value", [b"SIZE=-1", b"SIZE=1e3", b"SIZE=", "SIZE=²".encode(), b"BODY=", b"BODY", b"SMTPUTF8="])
def test_a_bad_value_is_501(value: bytes) -> None:
    with pytest.raises(MailError) as caught:
        parse_mail(b"FROM:<a@b.example> " + value, esmtp=True)
    assert caught.value.reply is reply.BAD_PARAMETER


def test_a_name_in_utf8_is_refused_before_smtputf8_was_agreed_on() -> None:
    with pytest.raises(MailError):
        parse_helo("bücher.example".encode())
    assert parse_helo(b"my_host.example") == "my_host.example"


def test_a_recipient_keeps_its_local_part_octet_for_octet() -> None:
    assert parse_rcpt(b'TO:<"A b\\"c"@Dest.Example>', esmtp=True, smtputf8=False) == Address('"A b\\"c"', "Dest.Example")


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
                return str(parse_mail(argument, esmtp=esmtp).sender)
            case "RCPT":
                return str(parse_rcpt(argument, esmtp=esmtp, smtputf8=True))
            case "EHLO" | "HELO":
                return parse_helo(argument)
        return verb.name
    except MailError as err:
        return err.reply
