"""Which extractor fills a database, with which weights, and the same one again when it is opened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from index import weights_files
from index.catalog import Catalog
from locate.errors import (
    DatabaseMismatchError,
    InputError,
    WeightsError,
)
from locate.extractors import registry
from locate.extractors.base import Extractor, ExtractorInfo
from locate.retrieval.search_mode import default_search

_GLOBAL_MATE, _LOCAL_MATE = "gem", "sift"  # what joins a system that gives only the other kind


def load_extractor(catalog: Catalog, name: str | None = None) -> Extractor:
    """The extractor that a database was filled by, or `name` for an empty one.

    Raises:
        DatabaseMismatchError: it is not the one (name, weights, settings) that filled the database,
            or its weights are gone.
    """
    stored = catalog.meta("extractor")
    if stored is None:
        return registry.create(name or registry.DEFAULT)
    remembered = ExtractorInfo.from_json(stored)
    refuse_other_extractor(catalog.folder, stored, name)
    made = registry.create(remembered.name, weights=_kept_weights(catalog))
    if not made.info.compares_with(remembered):
        raise DatabaseMismatchError(
            f"{catalog.folder} was filled by {remembered.name} with other weights or settings "
            f"({remembered.fingerprint}, now {made.info.fingerprint}); descriptors of the two do "
            "not compare. Build a new database with --index, or install the version that made this"
        )
    return made


def refuse_other_extractor(folder: Path, stored: str, name: str | None) -> None:
    """`DatabaseMismatchError` if `name` is given and is not the one that filled the database."""
    remembered = ExtractorInfo.from_json(stored).name
    if name is not None and name != remembered:
        raise DatabaseMismatchError(
            f"{folder} was filled by {remembered}, not {name}; descriptors of the two do "
            "not compare. Leave --extractor out, or build another database with --index"
        )


def first_extractor(name: str | None, weights: Sequence[Path]) -> tuple[Extractor, dict[str, Path]]:
    """The extractor for a new database, and its weights files by the part of its name.

    Args:
        name: of the registry; by default the system that the weights are for, paired with `gem` or
            `sift` where it gives only one kind of descriptor.
        weights: files that `locate train` made.

    Raises:
        UnknownNameError, InputError: two files for one part, or one that is for none.
        WeightsError: a file is none, or fits no extractor.
    """
    by_system = systems_of(weights)
    name = name or _name_for(by_system)
    parts = registry.parts_of(name)
    for system, path in by_system.items():
        if system not in parts:
            raise InputError(
                f"{path} holds weights of {system}, which is no part of {name}; leave --extractor "
                f"out or name one that has it, such as {_GLOBAL_MATE}+{system}"
            )
    return registry.create(name, weights=by_system), by_system


def sfm_extractor(catalog: Catalog, name: str | None, weights: Sequence[Path]) -> str | None:
    """The extractor by which the database of a map from photos alone is to be filled, for
    `first_extractor`: a new one that nobody chose for is `registry.SFM_DEFAULT`."""
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
        if system not in registry.EXTRACTORS:
            raise WeightsError(
                f"{path} holds weights of {system!r}, which no extractor of this version is called"
            )
        if system in by_system:
            raise InputError(f"{by_system[system]} and {path} are both weights of {system}")
        by_system[system] = path
    return by_system


def restore_weights(catalog: Catalog, weights: Sequence[Path]) -> None:
    """Take weights that are named again for a database that is filled already: copies that are
    missing are put back.

    Raises:
        DatabaseMismatchError: they are not those that filled it.
    """
    filled_with = weights_files.remembered(catalog)
    for system, path in systems_of(weights).items():
        if filled_with.get(system) != weights_files.hash_of(path):
            raise DatabaseMismatchError(
                f"{catalog.folder} was not filled with {path}; descriptors of two weights do not "
                "compare. Leave --weights out, or build another database with --index"
            )
        weights_files.keep(catalog.folder, path)


def _name_for(by_system: Mapping[str, Path]) -> str:
    """The name of an extractor that has a part for each of the weights."""
    if not by_system:
        return registry.DEFAULT
    infos = [registry.create(s, weights={s: path}).info for s, path in by_system.items()]
    if len(infos) == 1:
        (info,) = infos
        if info.global_dim and info.local_dim:
            return info.name
        mates = (info.name, _LOCAL_MATE) if info.global_dim else (_GLOBAL_MATE, info.name)
        return "+".join(mates)
    for first, second in (infos, infos[::-1]) if len(infos) == 2 else ():
        if first.global_dim and second.local_dim:
            return f"{first.name}+{second.name}"
    raise InputError(
        f"no extractor has parts for {', '.join(by_system)} together; say which by --extractor"
    )


def _kept_weights(catalog: Catalog) -> dict[str, Path]:
    """The copies in the database, checked, by the part of the extractor's name."""
    kept: dict[str, Path] = {}
    for part, sha256 in weights_files.remembered(catalog).items():
        kept[part] = weights_files.intact(catalog.folder, sha256)
    return kept


def working_side(catalog: Catalog) -> int:
    """The long side in pixels that the extractor shrinks photos to. A catalogue that can be written
    remembers it, as asking for it may load a network."""
    stored = catalog.meta("working side")
    if stored is not None:
        return int(stored)
    side = load_extractor(catalog).max_side
    if catalog.writable:
        with catalog.transaction():
            catalog.set_meta("working side", str(side))
    return side


def extractor_of(catalog: Catalog) -> ExtractorInfo | None:
    """Who filled a catalogue; None if nobody has."""
    stored = catalog.meta("extractor")
    return None if stored is None else ExtractorInfo.from_json(stored)


def search_of(catalog: Catalog) -> str | None:
    """What queries find their shortlist by unless they say otherwise; None if nothing is there."""
    info = extractor_of(catalog)
    return None if info is None else catalog.meta("search") or default_search(info)
