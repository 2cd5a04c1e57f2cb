"""2D-3D matches of the photos of a rig with a map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from locate.errors import ImageError
from locate.geometry.rigid import compose, invert
from locate.localization.query_camera import QueryCamera
from locate.localization.rig import RigCamera
from locate.localization.verdict import MAX_SECOND_BEST, SURE_FACTOR, min_inliers
from locate.types import Array
from pipelines.localization.localizer import Localizer, MatchedPhoto
from pipelines.localization.matcher import Request

_NO_FOCAL = (
    "its focal length is not known, and it is not localized alone; give camera_model_name and "
    "camera_params in the rig's file"
)


@dataclass(frozen=True, eq=False)
class RigPhoto:
    """A photo of a rig and its 2D-3D matches with the map.

    Attributes:
        why: it tells nothing, or None.
        camera: that took it; None if nobody knows its focal length, then there are no matches.
        scale: its `extraction_scale`.
        keypoints: M x 2 in our pixels, of the 2D-3D matches.
        features, rows: M, which feature of the photo each is and which point of the map it sees.
        alone: how many different features agree with the photo's own pose.
        start: 3 x 4 `rig_from_world` by the photo alone, or None.
        sure: that pose is beyond doubt.
    """

    path: Path
    place: RigCamera
    why: str | None = None
    size: tuple[int, int] = (1, 1)
    camera: QueryCamera | None = None
    scale: float = 1.0
    keypoints: Array = field(default_factory=lambda: np.zeros((0, 2)))
    features: Array = field(default_factory=lambda: np.zeros(0, np.int64))
    rows: Array = field(default_factory=lambda: np.zeros(0, np.int64))
    alone: int = 0
    start: Array | None = None
    sure: bool = False

    def count(self, chosen: Array | slice = slice(None)) -> int:
        """Different features among the matches, or among some of them."""
        return len(np.unique(self.features[chosen]))


def match_rig(
    localizer: Localizer, photos: Sequence[tuple[Path, RigCamera]], request: Request
) -> list[RigPhoto]:
    """What the photos of a frame have in common with the map, one a core; `ImageError` if none of
    them can be used."""
    paths, cameras = [path for path, _ in photos], [place.camera for _, place in photos]
    found = [_no_sphere(one) for one in localizer.match_many(paths, cameras, request)]
    errors = [one for one in found if isinstance(one, ImageError)]
    if len(errors) == len(found):
        raise errors[0]
    return [
        RigPhoto(*photo, f"{one.reason}; {one.cure}")
        if isinstance(one, ImageError)
        else _of_rig(*photo, one)
        for photo, one in zip(photos, found, strict=True)
    ]


def _no_sphere(one: MatchedPhoto | ImageError) -> MatchedPhoto | ImageError:
    if isinstance(one, ImageError) or not one.camera.spherical:
        return one
    reason, cure = (
        "is a 360 degree photo, which a rig cannot hold",
        "localize it alone, without --rig",
    )
    return ImageError(one.path or "the photo", reason, cure)


def _of_rig(path: Path, place: RigCamera, one: MatchedPhoto) -> RigPhoto:
    """The matches with all places of the map, as another photo may tell which is right."""
    empty = RigPhoto(path, place, one.pose.reason, one.size, scale=one.scale)
    features, hypotheses = one.best.features, one.best.hypotheses
    if features is None:
        return empty
    pairs = np.unique(np.concatenate([np.c_[h.features, h.points] for h in hypotheses]), axis=0)
    first, count = hypotheses[0].solution, hypotheses[0].num_inliers
    enough = count >= SURE_FACTOR * min_inliers(len(np.unique(pairs[:, 0])))
    sure = enough and one.best.second_best <= MAX_SECOND_BEST * count
    camera = one.camera if one.camera.focal_known else None
    if first is not None and sure and (camera is None or first.camera.source != one.camera.source):
        camera = first.camera  # there was none, or EXIF is wrong
    if camera is None:
        return replace(empty, why=_NO_FOCAL, alone=count)
    start = None
    if first is not None:
        start = compose(invert(place.cam_from_rig), first.refined.cam_from_world)
    return replace(
        empty,
        why=None,
        camera=camera,
        keypoints=features.keypoints[pairs[:, 0]].astype(np.float64),
        features=pairs[:, 0],
        rows=pairs[:, 1],
        alone=count,
        start=start,
        sure=sure,
    )
