"""Every recipe by the name of its system, as the registry of extractors has them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from locate.errors import UnknownNameError
from locate.extractors.registry import EXTRACTORS, Entry, entries, load_object
from locate.extractors.settings import all_typed, settings_of

if TYPE_CHECKING:
    from locate.training.recipe import Recipe


def _of(entry: Entry) -> dict[str, Callable[[], type[Recipe[Any]]]]:
    return {name: partial(load_object, recipe) for name, recipe in sorted(entry.recipes.items())}


# Of the systems that come with the package.
RECIPES: dict[str, Callable[[], type[Recipe[Any]]]] = {
    name: load
    for entry in EXTRACTORS.values()
    if isinstance(entry, Entry)
    for name, load in _of(entry).items()
}


def create_recipe(name: str, settings: Mapping[str, Any] | None = None) -> Recipe[Any]:
    """The recipe of the system `name`, one of `RECIPES` or of another package, with JSON-able settings
    that differ from its defaults; `InputError` for what there is not or is of another type."""
    known = RECIPES
    if name not in known:
        known = known | {n: load for _, entry in entries() for n, load in _of(entry).items()}
    if name not in known:
        raise UnknownNameError("system to train", name, known)
    recipe = known[name]()
    return recipe(**all_typed(name, settings or {}, settings_of(recipe)))
