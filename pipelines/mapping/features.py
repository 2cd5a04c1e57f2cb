"""The first stage of making a map: what was seen in its photos, in a database that the map owns."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from itertools import combinations
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np

from index import lock, quantization, weights_files
from index.catalog import Catalog
from index.maps.folder import MapFolder, Progress
from index.records import Entry, ImageRow
from index.vectors.base import NEIGHBORS
from locate.errors import DatabaseMismatchError, DatabaseMissingError, InputError
from locate.extractors.base import Extractor, ExtractorInfo
from locate.geometry.cameras import CUT_THEM
from locate.georef.fitting import Place
from locate.images.folder import scan
from locate.images.reading import projection_in
from locate.mapping.triangulation import ALL_PAIRS, PARTNERS
from locate.pixels import extraction_scale
from pipelines.indexing.build import COMMIT_IMAGES, build_index, refresh_local, refresh_vectors
from pipelines.indexing.provenance import copy_settings, sfm_extractor, working_side
from pipelines.retrieval.search import Retriever

_content = attrgetter("file.sha256", "file.mask", "error")
_OWN = {"features", "model", "model.new", "model.old", "matches.db", "lock", "mapping"}


def init_map_folder(out: Path, made_by: str) -> MapFolder:
    """The folder for a new map or one that the same command has begun, not another's
    (`InputError`)."""
    folder = MapFolder(out)
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; name a folder for the map")
    foreign = {file.name for file in out.iterdir()} - _OWN if out.is_dir() else set()
    if foreign and not folder.features.is_dir():
        raise InputError(
            f"{out} holds {min(foreign)} and no map; name a new or empty folder for the map"
        )
    with lock.writer(out), lock.writer(folder.features), Catalog.create(folder.features) as catalog:
        begun_by = catalog.meta("map")
        if begun_by not in (None, made_by):
            raise InputError(
                f"{out} holds a map of {begun_by}, whose poses {made_by} would throw away; name "
                "another folder with --out, or put new photos in with: locate add-to-map"
            )
        if begun_by is None:
            with catalog.transaction():
                catalog.set_meta("map", made_by)
    return folder


def require_unique_names(catalog: Catalog, current: Collection[int]) -> None:
    """`InputError` names two photos of one name, by which the model knows them: two roots may share
    a path. A photo of a root that is not among the map's `current` ones (ids) gives way if its file
    is gone: its folder was moved."""
    by_name: dict[str, list[ImageRow]] = {}
    for row in catalog.images():
        by_name.setdefault(row.path, []).append(row)
    shared = [rows for rows in by_name.values() if len(rows) > 1]
    files = {row.id: catalog.roots()[row.root_id] / row.path for rows in shared for row in rows}
    others = (row.id for rows in shared for row in rows if row.root_id not in current)
    gone = sorted(i for i in others if not files[i].exists())
    for rows in shared:
        left = [files[row.id] for row in rows if row.id not in gone]
        if len(left) > 1:
            raise InputError(
                f"{left[0]} and {left[1]} would have the same name in the map; rename one of them, "
                "or make the map of the folder that holds both"
            )
    _remove(catalog, gone)


def leave_out_panoramas(catalog: Catalog, kept: Collection[int] = ()) -> None:
    """Mark the photos whose files are tagged as panoramas as failed, with the reason, but for those
    that the map has already (ids): a map's points are triangulated in perspective photos."""
    roots, found = catalog.roots(), []
    for row in mapped_rows(catalog).values():
        projection = None if row.id in kept else projection_in(roots[row.root_id] / row.path)
        if projection is not None:
            error = (
                f"is a panorama (XMP GPano:ProjectionType is {projection.kind}), and a map is made of "
                f"perspective photos; {CUT_THEM}"
            )
            found.append(Entry(row.root_id, row.path, row.label, row.file, row.info, error=error))
    if found:
        catalog.write(found)
        _refresh(catalog)


def _remove(catalog: Catalog, ids: Sequence[int]) -> None:
    if ids:
        catalog.remove(ids)
        _refresh(catalog)


def _refresh(catalog: Catalog) -> None:
    refresh_vectors(catalog)
    refresh_local(catalog)


def require_local(info: ExtractorInfo) -> None:
    """`InputError` if the extractor gives no local features."""
    if not info.local_dim:
        raise InputError(
            f"{info.name} gives no local features, which a map is made of; use an extractor that "
            f"has some, such as {info.name}+sift"
        )


def mapped_rows(catalog: Catalog) -> dict[int, ImageRow]:
    """The photos that have local features, by id, ascending."""
    with_features = set(catalog.feature_counts()[0].tolist())
    rows = sorted(catalog.images("ok"), key=lambda row: row.id)
    return {row.id: row for row in rows if row.id in with_features}


def choose_pairs(catalog: Catalog, anchors: Collection[int] | None = None) -> list[tuple[int, int]]:
    """Which photos to match, smaller id first, in order: all pairs of up to `ALL_PAIRS` photos, else
    each photo with the `PARTNERS` most similar ones, by global descriptor if the extractor gives
    one, by the votes of local features if not. `anchors`: only pairs with one of these."""
    rows = mapped_rows(catalog)
    anchors = [i for i in rows if anchors is None or i in anchors]
    if len(rows) <= ALL_PAIRS:
        wanted = set(anchors)
        return [pair for pair in combinations(rows, 2) if wanted.intersection(pair)]
    retriever, pairs = Retriever(catalog), set()
    vectors = catalog.vectors_of(anchors)
    for i in anchors:
        if i in vectors:
            near = retriever.search_global(vectors[i], PARTNERS, [i]).image_ids
        else:
            near = retriever.search_local(catalog.features(i), PARTNERS, NEIGHBORS, [i]).image_ids
        pairs |= {(min(i, j), max(i, j)) for j in near if j in rows}
    return sorted(pairs)


def median_scale(catalog: Catalog) -> float:
    """`extraction_scale` of the median photo."""
    sides = [max(row.info.size) for row in mapped_rows(catalog).values()]
    return extraction_scale(float(np.median(sides or [1])), working_side(catalog))


def require_info(catalog: Catalog) -> ExtractorInfo:
    """Who saw the photos of a catalogue that has been filled."""
    return ExtractorInfo.from_json(catalog.meta("extractor") or "")


def extract_photos(
    images: Path,
    folder: MapFolder,
    extractor: str | Extractor | None,
    weights: Sequence[Path],
    workers: int | None,
    progress: Progress,
    masks: Path | str | None = None,
    settings: Mapping[str, Any] | None = None,
) -> set[int]:
    """Features from a folder of photos; the ids of its roots in the catalogue."""
    found = {item.path: item for item in scan(images)}
    with Catalog.create(folder.features) as catalog:
        extractor = sfm_extractor(catalog, extractor, weights)
        root = images.resolve()
        rows = [row for row in catalog.images() if catalog.roots()[row.root_id] == root]
    # What was added by name need not have the name of a photo.
    gone = [row.id for row in rows if row.path not in found and not (root / row.path).exists()]
    build_index(
        images,
        folder.features,
        extractor=extractor,
        weights=weights,
        settings=settings,
        masks=masks,
        workers=workers,
        progress=partial(progress, "features"),
        quantize=False,  # of photos that are matched with each other, what is lost counts twice
    )
    with lock.writer(folder.features), Catalog.create(folder.features) as catalog:
        _remove(catalog, gone)
        return {catalog.add_root(images)}


def copy_index(index: Path, folder: MapFolder, progress: Progress) -> set[int]:
    """Features from a database, whose photos are not needed; the ids of its roots in the catalogue of
    the map. Photos of other roots, which were added to the map, stay."""
    with (
        Catalog.open(index) as source,
        lock.writer(folder.features),
        Catalog.create(folder.features) as catalog,
    ):
        _copy_extractor(source, catalog)
        roots = {root_id: catalog.add_root(path) for root_id, path in source.roots().items()}
        wanted = {(roots[row.root_id], row.path): row for row in source.images()}
        gone, kept = [], set()
        for row in catalog.images():
            key = (row.root_id, row.path)
            new = wanted.get(key)
            if new is not None and _content(new) == _content(row):
                kept.add(key)
            elif row.root_id in roots.values():
                gone.append(row.id)
        catalog.remove(gone)
        new_keys = [key for key in wanted if key not in kept]
        for start in range(0, len(new_keys), COMMIT_IMAGES):
            part = new_keys[start : start + COMMIT_IMAGES]
            catalog.write([_entry(source, key, wanted[key]) for key in part])
            progress("features", start + len(part), len(new_keys))
        _refresh(catalog)
        return set(roots.values())


def _copy_extractor(source: Catalog, catalog: Catalog) -> None:
    """The map learns who saw its photos, and keeps the weights."""
    stored = source.meta("extractor")
    if stored is None or source.counts()["ok"] == 0:
        raise DatabaseMissingError(
            f"{source.folder} holds no images yet; add some with: locate build-index PHOTOS"
        )
    require_local(ExtractorInfo.from_json(stored))
    own = catalog.meta("extractor")
    if own is not None and own != stored:
        raise DatabaseMismatchError(
            f"the map in {catalog.folder.parent} was made with {ExtractorInfo.from_json(own).name}"
            f", and {source.folder} with {ExtractorInfo.from_json(stored).name} or with other "
            "weights or settings; name another folder with --out"
        )
    hashes = weights_files.recorded(source)
    for sha256 in hashes.values():
        weights_files.store(catalog.folder, weights_files.verify(source.folder, sha256))
    quantizer = source.meta(quantization.KEY)
    if quantizer:
        quantization.store(catalog.folder, quantization.file_of(source.folder, quantizer))
    with catalog.transaction():
        catalog.set_meta("extractor", stored)
        copy_settings(source, catalog)
        weights_files.record(catalog, hashes)
        if quantizer:
            catalog.set_meta(quantization.KEY, quantizer)
        search = source.meta("search")
        if search is not None:
            catalog.set_meta("search", search)


def _entry(source: Catalog, key: tuple[int, str], row: ImageRow) -> Entry:
    if row.status != "ok":
        return Entry(key[0], row.path, row.label, row.file, error=row.error)
    return Entry(key[0], row.path, row.label, row.file, row.info, source.stored(row.id))


def gps_of(catalog: Catalog) -> dict[str, Place]:
    """GPS tags of the photos of a database, by their path in it. (0, 0), in the Atlantic, is what
    devices write that know nothing."""
    places: dict[str, Place] = {}
    for row in catalog.images("ok"):
        latitude, longitude = row.info.latitude, row.info.longitude
        if latitude is not None and longitude is not None and (latitude, longitude) != (0, 0):
            places[row.path] = (latitude, longitude, row.info.altitude)
    return places
