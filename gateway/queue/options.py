# SPDX-License-Identifier: Apache-2.0
"""[queue]: how long and how often we try, and what the queue may use of the machine.

RFCs: 5321 §4.5.4.1 (retry and give-up times).
Not here: the arithmetic (`schedule.py`).
"""

from gateway.infra.options import AutoSize, Duration, Options, Size, option


class QueueOptions(Options):
    """[queue]"""

    # RFC 5321 §4.5.4.1 wants 30 minutes between tries and suggests two tries in the first hour; the short first steps are for
    # greylisting, which most servers end after one to five minutes.
    retry: list[Duration] = option(
        ["1m", "5m", "15m", "30m", "1h", "2h", "4h"],
        min_length=1,
        doc="Waits between the tries of a recipient, each varied by 10 % either way; the last one repeats.",
    )
    expire: Duration = option(
        "5d", gt=0, doc="How long a message is tried before it is returned; RFC 5321 wants at least four to five days."
    )
    min_free: AutoSize = option(
        "auto",
        doc="New mail is refused (452) while less than this is free on the queue's disk; 0 = never; "
        '"auto" = 256 MiB, or a twentieth of a file system smaller than 5 GiB.',
    )
    memory: Size = option(
        "64MiB",
        ge=0,
        doc="Contents of new messages kept in memory until their first try, at most; the rest is read from the disk again.",
    )
    lease: Duration = option(
        "1h",
        gt=0,
        doc="A claimed message that is not settled for so long is tried again. A safety net: nothing should ever need it.",
    )
