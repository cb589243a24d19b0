# SPDX-License-Identifier: Apache-2.0
"""`gateway explain`: why a message was treated as it was, or how a file would be.

Exit status: 1 if nothing is remembered about the id.
Not here: the page (`ops/explain.py`), where traces lie (`access.py`), running the chain (`judge.py`).
"""

import asyncio
import ipaddress
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from gateway.cli.access import find_trace, run
from gateway.cli.common import NOT_SO, config_option, json_option, load_or_exit
from gateway.cli.output import complain, print_json, print_page
from gateway.config import Config
from gateway.mail.address import AddressError, parse_domain, parse_mailbox
from gateway.mail.job import parse_queue_id
from gateway.ops.explain import explain as page
from gateway.ops.explain import hypothetical


def _ip(ctx: click.Context, param: click.Parameter, value: str) -> str:
    try:
        return str(ipaddress.ip_address(value))
    except ValueError as err:
        raise click.BadParameter(str(err)) from err


def _helo(ctx: click.Context, param: click.Parameter, value: str) -> str:
    try:
        return parse_domain(value.encode("utf-8", "replace"))
    except AddressError as err:
        raise click.BadParameter(str(err)) from err


def _mailbox(value: str) -> str:
    text = value.removeprefix("<").removesuffix(">")
    if not text:
        return ""
    try:
        return str(parse_mailbox(text.encode("utf-8", "replace")))
    except AddressError as err:
        raise click.BadParameter(f"{value!r}: {err}") from err


@click.command()
@config_option
@json_option
@click.option("--ip", default="192.0.2.1", callback=_ip, show_default=True, help="With a file: the client's address.")
@click.option("--helo", default="client.example", callback=_helo, show_default=True, help="With a file: the client's name.")
@click.option("--sender", default="", help="With a file: the envelope's sender; empty for the null sender.")
@click.option("--recipient", "recipients", multiple=True, help="With a file: a recipient; may stand several times.")
@click.argument("target", metavar="ID|FILE.eml")
@click.pass_context
def explain(
    ctx: click.Context,
    config_path: Path | None,
    target: str,
    *,
    as_json: bool,
    ip: str,
    helo: str,
    sender: str,
    recipients: Sequence[str],
) -> None:
    """Each filter's inputs, DNS answers, symbols, score and time, the rule that decided, and what came of it.

    Takes the queue id of a message that came by, accepted or refused, or a file with a message to judge.
    """
    envelope = [_mailbox(sender), *(_mailbox(recipient) for recipient in recipients)]
    config, _ = load_or_exit(config_path)
    if _names_file(ctx, target):
        trace = run(_judge(config, Path(target), ip=ip, helo=helo, envelope=envelope))
    else:
        trace = _trace(config, target)
    if as_json:
        print_json(trace)
    else:
        print_page(page(trace))


def _names_file(ctx: click.Context, target: str) -> bool:
    """A path that was put where an id belongs must not be opened: a file is named *.eml, or its client is told."""
    told = any(
        ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
        for name in ("ip", "helo", "sender", "recipients")
    )
    return (told or target.lower().endswith(".eml")) and Path(target).is_file()


def _trace(config: Config, target: str) -> Mapping[str, Any]:
    queue_id = parse_queue_id(target.strip().upper())
    if queue_id is None:
        why = "no such file" if "/" in target or target.lower().endswith(".eml") else "neither a queue id nor an .eml file"
        raise click.BadParameter(f"{target!r}: {why}", param_hint="ID|FILE.eml")
    trace = run(find_trace(config, queue_id))
    if trace is None:
        complain(f"{queue_id}: nothing is remembered about this message (traces are kept for a limited time)")
        raise click.exceptions.Exit(NOT_SO)
    return trace


async def _judge(config: Config, file: Path, *, ip: str, helo: str, envelope: Sequence[str]) -> Mapping[str, Any]:
    from gateway.judge import judge_file  # filters and resolver are imported only for this

    content = await asyncio.to_thread(file.read_bytes)
    tx, verdict = await judge_file(config, content, ip, helo, envelope[0], recipients=list(envelope[1:]))
    return hypothetical(tx, verdict, time.time(), file=file.name)
