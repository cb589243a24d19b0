# SPDX-License-Identifier: Apache-2.0
"""The log: one event, one line, whatever is in it; and a stream that blocks harms nobody."""

import io
import json
import os
import threading
from dataclasses import replace

import pytest

from gateway.infra import log as module
from gateway.infra.log import JsonLog, LogOptions, line_of, to_line
from gateway.infra.records import RECORDS, record, timestamp
from gateway.mail import events
from gateway.mail.address import Address
from gateway.mail.envelope import BodyType, Envelope, Recipient
from gateway.mail.events import Event, Trouble
from tests.unit.ops import kit


def written(*emitted: Event, options: LogOptions | None = None) -> list[dict[str, object]]:
    stream = io.StringIO()
    log = JsonLog(stream, options)
    for event in emitted:
        log.emit(event)
    log.close()
    assert log.dropped == 0
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_what_the_sender_asked_for_stands_in_the_record() -> None:
    """RFC 3461, RFC 8689, RFC 3030; and what nobody asked for does not."""
    known = kit.accepted().envelope
    assert not {"ret", "envid", "require_tls", "binary", "dsn"} & written(kit.accepted())[0].keys()
    one, other = known.recipients
    recipients = (replace(one, notify=("Success", "DELAY"), orcpt="rfc822;X+2B@x"), replace(other, notify=("NEVER",)))
    asking = replace(known, ret="HDRS", envid="Q+2B", require_tls=True, body=BodyType.BINARY, recipients=recipients)
    (entry,) = written(replace(kit.accepted(), envelope=asking))
    assert (entry["ret"], entry["envid"], entry["require_tls"], entry["binary"]) == ("HDRS", "Q+2B", True, True)
    assert entry["dsn"] == [
        {"recipient": "x@dest.example", "notify": "Success,DELAY", "orcpt": "rfc822;X+2B@x"},
        {"recipient": "y@dest.example", "notify": "NEVER"},
    ]


def test_the_refusal_of_one_more_recipient_does_not_list_all_before() -> None:
    """Ten thousand refusals behind a thousand recipients would make 300 MB of log of half a megabyte."""
    taken = tuple(Recipient(Address(f"r{number}", "dest.example"), notify=("NEVER",)) for number in range(1000))
    envelope = replace(kit.accepted().envelope, recipients=taken)
    (entry,) = written(replace(kit.refused_recipient(), envelope=envelope))
    assert entry["recipients"] == [f"r{number}@dest.example" for number in range(20)]
    assert entry["more_recipients"] == 980
    assert len(str(entry["dsn"])) < 2000
    for whole in (replace(kit.accepted(), envelope=envelope), replace(kit.refused_message(), envelope=envelope)):
        (entry,) = written(whole)
        assert len(str(entry["recipients"]).split(",")) == 1000
        assert "more_recipients" not in entry


def test_every_class_of_event_has_a_record() -> None:
    # The module's names, not Event.__subclasses__(): a class with slots is made twice, and that lists both.
    classes = {each for each in vars(events).values() if isinstance(each, type) and issubclass(each, Event)} - {Event}
    assert set(RECORDS) == classes
    assert {type(event) for event in kit.one_of_each()} == set(RECORDS), "the kit lacks a class"
    assert len(written(*kit.one_of_each(), options=LogOptions(level="debug"))) == len(kit.one_of_each())


def test_record_of_an_accepted_message_tells_client_envelope_verdict_and_times() -> None:
    (entry,) = written(kit.accepted())
    assert entry == {
        "time": "2023-11-14T22:13:20.000Z",
        "level": "info",
        "event": "accepted",
        "id": kit.ID,
        "session": "S1",
        "client": "192.0.2.1",
        "helo": "client.example",
        "tls": "TLSv1.3",
        "cipher": "TLS_AES_256_GCM_SHA384",
        "sender": "a@b.example",
        "recipients": ["x@dest.example", "y@dest.example"],
        "size": 4096,
        "verdict": "accept",
        "rule": "",
        "score": -1.0,
        "symbols": ["SPF_PASS"],
        "message_id": "<m@b.example>",
        "seconds": 0.02,
    }


def test_exactly_the_last_record_of_a_message_is_its_disposition() -> None:
    life = [kit.refused_recipient(), kit.accepted(), kit.attempted(kit.delivered()), kit.finished(), kit.refused_message()]
    assert [entry["event"] for entry in written(*life) if entry.get("disposition")] == ["finished", "rejected"]


def test_disposition_of_delivered_mail_has_attempts_reply_symbols_and_times() -> None:
    (entry,) = written(kit.finished())
    assert entry["recipients"] == [
        {"address": "x@dest.example", "result": "delivered", "attempts": 2, "reply": "250 Ok", "hop": ""}
    ]
    assert (entry["symbols"], entry["rule"], entry["verdict"]) == (["SPF_PASS"], "spf.pass", "accept")
    assert (entry["accepted"], entry["time"], entry["seconds"]) == ("2023-11-14T22:13:20.000Z", "2023-11-14T22:13:23.000Z", 3.0)


def test_a_deferred_attempt_says_when_the_next_one_is_due() -> None:
    (entry,) = written(kit.attempted(kit.deferred(), attempts=2, due=kit.NOW + 60))
    assert (entry["attempt"], entry["result"], entry["due"]) == (3, "deferred", "2023-11-14T22:14:20.000Z")


@pytest.mark.parametrize(
    "text",
    [
        "a\r\nb",
        'x"},{"event":"accepted"}',
        "\x1b[2J\x07",
        "\x00\x85\u2028\u2029\x9b",
        "\ud800",
        "\\ud800",
        "\udc41\ud841",
        "\U0001f600\\",
    ],
)
def test_nothing_from_outside_makes_a_second_line_or_leaves_ascii(text: str) -> None:
    """Log injection: a client that puts line ends, escapes or odd Unicode into its name forges no record."""
    envelope = Envelope(sender=Address(text, "b.example"), recipients=(Recipient(Address(text, "c.example")),))
    event = replace(kit.accepted(), envelope=envelope, client=replace(kit.CLIENT, helo=text), message_id=text)
    stream = io.StringIO()
    log = JsonLog(stream)
    log.emit(event)
    log.close()
    line = stream.getvalue()
    assert line.count("\n") == 1
    assert line.endswith("\n")
    assert line[:-1].isascii()
    assert line[:-1].isprintable()
    json.loads(line)["helo"].encode("utf-8")  # no lone surrogate comes out
    if text.isprintable():
        assert json.loads(line)["helo"] == text


def test_a_lone_surrogate_becomes_a_replacement_and_escaped_text_stays() -> None:
    assert json.loads(to_line({"a": "\ud800!", "b": r"\ud800", "c": "\U0001f600"})) == {
        "a": "\ufffd!",
        "b": r"\ud800",
        "c": "\U0001f600",
    }


def test_level_leaves_out_what_is_below_it() -> None:
    kinds = [entry["event"] for entry in written(*kit.one_of_each(), options=LogOptions(level="warning"))]
    assert kinds == ["bounced", "held", "trouble"]


def test_connections_are_logged_only_when_asked_for() -> None:
    both = [kit.connected(), kit.disconnected()]
    assert written(*both) == []
    assert [entry["event"] for entry in written(*both, options=LogOptions(connections=True))] == ["connected", "disconnected"]


def test_an_event_that_cannot_be_told_is_told_as_such() -> None:
    broken = replace(kit.accepted(), size=object())  # type: ignore[arg-type]
    (entry,) = written(broken)
    assert (entry["event"], entry["class"]) == ("unloggable", "Accepted")


def test_a_line_is_made_once_and_not_taken_for_that_of_an_equal_event(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[Event] = []
    monkeypatch.setattr(module, "record", lambda event: made.append(event) or record(event))
    first, twin, other = kit.accepted(), kit.accepted(), kit.finished()
    lines = [line_of(event) for event in (first, first, other, first, twin)]
    assert made == [first, other, first, twin]
    assert lines[0] == lines[1] == lines[3] == lines[4] != lines[2]


def test_a_class_that_the_table_does_not_know_harms_nobody() -> None:
    assert written(Event(time=kit.NOW)) == []


def test_times_are_utc_with_milliseconds_also_across_a_second() -> None:
    moments = [0.0, 0.9994, 1.0, 1_700_000_000.001, 0.5, -1.0]
    assert [timestamp(moment) for moment in moments] == [
        "1970-01-01T00:00:00.000Z",
        "1970-01-01T00:00:00.999Z",
        "1970-01-01T00:00:01.000Z",
        "2023-11-14T22:13:20.001Z",
        "1970-01-01T00:00:00.500Z",
        "1969-12-31T23:59:59.000Z",
    ]


def test_of_several_workers_each_says_its_number_in_every_record() -> None:
    same = kit.accepted()
    entries = []
    for worker in (None, 0, 11):
        stream = io.StringIO()
        log = JsonLog(stream, worker=worker)
        log.emit(same)
        log.close()
        entries.append(json.loads(stream.getvalue()))
    assert [entry.pop("worker", None) for entry in entries] == [None, 0, 11]
    assert entries[0] == entries[1] == entries[2]
    assert "worker" not in line_of(same), "the trace has the same line, and is one worker's anyway"


def test_a_reader_that_does_not_read_costs_records_but_no_time_and_is_told_later() -> None:
    """stderr is a pipe that nobody empties: `emit` must return, memory must not grow, and the loss must be reported."""
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as stream:
        log = JsonLog(stream, buffer=100_000)
        line = len(to_line(record(kit.accepted()))) + 1
        total = 2 * (100_000 + 1_100_000) // line  # more than buffer and the largest pipe hold
        for _ in range(total):
            log.emit(kit.accepted())
        assert log.dropped > 0
        lines: list[str] = []
        with os.fdopen(reading) as source:
            reader = threading.Thread(target=lambda: lines.extend(source))
            reader.start()
            log.close()
            stream.close()
            reader.join()
    entries = [json.loads(each) for each in lines]
    losses = [entry["records"] for entry in entries if entry["event"] == "log_dropped"]
    assert sum(losses) == log.dropped
    assert sum(entry["event"] == "accepted" for entry in entries) + log.dropped == total


def test_lines_keep_their_order_under_load() -> None:
    stream = io.StringIO()
    log = JsonLog(stream)
    for number in range(2000):
        log.emit(Trouble(time=kit.NOW, area="test", detail=str(number)))
    log.close()
    assert [json.loads(line)["detail"] for line in stream.getvalue().splitlines()] == [str(number) for number in range(2000)]


def test_a_broken_stream_is_counted_and_survived() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    stream = os.fdopen(writing, "w")
    log = JsonLog(stream)
    log.emit(kit.accepted())
    log.close()
    assert log.dropped == 1
    stream.close()


def test_close_without_a_record_starts_nothing() -> None:
    before = threading.active_count()
    JsonLog(io.StringIO()).close()
    assert threading.active_count() == before


def test_a_non_blocking_terminal_gets_everything() -> None:
    """Another process may have made our terminal non-blocking: a full pipe then refuses instead of waiting."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    lines: list[str] = []
    with os.fdopen(reading) as source, os.fdopen(writing, "w") as stream:
        log = JsonLog(stream)
        for _ in range(1000):
            log.emit(kit.accepted())
        reader = threading.Thread(target=lambda: lines.extend(source))
        reader.start()
        log.close()
        stream.close()
        reader.join()
    assert len(lines) == 1000
    assert log.dropped == 0
