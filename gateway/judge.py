# SPDX-License-Identifier: Apache-2.0
"""One judgement without a daemon: run the filter chain on a message file, as `gateway explain FILE.eml` does.

Promises: nothing is stored, sent or refused; DNS questions are the only thing that leaves.
"""

import ipaddress
from collections.abc import Sequence

from gateway.config import Config
from gateway.filters.builtin import build
from gateway.filters.chain import Chain
from gateway.filters.recipients import RelayRule
from gateway.infra.clock import SystemClock
from gateway.infra.dns import DnsResolver
from gateway.infra.options import among
from gateway.mail.address import NULL_SENDER, Address, parse_mailbox
from gateway.mail.envelope import Client, Recipient, Transaction
from gateway.mail.job import QueueId
from gateway.mail.message import Message
from gateway.mail.verdict import Phase, Verdict
from gateway.ports import Fanout


async def judge_file(
    config: Config, content: bytes, ip: str, helo: str, sender: str, *, recipients: Sequence[str]
) -> tuple[Transaction, Verdict]:
    """The transaction with all its findings, and the verdict: of the first phase that says no, else of the last.

    Raises ValueError for an address that is none.
    """
    clock = SystemClock()
    resolver = DnsResolver(config.dns, clock=clock)
    bound = build(config.filters, config.relay, config.limits.message_size, resolver)
    chain = Chain(bound, config.filters, clock, Fanout(), ours=RelayRule(config.relay).is_our_postmaster)
    address = ipaddress.ip_address(ip)
    trusted = among(address, config.relay.networks)
    now = clock.now()
    client = Client(
        session="", ip=address, port=0, listener="", role="mx", connected=now, helo=helo, esmtp=True, trusted=trusted
    )
    tx = Transaction(client=client, id=QueueId("0" * 16), started=now)
    try:
        return tx, await _phases(chain, tx, content, sender, recipients)
    finally:
        await resolver.close()


async def _phases(chain: Chain, tx: Transaction, content: bytes, sender: str, recipients: Sequence[str]) -> Verdict:
    for phase in (Phase.CONNECT, Phase.HELO):
        verdict = await chain.decide(phase, tx)
        if verdict.stops:
            return verdict
    tx.sender = _address(sender)
    verdict = await chain.decide(Phase.MAIL, tx)
    for recipient in recipients:
        if verdict.stops:
            return verdict
        tx.candidate = Recipient(_address(recipient))
        verdict = await chain.decide(Phase.RCPT, tx)
        tx.recipients.append(tx.candidate)  # the filter may have put another in its place
    if verdict.stops:
        return verdict
    tx.candidate = None
    tx.message = Message.parse(content)
    return await chain.decide(Phase.DATA, tx)


def _address(text: str) -> Address:
    return parse_mailbox(text.encode()) if text else NULL_SENDER
