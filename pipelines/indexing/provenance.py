"""Which extractor fills a database, with which weights, and the same one again when it is opened."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from itertools import permutations
from pathlib import Path
from typing import Any

from index import weights_files
from index.catalog import Catalog
from index.kept_files import hash_of
from locate.errors import DatabaseMismatchError, InputError, WeightsError
from locate.extractors import registry
from locate.extractors.base import Extractor, ExtractorInfo
from locate.retrieval.search_mode import default_search

_GLOBAL_MATE, _LOCAL_MATE = "gem", "sift"  # what joins a system that gives only the other kind
_SETTINGS, _SIDE = "extractor settings", "working side"  # in the catalogue


def load_extractor(catalog: Catalog) -> Extractor:
    """The extractor that a database was filled by, or the default for an empty one;
    `DatabaseMismatchError` if it is not the same (name, weights, settings), or its weights are gone."""
    info = extractor_of(catalog)
    if info is None:
        return registry.create()
    if not all(map(registry.is_known, info.name.split("+"))):
        raise DatabaseMismatchError(
            f"{catalog.folder} was filled by {info.name}, which no extractor here is called; install "
            "the package that has it, or in Python hand over that extractor itself (extractor=...)"
        )
    weights = {
        part: weights_files.verify(catalog.folder, sha256)
        for part, sha256 in weights_files.recorded(catalog).items()
    }
    settings = _stored_settings(catalog)
    made = registry.create(info.name, settings, weights)
    if not made.info.compares_with(info):  # handed over as it was, or defaults were others then
        told = registry.settings_in(info)
        both = {part: {**settings.get(part, {}), **values} for part, values in told.items()}
        made = registry.create(info.name, both, weights)
    if not made.info.compares_with(info):
        raise DatabaseMismatchError(
            f"{catalog.folder} was filled by {info.name} with other weights or settings "
            f"({info.fingerprint}, now {made.info.fingerprint}); descriptors of the two do "
            "not compare. Build a new database with --index, or install the version that made this; in "
            "Python an extractor of one's own is handed over (extractor=...)"
        )
    return made


def record_extractor(catalog: Catalog, made: Extractor, settings: Mapping[str, Any]) -> None:
    """Note in the catalogue who fills it: its info, and the settings by which a name becomes it again.
    In a transaction."""
    catalog.set_meta("extractor", made.info.to_json())
    catalog.set_meta(_SIDE, str(made.max_side))
    if settings:
        by_part = registry.settings_by_part(made.info.name, settings)
        catalog.set_meta(_SETTINGS, json.dumps(by_part, default=_plain, sort_keys=True))


def copy_settings(source: Catalog, catalog: Catalog) -> None:
    """What `record_extractor` noted besides the info, for a copy. In a transaction."""
    for key in (_SETTINGS, _SIDE):
        if (value := source.meta(key)) is not None:
            catalog.set_meta(key, value)


def refuse_other_extractor(
    catalog: Catalog, extractor: str | Extractor | None, settings: Mapping[str, Any] | None = None
) -> None:
    """`DatabaseMismatchError` if an extractor or a setting of it is named that is not the one that
    filled the database."""
    info = ExtractorInfo.from_json(catalog.meta("extractor") or "")
    other = ""
    if isinstance(extractor, str):
        other = extractor if extractor != info.name else ""
    elif extractor is not None and not extractor.info.compares_with(info):
        other = f"the {extractor.info.name} that is given"
    if other:
        raise DatabaseMismatchError(
            f"{catalog.folder} was filled by {info.name}, not {other}; descriptors of the two do "
            "not compare. Leave --extractor out, or build another database with --index"
        )
    if not settings:
        return
    kept = _stored_settings(catalog) or registry.settings_in(info)
    known = registry.known_settings(info.name)
    for part, values in registry.settings_by_part(info.name, settings).items():
        for key, value in values.items():
            there = known[part] or {}
            filled = kept.get(part, {}).get(key, there[key].default if key in there else None)
            if _as_json(value) != _as_json(filled):
                raise DatabaseMismatchError(
                    f"{catalog.folder} was filled by {part} with {key} {filled}, not {value}; "
                    "descriptors of the two do not compare. Leave --set out, or build another "
                    "database with --index"
                )


def first_extractor(
    name: str | None, weights: Sequence[Path], settings: Mapping[str, Any] | None = None
) -> tuple[Extractor, dict[str, Path]]:
    """The extractor for a new database, and its weights files by the part of its name. By default it is
    the system that the weights are for, paired with `gem` or `sift` where it gives only one kind of
    descriptor. `InputError` if two files are for one part, or one is for none; `WeightsError` if a file
    is none, or fits no extractor."""
    by_system = systems_of(weights)
    name = name or _name_for(by_system)
    parts = registry.parts_of(name)
    for system, path in by_system.items():
        if system not in parts:
            raise InputError(
                f"{path} holds weights of {system}, which is no part of {name}; leave --extractor "
                f"out or name one that has it, such as {_GLOBAL_MATE}+{system}"
            )
    return registry.create(name, settings, by_system), by_system


def sfm_extractor(
    catalog: Catalog, name: str | Extractor | None, weights: Sequence[Path]
) -> str | Extractor | None:
    """The extractor by which the database of a map from photos alone is to be filled: a new one that
    nobody chose for is `registry.SFM_DEFAULT`."""
    chosen = name is not None or weights or catalog.meta("extractor") is not None
    return name if chosen else registry.SFM_DEFAULT


def systems_of(weights: Sequence[Path]) -> dict[str, Path]:
    """Weights files by the system that each says it is for."""
    if not weights:
        return {}
    from locate.extractors.weights import read_record

    by_system: dict[str, Path] = {}
    for path in weights:
        system = read_record(path).system
        if not registry.is_known(system):
            why = "which no extractor of this version is called"
            raise WeightsError(f"{path} holds weights of {system!r}, {why}")
        if system in by_system:
            raise InputError(f"{by_system[system]} and {path} are both weights of {system}")
        by_system[system] = path
    return by_system


def restore_weights(catalog: Catalog, weights: Sequence[Path]) -> None:
    """Put back copies that are missing of weights that are named again for a database that is
    filled already; `DatabaseMismatchError` if they are not those that filled it."""
    filled_with = weights_files.recorded(catalog)
    for system, path in systems_of(weights).items():
        if filled_with.get(system) != hash_of(path):
            raise DatabaseMismatchError(
                f"{catalog.folder} was not filled with {path}; descriptors of two weights do not "
                "compare. Leave --weights out, or build another database with --index"
            )
        weights_files.store(catalog.folder, path)


def _name_for(by_system: Mapping[str, Path]) -> str:
    """The name of an extractor that has a part for each of the weights."""
    if not by_system:
        return registry.DEFAULT
    infos = [registry.create(s, weights={s: path}).info for s, path in by_system.items()]
    if len(infos) == 1:
        (info,) = infos
        before = "" if info.global_dim else f"{_GLOBAL_MATE}+"
        after = "" if info.local_dim else f"+{_LOCAL_MATE}"
        return before + info.name + after
    for first, second in permutations(infos) if len(infos) == 2 else ():
        if first.global_dim and second.local_dim:
            return f"{first.name}+{second.name}"
    raise InputError(
        f"no extractor has parts for {', '.join(by_system)} together; say which by --extractor"
    )


def _stored_settings(catalog: Catalog) -> dict[str, dict[str, Any]]:
    return dict(json.loads(catalog.meta(_SETTINGS) or "{}"))


def _as_json(value: Any) -> str:
    return json.dumps(value, default=_plain, sort_keys=True)


def _plain(value: Any) -> Any:
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else str(value)


def working_side(catalog: Catalog) -> int:
    """The long side in pixels that the extractor shrinks photos to. Databases remember it, but for those
    of older versions, where asking for it may load a network."""
    stored = catalog.meta(_SIDE)
    if stored is None:
        stored = str(load_extractor(catalog).max_side)
        if catalog.writable:
            with catalog.transaction():
                catalog.set_meta(_SIDE, stored)
    return int(stored)


def extractor_of(catalog: Catalog) -> ExtractorInfo | None:
    """Who filled a catalogue; None if nobody has."""
    stored = catalog.meta("extractor")
    return None if stored is None else ExtractorInfo.from_json(stored)


def search_of(catalog: Catalog) -> str | None:
    """What queries find their shortlist by unless they say otherwise; None if nothing is there."""
    info = extractor_of(catalog)
    return None if info is None else catalog.meta("search") or default_search(info)
