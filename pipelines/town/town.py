"""A made-up town, photographed: the demo's photo folder and an exact ground truth.

    from pipelines.town.town import make_town
    town = make_town(Path("runs/town"))     # about half a minute on one core

Written: landmarks/<name>/01.jpg ..., queries/*.jpg, truth.json and colmap/*.txt (see `files`). The two
buildings of queries/elsewhere-*.jpg stand in no picture of their own under landmarks/; one query is
turned by 90 degrees and has no EXIF orientation.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from locate.types import Array
from locate.util.parallel import ordered_map
from pipelines.town.files import Shot, save, write_colmap, write_truth
from pipelines.town.model import Camera
from pipelines.town.paint import seeded
from pipelines.town.scene import ELSEWHERE, LANDMARKS, Site, build_site, horizon, meadow
from pipelines.town.view import photograph_one

# A picture to take: its file, its site, the name if that is a landmark, which view (see plan_view).
_View = tuple[str, Site, str | None, int]


@dataclass(frozen=True)
class Town:
    """What make_town wrote, or found: created is False where there was nothing left to do."""

    root: Path
    created: bool
    landmarks: tuple[str, ...]
    shots: tuple[Shot, ...]


def make_town(
    out: Path,
    *,
    seed: int = 0,
    landmarks: int = 8,
    views: int = 6,
    size: tuple[int, int] = (800, 600),
) -> Town:
    """Render the town into `out`; a complete town of the same settings is left as it is.

    size: (width, height) pixels. Same settings, same bytes.
    """
    if not 1 <= landmarks <= len(LANDMARKS):
        raise ValueError(f"landmarks is {landmarks}; this town has 1 to {len(LANDMARKS)}")
    if not 1 <= views <= 99:
        raise ValueError(f"views is {views}; give 1 to 99 per landmark")
    if min(size) < 32:
        raise ValueError(f"size is {size[0]} x {size[1]}; give at least 32 x 32 pixels")
    settings = {"seed": seed, "landmarks": landmarks, "views": views, "size": list(size)}
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; name a folder for the town")
    if out.is_dir() and any(out.iterdir()):
        return _existing(out, settings)
    names = tuple(LANDMARKS)[:landmarks]
    out.parent.mkdir(parents=True, exist_ok=True)
    unfinished = out.parent / f".{out.name}.partial-{os.getpid()}"
    unfinished.mkdir()
    try:
        shots = _photograph(unfinished, names, seed, views, size)
        write_colmap(unfinished / "colmap", shots)
        write_truth(unfinished / "truth.json", shots, names, settings)
        unfinished.replace(out)  # an empty folder of that name gives way
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    return Town(out, True, names, tuple(shots))


def _existing(out: Path, settings: dict[str, Any]) -> Town:
    """The town already at out, if it is this one."""
    truth = out / "truth.json"
    if not truth.is_file():
        raise ValueError(f"{out} is not empty and is no town (no truth.json); name another folder")
    data = json.loads(truth.read_text(encoding="utf-8"))
    found = data.get("settings") if isinstance(data, dict) else None
    if found != settings:
        what = f"a town made with {found}, not {settings}"
        raise ValueError(f"{out} holds {what}; name another folder")
    shots = tuple(map(Shot.from_json, data["images"]))
    missing = [s.file for s in shots if not (out / s.file).is_file()]
    if missing:
        raise ValueError(f"{out} lacks {missing[0]} and {len(missing) - 1} more; delete it")
    return Town(out, False, tuple(data["landmarks"]), shots)


def _photograph(
    root: Path, names: tuple[str, ...], seed: int, views: int, size: tuple[int, int]
) -> list[Shot]:
    """Render and save every picture of the town.

    Each picture has its own generator and only reads the scene, so threads change no byte of it.
    """
    workers = min(4, os.cpu_count() or 1)
    sites = list(ordered_map(partial(build_site, seed), (*names, *ELSEWHERE), workers, start=None))
    faces = [meadow(seed), *(f for site in sites for f in site.faces)]
    sky = horizon(seed)
    turned = names[seeded(seed, "turned").integers(len(names))]
    for name in names:
        (root / "landmarks" / name).mkdir(parents=True)
    (root / "queries").mkdir()

    def take(item: tuple[int, _View]) -> Shot:
        count, (file, site, landmark, number) = item
        camera, picture = photograph_one(faces, site, sky, seed, number, views, size)
        image = picture.image
        if number > views:
            camera, image = _turned(camera, image)
        return save(root, file, landmark, camera, image, count)

    wanted = enumerate(_views(sites, names, turned, views))
    return list(ordered_map(take, wanted, workers, start=None))


def _views(sites: Sequence[Site], names: Sequence[str], turned: str, views: int) -> Iterator[_View]:
    """Every picture in the order of the truth: per site its views, its query, its turned query."""
    for site in sites:
        landmark = site.name if site.name in names else None
        for i in range(views if landmark else 0):
            yield f"landmarks/{site.name}/{i + 1:02d}.jpg", site, landmark, i
        yield f"queries/{site.name}.jpg", site, landmark, views
        if landmark == turned:
            yield f"queries/{site.name}-turned.jpg", site, landmark, views + 1


def _turned(camera: Camera, image: Array) -> tuple[Camera, Array]:
    """The picture turned by 90 degrees to the left, and the camera that would have taken it.

    Pixel (x, y) goes to (y, w - 1 - x): the camera's x axis becomes its old y, its y the old -x.
    """
    turn = np.array([[0.0, 1.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    pose = turn @ camera.rotation, turn @ camera.translation
    moved = Camera(camera.height, camera.width, camera.focal, *pose)
    return moved, np.ascontiguousarray(np.rot90(image))
