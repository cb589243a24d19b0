# SPDX-License-Identifier: Apache-2.0
"""How much memory this process has, how much there is, and giving back what is not needed.

Promises: a look costs some microseconds (`resident`) or a read of some files (`available`, at start and reload); where the
system does not tell, the answer is 0, which stands for "not known".
Not here: what to do when it is too much (`edge/shedding.py`).
"""

import ctypes
import os
from pathlib import Path

SHARE = 0.6  # of the memory there is, for all workers: the rest is for the kernel's cache, the resolver, other programs
LEAST = 320 << 20  # octets for each worker, whatever there is: a quiet one has some 70 MiB, two logins at a time 128 MiB more
_STATM = Path("/proc/self/statm")
_GROUPS = Path("/sys/fs/cgroup")


def resident() -> int:
    """Octets of this process that are in memory (RSS)."""
    try:
        return int(_STATM.read_bytes().split(maxsplit=2)[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def available(proc: Path = Path("/proc"), groups: Path = _GROUPS) -> int:
    """Octets that the machine has, or that the control group of this process may use, whichever is less."""
    found = [limit for limit in (_machine(proc), *_group_limits(proc, groups)) if limit > 0]
    return min(found, default=0)


def share(workers: int) -> int:
    """What one worker may take where nobody says otherwise; 0 if the system does not tell what there is."""
    there = available()
    return max(LEAST, int(there * SHARE / workers)) if there else 0


def trim() -> None:
    """Give freed memory back to the system. Blocking: some milliseconds for each 100 MiB; to be called in a thread.

    The C library keeps what was freed between pieces that are still in use, so a burst would be seen in `resident` for ever.
    """
    release = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc; musl gives memory back by itself
    if release is not None:
        release(0)


def _machine(proc: Path) -> int:
    try:
        lines = (proc / "meminfo").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("MemTotal:")), 0)


def _group_limits(proc: Path, groups: Path) -> list[int]:
    """The limits of our control group (version 2) and of all above it."""
    try:
        lines = (proc / "self/cgroup").read_text().splitlines()
    except OSError:
        return []
    own = next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), None)
    if own is None:
        return []
    folder = groups / own
    return [_limit(each) for each in (folder, *folder.parents) if each.is_relative_to(groups)]


def _limit(folder: Path) -> int:
    try:
        text = (folder / "memory.max").read_text().strip()
    except OSError:
        return 0
    return int(text) if text.isdigit() else 0  # "max"
