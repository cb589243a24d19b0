# SPDX-License-Identifier: Apache-2.0
"""A real gateway process on loopback, driven from outside by the names of its contract only."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

START_PATIENCE = 30.0  # seconds; only a start that fails takes so long


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nothing listens on now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


class Daemon:
    """`settings` are lines of TOML added to the base configuration; `tables` stand behind them."""

    def __init__(self, folder: Path, tables: str, *, workers: int | str = 1, hostname: str = "mx.gateway.test") -> None:
        self.folder = folder
        self.smtp_port, self.admin_port = free_ports(2)
        self.data_dir = folder / "data"
        self.config_path = folder / "gateway.toml"
        self.log_path = folder / "gateway.log"
        self.hostname = hostname
        self.workers = workers
        self.tables = tables
        self.process: subprocess.Popen[bytes] | None = None
        self.write_config()

    def write_config(self, tables: str | None = None) -> None:
        """(Re)write the configuration file; `tables` replaces what was given at first."""
        self.tables = self.tables if tables is None else tables
        self.config_path.write_text(
            f'hostname = "{self.hostname}"\ndata_dir = "{self.data_dir}"\n'
            f'[admin]\naddress = "127.0.0.1:{self.admin_port}"\n'
            f"[workers]\ncount = {json.dumps(self.workers)}\n"
            f'[[listener]]\naddress = "127.0.0.1:{self.smtp_port}"\n{self.tables}\n'
        )

    def start(self, *prefix: str, wait: bool = True) -> None:
        """Start in a process group of its own, the log appended to `log_path`; `prefix` is a command to run it under."""
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [*prefix, sys.executable, "-m", "gateway", "serve", "-c", str(self.config_path)],
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                env={**os.environ, "PYTHONWARNINGS": "default"},
            )
        if wait:
            self.wait_ready()

    def wait_ready(self) -> None:
        """Until /readyz says 200."""
        assert self.process
        deadline = time.monotonic() + START_PATIENCE
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise AssertionError(f"the daemon ended with {self.process.returncode}:\n{self.log_path.read_text()[-3000:]}")
            try:
                self.get("/readyz")
            except OSError:
                time.sleep(0.02)
            else:
                return
        raise AssertionError(f"the daemon is not ready:\n{self.log_path.read_text()[-3000:]}")

    def get(self, path: str) -> bytes:
        """A page of the admin address."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin_port}{path}", timeout=10) as page:
            return bytes(page.read())

    def metric(self, name: str) -> float:
        """The sum of a metric over all its labels."""
        lines = self.get("/metrics").decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith((f"{name} ", f"{name}{{")))

    def kill(self) -> None:
        """SIGKILL for the whole process group."""
        assert self.process
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        assert self.process
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=60)

    def close(self) -> None:
        """End it, however it is."""
        if self.process and self.process.poll() is None:
            self.kill()

    def __enter__(self) -> "Daemon":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def log(self) -> list[dict[str, Any]]:
        """Every log record so far; a line that is not JSON fails the test."""
        return [json.loads(line) for line in self.log_path.read_text().splitlines()]

    def command(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run `gateway …` with this daemon's configuration in the environment."""
        return subprocess.run(
            [sys.executable, "-m", "gateway", *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            env={**os.environ, "GATEWAY_CONFIG": str(self.config_path)},
            **options,
        )

    def queue(self) -> list[dict[str, Any]]:
        """`gateway queue list --json`."""
        done = self.command("queue", "list", "--json")
        assert done.returncode == 0, done.stderr
        listed: list[dict[str, Any]] = json.loads(done.stdout)
        return listed

    async def until(self, what: str, condition: Any, patience: float = 60.0) -> None:
        """Wait for a fact that only polling shows; `patience` bounds a failing test."""
        deadline = time.monotonic() + patience
        while not await asyncio.to_thread(condition):
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {patience:g} s: {what}\n{self.log_path.read_text()[-3000:]}")
            await asyncio.sleep(0.05)
