# SPDX-License-Identifier: Apache-2.0
"""`gateway check`: validate the configuration. Every fault at once; nothing is touched.

Exit status: 2 for faults. What works, but hardly as it was meant, is a warning and changes no status.
"""

import json
from dataclasses import asdict
from pathlib import Path

import click

from gateway.cli.common import UNUSABLE, config_option, json_option
from gateway.config import NO_LISTENER, ConfigError, Fault, examine, examine_users, find, load, remarks


@click.command()
@config_option
@json_option
def check(config_path: Path | None, *, as_json: bool) -> None:
    """Validate the configuration: every fault with its file, key path, value and reason."""
    where = find(config_path)
    faults, warnings = _examined(where)
    if as_json:
        told = {"faults": list(map(asdict, faults)), "warnings": list(map(asdict, warnings))}
        click.echo(json.dumps({"file": str(where), "ok": not faults, **told}, indent=2))
    else:
        for warning in warnings:
            click.secho(f"warning: {warning}", err=True, fg="yellow")
        for fault in faults:
            click.secho(str(fault), err=True, fg="red")
        click.secho(f"{where}: {len(faults)} fault(s)" if faults else f"{where}: ok", fg="red" if faults else "green")
    if faults:
        raise click.exceptions.Exit(UNUSABLE)


def _examined(where: Path) -> tuple[list[Fault], list[Fault]]:
    """Faults and warnings."""
    try:
        config = load(where)
    except ConfigError as err:
        return list(err.faults), []
    faults = examine(config, str(where)) + examine_users(config)
    if not config.listener:
        faults.append(Fault(str(where), "listener", "", NO_LISTENER))
    return faults, remarks(config, str(where))
