# SPDX-License-Identifier: Apache-2.0
"""From options to transports, by kind of hop: what `app.py` needs to know of delivery's inside.

Not here: the deliverer that uses them (`worker.py`).
"""

import ipaddress
from collections.abc import Collection, Iterable

from gateway.delivery.discard import DiscardTransport
from gateway.delivery.maildir import MaildirTransport
from gateway.delivery.mx import IP, HostFinder
from gateway.delivery.options import DeliveryOptions
from gateway.delivery.smtp import SmtpTransport
from gateway.delivery.smtp_session import SessionSettings
from gateway.infra.tls import client_context
from gateway.mail.hostport import split_host_port
from gateway.ports import Clock, EventSink, Resolver, Transport


def transports(
    options: DeliveryOptions,
    resolver: Resolver,
    *,
    hostname: str,
    clock: Clock,
    events: EventSink,
    listening: Collection[str] = (),
) -> dict[str, Transport]:
    """One transport a kind. `listening` are our own listeners ("host:port"), so that MX data cannot lead back to us."""
    finder = HostFinder(
        resolver,
        hostname=hostname,
        port=options.port,
        forbidden=options.forbidden_networks,
        own=frozenset(_own(listening, options.port)),
        limit=options.addresses_per_attempt,
    )
    context, verified = (client_context(verify=verify) if options.tls != "none" else None for verify in (False, True))
    smtp = SmtpTransport(finder, SessionSettings(hostname, options, context, verified), clock=clock, events=events)
    return {
        "smtp": smtp,
        "mx": smtp,
        "maildir": MaildirTransport(hostname, clock=clock, events=events),
        "discard": DiscardTransport(),
    }


def _own(listening: Iterable[str], port: int) -> Iterable[IP]:
    """Addresses of listeners on the port that MX hosts are asked at; names and wildcards tell no address."""
    for text in listening:
        try:
            host, own_port = split_host_port(text, 0)
            ip = ipaddress.ip_address(host.strip("[]"))
        except ValueError:
            continue
        if own_port == port and not ip.is_unspecified:
            yield ip
