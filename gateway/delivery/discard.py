# SPDX-License-Identifier: Apache-2.0
"""The discard transport: mail is taken and forgotten, and nobody is told. For routes that say so."""

from collections.abc import Sequence

from gateway.mail import reply
from gateway.mail.job import Delivered, Job, NextHop, Outcome
from gateway.mail.message import Message


class DiscardTransport:
    """For hops of kind "discard"."""

    async def deliver(self, job: Job, message: Message, hop: NextHop) -> Sequence[Outcome]:
        """See `ports.Transport`."""
        return [Delivered(reply=reply.DISCARDED, hop=str(hop), action="")] * len(job.recipients)
