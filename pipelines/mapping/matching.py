"""Verified matches between the photos of a map: the COLMAP database that mapping starts from.

An image of that database, and of the model that is made of it, has the id that its photo has in the
catalogue. Such an id is never used again and what it shows never changes: a pair that is stored is never
matched again, and the pairs of a photo that was changed are. Pairs that do not fit are stored as well,
with no inliers.

Python's SQLite and pycolmap's own take turns: two libraries must not hold one file open in one process.
"""

from __future__ import annotations

import hashlib
import logging
import sqlite3
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import lru_cache
from pathlib import Path

import numpy as np
import pycolmap
from threadpoolctl import ThreadpoolController

from index.catalog import Catalog
from index.records import ImageRow
from locate.errors import DatabaseError
from locate.images.focal_length import exif_focal
from locate.localization.query_camera import device_of
from locate.matching.descriptors import match_mutual, ratio_for
from locate.matching.overlays import on_overlay
from locate.matching.two_view import MAX_EPIPOLAR_ERROR, distinct_matches
from locate.pixels import to_colmap
from locate.types import Array
from locate.util.parallel import ordered_map
from pipelines.indexing.provenance import working_side
from pipelines.mapping.features import mapped_rows, require_info

# COLMAP's 15 inliers and 4 px suit its larger images; here they let pairs of different scenes pass.
MIN_INLIERS = 20
PRIOR_FOCAL = 1.2  # times the long side: COLMAP's guess where EXIF says nothing
_MAX_IMAGES = 2147483647  # COLMAP's kMaxNumImages: pair id = that * smaller image id + larger one

Pair = tuple[int, int]
log = logging.getLogger("locate")


def exif_camera(row: ImageRow) -> tuple[tuple[object, ...], pycolmap.Camera]:
    """What a photo's EXIF says about its camera: photos of equal keys share one. Without a camera and a
    focal length in it, and if it was cropped, every photo has a camera of its own."""
    info, (width, height) = row.info, row.info.size
    device, told = device_of(info), exif_focal(info)
    lens = device is not None and (device.focal_35mm or device.focal_mm)
    focal = told.pixels if told else PRIOR_FOCAL * max(width, height)
    camera = pycolmap.Camera.create_from_model_name(row.id, "SIMPLE_RADIAL", focal, width, height)
    camera.has_prior_focal_length = told is not None and not told.doubt
    return (device,) if lens else (row.id,), camera


def synchronize(
    path: Path, catalog: Catalog, given: Mapping[int, pycolmap.Camera] | None = None
) -> None:
    """Bring the images of the database at `path` up to date with the catalogue; what belongs to photos
    that are gone goes, and a database that is damaged is made anew.

    Args:
        given: calibrated cameras by image id; others are as EXIF says.
    """
    rows, given = mapped_rows(catalog), given or {}
    with _translate_errors(path):
        if path.exists() and not is_readable(path):
            log.warning("%s was damaged; its photos are matched again", path)
            delete(path)
        with closing(pycolmap.Database.open(path)) as database:
            known = {image.image_id: image for image in database.read_all_images()}
            # What a killed run began to write has no keypoints yet, which come last.
            stale = {i for i in known if not database.exists_keypoints(i)}
            cameras = {camera.camera_id: camera for camera in database.read_all_cameras()}
        stale |= known.keys() - rows.keys()
        stale |= {
            image_id
            for image_id, camera in given.items()
            if image_id in known and _values(cameras[known[image_id].camera_id]) != _values(camera)
        }
        _remove(path, stale)
        ids = {image_id: known[image_id].camera_id for image_id in known.keys() - stale}
        with closing(pycolmap.Database.open(path)) as database:
            _add_images(database, catalog, rows, ids, given)


def _add_images(
    database: pycolmap.Database,
    catalog: Catalog,
    rows: Mapping[int, ImageRow],
    ids: Mapping[int, int],
    given: Mapping[int, pycolmap.Camera],
) -> None:
    """Write the images that the database lacks.

    Args:
        ids: of the cameras of those that it has, by image id.
    """

    def camera_of(row: ImageRow) -> tuple[tuple[object, ...], pycolmap.Camera]:
        camera = given.get(row.id)
        return exif_camera(row) if camera is None else (_values(camera), camera)

    cameras = {camera_of(rows[i])[0]: ids[i] for i in sorted(ids, reverse=True)}
    for image_id in sorted(rows.keys() - ids.keys()):
        row = rows[image_id]
        key, camera = camera_of(row)
        if key not in cameras:
            has_id = camera.camera_id != pycolmap.INVALID_CAMERA_ID
            cameras[key] = camera.camera_id if has_id else image_id
            _write_camera(database, camera, cameras[key])
        image = pycolmap.Image(name=row.path, camera_id=cameras[key], image_id=image_id)
        database.write_image(image, use_image_id=True)
        frame = pycolmap.Frame(frame_id=image_id, rig_id=cameras[key])
        sensor = pycolmap.sensor_t(pycolmap.SensorType.CAMERA, cameras[key])
        frame.add_data_id(pycolmap.data_t(sensor, image_id))
        database.write_frame(frame, use_frame_id=True)
        points = to_colmap(catalog.features(image_id).keypoints.astype(np.float64))
        database.write_keypoints(image_id, points.astype(np.float32))


def _write_camera(database: pycolmap.Database, camera: pycolmap.Camera, camera_id: int) -> None:
    own = pycolmap.Camera(camera.todict() | {"camera_id": camera_id})
    database.write_camera(own, use_camera_id=True)
    rig = pycolmap.Rig(rig_id=camera_id)
    rig.add_ref_sensor(own.sensor_id)
    database.write_rig(rig, use_rig_id=True)


def _values(camera: pycolmap.Camera) -> tuple[object, ...]:
    return (camera.model, camera.width, camera.height, *camera.params)


def _remove(path: Path, image_ids: Collection[int]) -> None:
    """Delete images with their pairs, and the cameras that no other image has."""
    with closing(sqlite3.connect(path)) as connection, connection:
        for i in image_ids:
            for table in ("matches", "two_view_geometries"):
                connection.execute(
                    f"DELETE FROM {table} WHERE pair_id / {_MAX_IMAGES} = ? "
                    f"OR pair_id % {_MAX_IMAGES} = ?",
                    (i, i),
                )
            for table, column in (
                ("keypoints", "image_id"),
                ("frame_data", "frame_id"),
                ("frames", "frame_id"),
                ("images", "image_id"),
            ):
                connection.execute(f"DELETE FROM {table} WHERE {column} = ?", (i,))
        used = "NOT IN (SELECT camera_id FROM images)"
        connection.execute(f"DELETE FROM rigs WHERE rig_id {used}")
        connection.execute(f"DELETE FROM cameras WHERE camera_id {used}")


def match_pairs(
    path: Path,
    catalog: Catalog,
    pairs: Sequence[Pair],
    *,
    workers: int | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> None:
    """Match and verify those of `pairs` that are not stored yet; each is stored as soon as it is done.

    Args:
        workers: threads; by default one a core.
        seed: of every RANSAC.
        progress: called with (done, in all) from this thread.
    """
    stored = verified_pairs(path)
    todo = [pair for pair in pairs if pair not in stored]
    if not todo:
        return
    side = working_side(catalog)
    ratio = ratio_for("map", require_info(catalog))  # in the order of ids
    features = lru_cache(maxsize=128)(catalog.features)
    with _translate_errors(path), closing(pycolmap.Database.open(path)) as database:
        cameras = {camera.camera_id: camera for camera in database.read_all_cameras()}
        camera_of = {
            image.image_id: cameras[image.camera_id] for image in database.read_all_images()
        }

        def verify(pair: Pair) -> tuple[Array, pycolmap.TwoViewGeometry]:
            seen = [features(i) for i in pair]
            matches = match_mutual(seen[0].descriptors, seen[1].descriptors, ratio)
            scale = max(1.0, max(max(f.image_size) for f in seen) / side)
            points = [to_colmap(f.keypoints.astype(np.float64)) for f in seen]
            lenses = [camera_of[i] for i in pair]
            found = _geometry(points, matches, lenses, scale, seed)
            # What lies on an overlay is not stored either: on known poses it would become points.
            on = on_overlay(seen[0], seen[1], matches, side)
            if not on.any():
                return matches, found
            matches = matches[~on]
            return matches, _geometry(points, matches, lenses, scale, seed)

        with (
            ThreadpoolController().limit(limits=1, user_api="blas"),
            closing(ordered_map(verify, todo, workers)) as verified,
        ):
            for done, (pair, (matches, geometry)) in enumerate(zip(todo, verified, strict=True), 1):
                # pycolmap's transactions end the process on a full disk. A pair counts as stored
                # with its geometry, which comes last.
                if not database.exists_matches(*pair):
                    database.write_matches(*pair, matches.astype(np.uint32))
                database.write_two_view_geometry(*pair, geometry)
                progress(done, len(todo))


def _geometry(
    points: Sequence[Array],
    matches: Array,
    cameras: Sequence[pycolmap.Camera],
    scale: float,
    seed: int,
) -> pycolmap.TwoViewGeometry:
    """The motion that most matches agree with; one without inliers if too few do.

    Args:
        points: K x 2 of each photo, COLMAP's pixels.
        matches: M x 2 indices of points.
        scale: pixels of the photo in one that the extractor looks at.
    """
    options = pycolmap.TwoViewGeometryOptions()
    options.min_num_inliers, options.detect_watermark = MIN_INLIERS, False
    options.ransac.max_error = MAX_EPIPOLAR_ERROR * scale
    options.ransac.random_seed = seed
    if len(matches) >= MIN_INLIERS:
        found = pycolmap.estimate_two_view_geometry(
            cameras[0], points[0], cameras[1], points[1], matches.astype(np.uint32), options
        )
        agree = np.asarray(found.inlier_matches, np.int64).reshape(-1, 2)
        spots = [p[agree[:, k]] / scale for k, p in enumerate(points)]
        if len(distinct_matches(*spots)) >= MIN_INLIERS:
            return found
    none = pycolmap.TwoViewGeometry()
    none.config = pycolmap.TwoViewGeometryConfiguration.DEGENERATE
    return none


def verified_pairs(path: Path) -> dict[Pair, int]:
    """How many matches of each stored pair agree with one motion of the camera; 0 for none."""
    with _translate_errors(path), closing(sqlite3.connect(path)) as connection:
        rows = connection.execute("SELECT pair_id, rows FROM two_view_geometries ORDER BY pair_id")
        return {divmod(pair_id, _MAX_IMAGES): count for pair_id, count in rows}


def fingerprint(path: Path) -> str:
    """A hash that changes with anything that mapping starts from."""
    digest = hashlib.sha256()
    with _translate_errors(path), closing(sqlite3.connect(path)) as connection:
        for columns, rest in (
            ("camera_id, model, width, height, params, prior_focal_length", "cameras"),
            ("image_id, name, camera_id", "images"),
            ("pair_id, config, data", "two_view_geometries WHERE rows > 0"),
        ):
            query = f"SELECT {columns} FROM {rest} ORDER BY 1"
            for row in connection.execute(query):
                digest.update(repr(row).encode())
    return digest.hexdigest()


def delete(path: Path) -> None:
    """Delete the database."""
    for end in ("", "-wal", "-shm"):
        Path(f"{path}{end}").unlink(missing_ok=True)


def is_readable(path: Path) -> bool:
    """Whether there is a database at `path` that can be read."""
    if not path.is_file():
        return False
    try:
        with closing(sqlite3.connect(path)) as connection:
            (found,) = connection.execute("PRAGMA quick_check").fetchone()
            connection.execute("SELECT 1 FROM two_view_geometries LIMIT 1")
    except sqlite3.DatabaseError:
        return False
    return bool(found == "ok")


@contextmanager
def _translate_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DatabaseError(
            f"cannot read or write {path} ({reason}); check the disk and permissions and run the "
            "same command again: what was matched is kept"
        ) from error
