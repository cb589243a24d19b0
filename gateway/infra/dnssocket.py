# SPDX-License-Identifier: Apache-2.0
"""One question to one name server and its answer, over UDP and, where that is cut, over TCP.

Promises: each UDP question has a socket of its own, connected, so that the kernel gives it a random port, takes answers
from that server only, and tells at once when nobody listens there; forged and stray datagrams are passed over; the
sockets are closed however the wait ends. The caller bounds the time.
Fails with: OSError (nobody there, connection lost), `BadReply`.
RFCs: 5452 §9 (ids and ports), 7766 §5 (TCP), 6891.
Not here: which server, how long, how often (`infra/dns.py`).
"""

import asyncio
import os
import socket
import struct

from gateway.infra import dnswire
from gateway.infra.dnsservers import Server
from gateway.infra.dnswire import BadReply, Question, Reply

STRAYS_MAX = 100  # datagrams that answer something else, before somebody is taken to be guessing our ids
THREAD_FROM = 4096  # octets from which an answer is read in a thread: a full 64 KiB takes 50 ms


async def ask(server: Server, asked: Question, edns_size: int) -> Reply:
    """Put one question. A server that does not know EDNS is asked again without it (RFC 6891 §7)."""
    reply = await _ask(server, asked, edns_size)
    if edns_size and reply.rcode in (dnswire.FORMERR, dnswire.NOTIMP):
        reply = await _ask(server, asked, 0)
    return reply


async def _ask(server: Server, asked: Question, edns_size: int) -> Reply:
    ident = int.from_bytes(os.urandom(2), "big")
    message = dnswire.encode(asked, ident, edns_size)
    data = await _udp(server, asked, ident, message)
    if dnswire.truncated(data):
        data = await _tcp(server, asked, ident, message)
    if len(data) >= THREAD_FROM:
        return await asyncio.to_thread(dnswire.decode, data, asked)
    return dnswire.decode(data, asked)


async def _udp(server: Server, asked: Question, ident: int, message: bytes) -> bytes:
    """The first datagram that answers. Raises OSError if the server's machine refuses, or too many do not answer it."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[bytes] = loop.create_future()
    with socket.socket(server.family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
        sock.connect(server.address)
        sock.send(message)
        loop.add_reader(sock.fileno(), _Reader(sock, asked, ident, answer).read)
        try:
            return await answer
        finally:
            loop.remove_reader(sock.fileno())


class _Reader:
    """Takes datagrams until one is the answer."""

    def __init__(self, sock: socket.socket, asked: Question, ident: int, answer: asyncio.Future[bytes]) -> None:
        self._sock, self._asked, self._ident, self._answer = sock, asked, ident, answer
        self._strays = 0

    def read(self) -> None:
        """Called by the loop when there is something to receive, or an error to fetch."""
        if self._answer.done():
            return
        try:
            data = self._sock.recv(65535)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as err:
            self._answer.set_exception(err)
            return
        if dnswire.answers(data, self._ident, self._asked):
            self._answer.set_result(data)
            return
        self._strays += 1
        if self._strays >= STRAYS_MAX:
            self._answer.set_exception(OSError("too many answers to questions that were not asked"))


async def _tcp(server: Server, asked: Question, ident: int, message: bytes) -> bytes:
    """The same question over a connection of its own."""
    host, port = str(server.address[0]), int(server.address[1])
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(struct.pack("!H", len(message)) + message)
        (length,) = struct.unpack("!H", await reader.readexactly(2))
        data = await reader.readexactly(length)
    except asyncio.IncompleteReadError as err:
        raise OSError("connection closed before the answer was complete") from err
    finally:
        writer.close()
    if not dnswire.answers(data, ident, asked):
        raise BadReply(f"{asked.name} {asked.type}: answer to another question over TCP")
    return data
