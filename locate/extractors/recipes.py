"""Every recipe by the name of its system, written out."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from locate.errors import InputError, UnknownNameError

if TYPE_CHECKING:
    from locate.training.recipe import Recipe


def _d2net() -> type[Recipe]:
    from locate.extractors.d2net.recipe import D2NetRecipe

    return D2NetRecipe


def _delf() -> type[Recipe]:
    from locate.extractors.delf.recipe import DelfRecipe

    return DelfRecipe


def _steered() -> type[Recipe]:
    from locate.extractors.steered.recipe import SteeredRecipe

    return SteeredRecipe


def _steered_narrow() -> type[Recipe]:
    from locate.extractors.steered.pruning import NarrowRecipe

    return NarrowRecipe


def _ur2kid() -> type[Recipe]:
    from locate.extractors.ur2kid.recipe import UR2KiDRecipe

    return UR2KiDRecipe


RECIPES: Mapping[str, Callable[[], type[Recipe]]] = {
    "d2net": _d2net,
    "delf": _delf,
    "steered": _steered,
    "steered-narrow": _steered_narrow,
    "ur2kid": _ur2kid,
}


def create_recipe(name: str, settings: Mapping[str, Any] | None = None) -> Recipe:
    """The recipe of the system `name`.

    Args:
        name: one of `RECIPES`.
        settings: JSON-able values that differ from the recipe's defaults.

    Raises:
        UnknownNameError: names the known ones.
        InputError: the recipe has no such setting, or one of another type.
    """
    if name not in RECIPES:
        raise UnknownNameError("system to train", name, RECIPES)
    recipe = RECIPES[name]()
    known = {
        key: parameter.default
        for key, parameter in inspect.signature(recipe).parameters.items()
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD
    }
    values = {}
    for key, value in (settings or {}).items():
        if key not in known:
            raise UnknownNameError(f"setting of {name}", key, known)
        values[key] = _as_default(f"{name}: {key}", value, known[key])
    return recipe(**values)


def _as_default(what: str, value: Any, default: Any) -> Any:
    """`value` as the type of `default`; a path where the default is one or the name says so."""
    if isinstance(default, Path) or (what.endswith("_weights") and isinstance(value, str)):
        return Path(value)
    if isinstance(default, tuple) and isinstance(value, list):
        return tuple(value)
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if default in (None, inspect.Parameter.empty) or value is None or type(value) is type(default):
        return value
    raise InputError(
        f"{what} must be of the kind of {default!r}, which is the default; got {value!r}"
    )
