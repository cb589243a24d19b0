# SPDX-License-Identifier: Apache-2.0
"""`gateway serve`: run the daemon in the foreground until a signal ends it."""

from pathlib import Path

import click

from gateway.cli.common import UNUSABLE, config_option, print_faults


@click.command()
@config_option
def serve(config_path: Path | None) -> None:
    """Run the daemon in the foreground. SIGTERM drains and stops, SIGHUP reloads."""
    from gateway.config import ConfigError, find
    from gateway.supervisor import run

    where = find(config_path)
    try:
        status = run(where)
    except ConfigError as err:
        print_faults(err.faults)
        status = UNUSABLE
    raise click.exceptions.Exit(status)
