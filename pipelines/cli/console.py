"""Tables for the terminal, and what several commands print."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ParamSpec

from locate.util.printable import in_markup as escape

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from locate.images.folder import LeftOut

SHOWN = 20  # photos that something is wrong with
_COLORS = {"match": "green", "localized": "green", "uncertain": "yellow"}
_COLORS |= dict.fromkeys(("no match", "not localized"), "red")
P = ParamSpec("P")


def console() -> Console:
    """Where tables are printed."""
    from rich.console import Console

    class Ours(Console):
        def on_broken_pipe(self) -> None:
            """`locate info --images | head` is no error: `pipelines.cli.main` ends quietly."""
            raise BrokenPipeError

    # Where there is no terminal lines must not be cut: they go to a file or another program.
    # Nor are names like "a:cat:.jpg" to be turned into pictures.
    made = Ours(highlight=False, emoji=False)
    return made if made.is_terminal else Ours(highlight=False, emoji=False, width=200)


def new_table(*columns: str, right: Sequence[str] = ()) -> Table:
    """An empty table of ours; the columns named in `right` hold numbers."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    return table


def print_json(value: Any) -> None:
    """Names and all as they are; JSON has escapes of its own."""
    print(json.dumps(value, indent=1, default=str))


def print_result(
    as_json: bool, value: Any, show: Callable[P, None], *args: P.args, **named: P.kwargs
) -> None:
    """A result as JSON, or as `show` prints it for people."""
    if as_json:
        print_json(value)
    else:
        show(*args, **named)


def failures(failed: Sequence[tuple[str, str]], left_out: LeftOut) -> dict[str, Any]:
    """JSON-able: what had no answer."""
    reasons = [{"photo": name, "reason": reason} for name, reason in failed]
    return {"failed": reasons, **left_out.to_json()}


def colored(verdict: str) -> str:
    color = _COLORS.get(verdict)
    return f"[{color}]{verdict}[/]" if color else verdict


def print_left_out(left_out: LeftOut, failed: Sequence[tuple[str, str]] = ()) -> None:
    """Photos that could not be used, (name, reason), and what was passed over in folders."""
    out = console()
    for name, reason in failed[:SHOWN]:
        out.print(f"[red]failed[/] {escape(name)}: {escape(reason)}", soft_wrap=True)
    if len(failed) > SHOWN:
        out.print(f"... and {len(failed) - SHOWN} more; --json lists all")
    for line in left_out.lines():
        out.print(f"[yellow]left out[/] {escape(line)}", soft_wrap=True)
