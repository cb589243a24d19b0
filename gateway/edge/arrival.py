# SPDX-License-Identifier: Apache-2.0
"""From an accepted connection to a client that was let in: 1 admission, 2 PROXY header, 3 implicit TLS.

Promises: a connection is counted as long as it lives, under the address that it was let in by; each step has its deadline,
so what never ends is bounded by the limits of connections; whoever must send a PROXY header and does not is closed without
a word; `Connected` is told once all steps are done, with the client's own address, and never without `Disconnected`.
Fails with: `SessionOver`.
RFCs: 8314 §3 (TLS comes before the first word).
Not here: the banner and what follows (`edge/lifecycle.py`), the form of the header (`edge/proxy.py`).
"""

import asyncio
import random
from dataclasses import replace

from gateway.edge.connection import Connection
from gateway.edge.desk import Desk, End, Setup, peer
from gateway.edge.options import LimitsOptions, ListenerOptions
from gateway.edge.over import SessionOver
from gateway.edge.proxy import Header, ProxyFault, read_header
from gateway.infra.options import among
from gateway.mail import reply
from gateway.mail.envelope import IP, Client, Transaction
from gateway.mail.events import Connected
from gateway.mail.reply import Reply


class Arrival(Connection):
    """One client on one listener. `setup` is what its present transaction runs under."""

    def __init__(self, loop: asyncio.AbstractEventLoop, desk: Desk, options: ListenerOptions, other: End | None = None) -> None:
        super().__init__(loop)
        self.desk = desk
        self.options = options
        self.setup: Setup = desk.setup
        self.client: Client
        self.counted: IP  # by this address, which stays though another may be learnt from a proxy
        self.first: Transaction  # what CONNECT has found out
        self.met: Transaction  # and what HELO has
        self._other = other  # None: the transport knows it
        self._balanced = False  # it speaks for others, and says so first
        self._reason = ""  # why the session is over
        self._unwanted = False  # it must make room

    @property
    def limits(self) -> LimitsOptions:
        return self.setup.settings.limits

    @property
    def _at_once(self) -> bool:
        """True if nothing stands between admission and banner."""
        return not self._balanced and self.options.tls != "implicit"

    def admit(self) -> bool:
        desk = self.desk
        other = self._other = self._other or peer(self._wire.get_extra_info("peername"))
        if other is None:  # reset already. What it said could still be read, but nobody may be served as nobody.
            self.cut()
            return False
        ip, port = other
        trusted = self.setup.settings.trusts(ip)
        self._balanced = among(ip, self.options.proxy_protocol)
        self.client = Client(
            session=f"{random.getrandbits(48):012x}",
            ip=ip,
            port=port,
            listener=self.options.address,
            role=self.options.role,
            connected=desk.clock.now(),
            trusted=trusted,
        )
        # What a proxy brings is counted by client as soon as we know for whom it speaks; until then it counts in all.
        proxy = self._balanced or among(ip, self.options.xclient)
        if desk.shedding.refuses_connection():
            self._reason = "shed"
            self.part(self._in_clear(reply.TOO_BUSY), linger=False)
            return False
        if not desk.admission.enter(ip, self.limits, trusted=trusted or proxy):
            self._reason = "refused"
            self.part(self._in_clear(reply.TOO_MANY_CONNECTIONS), linger=False)
            return False
        self.counted = ip
        desk.sessions.add(self)
        self.leaving = desk.draining
        if self._at_once:
            self._let_in()
        return True

    async def arrive(self) -> None:
        """All that comes before the banner. Raises SessionOver if it does not come."""
        if self._at_once:
            return
        if self._balanced:
            await self._learn_client()
        if self.options.tls == "implicit":
            context = self.setup.settings.tls_context
            if context is None:  # a reload took the certificate away
                raise SessionOver(None, "tls")
            tls = await self.secure(context, self.limits.handshake_timeout, first=True)
            self.client = replace(self.client, tls=tls)
        self._let_in()

    def send_away(self) -> None:
        """There is no room for who does nothing: the session ends, unless it is in a transaction."""
        if not self.busy and not self.leaving:
            self._unwanted = True
            self.desk.shedding.count_sent_away()
            self.leave()

    def _let_in(self) -> None:
        now = self.desk.clock.now()
        self.first = self.met = Transaction(client=self.client, id=self.desk.new_id(), started=now)
        self.desk.events.emit(Connected(time=now, client=self.client))

    def _in_clear(self, last: Reply) -> Reply | None:
        """A last word to someone who may not be under TLS yet, and then could not read it."""
        return None if self.options.tls == "implicit" else last

    # --- for whom does a balancer speak?

    async def _learn_client(self) -> None:
        until = self.loop.time() + self.limits.proxy_timeout
        while (header := self._header()) is None:
            if self.leaving:
                raise SessionOver(self._in_clear(reply.SHUTTING_DOWN), "shutdown")
            if self.ended:
                raise SessionOver(None, "lost")
            left = until - self.loop.time()
            if left <= 0 or not await self.wait(left):
                raise SessionOver(None, "proxy")
        if header.source is not None:
            self._take_for(*header.source)
        elif not header.own:  # some client whom the balancer cannot name: not one of the house, whatever the balancer is
            self.client = replace(self.client, trusted=False)

    def _header(self) -> Header | None:
        """The header, if it has come; what stands behind it stays. RULES: no header is the end, not a direct client."""
        octets = self._lines.take()
        try:
            header = read_header(octets)
        except ProxyFault as err:
            raise SessionOver(None, "proxy") from err
        self._lines.feed(octets[header.length :] if header else octets)
        return header

    def _take_for(self, ip: IP, port: int) -> None:
        """The client is someone else than who connected, and so are its rights and its share."""
        trusted = self.setup.settings.trusts(ip)
        self.client = replace(self.client, ip=ip, port=port, trusted=trusted)
        if not self.desk.admission.move(self.counted, ip, self.limits, trusted=trusted):
            raise SessionOver(self._in_clear(reply.TOO_MANY_CONNECTIONS), "refused")
        self.counted = ip
