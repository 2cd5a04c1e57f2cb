"""What each photo of a rig has in common with a map: all that
`pipelines.localization.rig_localizer` takes from `Localizer`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from locate.errors import ImageError
from locate.extractors.rotated import extract_turned
from locate.geometry.rigid import compose, invert
from locate.images.masks import hidden
from locate.images.reading import read_photo
from locate.localization.query_camera import QueryCamera, choose_camera
from locate.localization.rig import RigCamera
from locate.localization.verdict import RIVAL, SURE, needed
from locate.types import Array, Features
from locate.util.timing import Clock
from pipelines.localization.localizer import Localizer, PriorPose, Try

_DARK = "no features were found: a plain, dark or blurred photo"
_NOWHERE = "no image of the map is near the prior pose, or all of those are excluded"
_NO_FOCAL = (
    "its focal length is not known, and it is not localized alone; give camera_model_name and "
    "camera_params in the rig's file"
)


@dataclass(frozen=True, eq=False)
class Seen:
    """What a photo and the map have in common.

    Attributes:
        path, place: the photo and its camera in the rig.
        why: it tells nothing, or None.
        size: (width, height) of the photo in pixels.
        camera: that took it; None if nobody knows its focal length, then there are no matches.
        scale: how many pixels of the photo one is that the extractor looks at.
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


def look_at_all(
    localizer: Localizer,
    photos: Sequence[tuple[Path, RigCamera]],
    *,
    prior: PriorPose | None,
    count: int,
    exclude: Callable[[str], bool] | None,
    seed: int,
) -> list[Seen]:
    """Look at the photos of a frame, one a core.

    Raises:
        ImageError: none of them can be used.
    """
    allowed = localizer._allowed(prior, exclude)

    def look(photo: tuple[Path, RigCamera]) -> Seen | ImageError:
        try:
            return _look(localizer, *photo, allowed, count, seed)
        except ImageError as error:
            return error

    with localizer._blas.limit(limits=1, user_api="blas"):
        found = list(localizer._pool.map(look, photos))
    errors = [one for one in found if isinstance(one, ImageError)]
    if len(errors) == len(found):
        raise errors[0]
    return [
        Seen(*photo, f"{one.reason}; {one.cure}") if isinstance(one, ImageError) else one
        for photo, one in zip(photos, found, strict=True)
    ]


def agreeing_images(localizer: Localizer, rows: Array) -> tuple[str, ...]:
    """Names of the map's images that see points of these rows, most first."""
    return localizer._agreeing_images(rows)


def _look(
    localizer: Localizer, path: Path, place: RigCamera, allowed: Array, count: int, seed: int
) -> Seen:
    """The photo turned as most of its matches agree with a pose of its own."""
    extractor = localizer._load()
    opened, mask = hidden(read_photo(path, extractor.max_side), localizer.masks)
    size = opened.info.size
    camera = choose_camera(opened.info, place.camera, name=str(path), known=localizer.map.devices)
    if camera.spherical:
        raise ImageError(
            path,
            "is a 360 degree photo, which a rig cannot hold",
            "localize it alone, without --rig",
        )
    best = Seen(path, place, _DARK, size, scale=localizer.map.scale_of(size))
    if not len(allowed):
        return replace(best, why=_NOWHERE)
    upright: Features | None = None
    for rotation in (0, 90, 180, 270):
        invariant = upright is not None and extractor.info.rotation_invariant
        if rotation and invariant and len(allowed) <= count:
            break  # the same features and the same candidates again
        looked = extract_turned(
            extractor, opened.pixels, size, rotation, local=not invariant, mask=mask
        )
        features = upright if invariant else looked.features
        upright = upright or features
        if features is None or not len(features):
            break
        rows = localizer._shortlist(looked.global_descriptor, features, allowed, count)
        tries = localizer._tries(features, rows, camera, best.scale, seed, map, Clock())
        seen = _seen(best, features, tries, camera)
        if best.why == _DARK or seen.alone > best.alone:
            best = seen
        if best.sure:
            break
    return best


def _seen(empty: Seen, features: Features, tries: list[Try], given: QueryCamera) -> Seen:
    """The matches with all places of the map, as another photo may tell which is right."""
    pairs = np.unique(
        np.concatenate([np.c_[t.matches.features, t.matches.points] for t in tries]), axis=0
    )
    first, count = tries[0].solution, tries[0].count
    rival = tries[1].count if len(tries) > 1 else 0
    sure = count >= SURE * needed(len(np.unique(pairs[:, 0]))) and rival <= RIVAL * count
    camera = given if given.focal_known else None
    if first is not None and sure and (camera is None or first.camera.source != given.source):
        camera = first.camera  # there was none, or EXIF is wrong
    if camera is None:
        return replace(empty, why=_NO_FOCAL, alone=count)
    start = None
    if first is not None:
        start = compose(invert(empty.place.cam_from_rig), first.refined.cam_from_world)
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
