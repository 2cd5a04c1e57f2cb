"""`locate add-to-map`: new photos into a map, whose old poses stay exactly as they are.

New photos are matched with the most similar old ones and each other, and registered one after the other
by COLMAP's mapper (Schönberger and Frahm, "Structure-from-Motion Revisited", CVPR 2016, section 4.1).
Only points and the new photos' poses and cameras are refined.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pycolmap

from index import lock
from index.catalog import Catalog
from index.maps.folder import MapFolder, Progress
from index.maps.matches import fingerprint, is_readable, verified_pairs
from locate.errors import DatabaseError, InputError
from locate.mapping.structure import UNMOVED, examine, known_cameras, leave_out
from locate.util.files import is_intact
from locate.util.timing import Clock
from pipelines.indexing.build import add_photos, resolve
from pipelines.mapping.build import scale_errors, silence_colmap, with_summary
from pipelines.mapping.covariance_calibration import measure_correlated_ratio
from pipelines.mapping.features import choose_pairs, leave_out_panoramas, mapped_rows, median_scale
from pipelines.mapping.matching import match_photos
from pipelines.mapping.summary import MapReport, summarize

MIN_POINTS = 15  # that a new photo sees in the end; with fewer its pose is not to be trusted
_UNCHANGED = 1e-9  # of the numbers of a pose


def add_to_map(
    out: Path,
    photos: Sequence[Path],
    *,
    masks: Path | str | None = None,
    workers: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> MapReport:
    """Register new photos in a map; units and place on earth stay. Those that are in it are left
    alone.

    Args:
        photos: files, or folders of photos.
        workers, seed, progress: see `build_map`.

    Returns:
        The report, whose `verified` tells of each new photo with how many old ones it verifies.

    Raises:
        InputError: no such photo, one that changed since it was put into the map, or two of one name.
        DatabaseError: there is no map, or it cannot be written.
    """
    progress = progress or (lambda _stage, _done, _total: None)
    folder, clock = MapFolder(out), Clock()
    folder.read_record()  # no lock is left behind where there is no map
    with lock.writer(out):
        folder.recover()
        record, model = folder.read_record(), folder.read_model()
        names = _names(folder, photos, set(model.images))
        on_photo = partial(progress, "features")
        add_photos(photos, folder.features, masks=masks, workers=workers, progress=on_photo)
        clock.lap("features")
        with lock.writer(folder.features), Catalog.create(folder.features) as catalog:
            leave_out_panoramas(catalog, model.images)
            given = None
            if not is_readable(folder.matches):  # the model knows which camera took which photo
                given = {i: image.camera for i, image in model.images.items()}
            new = {row.id for row in catalog.images() if row.path in names} - set(model.images)
            pairs = choose_pairs(catalog, new)
            match_photos(folder.matches, catalog, pairs, given, workers, seed, progress)
            clock.lap("matching")
            registered: list[int] = []
            unmoved: set[int] = set()
            if new & mapped_rows(catalog).keys():
                scale, old = median_scale(catalog), set(model.reg_image_ids())
                registered = _register(folder, model, scale, workers, seed, progress)
                pairs = [pair for pair, n in verified_pairs(folder.matches).items() if n]
                pairs = [pair for pair in pairs if not set(registered).isdisjoint(pair)]
                known = known_cameras(folder.matches)
                unmoved = set(examine(model, pairs, scale=scale, calibrated=known, fixed=old).flat)
                registered = [i for i in registered if i not in unmoved]
                leave_out(model, unmoved)
                if registered:
                    model.update_point_3d_errors()
                    ratio = measure_correlated_ratio(folder, record, model)
                    record = replace(record, systematic=ratio)
            clock.lap("mapping")
            report = summarize(
                model if registered else folder.read_model(),
                catalog,
                verified_pairs(folder.matches),
                added=new,
                unused=dict.fromkeys(unmoved, UNMOVED),
                warnings=record.summary.get("report", {}).get("warnings", ()),
                seconds=clock.seconds,
            )
            settings = record.summary.get("settings", {})
            settings = settings | {"matches": fingerprint(folder.matches)}
            record = with_summary(record, settings, report)
            if registered:
                folder.write(model, record)
            else:
                folder.write_record(record)
            return report


def _names(folder: MapFolder, photos: Sequence[Path], registered: set[int]) -> set[str]:
    """The names that photos have or get in the map; `InputError` if one that the map's model shows
    would be replaced, or two would have one name."""
    if not photos:
        raise InputError("no photos to add; name some files or folders")
    with Catalog.open(folder.features) as catalog:
        roots = catalog.roots()
        rows = {row.path: row for row in catalog.images()}
        places = {name: roots[row.root_id] / name for name, row in rows.items()}
    named: set[str] = set()
    for path in photos:
        for root, found in resolve(path, list(roots.values())):
            name, place = found.path, root.resolve() / found.path
            other = places.setdefault(name, place)
            if other != place:
                raise InputError(
                    f"{place} would have the name {name} in the map, which {other} has; rename it"
                )
            row = rows.get(name)
            mapped = row if row is not None and row.id in registered else None
            if mapped is not None and not is_intact(found.absolute, mapped.file.sha256):
                raise InputError(
                    f"{place} has changed since it was put into the map; give the new photo another "
                    "name, or make the map again"
                )
            named.add(name)
    return named


def _register(
    folder: MapFolder,
    model: pycolmap.Reconstruction,
    scale: float,
    workers: int | None,
    seed: int,
    progress: Progress,
) -> list[int]:
    """Extend `model` by the photos of the database that fit in; their ids."""
    before = {i: image.cam_from_world().matrix() for i, image in model.images.items()}
    options = pycolmap.IncrementalPipelineOptions()
    options.random_seed, options.num_threads = seed, workers or -1
    options.fix_existing_frames, options.constant_cameras = True, set(model.cameras)
    options.constant_rigs = set(model.rigs)
    scale_errors(options, scale)
    wanted = pycolmap.DatabaseCacheOptions()
    wanted.min_num_matches, wanted.load_all_images = options.min_num_matches, True
    with silence_colmap(), closing(pycolmap.Database.open(folder.matches)) as database:
        cache = pycolmap.DatabaseCache.create(database, wanted)
    total = cache.num_images() - len(before)
    progress("mapping", 0, total)
    try:
        with silence_colmap():
            registered = _extend(pycolmap.IncrementalMapper(cache), model, options, total, progress)
    except RuntimeError as error:
        raise DatabaseError(
            f"COLMAP failed on {folder.model} ({str(error).splitlines()[0]}); the old map is still there"
        ) from error
    for i, pose in before.items():
        moved = np.abs(model.images[i].cam_from_world().matrix() - pose).max()
        assert moved <= _UNCHANGED, f"image {i} moved by {moved}"
    progress("mapping", total, total)
    return registered


def _extend(
    mapper: pycolmap.IncrementalMapper,
    model: pycolmap.Reconstruction,
    options: pycolmap.IncrementalPipelineOptions,
    total: int,
    progress: Progress,
) -> list[int]:
    registering, making = options.get_mapper(), options.get_triangulation()
    mapper.begin_reconstruction(model)
    registered: list[int] = []

    def register_next() -> int | None:
        found = mapper.find_next_images(registering, structure_less=False)
        return next((int(i) for i in found if mapper.register_next_image(registering, i)), None)

    rounds = options.ba_local_max_refinements, options.ba_local_max_refinement_change
    while (image_id := register_next()) is not None:
        mapper.triangulate_image(making, image_id)
        how = registering, options.get_local_bundle_adjustment(), making
        mapper.iterative_local_refinement(*rounds, *how, image_id)
        registered.append(image_id)
        progress("mapping", len(registered), total)
    if registered:
        rounds = options.ba_global_max_refinements, options.ba_global_max_refinement_change
        how = registering, options.get_global_bundle_adjustment(), making
        mapper.iterative_global_refinement(*rounds, *how, normalize_reconstruction=False)
    mapper.end_reconstruction(False)
    for image_id in registered:
        if model.images[image_id].num_points3D < MIN_POINTS:
            model.deregister_frame(model.images[image_id].frame_id)
    return [image_id for image_id in registered if model.images[image_id].has_pose]
