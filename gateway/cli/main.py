# SPDX-License-Identifier: Apache-2.0
"""The command `gateway`: the table of its commands.

Promises: only the module of the command that runs is imported, so `gateway --version` does not load a mail server.
Exit status: 0 done, 1 the thing asked about is not so, 2 unusable arguments or configuration.
Not here: what a command does (the file that the table names).
"""

import importlib

import click

from gateway import __version__

COMMANDS = {
    "serve": "gateway.cli.serve:serve",
    "dev": "gateway.cli.dev:dev",
    "check": "gateway.cli.check:check",
    "queue": "gateway.cli.queue:queue",
    "explain": "gateway.cli.explain:explain",
    "user": "gateway.cli.user:user",
    "verify": "gateway.cli.verify:verify",
    "docs": "gateway.cli.docs:docs",
}

SUMMARIES = {
    "serve": "Run the daemon in the foreground.",
    "dev": "Run with embedded defaults and send sample messages through.",
    "check": "Validate the configuration; touch nothing.",
    "queue": "List and change queued messages.",
    "explain": "Tell why a message was treated as it was.",
    "user": "Write the file of those who may log in.",
    "verify": "Run one authentication check.",
    "docs": "Print the reference pages.",
}


class _Lazy(click.Group):
    """A group whose commands are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(SUMMARIES.items()))


@click.command(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="gateway %(version)s")
def cli() -> None:
    """An email gateway: take mail, judge it, keep it safe, deliver it."""


def main() -> None:
    """Entry point of the console script."""
    cli(prog_name="gateway")
