# SPDX-License-Identifier: Apache-2.0
"""A next hop misbehaves in one way, and each recipient has the one right outcome: delivered, deferred or bounced."""

from typing import Any

import pytest

from gateway.mail.job import Deferred, Failed
from tests.support.delivering import Rig, delivering
from tests.support.fakework import job
from tests.support.sink import Sink

DELIVERED = {"delivered": 1, "deferred": 0, "bounced": 0}
DEFERRED = {"delivered": 0, "deferred": 1, "bounced": 0}
BOUNCED = {"delivered": 0, "deferred": 0, "bounced": 1}

NO_PIPELINING = ("8BITMIME", "SMTPUTF8", "SIZE 0")


async def attempt(sink: Sink, *recipients: str, sender: str = "ann@client.example", **options: Any) -> Rig:
    """One job to one sink, until every recipient has an outcome."""
    async with delivering({"*": f"smtp://{sink.address}"}, **options) as rig:
        await rig.work.put(job(*recipients, sender=sender))
        await rig.work.wait(len(recipients))
    return rig


# behaviour of the recipient's local part → outcome, code of the reply, messages that the sink has in the end
BY_RECIPIENT = [
    ("", DELIVERED, 250, 1),
    ("+450-at-rcpt", DEFERRED, 450, 0),
    ("+550-at-rcpt", BOUNCED, 550, 0),
    ("+499-at-rcpt", DEFERRED, 499, 0),  # an unknown code counts by its first digit
    ("+599-at-rcpt", BOUNCED, 599, 0),
    ("+251-at-rcpt", DELIVERED, 250, 1),
    ("+552-at-rcpt", DEFERRED, 452, 0),  # RFC 5321 §4.5.3.1.10: too many recipients, so temporary
    ("+452-at-rcpt", DEFERRED, 452, 0),
    ("+421-at-rcpt", DEFERRED, 421, 0),
    ("+451-at-data", DEFERRED, 451, 0),
    ("+554-at-data", BOUNCED, 554, 0),
    ("+421-at-data", DEFERRED, 421, 0),
    ("+250-at-data", DEFERRED, 451, 0),  # yes to DATA is no answer to it
    ("+354-at-rcpt", DEFERRED, 451, 0),
    ("+451-after-data", DEFERRED, 451, 0),
    ("+552-after-data", BOUNCED, 552, 0),
    ("+554-after-data", BOUNCED, 554, 0),
    ("+421-after-data", DEFERRED, 421, 0),
    ("+354-after-data", DEFERRED, 451, 0),
    ("+drop-at-rcpt", DEFERRED, 451, 0),
    ("+drop-at-data", DEFERRED, 451, 0),
    ("+drop-mid-body", DEFERRED, 451, 0),
    ("+drop-before-dot", DEFERRED, 451, 0),
    ("+drop-after-dot", DEFERRED, 451, 1),
    ("+garbage-reply", DEFERRED, 451, 0),
    ("+endless-reply", DEFERRED, 451, 0),
    ("+multiline", DELIVERED, 250, 1),
    ("+garbage-at-dot", DEFERRED, 451, 0),
    ("+multiline-at-dot", DELIVERED, 250, 1),
    ("+extra-at-dot", DELIVERED, 250, 1),
]


@pytest.mark.parametrize("pipelining", [True, False], ids=["group", "single"])
@pytest.mark.parametrize(("behaviour", "tally", "code", "kept"), BY_RECIPIENT)
async def test_behaviour_of_a_recipient(behaviour: str, tally: dict[str, int], code: int, kept: int, pipelining: bool) -> None:
    async with Sink() as sink:
        if not pipelining:
            sink.extensions = NO_PIPELINING
        rig = await attempt(sink, f"bob{behaviour}@dest.example")
        assert rig.tally() == tally
        outcome = rig.outcome()
        assert outcome.reply.code == code
        assert outcome.hop == f"127.0.0.1[127.0.0.1]:{sink.port}"
        assert len(sink.messages) == kept
        assert sink.connections == 1
        assert not rig.troubles()


# behaviour of the sender's local part, which acts from MAIL on
BY_SENDER = [
    ("+450-at-mail", DEFERRED, 450),
    ("+553-at-mail", BOUNCED, 553),
    ("+421-at-mail", DEFERRED, 421),
    ("+354-at-mail", DEFERRED, 451),
    ("+drop-at-mail", DEFERRED, 451),
    ("+garbage-reply", DEFERRED, 451),
    ("+extra-reply", DEFERRED, 451),
    ("+550-at-rcpt", BOUNCED, 550),
]


@pytest.mark.parametrize("pipelining", [True, False], ids=["group", "single"])
@pytest.mark.parametrize(("behaviour", "tally", "code"), BY_SENDER)
async def test_behaviour_of_a_sender(behaviour: str, tally: dict[str, int], code: int, pipelining: bool) -> None:
    async with Sink() as sink:
        if not pipelining:
            sink.extensions = NO_PIPELINING
        rig = await attempt(sink, "bob@dest.example", sender=f"ann{behaviour}@client.example")
        assert rig.tally() == tally
        assert rig.outcome().reply.code == code
        assert not sink.messages


# behaviour of the host, before there is a message
BY_HOST = [
    ("421-at-greeting", DEFERRED, 421),
    ("450-at-greeting", DEFERRED, 450),
    ("554-at-greeting", BOUNCED, 554),  # the only host there is says it takes no mail
    ("521-at-greeting", BOUNCED, 521),  # RFC 7504
    ("250-at-greeting", DEFERRED, 451),
    ("drop-at-connect", DEFERRED, 451),
    ("garbage-at-greeting", DEFERRED, 451),
    ("endless-at-greeting", DEFERRED, 451),
    ("multiline-at-greeting", DELIVERED, 250),
    ("extra-at-greeting", DEFERRED, 451),
    ("421-at-ehlo", DEFERRED, 421),
    ("354-at-ehlo", DEFERRED, 451),
    ("220-at-ehlo", DEFERRED, 451),
    ("drop-at-ehlo", DEFERRED, 451),
    ("550-at-ehlo", BOUNCED, 550),  # to HELO too
]


@pytest.mark.parametrize(("behaviour", "tally", "code"), BY_HOST)
async def test_behaviour_of_a_host(behaviour: str, tally: dict[str, int], code: int) -> None:
    async with Sink(behaviours={behaviour}) as sink:
        rig = await attempt(sink, "bob@dest.example")
        assert rig.tally() == tally
        assert rig.outcome().reply.code == code


HANGS = ["greeting", "ehlo", "mail", "rcpt", "data", "dot"]


@pytest.mark.parametrize("stage", HANGS)
async def test_a_hang_ends_with_the_deadline_of_its_stage(stage: str) -> None:
    """Only the stage in question is short of time, so nothing else can be what ended it."""
    async with Sink(behaviours={f"hang-in-{stage}"}) as sink:
        rig = await attempt(sink, "bob@dest.example", **{f"{stage}_timeout": "100ms"})
        assert rig.tally() == DEFERRED
        outcome = rig.outcome()
        assert isinstance(outcome, Deferred)
        assert outcome.ambiguous == (stage == "dot")
        assert f"after {stage}" in outcome.reply.text
        assert not sink.messages
        await sink.until(lambda: sink.open_connections == 0)


async def test_a_host_without_ehlo_is_greeted_with_helo() -> None:
    async with Sink(esmtp=False) as sink:
        rig = await attempt(sink, "bob@dest.example")
        assert rig.tally() == DELIVERED
        assert (1, b"HELO mx.example.test") in sink.commands
        assert sink.messages[0].mail_line == b"MAIL FROM:<ann@client.example>"


async def test_nobody_listens() -> None:
    async with Sink() as sink:
        await sink.stop()
        rig = await attempt(sink, "bob@dest.example")
        assert rig.tally() == DEFERRED
        assert "refused" in rig.outcome().reply.text
        assert rig.outcome().reply.enhanced == "4.4.1"


async def test_a_lost_answer_to_the_dot_is_ambiguous() -> None:
    async with Sink() as sink:
        rig = await attempt(sink, "bob+drop-after-dot@dest.example")
        outcome = rig.outcome()
        assert isinstance(outcome, Deferred)
        assert outcome.ambiguous


@pytest.mark.parametrize("behaviour", ["+drop-at-rcpt", "+drop-at-data", "+421-after-data"])
async def test_what_cannot_have_been_delivered_is_not_ambiguous(behaviour: str) -> None:
    async with Sink() as sink:
        outcome = (await attempt(sink, f"bob{behaviour}@dest.example")).outcome()
        assert isinstance(outcome, Deferred)
        assert not outcome.ambiguous


# --- several recipients


async def test_each_recipient_has_its_own_fate_in_the_order_of_the_job() -> None:
    async with Sink() as sink:
        rig = await attempt(
            sink, "a@dest.example", "b+550-at-rcpt@dest.example", "c+451-at-rcpt@dest.example", "d@dest.example"
        )
        codes = [rig.work.outcomes[key].reply.code for key in sorted(rig.work.outcomes)]
        assert codes == [250, 550, 451, 250]
        assert sink.messages[0].recipients == ("a@dest.example", "d@dest.example")
        assert len(sink.messages) == 1


async def test_a_refused_message_is_refused_for_all_who_were_accepted() -> None:
    async with Sink() as sink:
        rig = await attempt(sink, "a+554-after-data@dest.example", "b+451-at-rcpt@dest.example", "c@dest.example")
        codes = [rig.work.outcomes[key].reply.code for key in sorted(rig.work.outcomes)]
        assert codes == [554, 451, 554]


async def test_a_recipient_refused_before_the_connection_was_lost_stays_refused() -> None:
    async with Sink() as sink:
        rig = await attempt(sink, "a+550-at-rcpt@dest.example", "b+drop-at-rcpt@dest.example")
        first, second = (rig.work.outcomes[key] for key in sorted(rig.work.outcomes))
        assert isinstance(first, Failed)
        assert isinstance(second, Deferred)


async def test_replies_out_of_step_are_not_believed() -> None:
    """The extra 550 after MAIL stands where the reply to RCPT belongs: nobody must bounce for it."""
    async with Sink() as sink:
        rig = await attempt(sink, "a@dest.example", "b@dest.example", sender="ann+extra-reply@client.example")
        assert rig.tally() == {"delivered": 0, "deferred": 2, "bounced": 0}


async def test_421_at_the_second_recipient_defers_all() -> None:
    async with Sink() as sink:
        rig = await attempt(sink, "a@dest.example", "b+421-at-rcpt@dest.example", "c@dest.example")
        assert rig.tally() == {"delivered": 0, "deferred": 3, "bounced": 0}
        assert not sink.messages


async def test_too_many_recipients_go_in_another_transaction() -> None:
    async with Sink(recipients_max=3) as sink:
        rig = await attempt(sink, *(f"u{number}@dest.example" for number in range(8)))
        assert rig.tally() == {"delivered": 8, "deferred": 0, "bounced": 0}
        assert [len(message.recipients) for message in sink.messages] == [3, 3, 2]
        assert sink.connections == 1


async def test_recipients_are_split_at_the_limit() -> None:
    async with Sink() as sink:
        rig = await attempt(sink, *(f"u{number}@dest.example" for number in range(250)))
        assert rig.tally()["delivered"] == 250
        assert [len(message.recipients) for message in sink.messages] == [100, 100, 50]


async def test_nothing_is_sent_when_nobody_was_accepted_but_data_was() -> None:
    """RFC 2920 §3.1: a host may say 354 although it refused everyone."""
    async with Sink(careless=True) as sink:
        rig = await attempt(sink, "a+550-at-rcpt@dest.example")
        assert rig.tally() == BOUNCED
        assert not sink.messages
        assert not sink.refused
