"""`locate models`: what can be used at once, whose it is, and how good; and weights of one's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import click

from locate.errors import WeightsError
from locate.util.printable import in_markup as escape
from pipelines.cli import exit_codes
from pipelines.cli.console import console, new_table, print_json
from pipelines.cli.options import (
    Group,
    Json,
    argument,
    command,
    option,
    parameters_of,
    words_of,
)
from pipelines.cli.streams import print_line

if TYPE_CHECKING:
    from locate.extractors.registry import Model
    from locate.extractors.weights import Record

_TEXT = "List the extractors and the weights that there are: licence, size, scores."
_MINE = "more of one's own (`locate models add`); --weights NAME takes one"


def _list(as_json: Json) -> int:
    if click.get_current_context().invoked_subcommand:
        return exit_codes.OK
    from index import model_store
    from locate.extractors.registry import list_models

    found, added = list_models(), model_store.stored()
    if as_json:
        mine = [_described(name, file) for name, file in added.items()]
        print_json([asdict(model) for model in found] + mine)
        return exit_codes.OK
    _print_models(found)
    if added:
        print_line("")
        print_line(f"{_MINE}:")
        table = new_table("name", "for", "licence", "MB", "sha256", "trained on", right=("MB",))
        for name, file in added.items():
            one = _described(name, file)
            cells = (name, one["system"], one["licence"], f"{one['megabytes']:.1f}")
            table.add_row(*map(escape, (*cells, one["sha256"][:12], one["data"])))
        console().print(table)
    return exit_codes.OK


models = Group(
    "models",
    invoke_without_command=True,
    callback=_list,
    params=[*parameters_of(_list)],
    **words_of(_TEXT, "locate models"),
)


@command("locate models add my/weights.safetensors --name streets")
def add(
    file: Annotated[Path, argument("what `locate train` made", "FILE")],
    name: Annotated[str | None, option("to use it by (default: the file's)", "NAME")],
    as_json: Json,
) -> int:
    """Keep weights of one's own under a name, for --weights NAME."""
    from index import model_store
    from locate.extractors.registry import create
    from locate.extractors.weights import file_hash, read_record

    record = read_record(file)
    create(record.system, weights={record.system: file})  # they fit
    added = model_store.add(file, name or _name_of(file, record, file_hash(file)))
    found = _described(added.stem, added)
    if as_json:
        print_json(found)
        return exit_codes.OK
    size, licence = f"{found['megabytes']:.1f} MB", record.licence or "not stated"
    print_line(f"added {added.stem}: weights of {record.system}, {size}, licence {licence}")
    print_line(f"sha256 {found['sha256']}")
    how = f"--extractor {record.system} --weights {added.stem}"
    print_line(f"use it by: locate build-index PHOTOS {how}")
    return exit_codes.OK


@command("locate models remove streets")
def remove(
    names: Annotated[tuple[str, ...], argument("of what was added", "NAME")], as_json: Json
) -> int:
    """Forget weights of one's own; what was built with them keeps a copy."""
    from index import model_store

    gone = [str(model_store.remove(name)) for name in names]
    if as_json:
        print_json({"removed": gone})
    for file in () if as_json else gone:
        print_line(f"removed {file}")
    return exit_codes.OK


models.add_command(add)
models.add_command(remove)


def _print_models(found: Sequence[Model]) -> None:
    table = new_table("name", "gives", "weights", "licence", "MB", "scores", right=("MB",))
    for model in found:
        size = f"{model.megabytes:.1f}" if model.megabytes else ""
        scores = ", ".join(f"{name} {value:.3g}" for name, value in model.scores.items())
        cells = (model.name, model.gives, model.weights, model.licence, size, scores)
        table.add_row(*map(escape, cells))
    console().print(table)


def _name_of(file: Path, record: Record, sha256: str) -> str:
    """What trainings write is called weights all the same."""
    return f"{record.system}-{sha256[:8]}" if file.stem == "weights" else file.stem


def _described(name: str, file: Path) -> dict[str, Any]:
    """JSON-able; what cannot be read any more says why in place of what it was trained on."""
    from locate.extractors.weights import Record, file_hash, read_record

    try:
        record = read_record(file)
    except WeightsError as error:
        record = Record("", data=f"damaged: {error}; locate models remove {name}")
    return {
        "name": name,
        "system": record.system,
        "file": str(file),
        "sha256": file_hash(file),
        "licence": record.licence or "not stated",
        "megabytes": file.stat().st_size / 1e6,
        "data": record.data,
        "command": record.command,
    }
