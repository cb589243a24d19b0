# SPDX-License-Identifier: Apache-2.0
"""Options of what people and machines watch us by."""

from gateway.infra.options import Options, option


class AdminOptions(Options):
    """[admin]"""

    address: str = option(
        "127.0.0.1:9125",
        doc='Where /metrics, /healthz and /readyz are served, as "host:port" or "unix:/path"; "" switches them off. '
        "Nothing there changes anything or shows an address; the queue is on the control sockets in data_dir/run.",
    )
