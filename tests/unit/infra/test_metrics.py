# SPDX-License-Identifier: Apache-2.0
"""The page equals what happened, its labels are bounded, and merged pages add up."""

from collections.abc import Iterable
from dataclasses import replace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway.infra.counting import NewFindings, Vocabulary
from gateway.infra.metrics import Metrics, merge, reference
from gateway.mail.events import Event, Trouble
from gateway.mail.job import QueueId
from gateway.mail.verdict import ACCEPT, Action, Finding, Phase, Verdict
from tests.unit.ops import kit

FIVE = (
    "gateway_messages_accepted_total",
    "gateway_messages_rejected_total",
    "gateway_recipients_delivered_total",
    "gateway_recipients_deferred_total",
    "gateway_recipients_bounced_total",
)


def samples(page: bytes, name: str) -> list[tuple[dict[str, str], float]]:
    families = text_string_to_metric_families(page.decode())
    return [(each.labels, each.value) for family in families for each in family.samples if each.name == name]


def total(page: bytes, name: str, **labels: str) -> float:
    return sum(value for found, value in samples(page, name) if labels.items() <= found.items())


def page_of(events: Iterable[Event]) -> bytes:
    metrics = Metrics()
    for event in events:
        metrics.emit(event)
    return metrics.render()


@pytest.mark.parametrize("name", FIVE)
def test_the_five_that_people_alert_on_are_there_from_the_start(name: str) -> None:
    page = Metrics().render()
    assert samples(page, name), name
    assert total(page, name) == 0


def test_counters_equal_what_clients_and_next_hops_saw() -> None:
    page = page_of(
        [
            kit.accepted(),
            kit.accepted(kit.queue_id(1)),
            kit.accepted(kit.queue_id(2), client=None),  # our own bounce: no client was told 250
            kit.refused_recipient(),
            kit.refused_recipient(),
            kit.refused_message(),
            kit.attempted(kit.delivered()),
            kit.attempted(kit.deferred()),
            kit.attempted(kit.deferred()),
            kit.attempted(kit.deferred(counted=False)),  # no attempt was made
            kit.attempted(kit.failed()),
            kit.bounced(),
            kit.bounced(notice=kit.queue_id(2)),
        ]
    )
    assert [total(page, name) for name in FIVE] == [2, 3, 1, 2, 2]
    assert total(page, "gateway_notices_queued_total") == 1
    assert total(page, "gateway_recipients_postponed_total") == 1
    assert total(page, "gateway_attempt_seconds_count") == 4


def test_refusals_are_told_apart_by_phase_code_and_rule() -> None:
    page = page_of([kit.refused_recipient(), kit.refused_message()])
    assert total(page, FIVE[1], phase="rcpt", code="5yz", rule="recipients.unknown") == 1
    assert total(page, FIVE[1], phase="data", code="5yz", rule="spf.fail") == 1


def test_a_refusal_that_the_client_may_repeat_is_4yz() -> None:
    defer = Verdict(Action.DEFER, kit.deferred().reply, rule="spf.temperror")
    page = page_of([replace(kit.refused_message(), reply=kit.deferred().reply, verdict=defer)])
    assert total(page, FIVE[1], code="4yz", rule="spf.temperror") == 1


def test_every_class_of_event_moves_a_number() -> None:
    empty = stable(Metrics().render())
    for event in kit.one_of_each():
        assert stable(page_of([event])) != empty, type(event).__name__


def stable(page: bytes) -> list[str]:
    """The page without what changes by itself."""
    return [line for line in page.decode().splitlines() if "process_" not in line and "uptime" not in line]


def test_open_connections_go_up_and_down_and_never_below_zero() -> None:
    metrics = Metrics()
    metrics.emit(kit.disconnected("refused", replace(kit.CLIENT, session="never let in")))
    assert total(metrics.render(), "gateway_connections") == 0
    metrics.emit(kit.connected())
    assert total(metrics.render(), "gateway_connections") == 1
    metrics.emit(kit.disconnected())
    page = metrics.render()
    assert total(page, "gateway_connections") == 0
    assert total(page, "gateway_connections_opened_total") == 1
    assert total(page, "gateway_sessions_ended_total", reason="refused") == 1


def test_a_filter_run_counts_once_however_many_refusals_carry_it() -> None:
    page = page_of(
        [
            kit.refused_recipient(findings=(kit.SPF,)),
            kit.refused_recipient(findings=(kit.SPF,)),
            kit.accepted(findings=(kit.SPF, kit.SIZE)),
        ]
    )
    assert total(page, "gateway_filter_runs_total", filter="spf") == 1
    assert total(page, "gateway_filter_runs_total", filter="size", verdict="accept", phase="data") == 1
    assert total(page, "gateway_filter_seconds_count", filter="spf") == 1


def test_what_a_shadow_filter_would_have_done_is_counted_apart() -> None:
    page = page_of([kit.accepted(findings=(kit.SHADOW,))])
    assert total(page, "gateway_filter_runs_total", filter="spf", mode="shadow", verdict="reject") == 1
    assert total(page, "gateway_filter_runs_total", mode="enforce") == 0


def test_a_filter_that_could_not_work_is_counted() -> None:
    fault = replace(kit.SPF, fault="timeout")
    assert total(page_of([kit.accepted(findings=(fault,))]), "gateway_filter_faults_total", filter="spf") == 1


def test_new_findings_forgets_transactions_that_never_end() -> None:
    new = NewFindings(most=2)
    for number in range(5):
        assert len(new.of(kit.refused_recipient(kit.queue_id(number), (kit.SPF,)))) == 1
    assert len(new._shown) == 2
    assert len(new.of(kit.refused_recipient(kit.queue_id(4), (kit.SPF, kit.SIZE)))) == 1
    assert len(new.of(kit.refused_message(kit.queue_id(4), (kit.SPF, kit.SIZE, kit.SHADOW)))) == 1
    assert len(new._shown) == 1


def test_labels_stay_bounded_whatever_comes() -> None:
    """A plugin with made-up rule names, areas with addresses in them: the page must not grow without end."""
    metrics = Metrics()
    for number in range(1000):
        verdict = Verdict(Action.REJECT, kit.REFUSED, rule=f"rule.{number}")
        metrics.emit(replace(kit.refused_message(), verdict=verdict, findings=()))
        metrics.emit(Trouble(time=kit.NOW, area=f"area {number}", detail=""))
        metrics.emit(kit.disconnected(f"reason {number}"))
        metrics.emit(kit.accepted(kit.queue_id(number), (Finding(f"f{number}", Phase.DATA, "enforce", ACCEPT, 0.1),)))
    page = metrics.render()
    assert total(page, FIVE[1]) == 1000
    assert total(page, FIVE[1], rule="other") == 900
    assert len(page) < 300_000
    assert all("@" not in str(labels) for name in FIVE for labels, _ in samples(page, name))


@pytest.mark.parametrize("word", ["", "x" * 65, "a\nb", "\u00e4"])
def test_odd_words_are_no_labels(word: str) -> None:
    assert Vocabulary(10)(word) == "other"


def test_histograms_are_cumulative_and_a_bound_belongs_to_its_bucket() -> None:
    page = page_of([kit.accepted(kit.queue_id(number)) for number in range(3)])
    buckets = {labels["le"]: value for labels, value in samples(page, "gateway_message_size_bytes_bucket")}
    assert (buckets["1024.0"], buckets["4096.0"], buckets["+Inf"]) == (0, 3, 3)  # 4096 octets are "up to 4096"
    assert total(page, "gateway_message_size_bytes_sum") == 3 * 4096


def test_queue_store_and_lookups_come_from_outside() -> None:
    metrics = Metrics()
    metrics.set_queue({"queued": 3, "held": 1})
    metrics.set_store({"commits": 5, "operations": 50})
    metrics.set_trace(7)
    metrics.lookup("TXT", "nxdomain", 0.2, cached=False)
    metrics.lookup("TXT", "ok", 0.0, cached=True)
    metrics.lookup("HINFO", "ok", 0.0, cached=True)
    page = metrics.render()
    assert [total(page, "gateway_queue_recipients", state=state) for state in ("queued", "deferred", "held")] == [3, 0, 1]
    assert total(page, "gateway_store_work_total", kind="operations") == 50
    assert total(page, "gateway_trace_dropped_total") == 7
    assert total(page, "gateway_dns_lookups_total", type="TXT", status="nxdomain", cached="no") == 1
    assert total(page, "gateway_dns_lookups_total", type="other") == 1
    assert total(page, "gateway_dns_seconds_count") == 1
    metrics.set_queue({})
    assert total(metrics.render(), "gateway_queue_recipients") == 0


def test_process_numbers_and_version_are_there() -> None:
    page = Metrics().render()
    assert total(page, "process_resident_memory_bytes") > 0
    assert total(page, "process_open_fds") > 0
    assert total(page, "gateway_build_info") == 1


def test_two_instances_do_not_share_numbers() -> None:
    assert total(page_of([kit.accepted()]), FIVE[0]) == 1
    assert total(Metrics().render(), FIVE[0]) == 0


def test_merged_pages_parse_add_up_and_tell_workers_apart() -> None:
    first, second = page_of([kit.accepted(), kit.refused_message()]), page_of([kit.accepted(QueueId("B" * 16))])
    page = merge({"0": first, "1": second})
    families = list(text_string_to_metric_families(page.decode()))
    assert len({family.name for family in families}) == len(families), "a family is there twice"
    assert page.count(b"# TYPE gateway_messages_accepted_total counter\n") == 1
    assert total(page, FIVE[0]) == 2
    assert total(page, FIVE[0], worker="1") == 1
    assert total(page, "gateway_message_size_bytes_bucket", worker="0", le="4096.0") == 1
    assert {labels["worker"] for family in families for each in family.samples for labels in [each.labels]} == {"0", "1"}
    assert len(samples(page, "process_open_fds")) == 2


def test_merge_survives_nasty_names_values_and_empty_pages() -> None:
    page = b'# TYPE m counter\nm{a="x} y",b="\\"{"} 1\nm 2\nm{} 3\n'
    merged = merge({'w"\\\n': page, "1": b""})
    assert merged == (
        b'# TYPE m counter\nm{worker="w\\"\\\\\\n",a="x} y",b="\\"{"} 1\nm{worker="w\\"\\\\\\n"} 2\nm{worker="w\\"\\\\\\n"} 3\n'
    )
    assert merge({}) == b""


def test_reference_names_every_metric_of_the_page_with_its_labels() -> None:
    text = reference()
    for name in FIVE:
        assert f"| `{name}` | counter |" in text
    assert "| `gateway_filter_runs_total` | counter | `filter`, `phase`, `mode`, `verdict` |" in text
    shown = {line.split(" ")[2] for line in Metrics().render().decode().splitlines() if line.startswith("# TYPE ")}
    assert all(f"`{name}`" in text for name in shown)
