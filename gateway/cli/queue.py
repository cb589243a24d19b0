# SPDX-License-Identifier: Apache-2.0
"""`gateway queue`: list queued messages, look at one, hold, release, retry, bounce, delete.

Promises: the same with and without a running daemon; a command that changes something needs ids, a selector or `--all`.
Exit status: 1 if a named message is not there (or the command does not apply to it), or a selector matches none.
Not here: how the queue is reached (`access.py`), what the commands do (`queue/manager.py`).
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from gateway.cli.access import open_queues, run
from gateway.cli.common import NOT_SO, config_option, json_option, load_or_exit
from gateway.cli.output import complain, print_json, print_page, table
from gateway.config import Config
from gateway.mail.job import QueueId, parse_queue_id
from gateway.mail.listing import MessageView, Selector
from gateway.mail.message import Message
from gateway.mail.units import parse_duration
from gateway.ops.wire import STATES, is_empty, view_to_json

F = TypeVar("F", bound=Callable[..., object])

LIST_LIMIT = 100_000
_GONE = "no such message in the queue; `gateway explain` may know what became of it"

HELP = {
    "hold": "Keep messages from delivery until they are released.",
    "release": "Let held messages go.",
    "retry": "Make recipients due now.",
    "bounce": "Give up: tell the senders.",
    "delete": "Remove messages; tell nobody.",
}


class _QueueIdType(click.ParamType[QueueId]):
    name = "id"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> QueueId:
        queue_id = parse_queue_id(str(value).upper())
        return queue_id if queue_id else self.fail(f"{value!r} is not a queue id", param, ctx)


class _DurationType(click.ParamType[float]):
    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        try:
            return parse_duration(str(value))
        except ValueError as err:
            return self.fail(str(err), param, ctx)


_SELECTOR: tuple[Callable[[Any], Any], ...] = (
    click.argument("ids", nargs=-1, type=_QueueIdType()),
    click.option("--domain", default="", help="Of a recipient."),
    click.option("--sender", default="", help='The sender; "<>" for bounces.'),
    click.option("--recipient", default="", help="One recipient's address."),
    click.option("--older", default=0.0, type=_DurationType(), help='In the queue for longer than this: "2h".'),
    click.option("--state", type=click.Choice(STATES), callback=lambda _, __, state: state or "", metavar="|".join(STATES)),
    click.option("--reason", default="", help="Part of the last reply, or of why it is held."),
)


def selector_options(function: F) -> F:
    """Ids and the fields of a selector; all that are given must match."""
    for decorate in reversed(_SELECTOR):
        function = decorate(function)
    return function


@click.group()
def queue() -> None:
    """List and change queued messages, by id or by selector, while the daemon runs and while it does not."""


@queue.command("list")
@config_option
@json_option
@click.option("--limit", default=LIST_LIMIT, type=click.IntRange(1, 999_999), show_default=True)
@selector_options
def list_(config_path: Path | None, *, as_json: bool, limit: int, **fields: Any) -> None:
    """Messages in the queue, oldest first."""
    config, _ = load_or_exit(config_path)
    selector = Selector(**fields)
    found = run(_find(config, selector, limit + 1))
    if len(found) > limit:
        complain(f"only the first {limit} messages are shown; there are more")
    if as_json:
        print_json([view_to_json(view) for view in found[:limit]])
    else:
        _print_list(found[:limit])
    missing = set(selector.ids) - {view.id for view in found}
    if missing and len(found) <= limit:
        for queue_id in sorted(missing):
            complain(f"{queue_id}: {_GONE}")
        raise click.exceptions.Exit(NOT_SO)


@queue.command()
@config_option
@json_option
@click.option("--content", is_flag=True, help="Write the raw octets of the message to stdout, nothing else.")
@click.argument("queue_id", metavar="ID", type=_QueueIdType())
def show(config_path: Path | None, *, as_json: bool, content: bool, queue_id: QueueId) -> None:
    """One message: envelope, state, header."""
    config, _ = load_or_exit(config_path)
    view, octets = run(_load(config, queue_id))
    if view is None or octets is None:
        complain(f"{queue_id}: {_GONE}")
        raise click.exceptions.Exit(NOT_SO)
    if content:
        sys.stdout.buffer.write(octets)
        return
    header = [field.raw.decode("utf-8", "replace").rstrip("\r\n") for field in Message.parse(octets).fields]
    if as_json:
        print_json({**view_to_json(view), "header": header})
    else:
        _print_message(view, header)


def _command(name: str) -> None:
    @queue.command(name, help=HELP[name])
    @config_option
    @json_option
    @click.option("--dry-run", is_flag=True, help="Only tell which messages it would be.")
    @click.option("--all", "everything", is_flag=True, help="Every message in the queue.")
    @selector_options
    def command(config_path: Path | None, *, as_json: bool, dry_run: bool, everything: bool, **fields: Any) -> None:
        selector = Selector(**fields)
        if is_empty(selector) and not everything:
            raise click.UsageError("name ids or a selector; --all for everything")
        config, _ = load_or_exit(config_path)
        ids = run(_operate(config, name, selector, dry_run=dry_run))
        missing = set(selector.ids) - set(ids)
        if as_json:
            print_json({"command": name, "dry_run": dry_run, "ids": ids, "missing": sorted(missing)})
        else:
            for queue_id in ids:
                click.echo(queue_id)
            complain(f"{name}: {len(ids)} {'message' if len(ids) == 1 else 'messages'}{' (dry run)' if dry_run else ''}")
        if missing:
            _exit_missing(missing)
        if not ids:
            raise click.exceptions.Exit(NOT_SO)


for _name in HELP:
    _command(_name)


async def _find(config: Config, selector: Selector, limit: int) -> list[MessageView]:
    async with open_queues(config) as queues:
        found = [view for each in queues for view in await each.find(selector, limit)]
    return sorted(found, key=lambda view: (view.created, view.id))


async def _load(config: Config, queue_id: QueueId) -> tuple[MessageView | None, bytes | None]:
    async with open_queues(config) as queues:
        for each in queues:
            for view in await each.find(Selector(ids=(queue_id,)), 1):
                return view, await each.content(queue_id)
    return None, None


async def _operate(config: Config, command: str, selector: Selector, *, dry_run: bool) -> list[QueueId]:
    async with open_queues(config) as queues:
        return [queue_id for each in queues for queue_id in await each.operate(command, selector, dry_run=dry_run)]


def _exit_missing(missing: set[QueueId]) -> None:
    for queue_id in sorted(missing):
        complain(f"{queue_id}: no such message, or it is not in a state for this")
    raise click.exceptions.Exit(NOT_SO)


def _print_list(found: Sequence[MessageView]) -> None:
    if not found:
        complain("the queue is empty, or nothing matches")
        return
    table(
        ["ID", "STATE", "CREATED", "SIZE", "SENDER", "RECIPIENT", "TRIES", "DUE", "LAST REPLY"], [_row(view) for view in found]
    )


def _row(view: MessageView) -> list[str]:
    """One line a message: its recipients are stood for by the one that is due first."""
    data = view_to_json(view)
    open_ones = [each for each in data["recipients"] if each["state"] in STATES] or data["recipients"]
    first = min(open_ones, key=lambda each: each["due"] or "~", default=None)
    if first is None:
        return [view.id, view.state, data["created"], str(view.size), view.sender or "<>", "", "", "", view.reason]
    more = f" (+{len(data['recipients']) - 1})" if len(data["recipients"]) > 1 else ""
    return [
        view.id,
        view.state,
        data["created"],
        str(view.size),
        view.sender or "<>",
        first["address"] + more,
        str(first["attempts"]),
        first["due"] or "",
        view.reason or first["last_reply"],
    ]


def _print_message(view: MessageView, header: Sequence[str]) -> None:
    data = view_to_json(view)
    facts = [("state", view.state), ("created", data["created"]), ("size", str(view.size)), ("from", view.sender or "<>")]
    if view.reason:
        facts.insert(1, ("reason", view.reason))
    print_page([[(view.id, "head")], *([(f"  {key:<10}", "key"), (value, "")] for key, value in facts), []])
    rows = [
        [each["address"], each["state"], str(each["attempts"]), each["due"] or "", each["last_reply"]]
        for each in data["recipients"]
    ]
    table(["RECIPIENT", "STATE", "TRIES", "DUE", "LAST REPLY"], rows)
    print_page([[]])
    print_page([(line.expandtabs(), "")] for field in header for line in field.split("\r\n"))
