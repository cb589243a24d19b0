# SPDX-License-Identifier: Apache-2.0
"""The server's side of TLS on octets alone: what the network brings becomes plain, what we say becomes records.

Promises: no socket and no clock; what is handed out was authenticated by the peer's records; a renegotiation that the
client asks for is a fault and not a warning, and so is a flood of records that say nothing; buffers stay below `SLICE`, so
an idle session costs no more after a large one.
Fails with: `ssl.SSLError`, after which `answer` has the alert for the client, and nothing else may be called.
RFCs: 8446 and 5246 (records, close_notify in §6.1 and §7.2.1), 9325 §3.4 (no renegotiation).
Not here: versions and ciphers (the context), deadlines and sockets (`edge/wire.py`).

The loops' own TLS keeps a zeroed buffer of 256 KiB for each session, asyncio and uvloop tell of lost handshakes in
different ways, and neither can begin in the middle of a connection without a second protocol and transport.
"""

import contextlib
import ssl

from gateway.mail.envelope import Tls

SLICE = 16 << 10  # octets given to OpenSSL at a time: its buffers grow to what they once held, and never shrink
# Octets in a row that bring nothing in plain. An honest record is whole after 16.5 KiB at most. A flood of key updates costs us
# 12 µs for each 27 octets, and never ends a session that only waits.
MUTE = 2 * SLICE


class TlsWire:
    """One TLS session. `secured`: the handshake is done; `ended`: the client has said close_notify."""

    __slots__ = ("_in", "_mute", "_out", "_tls", "_wordless", "ended", "secured")

    def __init__(self, context: ssl.SSLContext) -> None:
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_side=True)
        self._mute = 0  # octets since the last that said something
        self._wordless = False  # reading must not make OpenSSL say anything
        self.secured = False
        self.ended = False

    def feed(self, octets: bytes) -> bytes:
        """What these octets of the network bring in plain. There may be something to send then: see `answer`."""
        if len(octets) <= SLICE:
            self._in.write(octets)
            return self._read()
        view, plain = memoryview(octets), list[bytes]()
        for at in range(0, len(octets), SLICE):
            self._in.write(view[at : at + SLICE])
            plain.append(self._read())
        return b"".join(plain)

    def wrap(self, plain: bytes) -> bytes:
        """Records that say this."""
        if len(plain) <= SLICE:
            self._tls.write(plain)
            return self._out.read()
        view, records = memoryview(plain), list[bytes]()
        while view:  # one record at a time, for OpenSSL is told to stop after each
            view = view[self._tls.write(view[:SLICE]) :]
            records.append(self._out.read())
        return b"".join(records)

    def answer(self) -> bytes:
        """What TLS itself has to say by now: the handshake, tickets, a key update, an alert."""
        return self._out.read() if self._out.pending else b""

    def close(self) -> bytes:
        """Our close_notify, after which nothing can be said; empty if the session never came about."""
        with contextlib.suppress(ssl.SSLError):  # the client's own close_notify is not waited for here
            self._tls.unwrap()
        return self._out.read()

    def facts(self) -> Tls:
        """Of a session that is secured."""
        name, version, bits = self._tls.cipher() or ("", "", 0)
        return Tls(version=self._tls.version() or version, cipher=name, bits=bits)

    def _read(self) -> bytes:
        """All that can be read of what was written to `_in`."""
        if not self.secured and not self._shake_hands():
            return b""
        said, fed, plain = self._out.pending, self._in.pending, b""
        try:
            while self._in.pending and not self.ended:
                if record := self._tls.read(SLICE):
                    plain = plain + record if plain else record
                else:
                    self.ended = True
        except ssl.SSLWantReadError:  # the rest of a record is on its way
            pass
        if self.ended:  # RFC 8446 §6.1: what comes behind close_notify is ignored; kept, it would grow as long as it comes
            self._in.read()
        self._mute = 0 if plain or self.ended else self._mute + fed
        if self._mute > MUTE:
            raise ssl.SSLError("nothing but records that say nothing")
        # Up to TLS 1.2 there is no message that asks for an answer but a renegotiation, which OpenSSL refuses by a
        # warning, as often as it is asked. RFC 9325 §3.4
        if self._wordless and self._out.pending != said:
            raise ssl.SSLError("renegotiation")
        return plain

    def _shake_hands(self) -> bool:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        self.secured = True
        self._wordless = self._tls.version() != "TLSv1.3"
        return True
