# SPDX-License-Identifier: Apache-2.0
"""`gateway check`: validate the configuration. Every fault at once; nothing is touched."""

import json
from dataclasses import asdict
from pathlib import Path

import click

from gateway.cli.common import UNUSABLE, config_option, json_option
from gateway.config import ConfigError, Fault, examine, find, load


@click.command()
@config_option
@json_option
def check(config_path: Path | None, as_json: bool) -> None:
    """Validate the configuration: every fault with its file, key path, value and reason."""
    where = find(config_path)
    faults = _faults(where)
    if as_json:
        click.echo(json.dumps({"file": str(where), "ok": not faults, "faults": [asdict(fault) for fault in faults]}, indent=2))
    else:
        for fault in faults:
            click.secho(str(fault), err=True, fg="red")
        click.secho(f"{where}: {len(faults)} fault(s)" if faults else f"{where}: ok", fg="red" if faults else "green")
    if faults:
        raise click.exceptions.Exit(UNUSABLE)


def _faults(where: Path) -> list[Fault]:
    try:
        config = load(where)
    except ConfigError as err:
        return list(err.faults)
    faults = examine(config, str(where))
    if not config.listener:
        faults.append(Fault(str(where), "listener", "", 'there is none: add [[listener]] with address = "0.0.0.0:25"'))
    return faults
