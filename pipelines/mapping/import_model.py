"""`locate import-map`: a map of photos whose cameras and poses are known, from a COLMAP model.

Cameras and poses are kept as they are; the model's own points are not read. Our features are matched and
triangulated on the poses (`locate.mapping.triangulation`). The cameras of a rig come out one by
one, each with its own pose.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap

from index import lock
from index.catalog import Catalog
from index.maps.folder import MapRecord, Progress
from index.maps.matches import Pair, fingerprint, verified_pairs
from index.records import ImageRow
from locate.datasets.records import PosedPhoto
from locate.errors import InputError, NoMapError
from locate.extractors.base import Extractor
from locate.formats.colmap import PoseModel, read_model
from locate.geometry.cameras import refuse_spheres
from locate.georef.georef import metric_by_gps
from locate.images.folder import photo_file
from locate.mapping.structure import JUDGED, MIN_POINTS, examine, examine_matches, nothing_moved
from locate.mapping.triangulation import choose_pairs, triangulate
from locate.util.printable import first_few
from locate.util.timing import Clock
from pipelines.indexing.build import IndexBuilder
from pipelines.indexing.labels import label_rule
from pipelines.mapping import features
from pipelines.mapping.build import MAX_ERROR, cached_report, with_summary
from pipelines.mapping.consistency import PoseConsistency
from pipelines.mapping.covariance_calibration import measure_correlated_ratio
from pipelines.mapping.matching import match_photos
from pipelines.mapping.model_photos import named_by_path, present, require_places
from pipelines.mapping.summary import MapReport, summarize

MADE_BY = "import-map"


def import_map(
    model: Path,
    images: Path,
    out: Path,
    *,
    extractor: str | Extractor | None = None,
    weights: Sequence[Path] = (),
    settings: Mapping[str, Any] | None = None,
    metric: bool = False,
    masks: Path | str | None = None,
    skip_missing: bool = False,
    workers: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> MapReport:
    """Make a map of photos on given poses; what a killed run has finished is kept.

    Args:
        model: folder of a COLMAP model, text or binary.
        images: the folder that the model's image names are relative to.
        extractor, weights, settings, masks: as for `build_index`.
        metric: the unit of the poses is the metre.
        skip_missing: go on without the photos that are not in `images`.
        out, workers, seed, progress: see `pipelines.mapping.build.build_map`.

    Raises:
        InputError: the model is damaged, or does not fit the photos; the message says how it shows.
        DatabaseError: the map cannot be written, or is another's.
    """
    posed = named_by_path(model, read_model(model))
    refuse_spheres(model, posed.cameras)
    posed, missing = present(model, images, posed, skip=skip_missing)
    require_places(model, posed)
    progress = progress or (lambda _stage, _done, _total: None)
    folder, clock = features.init_map_folder(out, MADE_BY), Clock()
    with lock.writer(out), lock.writer(folder.features), Catalog.create(folder.features) as catalog:
        folder.recover()
        root = catalog.add_root(images)
        given = workers, partial(progress, "features"), extractor, weights
        rule = label_rule("folder")
        builder = IndexBuilder(
            catalog, rule, *given, settings=settings, masks=masks, quantize=False
        )
        features.require_local(features.require_info(catalog))
        builder.index({root: [photo_file(images / name, images) for name in sorted(posed.poses)]})
        builder.finish()
        features.require_unique_names(catalog, {root})
        clock.lap("features")
        photos = _posed(catalog, root, images, posed)
        ids = list(photos)
        pairs = [(ids[a], ids[b]) for a, b in choose_pairs(list(photos.values()))]
        cameras = {i: photo.camera for i, photo in photos.items()}
        match_photos(folder.matches, catalog, pairs, cameras, workers, seed, progress)
        clock.lap("matching")
        settings = {
            "matches": fingerprint(folder.matches),
            "poses": _hash_of(posed),
            "metric": metric,
            "missing": sorted(missing),
            "seed": seed,
            "structure": JUDGED,
        }
        finished = cached_report(folder, settings)
        if finished is not None:
            return replace(finished, warnings=(*posed.notes, *finished.warnings))
        progress("mapping", 0, len(photos))
        verified = {p: n for p, n in verified_pairs(folder.matches).items() if n}
        with closing(pycolmap.Database.open(folder.matches)) as database:
            max_error = MAX_ERROR * features.median_scale(catalog)
            witness = PoseConsistency(catalog, database, photos, max_error)
            inconsistent = witness.inconsistent_images(pairs)
            fitting = {i: photo for i, photo in photos.items() if i not in inconsistent}
            made = _triangulated(witness, fitting, pairs, verified, seed)
        doubt = _doubt(made, verified, witness.max_error / MAX_ERROR)
        units = "metre" if metric else "arbitrary"
        record = MapRecord(MADE_BY, features.require_info(catalog).name, units, doubt=doubt)
        record = replace(record, systematic=measure_correlated_ratio(folder, record, made))
        progress("mapping", len(photos), len(photos))
        clock.lap("mapping")
        names = {row.id: row.path for row in catalog.images("ok")}
        why = "not in the model that was imported; put it in with: locate add-to-map"
        others = {i: why for i, name in names.items() if name not in posed.poses}
        report = summarize(
            made,
            catalog,
            verified_pairs(folder.matches),
            unused=others | inconsistent,
            warnings=([f"uncertain: {doubt}"] if doubt else [])
            + (metric_by_gps(made, features.gps_of(catalog)) if metric else []),
            seconds=clock.seconds,
        )
        reasons = dict.fromkeys(missing, f"is not in {images}") | dict(report.unregistered)
        more = len(reasons) - len(report.unregistered)
        report = replace(report, images=report.images + more, unregistered=tuple(reasons.items()))
        folder.write(made, with_summary(record, settings, report))
        return replace(report, warnings=(*posed.notes, *report.warnings))


def _posed(catalog: Catalog, root: int, images: Path, posed: PoseModel) -> dict[int, PosedPhoto]:
    """The photos that have features, by id, ascending, with the camera and pose of the model."""
    photos: dict[int, PosedPhoto] = {}
    rows = [r for r in catalog.images("ok") if r.root_id == root and r.path in posed.poses]
    each = ((row.path, _fault(row, posed.cameras[row.path])) for row in rows)
    faults = [f"{name} {fault}" for name, fault in each if fault is not None]
    if faults:
        raise InputError(
            f"{len(faults)} of the {len(posed.poses)} photos are not as the model's cameras saw them: "
            f"{first_few(faults, '; ')}. Give the photos that the model was made of, not resized and "
            "not turned; where only EXIF turns them, copies without that tag (exiftool -Orientation=)"
        )
    for i, row in features.mapped_rows(catalog).items():
        if row.root_id == root and row.path in posed.poses:
            camera = posed.cameras[row.path]
            camera.has_prior_focal_length = True
            photos[i] = PosedPhoto(row.path, images / row.path, camera, posed.poses[row.path])
    if len(photos) < 2:
        unreadable = [f"{row.path}: {row.error}" for row in catalog.images("failed")]
        raise NoMapError(
            f"only {len(photos)} of the {len(posed.poses)} photos can be used "
            f"({first_few(unreadable, '; ') or 'no local features'}); a map needs two or more"
        )
    return photos


def _fault(row: ImageRow, camera: pycolmap.Camera) -> str | None:
    """How a photo, turned as its EXIF says, is not the one that the camera took. Some versions of
    COLMAP turn photos, some do not; where sizes do not tell, nothing does."""
    size = (camera.width, camera.height)
    if row.info.size != size:
        turned = " (turned by EXIF)" if row.info.orientation != 1 else ""
        own, other = (f"{width} x {height} px" for width, height in (row.info.size, size))
        return f"is {own}{turned}, its camera {other}"
    if row.info.orientation in (2, 3, 4) or (row.info.orientation != 1 and size[0] == size[1]):
        return f"is turned by EXIF (orientation {row.info.orientation})"
    return None


def _doubt(model: pycolmap.Reconstruction, pairs: Iterable[Pair], scale: float) -> str | None:
    """Why the places of the cameras are uncertain although they were given."""
    found = examine(model, pairs, scale=scale, calibrated=set(model.cameras))
    if not found.nothing:
        return None
    return (
        "what the photos have in common is explained by turning the camera on one spot, though by the "
        f"model the cameras stand apart; nothing in the {model.num_reg_images()} photos confirms that"
    )


def _triangulated(
    witness: PoseConsistency,
    photos: Mapping[int, PosedPhoto],
    pairs: Sequence[Pair],
    verified: Mapping[Pair, int],
    seed: int,
) -> pycolmap.Reconstruction:
    """The given poses and our points, under the ids of the catalogue."""
    ids = list(photos)
    place = {image_id: k for k, image_id in enumerate(ids)}
    found = triangulate(
        list(photos.values()),
        [witness.catalog.features(i) for i in ids],
        lambda a, b: witness.tentative((ids[a], ids[b])),
        pairs=[(place[i], place[j]) for i, j in pairs if i in place and j in place],
        max_error=witness.max_error,
        seed=seed,
    )
    count = found.num_points3D()
    if found.compute_num_observations() < MIN_POINTS * len(photos):
        turned = examine_matches(witness.database, verified, scale=witness.max_error / MAX_ERROR)
        if turned is not None and turned > 0.5:
            told = nothing_moved(len(photos), turned)
            raise NoMapError(f"only {count} points can be triangulated: {told}")
    if count == 0:
        raise NoMapError(
            "no point can be triangulated: the photos see nothing in common from different places; "
            "take more photos, or use another extractor"
        )
    images = {image.image_id: image for image in witness.database.read_all_images()}
    made = pycolmap.Reconstruction()
    for k, image_id in enumerate(ids, 1):
        camera_id, image = images[image_id].camera_id, found.images[k]
        if not made.exists_camera(camera_id):
            made.add_camera_with_trivial_rig(witness.database.read_camera(camera_id))
        points = np.array([point.xy for point in image.points2D]).reshape(-1, 2)
        ids_of = {"camera_id": camera_id, "image_id": image_id}
        own = pycolmap.Image(name=image.name, keypoints=points, **ids_of)
        made.add_image_with_trivial_frame(own, pycolmap.Rigid3d(photos[image_id].cam_from_world))
    for _, point in sorted(found.points3D.items()):
        track = pycolmap.Track()
        for element in point.track.elements:
            track.add_element(ids[element.image_id - 1], element.point2D_idx)
        made.add_point3D(point.xyz, track)
    made.update_point_3d_errors()
    return made


def _hash_of(posed: PoseModel) -> str:
    digest = hashlib.sha256()
    for name in sorted(posed.poses):
        camera = posed.cameras[name]
        digest.update(repr((name, camera.model_name, camera.width, camera.height)).encode())
        digest.update(np.asarray(camera.params, np.float64).tobytes())
        digest.update(np.ascontiguousarray(posed.poses[name], np.float64).tobytes())
    return digest.hexdigest()
