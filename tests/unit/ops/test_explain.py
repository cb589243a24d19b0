# SPDX-License-Identifier: Apache-2.0
"""The page of `gateway explain`: everything that decided is on it, nothing on it is dangerous."""

from dataclasses import replace
from ipaddress import IPv4Address
from typing import Any

import pytest

from gateway.infra.records import full
from gateway.mail.address import Address
from gateway.mail.envelope import BodyType, Client, Recipient, Transaction
from gateway.mail.events import Accepted, Event, Held, Operated, Rejected, Trouble
from gateway.mail.message import Message
from gateway.mail.verdict import ACCEPT, Symbol, Verdict
from gateway.ops.explain import disposition, explain, hypothetical
from tests.unit.ops import kit


def trace_of(*events: Event) -> dict[str, Any]:
    entries = [full(each, each.findings if isinstance(each, (Accepted, Rejected)) else ()) for each in events]
    return {"id": kit.ID, "events": entries}


def text_of(trace: Any) -> str:
    return "\n".join("".join(text for text, _ in line) for line in explain(trace))


LIFE = (
    kit.refused_recipient(),
    kit.accepted(findings=(kit.SIZE, kit.SHADOW)),
    kit.attempted(kit.deferred(), due=kit.NOW + 60),
    kit.attempted(kit.failed(), attempts=1),
    kit.bounced(),
    kit.finished(kit.ID, "bounced", "delivered"),
)


def test_the_page_shows_what_the_sender_asked_for() -> None:
    known = kit.accepted()
    one, other = known.envelope.recipients
    recipients = (replace(one, notify=("SUCCESS", "DELAY"), orcpt="rfc822;X@x"), other)
    envelope = replace(known.envelope, ret="HDRS", envid="Q+2B", require_tls=True, body=BodyType.BINARY, recipients=recipients)
    lines = text_of(trace_of(replace(known, envelope=envelope))).splitlines()
    assert lines[2:5] == [
        "  to          x@dest.example NOTIFY=SUCCESS,DELAY ORCPT=rfc822;X@x",
        "              y@dest.example",
        "  asked for   RET=HDRS ENVID=Q+2B REQUIRETLS BODY=BINARYMIME",
    ]


def test_page_of_an_accepted_message() -> None:
    assert text_of(trace_of(*LIFE)).splitlines() == [
        f"{kit.ID}  1 bounced, 1 delivered",
        "  from        a@b.example",
        "  to          x@dest.example",
        "              y@dest.example",
        "  client      192.0.2.1  helo client.example  TLSv1.3",
        "  session     S1",
        "  message-id  <m@b.example>",
        "  size        4,096 octets",
        "  time        2023-11-14T22:13:20.000Z",
        "",
        "Verdict  reject  for nobody@dest.example  by recipients.unknown  550 5.1.1 No such user here",
        "",
        "At data",
        "  size        accept           0.10 ms",
        "  spf         would reject    12.00 ms  spf.fail",
        "          +4 SPF_FAIL  by -all",
        "      domain = b.example",
        "      mechanism = -all",
        "      dns b.example TXT -> v=spf1 -all  (11.00 ms)",
        "Verdict  accept  score -1",
        "",
        "Afterwards",
        "  2023-11-14T22:13:21.000Z  deferred  x@dest.example  try 1  451 4.4.1 later  by mx.dest.example[192.0.2.9]:25"
        "  clear  0.1 s  next try 2023-11-14T22:14:20.000Z",
        "  2023-11-14T22:13:21.000Z  failed  x@dest.example  try 2  550 5.1.1 No such user  clear  0.2 s",
        "  2023-11-14T22:13:22.000Z  bounced  x@dest.example  550 5.1.1 No such user  nobody told: null sender",
        "  2023-11-14T22:13:23.000Z  finished  after 3 s",
        "    bounced  x@dest.example  2 tries  250 Ok",
        "    delivered  x@dest.example  2 tries  250 Ok",
    ]


def test_the_rule_that_decided_is_marked_and_a_shadow_filter_is_not() -> None:
    page = text_of(trace_of(kit.refused_message(findings=(kit.SHADOW, kit.SIZE, replace(kit.SPF, phase=kit.SHADOW.phase)))))
    marked = [line for line in page.splitlines() if "this decided" in line]
    assert len(marked) == 1
    assert "would" not in marked[0]
    assert "Verdict  reject  by spf.fail  score +4  550 5.7.23 SPF check failed  (b.example says -all)" in page


@pytest.mark.parametrize(
    ("events", "text"),
    [
        ((kit.accepted(),), "accepted, in the queue"),
        ((kit.accepted(), kit.attempted(kit.deferred())), "accepted, deferred"),
        ((kit.accepted(), Held(time=kit.NOW, id=kit.ID, reason="spam")), "accepted, held"),
        (
            (
                kit.accepted(),
                Held(time=kit.NOW, id=kit.ID, reason="spam"),
                Operated(time=kit.NOW, id=kit.ID, command="release"),
            ),
            "accepted, in the queue",
        ),
        ((kit.accepted(), kit.finished()), "delivered"),
        ((kit.accepted(), kit.finished(kit.ID, "delivered", "delivered")), "delivered"),
        ((kit.refused_message(),), "refused"),
        ((kit.refused_recipient(),), "refused before the message came"),
        ((), "unknown"),
    ],
)
def test_disposition_in_few_words(events: tuple[Event, ...], text: str) -> None:
    assert disposition(trace_of(*events)["events"])[0] == text


def test_our_own_bounce_has_no_client() -> None:
    page = text_of(trace_of(kit.accepted(client=None)))
    assert "none: a bounce of our own" in page
    assert "  from        <>" in page


def test_nothing_from_a_message_controls_the_terminal() -> None:
    """A client names itself with escape sequences: they must not reach the operator's terminal."""
    nasty = "\x1b]0;owned\x07\x1b[2J\u202e\r\n"
    facts = Verdict(symbols=(Symbol("X", 1, nasty),), rule=nasty, facts={nasty: nasty})
    finding = replace(kit.SPF, verdict=facts, fault=nasty)
    event = replace(kit.accepted(findings=(finding,)), client=replace(kit.CLIENT, helo=nasty), message_id=nasty)
    trouble = Trouble(time=kit.NOW, area="x", detail=nasty, id=kit.ID)
    page = text_of(trace_of(event, trouble))
    assert all(line.isprintable() for line in page.split("\n"))
    assert "owned" in page


def test_long_lists_are_cut_and_say_so() -> None:
    many = tuple(Recipient(Address(f"r{number}", "dest.example")) for number in range(100))
    event = kit.accepted()
    page = text_of(trace_of(replace(event, envelope=replace(event.envelope, recipients=many))))
    assert "r19@dest.example" in page
    assert "r20@dest.example" not in page
    assert "and 80 more" in page


@pytest.mark.parametrize("trace", [{}, {"id": "x"}, {"id": "x", "events": [{}]}, {"events": [{"event": "attempted"}]}])
def test_a_trace_with_missing_parts_is_still_shown(trace: dict[str, Any]) -> None:
    assert text_of(trace)


def test_every_class_of_event_has_a_line() -> None:
    events = [each for each in kit.one_of_each() if getattr(each, "id", None)]
    page = text_of(trace_of(*events))
    for word in ("deferred", "bounced", "held", "finished", "operator: release", "trouble  filter.spf  timeout"):
        assert word in page, word


@pytest.mark.parametrize("hop", ["maildir:/var/mail/archive", "discard:"])
def test_what_stays_on_this_machine_is_said_to_be_neither_clear_nor_encrypted(hop: str) -> None:
    page = text_of(trace_of(kit.attempted(replace(kit.failed(), hop=hop, tls=""))))
    assert f"by {hop}  0.2 s" in page
    assert "clear" not in page


def test_a_message_that_was_only_judged_says_what_would_be() -> None:
    client = Client(session="", ip=IPv4Address("192.0.2.1"), port=0, listener="", role="mx", connected=kit.NOW)
    tx = Transaction(client=client, id=kit.ID, started=kit.NOW, message=Message.parse(b"A: b\r\n\r\nc\r\n"))
    tx.findings.append(kit.SPF)
    refused, taken = (hypothetical(tx, verdict, kit.NOW, file="a.eml") for verdict in (kit.SPF.verdict, ACCEPT))
    assert text_of(refused).startswith("a.eml  would be: reject\n")
    assert "would be: reject" in text_of(refused)
    assert "this decided" in text_of(refused)
    assert "would be: accept" in text_of(taken)
