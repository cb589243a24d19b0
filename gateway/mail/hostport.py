# SPDX-License-Identifier: Apache-2.0
"""Host and port as people write them: "mx.example.org:25", "192.0.2.1", "[2001:db8::1]:25".

    host-port   = host [ ":" port ]
    host        = "[" *text "]" / *text       ; text without ":", "[" and "]"
    port        = 1*5DIGIT

Promises: an IPv6 address stands in brackets, so that its last part is never taken for a port; the host keeps them.
Fails with: `ValueError` whose text says what is wrong.
Not here: what may be a host (whoever asks knows that).
"""

import re

PORT_MAX = 65535

_FORM = re.compile(r"(\[[^\[\]]*\]|[^:\[\]]*)(?::([^:]*))?")


def split_host_port(text: str, default: int | None = None, *, lowest: int = 1) -> tuple[str, int]:
    """(host, port). A port that is not written is `default`; without one it must be written. Raises ValueError."""
    found = _FORM.fullmatch(text)
    if not found:
        raise ValueError(f"{text!r} is not host:port; write an IPv6 address in brackets, such as [2001:db8::1]:25")
    host, port = found[1], found[2]
    if port is None and default is not None:
        return host, default
    if port is None:
        raise ValueError(f"{text!r} has no port from {lowest} to {PORT_MAX}")
    if not re.fullmatch(r"[0-9]{1,5}", port) or not lowest <= int(port) <= PORT_MAX:
        raise ValueError(f"port {port!r} is not a number from {lowest} to {PORT_MAX}")
    return host, int(port)
