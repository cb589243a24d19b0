# SPDX-License-Identifier: Apache-2.0
"""The door to aiosmtpd: its `SMTP` class, looked at before anything is built on it.

Promises: a version of aiosmtpd (or of Python under it) that renamed what we override is refused at import, and does not
quietly run its own code in place of ours.
Fails with: `ImportError`.
"""

import asyncio

from aiosmtpd.smtp import SMTP as SMTP

OVERRIDDEN = ("__init__", "_handle_client", "connection_made", "connection_lost", "data_received", "eof_received")
INHERITED = ("pause_writing", "resume_writing", "_drain_helper")  # of asyncio's flow control

if missing := [name for name in (*OVERRIDDEN, *INHERITED) if not callable(getattr(SMTP, name, None))]:
    raise ImportError(f"this aiosmtpd has no {', '.join(missing)}: the edge must be adapted to it")
if not issubclass(SMTP, asyncio.StreamReaderProtocol):
    raise ImportError("this aiosmtpd has another base class: the edge must be adapted to it")
