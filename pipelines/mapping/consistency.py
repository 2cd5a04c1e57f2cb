"""Whether given poses fit the photos: their matches, found without the poses, are the witnesses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pycolmap

from index.catalog import Catalog
from index.maps.matches import Pair
from locate.datasets.records import PosedPhoto
from locate.errors import NoMapError
from locate.geometry.cameras import colmap_camera
from locate.mapping.triangulation import epipolar_errors
from locate.types import Array

# Share of the verified matches of a pair, in the median of pairs, that agree with the given poses:
# nearly all with true ones, few with poses that were shuffled, inverted or mirrored.
MIN_FIT = 0.6
MIN_PHOTO_FIT = 0.3  # of the pairs of one photo, which is left out otherwise
# Far subjects and short baselines forgive wrong focal lengths. They show in that others fit better at a
# quarter of the tolerance.
FOCAL_FACTORS = (0.5, 0.6, 0.7, 0.8, 0.9, 1.1, 1.25, 1.4, 1.6, 2.0)
FOCAL_GAIN = 0.25
_FOCAL_PAIRS = 50  # are enough to judge by
_CAUSES = (
    "Likely causes: poses written as world_from_cam where COLMAP has cam_from_world; names or order of "
    "images mixed up; intrinsics of another size or of undistorted photos; axes of another convention"
)


@dataclass(frozen=True, eq=False)
class PoseConsistency:
    """How the matches of posed photos, by image id, agree with the poses, up to `max_error` pixels."""

    catalog: Catalog
    database: pycolmap.Database
    photos: Mapping[int, PosedPhoto]
    max_error: float

    def tentative(self, pair: Pair) -> Array:
        """M x 2 indices of features."""
        return np.asarray(self.database.read_matches(*pair), np.int64).reshape(-1, 2)

    def inconsistent_images(self, pairs: Sequence[Pair]) -> dict[int, str]:
        """Why photos should be left out, by id, because their poses contradict their matches;
        `NoMapError` if most do, or no two photos agree."""
        shares = {pair: share for pair in pairs if (share := self._fit(pair)) is not None}
        if not shares:
            raise NoMapError(
                "the model does not fit the photos: no two photos that should see the same by their "
                f"poses have verified matches. {_CAUSES}"
            )
        fit = float(np.median(list(shares.values())))
        if fit < MIN_FIT:
            raise NoMapError(
                f"the model does not fit the photos: of the matches of a pair of photos, {fit:.0%} "
                f"agree with the poses (median of {len(shares)} pairs; of a good model 90 % or more). "
                f"{_CAUSES}"
            )
        self._require_focal_lengths(list(shares))
        reasons = {}
        for i in self.photos:
            own = [share for pair, share in shares.items() if i in pair]
            if len(own) > 1 and np.median(own) < MIN_PHOTO_FIT:
                reasons[i] = (
                    f"its pose does not fit: of its matches with another photo, {np.median(own):.0%} "
                    f"agree (median of {len(own)} pairs)"
                )
        return reasons

    def _require_focal_lengths(self, pairs: Sequence[Pair]) -> None:
        some = pairs[:: -(-len(pairs) // _FOCAL_PAIRS)]

        def fit(factor: float) -> float:
            return float(np.median([self._fit(pair, 0.25, factor) or 0.0 for pair in some]))

        given, fits = fit(1.0), {factor: fit(factor) for factor in FOCAL_FACTORS}
        best = max(fits, key=lambda factor: fits[factor])
        if fits[best] > given + FOCAL_GAIN:
            raise NoMapError(
                f"the model does not fit the photos: {given:.0%} of the matches of a pair agree closely "
                f"with the poses, but {fits[best]:.0%} would if focal lengths were {best:g} times as "
                "long; check the cameras"
            )

    def _fit(self, pair: Pair, tolerance: float = 1.0, focal_factor: float = 1.0) -> float | None:
        """Which share of a pair's verified matches, found without poses, agree with the poses, up to
        a share of `max_error`; None without any, or of photos from one place, which leaves matches
        free."""
        geometry = self.database.read_two_view_geometry(*pair)
        matches = np.asarray(geometry.inlier_matches, np.int64).reshape(-1, 2)
        if len(matches) == 0:
            return None
        a, b = (_zoomed(self.photos[i], focal_factor) for i in pair)
        rays = [
            photo.camera.cam_from_img(
                np.asarray(self.database.read_keypoints(i), np.float64)[matches[:, k], :2]
            )
            for k, (i, photo) in enumerate(zip(pair, (a, b), strict=True))
        ]
        errors = epipolar_errors(a, b, *rays)
        if np.isinf(errors).all():
            return None
        return float((errors <= tolerance * self.max_error).mean())


def _zoomed(photo: PosedPhoto, factor: float) -> PosedPhoto:
    params = np.array(photo.camera.params)
    params[photo.camera.focal_length_idxs()] *= factor
    return replace(photo, camera=colmap_camera(photo.camera, params))
