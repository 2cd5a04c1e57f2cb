"""Scenes with true camera poses, as benchmarks of visual localization lay them out on disk.

    layout      a scene is a folder with
    colmap      a COLMAP model (text or binary) in colmap_gt/, sparse/0/, sparse/, model/ or itself, its
                photos in images/, rgb/ or itself, and maybe a list of queries (queries.txt, ...): one
                name a line, optionally followed by MODEL WIDTH HEIGHT PARAMS of its camera
    cambridge   dataset_train.txt, dataset_test.txt, reconstruction.nvm (Kendall et al., ICCV 2015)
    7scenes     TrainSplit.txt, TestSplit.txt, seq-01/frame-000000.color.png and .pose.txt, ...
                (Shotton et al., CVPR 2013)

A folder of such scenes is read as all of them. Photos of the same scene must not be turned or resized:
their size is held against the camera's when they are read.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path

import numpy as np
import pycolmap
from PIL import Image, UnidentifiedImageError

from locate.datasets.records import PosedPhoto, Scene, named
from locate.errors import ImageError, InputError, UnknownNameError
from locate.formats.colmap import is_model, make_camera, read_model
from locate.formats.text import fault, numbers, pose_matrix, read_lines
from locate.geometry.cameras import refuse_spheres
from locate.geometry.rigid import invert
from locate.types import Array

# Scenes whose unit is not the metre: fox (instant-ngp) has the scale of its own reconstruction.
UNSCALED = frozenset({"fox"})

_MODELS = ("colmap_gt", "sparse/0", "sparse", "model", ".")
_PHOTOS = ("images", "rgb", ".")
_CAMBRIDGE = ("dataset_train.txt", "dataset_test.txt", "reconstruction.nvm")
_QUERIES = ("queries.txt", "queries_with_intrinsics.txt", "list_test.txt", "test.txt")


def find_scenes(
    folder: Path, layout: str = "auto", unscaled: Collection[str] = UNSCALED
) -> tuple[Scene, ...]:
    """The scene in `folder`, or those in its subfolders, by name. `layout` is one of `LAYOUTS`, or
    "auto"; `unscaled` are names of scenes whose unit is not the metre. `InputError` if there is none
    (the message says what each layout lacks), or a file is damaged."""
    if layout not in ("auto", *LAYOUTS):
        raise UnknownNameError("layout of localization data", layout, ("auto", *LAYOUTS))
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder; name one that holds a scene with poses")
    tried = LAYOUTS if layout == "auto" else {layout: LAYOUTS[layout]}
    folder = folder.resolve()  # "." has no name
    subfolders = sorted(path for path in folder.iterdir() if path.is_dir())
    for places in ([folder], subfolders):
        scenes = []
        for place in places:
            read = next((read for missing, read in tried.values() if not missing(place)), None)
            if read is not None:
                scenes.append(read(place, place.name not in unscaled))
        if scenes:
            return tuple(scenes)
    lacks = "; ".join(f"{name}: {missing(folder)}" for name, (missing, _) in tried.items())
    here = f"{folder.name}: no known layout here or in its subfolders"
    raise InputError(f"{here}. Missing for {lacks}")


def _scene(
    folder: Path,
    layout: str,
    posed: Iterable[PosedPhoto],
    queries: Collection[str],
    metric: bool,
    notes: Iterable[str] = (),
) -> Scene:
    """A scene of the photos that are there."""
    posed = sorted(posed, key=lambda photo: photo.name)
    there = tuple(photo for photo in posed if photo.path.is_file())
    missing = [photo.name for photo in posed if not photo.path.is_file()]
    if not there:
        first = posed[0].path if posed else folder
        raise InputError(f"{folder.name}: none of its {len(posed)} photos is there ({first}, ...)")
    notes = list(notes)
    if missing:
        count = f"{len(missing)} photos are missing and left out"
        notes.append(f"{folder.name}: {count} ({named(missing)})")
    kept = frozenset(photo.name for photo in there if photo.name in queries)
    return Scene(folder.name, layout, there, kept, metric, tuple(notes))


def _read_colmap(folder: Path, metric: bool) -> Scene:
    model = read_model(next(folder / place for place in _MODELS if is_model(folder / place)))
    places = [folder / place for place in _PHOTOS]
    has_photos = (place for place in places if any((place / n).is_file() for n in model.poses))
    photos = next(has_photos, places[0])
    cameras = dict(model.cameras)
    listed = next((folder / name for name in _QUERIES if (folder / name).is_file()), None)
    queries: list[str] = []
    if listed is not None:
        own = _read_queries(listed, model.poses)
        queries = list(own)
        cameras |= {name: camera for name, camera in own.items() if camera is not None}
    refuse_spheres(folder, {name: cameras[name] for name in model.poses if name not in queries})
    posed = [
        PosedPhoto(name, photos / name, cameras[name], pose) for name, pose in model.poses.items()
    ]
    return _scene(folder, "colmap", posed, queries, metric, model.notes)


def _read_queries(path: Path, poses: Mapping[str, Array]) -> dict[str, pycolmap.Camera | None]:
    """The names of a list of queries, with the cameras that stand there."""
    queries: dict[str, pycolmap.Camera | None] = {}
    for number, line in _lines(path):
        if line.startswith("#"):
            continue
        name, *camera = line.split()
        if name not in poses:
            raise fault(path, number, "expected the name of an image of the model", name)
        if camera and len(camera) < 4:
            raise fault(path, number, "expected name [MODEL WIDTH HEIGHT PARAMS]", line)
        queries[name] = make_camera(path, number, camera) if camera else None
    return queries


def _read_cambridge(folder: Path, metric: bool) -> Scene:
    """Lines are name x y z w p q r: the camera's centre and the rotation from the world to it. The focal
    length and the distortion come from VisualSFM's model, whose radial distortion runs the other way
    (x_undistorted = (1 + k r^2) x_distorted), so that to first order COLMAP's is -k."""
    lenses = _read_nvm(folder / "reconstruction.nvm")
    posed, queries, unknown = [], [], 0
    for split in ("train", "test"):
        path = folder / f"dataset_{split}.txt"
        for number, line in _lines(path):
            if number <= 3:  # the heading
                continue
            fields = line.split()
            if len(fields) != 8:
                raise fault(path, number, "expected name x y z w p q r", line)
            name = fields[0]
            values = numbers(path, number, fields[1:])
            rotation = pose_matrix(path, number, [*values[3:], 0.0, 0.0, 0.0])[:, :3]
            lens = lenses.get(str(Path(name).with_suffix("")))
            if lens is None:
                unknown += 1
                continue
            pose = np.c_[rotation, -rotation @ values[:3]]
            camera = pycolmap.Camera()
            if (folder / name).is_file():
                w, h = _photo_size(folder / name)
                params = [lens[0], w / 2, h / 2, -lens[1]]
                camera = pycolmap.Camera(model="SIMPLE_RADIAL", width=w, height=h, params=params)
            posed.append(PosedPhoto(name, folder / name, camera, pose))
            queries += [name] if split == "test" else []
    notes = [f"{folder.name}: {unknown} photos without a focal length in the model are left out"]
    return _scene(folder, "cambridge", posed, queries, metric, notes if unknown else ())


def _read_nvm(path: Path) -> dict[str, tuple[float, float]]:
    """(focal length in pixels, radial distortion) by image name without its ending."""
    lines = _lines(path)
    if len(lines) < 2 or not lines[0][1].startswith("NVM_V3"):
        raise InputError(f"{path}: expected a model of VisualSFM that begins with NVM_V3")
    count = int(numbers(path, lines[1][0], [lines[1][1]])[0])
    lenses = {}
    for number, line in lines[2 : 2 + count]:
        name, *fields = line.split()
        if len(fields) < 9:
            raise fault(path, number, "expected name f qw qx qy qz x y z k 0", line)
        values = numbers(path, number, fields)
        lenses[str(Path(name).with_suffix(""))] = (values[0], values[8])
    return lenses


def _photo_size(path: Path) -> tuple[int, int]:
    try:
        with Image.open(path) as image:
            return image.size
    except (OSError, UnidentifiedImageError) as error:
        raise ImageError(path, f"cannot be read ({error})", "copy it again") from error


def _read_seven_scenes(folder: Path, metric: bool) -> Scene:
    """A frame's pose file is 4 x 4 world_from_cam. The cameras were not calibrated: the focal length is
    the 525 px that the literature uses for the colour image."""
    params = [525.0, 320.0, 240.0]
    camera = pycolmap.Camera(model="SIMPLE_PINHOLE", width=640, height=480, params=params)
    posed, queries = [], []
    for split in ("Train", "Test"):
        path = folder / f"{split}Split.txt"
        for number, line in _lines(path):
            digits = "".join(c for c in line if c.isdigit())
            if not digits:
                raise fault(path, number, "expected a line such as sequence1", line)
            sequence = f"seq-{int(digits):02d}"
            for file in sorted((folder / sequence).glob("frame-*.pose.txt")):
                name = f"{sequence}/{file.name.removesuffix('.pose.txt')}.color.png"
                posed.append(PosedPhoto(name, folder / name, camera, invert(_read_matrix(file))))
                queries += [name] if split == "Test" else []
    return _scene(folder, "7scenes", posed, queries, metric)


def _read_matrix(path: Path) -> Array:
    rows = [numbers(path, number, line.split()) for number, line in _lines(path)]
    if [len(row) for row in rows] != [4] * 4:
        raise InputError(f"{path}: expected a 4 x 4 matrix")
    return np.array(rows)


def _lines(path: Path) -> list[tuple[int, str]]:
    """Those that are not empty, with their numbers."""
    return [(number, line) for number, line in enumerate(read_lines(path), 1) if line]


def _colmap_missing(folder: Path) -> str:
    found = any(is_model(folder / place) for place in _MODELS)
    return "" if found else f"cameras and images (.txt or .bin) in one of {', '.join(_MODELS)}"


def _missing(*names: str) -> Callable[[Path], str]:
    return lambda folder: ", ".join(name for name in names if not (folder / name).is_file())


Layout = tuple[Callable[[Path], str], Callable[[Path, bool], Scene]]  # what is missing; the reader

LAYOUTS: Mapping[str, Layout] = {
    "colmap": (_colmap_missing, _read_colmap),
    "cambridge": (_missing(*_CAMBRIDGE), _read_cambridge),
    "7scenes": (_missing("TrainSplit.txt", "TestSplit.txt"), _read_seven_scenes),
}
