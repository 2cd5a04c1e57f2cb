"""Scenes and landmarks that no training has seen, with poses from our own maps of them: pseudo ground truth,
by RootSIFT with 8,192 keypoints a photo (`locate build-map --extractor gem+sift`). It is exact to a
fraction of what photos of 500 pixels allow, not more, and it is of photos that RootSIFT can put together:
what is better than RootSIFT there may be better by more. The photos of a scene are all of one camera, which is
told by EXIF; of web photos those are left out whose lens came out as none that there is, and whole maps
that are uncertain.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import poselib
import pycolmap
from PIL import Image

from benchmarks.common.differences import Row
from benchmarks.common.held_out import places_of
from index.maps.folder import MapFolder
from locate.datasets.records import PosedPhoto, Scene
from locate.errors import LocateError
from locate.extractors import registry
from locate.extractors.base import Extractor
from locate.geometry.rigid import compose, invert
from locate.images.reading import read_photo
from locate.mapping.triangulation import epipolar_errors, scene_depth
from locate.matching.descriptors import match_mutual, ratio_for
from locate.metrics.pose import pose_errors, rotation_error
from locate.pixels import to_colmap
from locate.training.data.photos import name_fraction
from locate.types import Array, Features
from pipelines.evaluation.localization import MapMaker, splits
from pipelines.mapping.build import build_map

AUC = (5, 10, 20)  # degrees
PAIRS, SHARED = 30, 20  # pairs of a scene at most, points that both photos of one see at least
FOLDS = 3  # of the photos of a scene, each localized in a map of the others
FAILED = (
    100.0,
    180.0,
)  # per cent of the depth and degrees that a photo counts which is not localized
_KINDS = {"scenes": "scene", "landmarks": "web"}
_KEYPOINTS, _PHOTOS = 8192, 8  # of the maps; photos that one must have
_RIGHT = 2.0  # pixels from the epipolar line


@dataclass(frozen=True, eq=False)
class Truth:
    """A scene with poses, how far it lies from its cameras in its unit, and by two positions of its photos,
    i < j, how many points both see."""

    kind: str
    scene: Scene
    depth: float
    shared: dict[tuple[int, int], int]


def scenes_with_poses(data: Path, work: Path) -> Iterator[Truth]:
    """Those whose map is a good one of enough photos; `work` keeps the maps."""
    for folder, kind in _KINDS.items():
        for place, photos in places_of(data, folder).items():
            if len(photos) < _PHOTOS:
                continue
            home = work / f"maps-{_KEYPOINTS}" / folder / place
            out = _mapped(home / "map", photos[0].parent)
            if out is not None and kind == "scene":  # by one photographer
                model = MapFolder(out).read_model()
                focals = [c.params[0] / max(c.width, c.height) for c in model.cameras.values()]
                tagged = tag_camera(photos, home / "photos", float(np.median(focals)))
                out = _mapped(home / "map-one-camera", tagged)
            if out is not None and MapFolder(out).read_record().doubt is None:
                truth = _truth(kind, place, photos[0].parent, out)
                if len(truth.scene.photos) >= _PHOTOS:
                    yield truth


def _mapped(out: Path, images: Path) -> Path | None:
    """A map, or None where no two photos can be put together; either is remembered."""
    none = out.with_suffix(".none")
    if not (MapFolder(out).exists() or none.exists()):
        sift = registry.create("gem+sift", {"max_keypoints": _KEYPOINTS})
        try:
            build_map(out, images=images, extractor=sift)
        except LocateError as error:
            out.parent.mkdir(parents=True, exist_ok=True)
            none.write_text(str(error))
    return None if none.exists() else out


def tag_camera(photos: Sequence[Path], folder: Path, focal: float) -> Path:
    """Copies of JPEG files, pixel for pixel, whose EXIF says that one camera took them all, with this
    focal length in long sides of the photo; `folder`."""
    exif = Image.Exif()
    exif[271], exif[272] = "locate", "one camera"
    exif.get_ifd(0x8769)[0xA405] = round(36 * focal)  # FocalLengthIn35mmFilm
    told = exif.tobytes()
    folder.mkdir(parents=True, exist_ok=True)
    for path in photos:
        stored = path.read_bytes()
        segment = b"\xff\xe1" + (len(told) + 2).to_bytes(2) + told
        (folder / path.name).write_bytes(stored[:2] + segment + stored[2:])
    return folder


def _truth(kind: str, place: str, folder: Path, out: Path) -> Truth:
    model = MapFolder(out).read_model()
    every = (model.images[i] for i in model.reg_image_ids())
    believed = (image for image in every if _is_lens(model.cameras[image.camera_id]))
    images = sorted(believed, key=lambda image: str(image.name))
    photos = tuple(
        PosedPhoto(
            Path(image.name).name,
            folder / Path(image.name).name,
            model.cameras[image.camera_id],
            np.asarray(image.cam_from_world().matrix()),
        )
        for image in images
    )
    seen = [{p.point3D_id for p in image.get_observation_points2D()} for image in images]
    ends = combinations(range(len(images)), 2)
    shared = {(i, j): len(seen[i] & seen[j]) for i, j in ends}
    scene = Scene(place, "colmap", photos, frozenset(), metric=False)
    return Truth(kind, scene, scene_depth(model), shared)


def _is_lens(camera: pycolmap.Camera) -> bool:
    """Whether it came out as one that there is: if not, its pose is not to be believed either. By the
    focal length in long sides, and how far it bends the middle of a short edge of the photo (COLMAP's
    SIMPLE_RADIAL: r (1 + k r^2))."""
    focal = camera.params[0] / max(camera.width, camera.height)
    return bool(0.5 < focal < 3 and abs(camera.params[-1]) * (0.5 / focal) ** 2 < 0.1)


def pair_scores(extractor: Extractor, data: Path, work: Path) -> list[Row]:
    """A row a pair of photos: of the matches that pass the extractor's ratio test the share and the
    number that are right, and the area under the curve of recall over the error of the relative pose
    (the larger one of rotation and direction), up to 5, 10 and 20 degrees; with the true cameras."""
    rows = []
    for truth in scenes_with_poses(data, work) if extractor.info.local_dim else ():
        photos, found = truth.scene.photos, dict[int, Features]()
        for i, j in _chosen(truth):
            for k in {i, j} - found.keys():
                opened = read_photo(photos[k].path)
                features = extractor.extract(opened.pixels, opened.info.size).features
                assert features is not None
                found[k] = features
            name = f"{truth.scene.name}/{photos[i].name}-{photos[j].name}"
            unit = f"{truth.scene.name}/{photos[i].name}"
            values = _pair(photos[i], photos[j], found[i], found[j], extractor)
            rows.append(Row((truth.kind, truth.scene.name), name, unit, values))
    return rows


def _chosen(truth: Truth) -> list[tuple[int, int]]:
    names = [photo.name for photo in truth.scene.photos]
    able = [pair for pair, count in truth.shared.items() if count >= SHARED]
    order = sorted(
        able, key=lambda p: name_fraction(f"{truth.scene.name} {names[p[0]]} {names[p[1]]}")
    )
    return sorted(order[:PAIRS])


def _pair(
    a: PosedPhoto, b: PosedPhoto, in_a: Features, in_b: Features, extractor: Extractor
) -> dict[str, float]:
    ratio = ratio_for("map", extractor.info)
    matches = match_mutual(in_a.descriptors, in_b.descriptors, ratio)
    ends = [
        to_colmap(features.keypoints[column].astype(np.float64))
        for features, column in zip((in_a, in_b), matches.T, strict=True)
    ]
    error = relative_pose_error(a, b, *ends)
    rays = (p.camera.cam_from_img(points) for p, points in zip((a, b), ends, strict=True))
    right = epipolar_errors(a, b, *rays) <= _RIGHT if len(matches) else np.zeros(0, np.bool_)
    return {
        "right matches": float(right.mean()) if len(right) else 0.0,
        "number": float(right.sum()),
        **{f"AUC@{most}": max(0.0, 1 - error / most) for most in AUC},
    }


def relative_pose_error(a: PosedPhoto, b: PosedPhoto, points_a: Array, points_b: Array) -> float:
    """Of the pose that PoseLib finds from M matches, M x 2 each in COLMAP's pixels: the larger one of the
    errors of its rotation and of the direction between the cameras, in degrees, 180 for none."""
    if len(points_a) < 5:
        return 180.0
    found, _ = poselib.estimate_relative_pose(
        points_a,
        points_b,
        _poselib_camera(a.camera),
        _poselib_camera(b.camera),
        {"max_epipolar_error": 2.0, "max_iterations": 10000, "seed": 0},
        {},
    )
    true = compose(b.cam_from_world, invert(a.cam_from_world))
    pose = np.c_[found.R, found.t]
    if not np.isfinite(pose).all() or not np.linalg.norm(found.t):
        return 180.0
    cosine = pose[:, 3] @ true[:, 3] / np.linalg.norm(pose[:, 3]) / np.linalg.norm(true[:, 3])
    direction = float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))
    return max(rotation_error(pose, true), direction)


def _poselib_camera(camera: pycolmap.Camera) -> dict[str, object]:
    size = {"width": camera.width, "height": camera.height}
    return {"model": camera.model.name, "params": camera.params.tolist(), **size}


def pose_scores(extractor: Extractor, data: Path, work: Path) -> list[Row]:
    """A row a photo, localized as `locate evaluate localization` does, with its true camera, in a map of
    the photos of the other folds on their poses."""
    rows = []
    for truth in scenes_with_poses(data, work) if extractor.info.local_dim else ():
        asked: list[PosedPhoto] = []
        found: list[Array | None] = []
        with MapMaker(extractor) as make:
            for queries, mapped in splits(truth.scene, folds=FOLDS):
                localize = make(truth.scene, mapped)
                asked += queries
                found += [localize(query.path, query.camera) for query in queries]
        errors = pose_errors(found, [query.cam_from_world for query in asked])
        for query, position, degrees in zip(asked, *errors, strict=True):
            name = f"{truth.scene.name}/{query.name}"
            values = {
                "position, % of depth": min(100 * float(position) / truth.depth, FAILED[0]),
                "degrees": min(float(degrees), FAILED[1]),
            }
            rows.append(Row((truth.kind, truth.scene.name), name, name, values))
    return rows
