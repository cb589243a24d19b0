# SPDX-License-Identifier: Apache-2.0
"""Bodies that are too large for the database: one file a message, `<shard>.spool/<queue id>`.

Promises: `keep` returns when file and name are on the disk, so the row that names it may be committed afterwards; the file is
removed only after the commit that removes the row. After a crash there may be a file without a row, never the reverse.
Fails with: `OSError`; what `keep` had begun is cleared away then.
Not here: small bodies, which are in the row's transaction (`rows.py`); comparing files and rows at start (`recovery.py`).
"""

import contextlib
from dataclasses import replace
from pathlib import Path

from gateway.mail.job import QueueId
from gateway.mail.message import FileBody, Message
from gateway.queue.disk import Disk

INLINE_MAX = 256 << 10  # octets of a body in the database: above it, a file of its own costs less than copying pages


class Spool:
    """Blocking: call its methods in a thread. `directory` is made if it is missing."""

    def __init__(self, directory: Path, disk: Disk) -> None:
        self.directory = directory
        self._disk = disk

    def path(self, queue_id: QueueId) -> Path:
        """Where the body of this message is, if it has a file."""
        return self.directory / queue_id

    def incoming(self, queue_id: QueueId) -> Path:
        """The name while it is not complete."""
        return self.directory / f"{queue_id}.tmp"

    @staticmethod
    def wants_file(message: Message) -> bool:
        return isinstance(message.body, FileBody) or len(message.body) > INLINE_MAX

    def keep(self, queue_id: QueueId, message: Message) -> Message:
        """The message with its body in a file of ours, durable. The edge's file is taken over, any other is copied."""
        target, incoming = self.path(queue_id), self.incoming(queue_id)
        body = message.body
        try:
            if not isinstance(body, FileBody) or body.path != incoming:
                self._disk.write(incoming, message.body_chunks())
                body = FileBody(incoming, 0, message.body_size)
            self._disk.sync_file(incoming)
            self._disk.rename(incoming, target)
            self._disk.sync_directory(self.directory)
            kept = replace(message, body=replace(body, path=target))
            _ = kept.is_8bit  # reads the file here, in a thread; the message remembers the answer
        except BaseException:
            with contextlib.suppress(OSError):  # the first fault is the one to tell; the next start clears the rest
                self._disk.remove(target)
                self._disk.remove(incoming)
            raise
        return kept

    def remove(self, queue_id: QueueId) -> None:
        """After the commit. A file that stays behind because of a fault is cleared at the next start."""
        self._disk.remove(self.path(queue_id))
        self._disk.remove(self.incoming(queue_id))

    @staticmethod
    def complete(body: FileBody) -> bool:
        """The file is there with all its octets."""
        try:
            return body.path.stat().st_size >= body.offset + body.size
        except FileNotFoundError:
            return False
