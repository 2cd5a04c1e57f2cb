"""`locate models`: what can be used at once, whose it is, and how good."""

from __future__ import annotations

from dataclasses import asdict

from locate.util.printable import in_markup as escape
from pipelines.cli import exit_codes
from pipelines.cli.console import console, new_table, print_json
from pipelines.cli.options import Json, command


@command("locate models")
def models(as_json: Json) -> int:
    """List the extractors and the weights that come with them: licence, size, scores."""
    from locate.extractors.registry import list_models

    found = list_models()
    if as_json:
        print_json([asdict(model) for model in found])
        return exit_codes.OK
    table = new_table("name", "gives", "weights", "licence", "MB", "scores", right=("MB",))
    for model in found:
        size = f"{model.megabytes:.1f}" if model.megabytes else ""
        scores = ", ".join(f"{name} {value:.3g}" for name, value in model.scores.items())
        cells = (model.name, model.gives, model.weights, model.licence, size, scores)
        table.add_row(*map(escape, cells))
    console().print(table)
    return exit_codes.OK
