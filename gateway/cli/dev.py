# SPDX-License-Identifier: Apache-2.0
"""`gateway dev`: the gateway on embedded defaults, with sample messages sent through it.

Promises: needs no root, no DNS, no other server; everything it writes is in one folder (`./var`); after the samples it goes
on serving until Ctrl-C. The configuration is written to that folder, so that the other commands work on it.
"""

import asyncio
import functools
import shutil
import smtplib
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from gateway.app import Place, Relay
from gateway.auth.dkim_sign import SigningKey
from gateway.cli.common import UNUSABLE, print_faults
from gateway.cli.output import table
from gateway.cli.samples import Sample, SampleResolver, samples
from gateway.config import Config, ConfigError, load
from gateway.infra.datadir import DataDirectory, DataDirectoryInUse
from gateway.mail.events import Attempted, Event, Finished, Rejected
from gateway.process import Signals, run_loop
from gateway.single import reload_relay
from gateway.sockets import bind_admin, bind_listeners

WAY_PATIENCE = 10.0  # seconds to wait for a sample's delivery before it is shown as still queued

TOML = """\
# Written by `gateway dev`. The gateway that uses it answers DNS questions itself and sends nothing off this machine.
hostname = "gateway.example"
data_dir = "{folder}"

[[listener]]
address = "{smtp}"

[admin]
address = "{admin}"

[relay]
domains = ["dest.example"]
networks = ["127.0.0.0/8"]

[[route]]
domains = ["*"]
to = "maildir:{folder}/mail"

[filters.headers]
on_bad_from = "score"
"""


@click.command()
@click.option(
    "--data", "folder", type=click.Path(path_type=Path, file_okay=False), default=Path("var"), help="Folder for everything."
)
@click.option("--smtp", default="127.0.0.1:2525", show_default=True, help="Where to take mail.")
@click.option("--admin", default="127.0.0.1:9125", show_default=True, help="Where to show metrics and health.")
@click.option("--once", is_flag=True, help="Stop after the samples.")
def dev(folder: Path, smtp: str, admin: str, *, once: bool) -> None:
    """Run on embedded defaults and send sample messages through."""
    folder = folder.resolve()
    path = folder / "gateway.toml"
    directory = DataDirectory(folder)
    try:
        directory.lock()  # before anything is written: the file may be that of one that runs
        path.write_text(TOML.format(folder=folder, smtp=smtp, admin=admin))
        config = load(path)
        listeners, admin_socket = bind_listeners(config, str(path)), bind_admin(config, str(path))
    except ConfigError as err:
        print_faults(err.faults)
        raise click.exceptions.Exit(UNUSABLE) from err
    except DataDirectoryInUse as err:
        raise click.ClickException(f"{err}; stop it, or use another --data") from err
    except OSError as err:
        raise click.ClickException(f"{folder} cannot be used: {err.strerror}") from err
    with (folder / "gateway.log").open("a") as log:
        status = run_loop(_serve(_Session(config, path, listeners, admin_socket, log), once=once))
    directory.unlock()
    raise click.exceptions.Exit(status)


@dataclass(frozen=True)
class _Session:
    config: Config
    path: Path
    listeners: list[Any]
    admin: Any
    log: Any


@dataclass
class Ways:
    """An EventSink that remembers what became of each message."""

    events: dict[str, list[Event]] = field(default_factory=dict)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def emit(self, event: Event) -> None:
        if queue_id := getattr(event, "id", None):
            self.events.setdefault(queue_id, []).append(event)
            self.changed.set()

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait for a fact about the events, at most WAY_PATIENCE."""
        try:
            async with asyncio.timeout(WAY_PATIENCE):
                while not condition():
                    self.changed.clear()
                    await self.changed.wait()
        except TimeoutError:
            pass  # it is shown as it stands

    def rejected(self, sender: str) -> Rejected | None:
        """The refusal of a sender's message."""
        every = (event for events in self.events.values() for event in events)
        return next((event for event in every if isinstance(event, Rejected) and str(event.envelope.sender) == sender), None)

    def last(self, queue_id: str, kind: type[Event]) -> Event | None:
        return next((event for event in reversed(self.events.get(queue_id, [])) if isinstance(event, kind)), None)


async def _serve(session: _Session, *, once: bool) -> int:
    key = SigningKey.generate("signed.example", "dev")
    ways = Ways()
    began = time.monotonic()
    relay = Relay(session.config, Place(0, 1), resolver=SampleResolver(key), stream=session.log, sinks=[ways])
    signals = Signals(lambda: reload_relay(relay, session.path), interrupt=True)
    await relay.start([(each, session.config.listener[number]) for each, number in session.listeners], session.admin)
    click.echo(f"The gateway took {1000 * (time.monotonic() - began):.0f} ms to start. It sends itself four messages:\n")
    host, _, port = session.config.listener[0].address.rpartition(":")
    rows = []
    for sample in samples(key, time.time()):
        code, text = await asyncio.to_thread(_send, host, int(port), sample)
        rows.append(await _way(sample, code, text, ways))
    table(["sample", "about", "verdict", "queue id", "what became of it"], rows)
    _explain(session, host, port)
    if not once:
        click.echo("Ctrl-C stops it.")
        await signals.stop.wait()
    await relay.stop()
    return 0


def _send(host: str, port: int, sample: Sample) -> tuple[int, str]:
    """Send a sample as any client would; the last reply."""
    with smtplib.SMTP(host.strip("[]"), port, local_hostname="client.example", timeout=30) as client:
        client.ehlo()
        steps = (
            functools.partial(client.mail, sample.sender),
            functools.partial(client.rcpt, sample.recipient),
            functools.partial(client.data, sample.content),
        )
        for step in steps:
            code, text = step()
            if code >= 400:
                break
    return code, text.decode(errors="replace")


async def _way(sample: Sample, code: int, text: str, ways: Ways) -> list[str]:
    """One row: verdict, id, fate."""
    if code != 250:
        await ways.until(lambda: ways.rejected(sample.sender))
        rejected = ways.rejected(sample.sender)
        return [sample.name, sample.about, f"{code} {text}", rejected.id if rejected else "?", "refused in the session"]
    queue_id = text.rsplit(" ", 1)[-1]
    await ways.until(lambda: ways.last(queue_id, Finished))
    attempted = ways.last(queue_id, Attempted)
    if not isinstance(attempted, Attempted):
        return [sample.name, sample.about, f"{code} accepted", queue_id, "still in the queue"]
    outcome = attempted.outcome
    fate = type(outcome).__name__.lower()
    return [sample.name, sample.about, f"{code} accepted", queue_id, f"{fate} to {outcome.hop or outcome.reply}"]


def _explain(session: _Session, host: str, port: str) -> None:
    """Where to look next."""
    config = f"-c {_short(session.path)}"
    admin = f"http://{session.config.admin.address}/metrics" if session.config.admin.address else "switched off"
    click.echo(
        f"\nSMTP     {host}:{port}     swaks --server {host}:{port} --to you@dest.example\n"
        f"metrics  {admin}\n"
        f"mail     {_short(session.config.data_dir)}/mail/new\n"
        f"log      {_short(session.config.data_dir)}/gateway.log\n"
        f"why      {_program()} explain ID {config}\n"
        f"queue    {_program()} queue list {config}\n"
    )


def _program() -> str:
    """How to call this program from the same shell: by its name only where the shell would find this one."""
    own = Path(sys.argv[0])
    if own.name != "gateway":  # python -m gateway
        return f"{sys.executable} -m gateway"
    found = shutil.which("gateway")
    return "gateway" if found and Path(found).resolve() == own.resolve() else str(own)


def _short(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
