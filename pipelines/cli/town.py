"""`locate make-town`."""

from __future__ import annotations

import argparse

from locate.errors import InputError
from pipelines.cli import exit_codes as exits
from pipelines.cli.index import _print_json
from pipelines.cli.streams import say


def make_town(a: argparse.Namespace) -> int:
    from pipelines.town.town import make_town as make

    try:
        town = make(a.out, seed=a.seed)
    except ValueError as error:
        raise InputError(str(error)) from error
    if a.json:
        _print_json({"folder": str(a.out), "created": town.created})
    else:
        say(f"{a.out}: {'made' if town.created else 'is already there, left as it is'}")
    return exits.GOOD
