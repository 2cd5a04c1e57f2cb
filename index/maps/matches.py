"""The verified matches of a map on disk: a COLMAP database.

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
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pycolmap

from index.records import ImageRow
from locate.errors import DatabaseError
from locate.types import Array

_MAX_IMAGES = 2147483647  # COLMAP's kMaxNumImages: pair id = that * smaller image id + larger one

Pair = tuple[int, int]
KeyedCamera = tuple[tuple[object, ...], pycolmap.Camera]
log = logging.getLogger("locate")


def update_images(
    path: Path,
    rows: Mapping[int, ImageRow],
    given: Mapping[int, pycolmap.Camera],
    camera_of: Callable[[ImageRow], KeyedCamera],
    keypoints_of: Callable[[int], Array],
) -> None:
    """Bring the images of the database at `path` up to date with the catalogue (`rows` by id): what
    belongs to photos that are gone goes, and a database that is damaged is made anew. Cameras are those
    `given` by image id, or of `camera_of`, of which photos of equal keys share one; keypoints are K x 2
    in COLMAP's pixels by image id."""

    def keyed(row: ImageRow) -> KeyedCamera:
        camera = given.get(row.id)
        return camera_of(row) if camera is None else (_values(camera), camera)

    with translate_errors(path):
        if path.exists() and not is_readable(path):
            log.warning("%s was damaged; its photos are matched again", path)
            delete(path)
        with closing(pycolmap.Database.open(path)) as database:
            known = {image.image_id: image.camera_id for image in database.read_all_images()}
            # What a killed run began to write has no keypoints yet, which come last.
            stale = {i for i in known if not database.exists_keypoints(i)}
            cameras = {camera.camera_id: _values(camera) for camera in database.read_all_cameras()}
        stale |= known.keys() - rows.keys()
        stale |= {i for i in given.keys() & known if cameras[known[i]] != _values(given[i])}
        _remove(path, stale)
        ids = {i: known[i] for i in known.keys() - stale}
        with closing(pycolmap.Database.open(path)) as database:
            _add_images(database, rows, ids, keyed, keypoints_of)


def _add_images(
    database: pycolmap.Database,
    rows: Mapping[int, ImageRow],
    ids: Mapping[int, int],
    camera_of: Callable[[ImageRow], KeyedCamera],
    keypoints_of: Callable[[int], Array],
) -> None:
    """Write the images that the database lacks; `ids` are of the cameras of those that it has, by
    image id."""
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
        database.write_keypoints(image_id, keypoints_of(image_id).astype(np.float32))


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
                own = f"pair_id / {_MAX_IMAGES} = ? OR pair_id % {_MAX_IMAGES} = ?"
                connection.execute(f"DELETE FROM {table} WHERE {own}", (i, i))
            for table in ("keypoints", "frame_data", "frames", "images"):
                column = "frame_id" if "frame" in table else "image_id"
                connection.execute(f"DELETE FROM {table} WHERE {column} = ?", (i,))
        used = "NOT IN (SELECT camera_id FROM images)"
        connection.execute(f"DELETE FROM rigs WHERE rig_id {used}")
        connection.execute(f"DELETE FROM cameras WHERE camera_id {used}")


def verified_pairs(path: Path) -> dict[Pair, int]:
    """How many matches of each stored pair agree with one motion of the camera; 0 for none."""
    with translate_errors(path), closing(sqlite3.connect(path)) as connection:
        rows = connection.execute("SELECT pair_id, rows FROM two_view_geometries ORDER BY pair_id")
        return {divmod(pair_id, _MAX_IMAGES): count for pair_id, count in rows}


def fingerprint(path: Path) -> str:
    """A hash that changes with anything that mapping starts from."""
    digest = hashlib.sha256()
    with translate_errors(path), closing(sqlite3.connect(path)) as connection:
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
def translate_errors(path: Path) -> Iterator[None]:
    """Errors of SQLite, COLMAP and the system as ours, with the cure."""
    try:
        yield
    except (sqlite3.Error, OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DatabaseError(
            f"cannot read or write {path} ({reason}); check the disk and permissions and run the "
            "same command again: what was matched is kept"
        ) from error
