"""`locate make-town`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from locate.errors import InputError
from pipelines.cli import exit_codes
from pipelines.cli.console import print_json
from pipelines.cli.options import Json, argument, command, option
from pipelines.cli.streams import print_line


@command("locate make-town town/")
def make_town(
    out: Annotated[Path, argument("folder to make")],
    seed: Annotated[int, option("another seed, another town", "N", 0)],
    index: Annotated[Path | None, option("nothing; it was always taken", hidden=True)],  # noqa: ARG001
    as_json: Json,
) -> int:
    """Render a small town of landmarks with exact cameras, to try things on."""
    from pipelines.town.town import make_town as make

    try:
        town = make(out, seed=seed)
    except ValueError as error:
        raise InputError(str(error)) from error
    if as_json:
        print_json({"folder": str(out), "created": town.created})
    else:
        print_line(f"{out}: {'made' if town.created else 'is already there, left as it is'}")
    return exit_codes.OK
