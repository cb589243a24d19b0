# SPDX-License-Identifier: Apache-2.0
"""A recipient that was served stays served, whatever happens to the others of the same job later in the attempt."""

import asyncio
from pathlib import Path

import pytest

from gateway.delivery.mx import Host, HostFinder
from gateway.mail import reply
from gateway.mail.job import Deferred, Delivered, NextHop
from gateway.mail.message import FileBody, Message
from gateway.mail.reply import MailError
from tests.support.delivering import Rig, delivering
from tests.support.fakework import job
from tests.support.sink import Sink

RECIPIENTS = ("r0@dest.example", "r1@dest.example", "r2@dest.example")


def outcomes(rig: Rig) -> list[object]:
    """In the order of the recipients."""
    return [rig.work.outcomes[key] for key in sorted(rig.work.outcomes)]


async def test_a_delivered_recipient_is_settled_when_the_host_is_gone_for_the_rest() -> None:
    """One is put off (452), one is taken, and for the second transaction there is no session, while another lane is at it."""
    async with Sink() as sink, delivering({"*": f"smtp://{sink.address}"}) as rig:
        await rig.work.put(job("z@dest.example", sender="slow+hang-in-mail@client.example", number=1))
        await sink.wait_hung(1)

        def gone(_: object) -> None:
            sink.do_next(1, "drop-at-mail")
            assert sink._server
            sink._server.close()  # no new sessions; those that are open stay

        sink.taken = gone
        await rig.work.put(job("quota+452-at-rcpt@dest.example", "ann@dest.example", number=2))
        await rig.work.wait(2)
        quota, ann = outcomes(rig)
        assert isinstance(quota, Deferred)
        assert isinstance(ann, Delivered)
        assert sink.count == 1
        sink.taken = None
        sink.resume()
        await rig.work.wait(3)


async def test_a_body_file_that_is_lost_between_two_transactions_defers_the_rest_only(tmp_path: Path) -> None:
    body = b"\r\n" + (b"y" * 70 + b"\r\n") * 1000
    path = tmp_path / "body"
    path.write_bytes(body)
    message = Message(b"", b"From: a@client.example\r\n", FileBody(path, 0, len(body)))
    async with Sink() as sink, delivering({"*": f"smtp://{sink.address}"}, recipients_per_transaction=1) as rig:
        sink.taken = lambda _: path.unlink()
        await rig.work.put(job(*RECIPIENTS), message=message)
        await rig.work.wait(3)
        first, *rest = outcomes(rig)
        assert isinstance(first, Delivered)
        assert [outcome.reply for outcome in rest if isinstance(outcome, Deferred)] == [reply.CONTENT_LOST] * 2
        assert [detail for detail in rig.troubles() if "FileNotFoundError" in detail]
        assert str(path) not in str(rest)
        await sink.until(lambda: sink.open_connections == 0)
        assert sink.count == 1


@pytest.mark.parametrize("fault", [RuntimeError("bug"), MailError(reply.DNS_FAILED, "bug")], ids=["crash", "no host"])
async def test_a_fault_between_two_transactions_defers_the_rest_only(fault: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it is: the transport never raises, and never forgets."""
    find, calls = HostFinder.find, 0

    async def once(self: HostFinder, hop: NextHop) -> list[Host]:
        nonlocal calls
        calls += 1
        if calls > 1:
            raise fault
        return await find(self, hop)

    monkeypatch.setattr(HostFinder, "find", once)
    limits = {"recipients_per_transaction": 1, "messages_per_connection": 1}
    async with Sink() as sink, delivering({"*": f"smtp://{sink.address}"}, **limits) as rig:
        await rig.work.put(job(*RECIPIENTS))
        await rig.work.wait(3)
        first, *rest = outcomes(rig)
        assert isinstance(first, Delivered)
        expected = reply.INTERNAL if isinstance(fault, RuntimeError) else reply.DNS_FAILED
        assert [outcome.reply.status for outcome in rest if isinstance(outcome, Deferred)] == [expected.status] * 2
        assert bool(rig.troubles()) == isinstance(fault, RuntimeError)


async def test_a_fault_before_anything_was_sent_defers_all(monkeypatch: pytest.MonkeyPatch) -> None:
    async def crash(self: HostFinder, hop: NextHop) -> list[Host]:
        raise ValueError("bug")

    monkeypatch.setattr(HostFinder, "find", crash)
    async with delivering({"*": "smtp://127.0.0.1:9"}) as rig:
        transport = rig.parts["smtp"]
        given = await transport.deliver(job(*RECIPIENTS), Message.parse(b"\r\n"), NextHop(kind="smtp", target="127.0.0.1:9"))
        assert [outcome.reply for outcome in given] == [reply.INTERNAL] * 3
        assert "ValueError: bug" in rig.troubles()[0]


async def test_a_stop_between_two_transactions_keeps_what_is_known() -> None:
    async with Sink() as sink, delivering({"*": f"smtp://{sink.address}"}, recipients_per_transaction=1) as rig:
        sink.taken = lambda _: sink.do_next(1, "hang-in-mail")
        await rig.work.put(job(*RECIPIENTS[:2]))
        await sink.wait_hung(1)
        async with asyncio.timeout(20):
            await rig.deliverer.stop(0)
        first, second = outcomes(rig)
        assert isinstance(first, Delivered)
        assert isinstance(second, Deferred)
        assert not second.counted
