"""What the command line makes of words, without running a command."""

from __future__ import annotations

from typing import Any

import click

from pipelines.cli.main import cli


def command_of(*names: str) -> click.Command:
    """The command that is called so."""
    context = click.Context(cli, info_name="locate")
    command: click.Command = cli
    for name in names:
        assert isinstance(command, click.Group)
        found = command.get_command(context, name)
        assert found is not None, name
        command = found
    return command


def commands() -> dict[str, click.Command]:
    """Every command by its words, such as "evaluate matching"."""
    found = {}
    context = click.Context(cli)
    for name in cli.list_commands(context):
        command = command_of(name)
        below = command.list_commands(context) if isinstance(command, click.Group) else []
        found[name] = command
        found |= {f"{name} {kind}": command_of(name, kind) for kind in below}
    return found


def parsed(words: list[str]) -> dict[str, Any]:
    """The arguments that the command of the words gets."""
    names = words[: 2 if " ".join(words[:2]) in commands() else 1]
    return command_of(*names).make_context(" ".join(names), words[len(names) :]).params
