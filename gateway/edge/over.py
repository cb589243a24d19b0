# SPDX-License-Identifier: Apache-2.0
"""The end of a session as an exception, so that it can be decided anywhere below."""

from gateway.mail.reply import MailError, Reply


class SessionOver(MailError):
    """The connection ends after `reply`, if there is one; `reason` is that of the `Disconnected` event."""

    def __init__(self, last: Reply | None, reason: str) -> None:
        self.last = last
        self.reason = reason
        Exception.__init__(self, f"{reason}: {last}" if last else reason)
