# SPDX-License-Identifier: Apache-2.0
"""`gateway docs config|metrics|filters`: print the reference pages from the code itself.

The committed pages in docs/ are made by these commands, so they cannot tell of options that do not exist.
"""

from collections.abc import Iterator
from typing import Any, get_origin

import click

from gateway.config import Config
from gateway.infra.options import FieldInfo, Options, model_of


@click.group()
def docs() -> None:
    """Print the reference pages."""


@docs.command("config")
def config_page() -> None:
    """Every option as annotated TOML, with its default."""
    click.echo("\n".join(config_lines()))


@docs.command("metrics")
def metrics_page() -> None:
    """Every metric: name, type, labels, meaning."""
    from gateway.infra.metrics import reference

    click.echo(reference().rstrip("\n"))


@docs.command("filters")
def filters_page() -> None:
    """Every filter: what it looks at, its options and symbols."""
    from gateway.filters.builtin import reference

    click.echo(reference().rstrip("\n"))


def config_lines() -> Iterator[str]:
    """The annotated TOML. A key without `#` in front must be given; the others show their default."""
    yield "# Every option with its default. Durations: 30s 5m 2h 5d. Sizes: 64KiB 25MiB."
    yield "# Unknown keys and bad values are refused, all at once, with the path of the key."
    yield ""
    yield from _keys(Config)
    for name, field in Config.model_fields.items():
        if (model := model_of(field.annotation)) is not None:
            yield from _section(name, field, model)


def _section(path: str, field: FieldInfo, model: type[Options]) -> Iterator[str]:
    yield ""
    if field.description:
        yield f"# {field.description}"
    yield f"[[{path}]]" if get_origin(field.annotation) is list else f"[{path}]"
    yield from _keys(model)
    for name, inner in model.model_fields.items():
        if (nested := model_of(inner.annotation)) is not None:
            yield from _section(f"{path}.{name}", inner, nested)


def _keys(model: type[Options]) -> Iterator[str]:
    """The plain keys of one section."""
    for name, field in model.model_fields.items():
        if model_of(field.annotation) is None:
            if field.description:
                yield f"# {field.description}"
            if field.is_required():
                yield f'{name} = "…"'
            else:
                yield f"#{name} = {toml(field.get_default(call_default_factory=True))}"


def toml(value: Any) -> str:
    """A value as TOML."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return f"[{', '.join(toml(each) for each in value)}]"
    if isinstance(value, dict):
        return "{ " + ", ".join(f'"{key}" = {toml(each)}' for key, each in value.items()) + " }" if value else "{}"
    if isinstance(value, int | float):
        return str(value)
    return '""' if value is None else f'"{value}"'
