# SPDX-License-Identifier: Apache-2.0
"""Reads that may take long (listings, counts), on a connection and in a thread of their own.

Promises: they see a state that was committed, and hold up neither the writer nor the loop. Never writes.
Fails with: MailError 451.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from gateway.queue.disk import Connection, DatabaseError, mail_error

T = TypeVar("T")


class Reader:
    """Connects at the first read, and anew after a fault."""

    def __init__(self, opener: Callable[[], Connection]) -> None:
        self._opener = opener
        self._connection: Connection | None = None
        self._pool = ThreadPoolExecutor(1, "queue-reader")

    async def run(self, operation: Callable[[Connection], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._run, operation)

    async def close(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._pool, self._close)
        self._pool.shutdown()

    def _run(self, operation: Callable[[Connection], T]) -> T:
        try:
            if self._connection is None:
                self._connection = self._opener()
            self._connection.execute("BEGIN")  # one state for all statements
            try:
                return operation(self._connection)
            finally:
                self._connection.execute("ROLLBACK")
        except DatabaseError as err:
            self._close()
            raise mail_error(err, "read") from err

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
