"""Settings by name: which ones a class takes, and values of the type that it says."""

from __future__ import annotations

import inspect
import json
import math
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from locate.errors import InputError, UnknownNameError


class Setting(NamedTuple):
    """An annotation, or the type of the default where there is none, and the default."""

    hint: Any
    default: Any


def settings_of(make: Callable[..., Any]) -> dict[str, Setting] | None:
    """What may be said to a class or function by name, `weights` aside; None if it takes anything.

    Of a class with `from_pretrained(..., **settings)` those are its own keywords and the
    constructor's, or those of the class that it names as `settings_of`."""
    pretrained = getattr(make, "from_pretrained", None)
    known, takes_more = _keywords(pretrained or make)
    if takes_more and pretrained is None:
        return None
    if takes_more:
        known |= _keywords(getattr(make, "settings_of", make))[0]
    known.pop("weights", None)
    return known


def typed(what: str, value: Any, setting: Setting) -> Any:
    """`value`, text or JSON-able, as a setting's type; `InputError` if it is of another kind."""
    union = get_origin(setting.hint) in (Union, types.UnionType)
    kinds = get_args(setting.hint) if union else (setting.hint,)
    for kind in sorted(kinds, key=lambda kind: (kind is not type(None), kind is not str)):
        try:
            return _as(value, kind)
        except (TypeError, ValueError):
            continue
    words = f"of the kind of {setting.default!r}, which is the default"
    if setting.default is None:
        words = " or ".join(_name(kind) for kind in kinds)
    raise InputError(f"{what} must be {words}; got {value!r}")


def all_typed(
    what: str, given: Mapping[str, Any], known: Mapping[str, Setting] | None
) -> dict[str, Any]:
    """Every value as the type of its setting; `InputError` names an unknown one and those there are."""
    if known is None:
        return dict(given)
    for key in given:
        if key not in known:
            raise UnknownNameError(f"setting of {what}", key, known)
    return {key: typed(f"{what}: {key}", value, known[key]) for key, value in given.items()}


def _keywords(make: Callable[..., Any]) -> tuple[dict[str, Setting], bool]:
    """What can be named and has a default, and whether any other name is taken too."""
    try:
        hints = get_type_hints(make.__init__ if inspect.isclass(make) else make)
    except (NameError, TypeError):  # of types that are imported for a type checker alone
        hints = {}
    parameters = inspect.signature(make).parameters.values()
    known = {}
    for p in parameters:
        if p.default is not p.empty and p.kind is not p.POSITIONAL_ONLY:
            kind = type(p.default) if p.default is not None else Any
            known[p.name] = Setting(hints.get(p.name, kind), p.default)
    return known, any(p.kind is p.VAR_KEYWORD for p in parameters)


def _as(value: Any, kind: Any) -> Any:
    """`value` as one type; `ValueError` or `TypeError` if it is none of it."""
    origin = get_origin(kind) or kind
    found = value
    if kind is type(None):
        found = _known(value, {None: None, "none": None})
    elif kind is bool:
        found = _known(value, {True: True, False: False, "true": True, "false": False})
    elif kind in (int, float):
        found = _number(value, kind)
    elif origin is Literal:
        found = _known(value, {one: one for one in get_args(kind)})
    elif kind is Path:
        found = Path(value)
    elif origin in (tuple, list, Sequence) and not isinstance(value, Mapping):
        found = _items(value, get_args(kind))
    elif is_dataclass(kind) and isinstance(value, (str, Mapping)):
        make: Any = kind
        fields = json.loads(value) if isinstance(value, str) else value
        found = make(**all_typed(_name(kind), fields, settings_of(make)))
    elif kind is not Any and not isinstance(value, origin):
        raise TypeError
    return found


def _number(value: Any, kind: type[int] | type[float]) -> float:
    if isinstance(value, bool) or (kind is int and isinstance(value, float)):
        raise TypeError
    number = kind(value)
    if not math.isfinite(number):
        raise ValueError
    return number


def _known(value: Any, table: Mapping[Any, Any]) -> Any:
    key = value.lower() if isinstance(value, str) and value not in table else value
    for one in table:
        if type(one) is type(key) and one == key:
            return table[one]
    raise ValueError


def _items(value: Any, kinds: tuple[Any, ...]) -> tuple[Any, ...]:
    """ "0.5,1" or "[0.5, 1]" or a sequence."""
    if isinstance(value, str):
        value = json.loads(value) if value.startswith("[") else value.split(",")
    if not kinds or kinds[-1] is ... or len(kinds) == 1:
        return tuple(_as(one, kinds[0]) if kinds else one for one in value)
    return tuple(_as(one, kind) for one, kind in zip(value, kinds, strict=True))


def _name(kind: Any) -> str:
    return "none" if kind is type(None) else getattr(kind, "__name__", str(kind))
