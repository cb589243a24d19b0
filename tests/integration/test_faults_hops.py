# SPDX-License-Identifier: Apache-2.0
"""Hostile next hops and odd DNS against a live daemon: nobody waits for another's fault, and the mail comes to a right end."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.daemon import Daemon
from tests.support.world import Wire, World, until

HEAD = (
    b"From: a@origin.example\r\nTo: box@dest.example\r\nDate: Sun, 22 Nov 2026 08:00:00 +0000\r\n"
    b"Message-ID: <odd@origin.example>\r\nSubject: %b\r\n\r\nx\r\n"
)
TIMEOUTS = "".join(f'{name}_timeout = "2s"\n' for name in ("greeting", "ehlo", "mail", "rcpt", "data", "block", "dot"))


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with World() as instance:
        yield instance


@pytest.fixture(scope="module")
def daemon(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    extra = f"[delivery]\nport = {world.sink.port}\n{TIMEOUTS}"
    with Daemon(
        tmp_path_factory.mktemp("hops"), world.tables(extra, dns='timeout = "500ms"\nlifetime = "1s"'), workers=2
    ) as instance:
        yield instance
        assert instance.stop() == 0
        assert not [row for row in instance.log() if row["event"] == "trouble"]


def send(daemon: Daemon, subject: str, *recipients: str, sender: str = "a@origin.example") -> str:
    with Wire(daemon.smtp_port) as client:
        answer = client.message(HEAD.replace(b"%b", subject.encode()), *recipients, sender=sender)
    assert answer.startswith(b"250 2.0.0 Ok: queued as "), answer
    return answer.decode().rsplit(" ", 1)[1]


def records(daemon: Daemon, queue_id: str, event: str) -> list[dict[str, Any]]:
    return [row for row in daemon.log() if row["event"] == event and row.get("id") == queue_id]


def delete(daemon: Daemon, *queue_ids: str) -> None:
    """Until they are gone: the command leaves alone what is being delivered at that moment."""

    def gone() -> bool:
        daemon.command("queue", "delete", *queue_ids)
        return not {row["id"] for row in daemon.queue()} & set(queue_ids)

    until("they are deleted", gone)


def result(daemon: Daemon, queue_id: str) -> dict[str, Any]:
    """The first recipient in the record of the end."""
    found: dict[str, Any] = until("the end", lambda: records(daemon, queue_id, "finished"))[0]
    assert found["disposition"] is True
    first: dict[str, Any] = found["recipients"][0]
    return first


def test_a_stall_at_any_stage_stops_no_other_mail_and_is_tried_again(world: World, daemon: Daemon) -> None:
    stalled = [send(daemon, "stall-mail", "x@dest.example", sender="x+hang-in-mail@origin.example")]
    stalled += [send(daemon, f"stall-{stage}", f"x+hang-in-{stage}@dest.example") for stage in ("rcpt", "data", "dot")]
    send(daemon, "flows", "box@dest.example")
    world.arrived("flows")
    for queue_id in stalled:
        attempt = until("it was given up", lambda: records(daemon, queue_id, "attempted"))[0]  # noqa: B023
        assert attempt["result"] == "deferred"
    delete(daemon, *stalled)


def test_a_drop_after_the_dot_is_tried_again_and_logged_as_ambiguous(world: World, daemon: Daemon) -> None:
    world.call(world.sink.do_next, 1, "drop-after-dot")
    queue_id = send(daemon, "ambiguous", "box@dest.example")
    assert result(daemon, queue_id)["result"] == "delivered"
    first = records(daemon, queue_id, "attempted")[0]
    assert first["result"] == "deferred"
    assert first.get("ambiguous") is True or "duplicate" in str(first), first


def test_one_of_three_is_taken_one_deferred_one_refused(world: World, daemon: Daemon) -> None:
    world.call(world.sink.messages.clear)
    names = ["ok@dest.example", "x+550-at-rcpt@dest.example", "y+450-at-rcpt@dest.example"]
    queue_id = send(daemon, "split", *names)
    until("two attempts of one", lambda: len(records(daemon, queue_id, "attempted")) >= 4)
    listed = next(row for row in daemon.queue() if row["id"] == queue_id)
    assert {row["address"]: row["state"] for row in listed["recipients"]}[names[2]] == "deferred"
    delete(daemon, queue_id)
    copies = [copy for copy in world.sink.messages if copy.recipients == (names[0],)]
    assert len(copies) == 1
    assert sum(copy.sender == "" for copy in world.sink.messages) == 1


@pytest.mark.parametrize(
    "behaviour", ["garbage-at-rcpt", "endless-at-mail", "354-at-mail", "250-at-data", "299-at-rcpt", "999-at-rcpt"]
)
def test_nonsense_from_a_next_hop_neither_hangs_nor_loses(world: World, daemon: Daemon, behaviour: str) -> None:
    world.call(world.sink.do_next, 1, behaviour)
    queue_id = send(daemon, f"{behaviour}", "box@dest.example")
    assert result(daemon, queue_id)["result"] == "delivered"


DNS = {
    "null-mx": ({"MX": ["0 ."]}, "5.1.10"),
    "nxdomain": ({}, "5.1.2"),
    "to-loopback": ({"MX": ["10 lo.mx.example"]}, "5.4."),
    "to-own-name": ({"MX": ["10 mx.gateway.test"]}, "5.4.6"),
    "mx-without-address": ({"MX": ["10 nowhere.mx.example"]}, "5.4.4"),
    "only-private-v6": ({"AAAA": ["::1"]}, "5.4."),
    "hundred-mx": ({"MX": [f"{n} lo.mx.example" for n in range(100)]}, "5.4."),
}


@pytest.mark.parametrize("name", sorted(DNS))
def test_a_domain_that_cannot_get_mail_is_bounced_at_once(world: World, daemon: Daemon, name: str) -> None:
    added, status = DNS[name]
    world.call(world.dns.add, "lo.mx.example", "A", "127.0.0.1")
    world.call(world.dns.add, "mx.gateway.test", "A", "192.0.2.9")
    for kind, values in added.items():
        world.call(world.dns.add, f"{name}.mx.example", kind, *values)
    subject = f"{name}"
    queue_id = send(daemon, subject, f"box@{name}.mx.example")
    end = result(daemon, queue_id)
    assert end["result"] == "bounced" or end["result"] == "failed", end
    bounce = world.received(lambda copy: copy.sender == "" and queue_id.encode() in copy.content)
    assert b"\r\nStatus: " + status.encode() in bounce.content


def test_a_failed_lookup_defers_whatever_the_failure(world: World, daemon: Daemon) -> None:
    sent = []
    for fault in ("SERVFAIL", "TIMEOUT", "GARBAGE", "LOOP"):
        name = f"{fault.lower()}.mx.example"
        world.call(world.dns.fail, name, None, fault)
        sent.append(send(daemon, name, f"box@{name}"))
    for queue_id in sent:
        attempt = until("an attempt", lambda: records(daemon, queue_id, "attempted"))[0]  # noqa: B023
        assert attempt["result"] == "deferred", attempt
    delete(daemon, *sent)


def test_bounces_that_cannot_be_returned_end_there(world: World, daemon: Daemon) -> None:
    before = daemon.metric("gateway_recipients_bounced_total")
    queue_id = send(daemon, "loop", "x+550-at-rcpt@dest.example", sender="y+550-at-rcpt@origin.example")
    result(daemon, queue_id)
    until("two ends", lambda: daemon.metric("gateway_recipients_bounced_total") == before + 2)
    null = send(daemon, "null", "x+550-at-rcpt@dest.example", sender="")
    result(daemon, null)
    until("one more", lambda: daemon.metric("gateway_recipients_bounced_total") == before + 3)
    until("an empty queue", lambda: not daemon.queue())


def test_a_thousand_recipients_go_in_transactions_of_a_hundred(world: World, daemon: Daemon) -> None:
    world.call(world.sink.messages.clear)
    names = [f"r{n}{'+550-at-rcpt' if n % 10 == 0 else ''}@dest.example" for n in range(1000)]
    with Wire(daemon.smtp_port) as client:
        client.ask(b"EHLO client.example")
        client.send(
            b"MAIL FROM:<a@origin.example>\r\n"
            + b"".join(b"RCPT TO:<%b>\r\n" % name.encode() for name in [*names, "one-more@dest.example"])
        )
        replies = [client.reply() for _ in range(1002)]
        assert all(each.startswith(b"250") for each in replies[:1001])
        assert replies[-1].startswith(b"452 4.5.3")
        assert client.ask(b"DATA").startswith(b"354")
        answer = client.ask(HEAD.replace(b"%b", b"many") + b".")
        assert answer.startswith(b"250")
    queue_id = answer.decode().rsplit(" ", 1)[1]
    result(daemon, queue_id)
    copies = [copy for copy in world.sink.messages if b"Subject: many\r\n" in copy.content and copy.sender]
    assert max(len(copy.recipients) for copy in copies) <= 100
    got = [each for copy in copies for each in copy.recipients]
    assert sorted(got) == sorted(name for name in names if "+" not in name)
    bounces = until(
        "one notice", lambda: [copy for copy in world.sink.messages if not copy.sender and queue_id.encode() in copy.content]
    )
    assert sum(copy.content.count(b"Final-Recipient:") for copy in bounces) <= 100
