"""Pages from templates: files that need nothing else, whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from locate.util.files import atomic_write
from locate.util.printable import visible


def write_page(path: Path, template: str, **values: Any) -> None:
    """`render` into a file, which is replaced when it is complete; its folder is made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        for piece in render(template, **values):
            file.write(piece.encode("utf-8"))


def render(template: str, **values: Any) -> Iterator[str]:
    """Fill in a template of this folder. Text is escaped, and what cannot be seen spelled out.

    Args:
        values: for the template; what iterators give is written as it comes, since the pictures of
            thousands of photos do not fit into memory.
    """
    return _environment().get_template(template).generate(values)


@cache
def _environment() -> jinja2.Environment:
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        finalize=lambda value: value if isinstance(value, Markup) else visible(value),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.policies["json.dumps_kwargs"] = {"allow_nan": False}  # NaN is no JSON
    return made
