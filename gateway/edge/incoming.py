# SPDX-License-Identifier: Apache-2.0
"""One message on its way in: content in memory up to 256 KiB, in a spool file beyond.

Promises: `finish` gives a whole message or raises; when the disk refuses, the rest is read and forgotten, because a
reply in the middle of content would not be read; whoever does not pass the message on calls `remove`.
Fails with: `MailError`: the reply of the content's fault, 452 4.3.1 for no space, 451 4.3.0 for other disk faults.
Not here: the rules of content (`edge/content.py`).
"""

import errno
from concurrent.futures import Executor
from pathlib import Path

from gateway.edge.content import ContentReader
from gateway.edge.spool import SpoolFile
from gateway.mail import reply
from gateway.mail.message import Message
from gateway.mail.reply import MailError

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT}


class Incoming:
    """Feed `reader`; call `store` while `wants_storing`; `finish` when it has ended."""

    STORE_FROM = 256 << 10  # octets; the queue keeps smaller messages in its database

    def __init__(self, reader: ContentReader, folder: Path, name: str, pool: Executor) -> None:
        self.reader = reader
        self._file: SpoolFile | None = None
        self._folder = folder
        self._name = name  # without the suffix; a path is made only for a message that needs one
        self._pool = pool
        self._fault: OSError | None = None

    @property
    def wants_storing(self) -> bool:
        """True if so much has come that it should go to the disk before more is read."""
        pending = self.reader.pending
        return pending >= self.STORE_FROM or (pending > 0 and self._file is None and self._size > self.STORE_FROM)

    @property
    def _size(self) -> int:
        return len(self.reader.header) + self.reader.pending

    @property
    def on_disk(self) -> bool:
        """True if there may be a file to remove."""
        return self._file is not None

    async def store(self) -> None:
        """Move what has come to the file."""
        data = self.reader.take()
        if self._fault:
            return
        if self._file is None:
            self._file = SpoolFile(self._path(), self._pool)
        try:
            await self._file.write(data)
        except OSError as err:
            self._fault = err
            self.reader.drop()
            await self._file.remove()  # at once: what is on a full disk is missing elsewhere until the rest is read

    def check(self) -> None:
        """Raises MailError if it is known by now that the message cannot be taken."""
        if self.reader.fault:
            raise MailError(self.reader.fault.value)
        if self._fault:
            raise self._refusal(self._fault)

    async def finish(self) -> Message:
        """The message, without trace fields. Raises MailError if it cannot be taken."""
        self.check()
        if self._file is None and not self.wants_storing:
            return Message(b"", self.reader.header, self.reader.take())
        await self.store()
        if self._file is None or self._fault:
            raise self._refusal(self._fault)
        try:
            return Message(b"", self.reader.header, await self._file.finish())
        except OSError as err:
            raise self._refusal(err) from err

    async def remove(self) -> None:
        """Forget the message; its file goes away."""
        self.reader.drop()
        if self._file is not None:
            await self._file.remove()

    def _path(self) -> Path:
        return self._folder / f"{self._name}.tmp"

    def _refusal(self, err: OSError | None) -> MailError:
        """RULES of storage: our trouble is never the sender's fault, so the reply is temporary."""
        answer = reply.NO_SPACE if err and err.errno in _NO_SPACE else reply.QUEUE_WRITE
        return MailError(answer, f"{self._path()}: {err}")
