"""HTML pages from templates: files that need nothing else, whole or not at all."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from locate.util.files import atomic_write
from locate.util.printable import visible


def write_page(path: Path, template: str, **values: Any) -> None:
    """Fill in a template of this folder. Text is escaped, and what cannot be seen spelled out.

    Args:
        path: replaced when the page is complete; its folder is made if need be.
        values: for the template; what iterators give is written as it comes, since the pictures of
            thousands of photos do not fit into memory.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        for piece in _environment().get_template(template).generate(values):
            file.write(piece.encode("utf-8"))


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
