"""A map in memory, ready for queries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pycolmap

from index.catalog import FILE, Catalog
from index.maps.folder import MapFolder, MapRecord
from locate.errors import DatabaseCorruptError, DatabaseMissingError
from locate.extractors.base import ExtractorInfo
from locate.geometry.cameras import colmap_camera
from locate.geometry.rigid import centers_of
from locate.localization.query_camera import Device, device_of
from locate.localization.refinement import CORRELATED_RATIO
from locate.mapping.triangulation import observed_points
from locate.pixels import extraction_scale
from locate.types import Array
from pipelines.indexing.provenance import working_side


@dataclass(frozen=True, eq=False)
class MapImage:
    """A photo of the map that has a pose: its name and id of the catalogue, descriptors (N x D), and
    which row of the map's points each feature sees (N int64; -1 for none)."""

    name: str
    id: int
    descriptors: Array
    point_rows: Array


class ReferenceMap:
    """All of a map that queries need, among it its `MapRecord`, model and extractor: P x 3 float64
    points and how many photos see each; its N images in the order of their names, as rows of the
    cameras' centers and directions (N x 3, unit vectors along the optical axes) and of the global
    descriptors (N x G float32, or None). Its `resolution` is the median of its photos'
    (`solver.ratio_at_resolution`), its `depth` the median distance of a point from a camera that
    sees it, in units of the map."""

    def __init__(
        self,
        folder: Path,
        record: MapRecord | None = None,
        model: pycolmap.Reconstruction | None = None,
    ) -> None:
        """`record` and `model`: of a map without any yet. DatabaseMissingError,
        DatabaseCorruptError."""
        files = MapFolder(folder)
        self.folder = files.folder
        self.record = record or files.read_record()
        self.model = model or files.read_model()
        measured = self.record.systematic
        self.correlated_ratio = CORRELATED_RATIO if measured is None else measured
        ids = sorted(self.model.point3D_ids())
        if not ids:
            raise DatabaseMissingError(f"the map at {folder} has no points; make it again")
        row_of = {point_id: row for row, point_id in enumerate(ids)}
        self.points = np.array([self.model.point3D(i).xyz for i in ids], np.float64)
        self.track_lengths = np.array([self.model.point3D(i).track.length() for i in ids])
        if not (files.features / FILE).is_file():
            raise DatabaseCorruptError(f"{files.features / FILE} is gone; make the map again")
        with Catalog.open(files.features) as catalog:
            stored = catalog.meta("extractor")
            if stored is None:
                raise DatabaseCorruptError(f"{files.features} holds nothing; make the map again")
            self.extractor_info = ExtractorInfo.from_json(stored)
            # A photo that was changed since has another id: its features are not those of the model.
            rows = {row.id: row for row in catalog.images("ok")}
            self.images: list[MapImage] = []
            poses, cameras = [], dict[Device, dict[int, pycolmap.Camera]]()
            self._side, resolved = working_side(catalog), []
            for image in sorted(self.model.images.values(), key=lambda image: image.name):
                row = rows.get(image.image_id)
                if not image.has_pose or row is None or row.path != image.name:
                    continue
                features, count = catalog.features(row.id), image.num_points2D()
                if count != len(features):
                    raise DatabaseCorruptError(
                        f"{files.folder}: {image.name} has {count} keypoints in the model, but "
                        f"{len(features)} features; make the map again"
                    )
                seen = observed_points(image, row_of)
                self.images.append(
                    MapImage(image.name, row.id, features.descriptors.astype(np.float16), seen)
                )
                poses.append(image.cam_from_world().matrix())
                focal = image.camera.mean_focal_length()
                resolved.append(focal / self.extraction_scale(row.info.size))
                device = device_of(row.info) if row.info else None
                if device is not None:
                    cameras.setdefault(device, {})[image.camera_id] = image.camera
            if not self.images:
                raise DatabaseCorruptError(
                    f"none of the model's images is in {files.features}; make the map again"
                )
            found = catalog.vectors_of([image.id for image in self.images])
        # By EXIF's names; where each photo has a camera of its own, none is that of another photo.
        self.devices = {
            device: colmap_camera(camera)
            for device, (camera, *others) in ((d, c.values()) for d, c in cameras.items())
            if not others
        }
        whole = len(found) == len(self.images)
        self.vectors = np.stack([found[i.id] for i in self.images]) if whole and found else None
        stack = np.array(poses)  # the optical axis in the world is the last row of R
        self.centers, self.directions = centers_of(stack), stack[:, 2, :3]
        self.resolution = float(np.median(resolved))
        seen_by = ((self.seen(k), center) for k, center in enumerate(self.centers))
        depths = [np.linalg.norm(self.points[s] - c, axis=1) for s, c in seen_by if len(s)]
        self.depth = float(np.median([np.median(d) for d in depths])) if depths else float("nan")

    def extraction_scale(self, size: tuple[int, int]) -> float:
        """`locate.pixels.extraction_scale` of a photo of that size."""
        return extraction_scale(max(size), self._side)

    def seen(self, row: int) -> Array:
        """Rows of the points that an image sees, ascending."""
        rows = self.images[row].point_rows
        return np.unique(rows[rows >= 0])

    def clusters(self, rows: Sequence[int]) -> list[list[int]]:
        """Groups of images linked by points that two see, the largest first, each in the order of
        `rows`."""
        seen = {row: self.seen(row) for row in rows}
        groups: list[list[int]] = []

        def shares(row: int, group: list[int]) -> bool:
            return any(np.intersect1d(seen[row], seen[other], True).size for other in group)

        for row in rows:
            linked = [group for group in groups if shares(row, group)]
            merged = [row, *(other for group in linked for other in group)]
            groups = [group for group in groups if group not in linked] + [merged]
        place = {row: i for i, row in enumerate(rows)}
        return [sorted(group, key=place.__getitem__) for group in sorted(groups, key=len)[::-1]]

    def near(self, center: Array, direction: Array | None, radius: float, angle: float) -> Array:
        """Rows of the images whose cameras stand within `radius` of a place and, if a direction is
        given, look within `angle` degrees of it."""
        close = np.linalg.norm(self.centers - center, axis=1) <= radius
        if direction is not None:
            close &= self.directions @ direction >= np.cos(np.radians(angle))
        return np.flatnonzero(close)
