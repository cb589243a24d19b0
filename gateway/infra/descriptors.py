# SPDX-License-Identifier: Apache-2.0
"""How many files and sockets this process may have open.

Promises: `spare` keeps enough of them back for the queue, DNS, deliveries and the admin address, so that clients alone
cannot use up all: without a descriptor nothing could be stored, looked up or delivered.
Not here: the limit that an operator sets (`[limits] connections`).
"""

import resource

ENOUGH = 1 << 20  # "unlimited" means this: some programs walk through all descriptors
BASE = 100  # for databases, spool files, DNS, admin requests


def raise_limit() -> str:
    """Take all that the hard limit allows; processes that are started later inherit it.

    Returns why that could not be done, empty if it could: we can live with the limit that there is. The soft
    limit is 1024 nearly everywhere, for the sake of programs that use select(2); we do not.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = ENOUGH if hard == resource.RLIM_INFINITY else min(hard, ENOUGH)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError) as err:  # a filter of system calls (systemd) or a container does not let us
            return f"the limit of open files stays at {soft}, and cannot be raised to {wanted}: {err}"
    return ""


def limit() -> int:
    """The soft limit."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return ENOUGH if soft == resource.RLIM_INFINITY else soft


def spare(reserved: int) -> int:
    """How many may be given to clients if `reserved` are wanted for deliveries; half of them at least."""
    present = limit()
    return max(present - reserved - BASE, present // 2)
