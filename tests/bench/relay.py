# SPDX-License-Identifier: Apache-2.0
"""Messages per second end to end, beside a tuned Postfix in the same run, on the same machine, to the same sink.

    python -m tests.bench.relay [--messages 4000] [--sessions 20] [--size 4096] [--rounds 3]

Each contestant takes `messages` from `smtp-source` and relays them to `smtp-sink`; the clock runs from the first
connection until the sink has the last message. Both keep mail durably before they say 250. CPU is user + system time
of the contestant's processes; client and sink are not counted. Contestants take turns, `rounds` times; the median counts.
Needs root (Postfix does) and Debian's postfix package.
"""

import argparse
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.support.daemon import Daemon, free_ports
from tests.support.postfix import Postfix

PATIENCE = 180.0  # seconds for one round

POSTFIX_TUNED = """
relayhost = [127.0.0.1]:{sink}
in_flow_delay = 0
smtp_dns_support_level = disabled
smtp_host_lookup = native
default_process_limit = 200
smtpd_client_connection_count_limit = 0
default_destination_concurrency_limit = 50
initial_destination_concurrency = 50
smtp_tls_security_level = none
"""

GATEWAY = """
[relay]
networks = ["127.0.0.0/8"]
[[route]]
domains = ["*"]
to = "smtp://127.0.0.1:{sink}"
[log]
level = "{level}"
"""


@dataclass(frozen=True)
class Figure:
    """One round of one contestant."""

    seconds: float
    cpu: float
    messages: int
    syncs: float | None

    @property
    def rate(self) -> float:
        return self.messages / self.seconds

    @property
    def cpu_ms(self) -> float:
        return 1000 * self.cpu / self.messages


class Sink:
    """Postfix's smtp-sink, counting."""

    def __init__(self) -> None:
        self.port = free_ports(1)[0]
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        user = ["-u", "postfix"] if os.geteuid() == 0 else []
        self._process = subprocess.Popen(
            ["smtp-sink", "-c", *user, f"127.0.0.1:{self.port}", "1000"], stdout=self._file, stderr=subprocess.STDOUT
        )

    def count(self) -> int:
        """Messages so far: smtp-sink rewrites a line with the count of sessions, quits and messages."""
        size = os.fstat(self._file.fileno()).st_size
        tail = os.pread(self._file.fileno(), 200, max(0, size - 200)).decode(errors="replace")
        found = re.findall(r"mesg=(\d+)", tail)
        return int(found[-1]) if found else 0

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()
        self._file.close()


def cpu_seconds(pid: int) -> float:
    """User and system time of a process, its living children, and the dead ones that were waited for."""
    total = 0.0
    process = psutil.Process(pid)
    for each in [process, *process.children(recursive=True)]:
        try:
            times = each.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return total


@contextmanager
def gateway(workers: int | str, level: str) -> Iterator[tuple[int, int, Sink, Daemon | None]]:
    """The gateway, every filter on."""
    folder = Path(tempfile.mkdtemp(prefix="gw-bench-"))
    sink = Sink()
    daemon = Daemon(folder, GATEWAY.format(sink=sink.port, level=level), workers=workers)
    try:
        with daemon:
            assert daemon.process
            yield daemon.smtp_port, daemon.process.pid, sink, daemon
            daemon.stop()
    finally:
        sink.close()
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def postfix() -> Iterator[tuple[int, int, Sink, Daemon | None]]:
    """A Postfix that does nothing but relay."""
    sink = Sink()
    port = free_ports(1)[0]
    try:
        with Postfix(port, POSTFIX_TUNED.format(sink=sink.port)) as instance:
            yield port, instance.pid, sink, None
    finally:
        sink.close()


def measure(contestant: tuple[int, int, Sink, Daemon | None], options: argparse.Namespace) -> Figure:
    """One round."""
    port, pid, sink, daemon = contestant
    _source(port, options, 200)  # warm: processes started, code paths run
    _wait(sink, 200)
    cpu, syncs, began = cpu_seconds(pid), _syncs(daemon), time.monotonic()
    _source(port, options, options.messages)
    _wait(sink, 200 + options.messages)
    seconds = time.monotonic() - began
    time.sleep(0.5)  # let the last settling be done before CPU and syncs are read
    spent = _syncs(daemon)
    per_message = (spent - syncs) / options.messages if spent is not None and syncs is not None else None
    return Figure(seconds, cpu_seconds(pid) - cpu, options.messages, per_message)


def _syncs(daemon: Daemon | None) -> float | None:
    return _commits(daemon) if daemon else None


def _commits(daemon: Daemon) -> float:
    lines = daemon.get("/metrics").decode().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith("gateway_store_work") and "commits" in line)


def _source(port: int, options: argparse.Namespace, messages: int) -> None:
    command = ["smtp-source", "-s", str(options.sessions), "-l", str(options.size), "-m", str(messages)]
    address = ["-f", "a@origin.example", "-t", "b@dest.example", f"127.0.0.1:{port}"]
    keep = ["-d"] if options.keep else []
    subprocess.run([*command, *keep, *address], check=True, timeout=PATIENCE, capture_output=True)


def _wait(sink: Sink, count: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while sink.count() < count:
        if time.monotonic() > deadline:
            raise SystemExit(f"only {sink.count()} of {count} messages arrived")
        time.sleep(0.002)


def machine() -> str:
    """The machine in one line."""
    memory = round(psutil.virtual_memory().total / (1 << 30))
    model = next((row for row in Path("/proc/cpuinfo").read_text().splitlines() if row.startswith("model name")), "")
    return (
        f"{os.cpu_count()} × {model.partition(': ')[2] or platform.machine()}, {memory} GiB, Python {platform.python_version()}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=4000)
    parser.add_argument("--sessions", type=int, default=20)
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--keep", action="store_true", help="sessions send many messages over one connection")
    parser.add_argument("--only", default="", help="contestants, comma-separated: postfix,1,auto")
    parser.add_argument("--level", default="info", help="the gateway's log level")
    options = parser.parse_args()
    contestants = {"Postfix": postfix, "gateway, 1 worker": lambda: gateway(1, options.level)}
    contestants["gateway, auto"] = lambda: gateway("auto", options.level)
    if options.only:
        wanted = options.only.split(",")
        contestants = {
            name: make
            for name, make in contestants.items()
            if name.lower().rpartition(" ")[2] in wanted or name.split()[1:2] == wanted
        }
    figures: dict[str, list[Figure]] = {name: [] for name in contestants}
    for _ in range(options.rounds):
        for name, make in contestants.items():
            with make() as running:
                figures[name].append(measure(running, options))
            print(
                json.dumps({"name": name, "rate": round(figures[name][-1].rate), "cpu_ms": round(figures[name][-1].cpu_ms, 2)})
            )
    report(figures, options)


def report(figures: dict[str, list[Figure]], options: argparse.Namespace) -> None:
    """A Markdown table of medians."""
    print(
        f"\n{machine()}; {options.messages} messages of {options.size} octets, "
        f"{options.sessions} sessions, {options.rounds} rounds\n"
    )
    print("| | messages/s | × Postfix | CPU-ms a message | syncs a message |\n|---|---|---|---|---|")
    base = statistics.median(f.rate for f in figures.get("Postfix", [])) if figures.get("Postfix") else None
    for name, rows in figures.items():
        rate = statistics.median(row.rate for row in rows)
        cpu = statistics.median(row.cpu_ms for row in rows)
        syncs = [row.syncs for row in rows if row.syncs is not None]
        ratio = f"{rate / base:.2f}" if base else "–"
        print(f"| {name} | {rate:.0f} | {ratio} | {cpu:.2f} | {f'{statistics.median(syncs):.2f}' if syncs else '–'} |")


if __name__ == "__main__":
    main()
