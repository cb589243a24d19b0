# SPDX-License-Identifier: Apache-2.0
"""What several commands share: the `-c FILE` option, loading with faults told, exit states.

Fails with: exit status 2 for a configuration that cannot be used.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import click

from gateway.config import Config, ConfigError, Fault, find, load

F = TypeVar("F", bound=Callable[..., object])

NOT_SO = 1
UNUSABLE = 2


def config_option(function: F) -> F:
    """`-c FILE`, default $GATEWAY_CONFIG, then /etc/gateway/gateway.toml."""
    return click.option(
        "-c",
        "--config",
        "config_path",
        type=click.Path(path_type=Path, dir_okay=False),
        help="Configuration file; default $GATEWAY_CONFIG, then /etc/gateway/gateway.toml.",
    )(function)


def json_option(function: F) -> F:
    """`--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")(function)


def load_or_exit(path: Path | None) -> tuple[Config, Path]:
    """The configuration and where it came from; prints every fault and exits with 2 if it cannot be used."""
    where = find(path)
    try:
        return load(where), where
    except ConfigError as err:
        print_faults(err.faults)
        raise click.exceptions.Exit(UNUSABLE) from err


def print_faults(faults: tuple[Fault, ...] | list[Fault]) -> None:
    """Faults on stderr, one a line."""
    for fault in faults:
        click.echo(str(fault), err=True)
