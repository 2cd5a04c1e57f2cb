"""Where the town's pictures are taken from and in what light: one camera, one sky, one picture."""

from __future__ import annotations

import numpy as np

from locate.types import Array
from pipelines.town.clutter import clutter
from pipelines.town.model import Camera, Face, Light, Sky
from pipelines.town.paint import Rng, seeded
from pipelines.town.render import Rendering, render
from pipelines.town.scene import Site

Color = tuple[float, float, float]
Size = tuple[int, int]  # width, height, pixels

# An hour and its weather: the sun's height and how far it stands to one side of the camera (degrees),
# the sun, what is around, zenith and horizon (linear RGB), exposure and cloud cover.
# fmt: off
MOODS: dict[str, tuple[float, float, Color, Color, Color, Color, float, float]] = {
    "noon": (54, 35, (2.5, 2.36, 2.1), (0.52, 0.62, 0.8), (0.10, 0.26, 0.62),
             (0.62, 0.76, 0.92), 0.95, 0.5),
    "morning": (28, 55, (2.5, 2.0, 1.4), (0.42, 0.5, 0.66), (0.16, 0.33, 0.62),
                (0.86, 0.8, 0.72), 1.0, 0.42),
    "veiled": (48, 40, (0.75, 0.75, 0.74), (0.95, 1.0, 1.08), (0.5, 0.56, 0.64),
               (0.78, 0.8, 0.83), 1.0, 0.85),
    "evening": (17, 48, (2.7, 1.6, 0.8), (0.4, 0.44, 0.62), (0.2, 0.32, 0.56),
                (1.0, 0.66, 0.42), 1.05, 0.5),
    "clear": (42, 60, (2.6, 2.4, 2.05), (0.46, 0.58, 0.82), (0.06, 0.2, 0.56),
              (0.5, 0.68, 0.9), 0.95, 0.3),
    "dusk": (7, 40, (0.55, 0.26, 0.16), (0.30, 0.36, 0.58), (0.08, 0.12, 0.32),
             (0.86, 0.46, 0.34), 1.3, 0.55),
}
# fmt: on


def camera_at(eye: Array, target: Array, roll: float, focal: float, size: Size) -> Camera:
    """A camera at eye (3,) metres whose axis meets target (3,) metres; roll: radians."""
    forward = (target - eye) / np.linalg.norm(target - eye)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    down = np.cross(forward, right)
    c, s = np.cos(roll), np.sin(roll)
    rotation = np.stack([c * right + s * down, c * down - s * right, forward])
    return Camera(*size, focal, rotation, -rotation @ eye)


def plan_view(site: Site, seed: int, index: int, count: int, size: Size) -> tuple[Camera, Light]:
    """Camera and light of picture `index` of `count`; index == count is the held-out query."""
    rng = seeded(seed, "view", site.name, index)
    query = index >= count
    # the arc in equal steps, shuffled in distance by a fixed pattern so that 01 is a fair portrait
    step = 0.0 if query or count == 1 else 2 * index / (count - 1) - 1
    turn = np.radians(rng.uniform(-24, 24) if query else 33 * step + rng.uniform(-2, 2))
    spread = rng.uniform(1.0, 1.3) if query else (0.95, 1.25, 1.02, 1.45, 0.9, 1.15)[index % 6]
    away = site.building.distance * (spread + rng.uniform(-0.03, 0.03))
    azimuth = site.heading - np.pi / 2 + turn
    rise = rng.choice([1.6, 1.7, 2.4, 4.5, 6.5]) + rng.uniform(0, 0.3)
    eye = np.add(site.centre, (away * np.cos(azimuth), away * np.sin(azimuth), rise))
    # pictures are rarely centred
    aim = site.target + rng.normal(0, 1, 3) * (0.8, 0.8, 0.4)
    roll = float(np.radians(np.clip(rng.normal(0, 2.0), -4.5, 4.5)))
    focal = float(rng.choice([33, 34, 35, 36])) / 36 * max(size)
    mood = tuple(MOODS)[(index + len(site.name)) % 6]
    if query:
        mood = str(rng.choice(["morning", "veiled", "evening", "clear"]))
    return camera_at(eye, aim, roll, focal, size), _light(rng, mood, azimuth)


def _light(rng: Rng, mood: str, towards: float) -> Light:
    """A light of that mood; towards: azimuth from the building to the camera, radians."""
    height, aside, sun, ambient, zenith, horizon, exposure, cover = MOODS[mood]
    side = rng.choice([-1, 1])
    up = np.radians(height + rng.uniform(-4, 4))
    around = towards + side * np.radians(aside + rng.uniform(-15, 15))
    warmth = 1 + rng.uniform(-0.06, 0.06) * np.array([1.0, 0.0, -1.0])
    hazy = mood in ("veiled", "evening")
    return Light(
        sun=np.array([np.cos(up) * np.cos(around), np.cos(up) * np.sin(around), np.sin(up)]),
        sun_rgb=np.array(sun) * warmth,
        ambient_rgb=np.array(ambient) * warmth,
        zenith_rgb=np.array(zenith),
        horizon_rgb=np.array(horizon),
        exposure=exposure * rng.uniform(0.85, 1.15),
        contrast=rng.uniform(0.9, 1.08),
        haze_m=rng.uniform(260, 420) if hazy else rng.uniform(500, 1200),
        glow=1.5 if mood == "dusk" else 0.0,
        grain=rng.uniform(1.0, 3.0),
        cloud_turn=rng.uniform(0, 2 * np.pi),
        cloud_cover=float(np.clip(cover + rng.uniform(-0.08, 0.08), 0, 1)),
    )


def photograph_one(
    faces: list[Face], site: Site, sky: Sky, seed: int, index: int, count: int, size: Size
) -> tuple[Camera, Rendering]:
    """Picture `index` of a site among the standing `faces` of the town, with its own clutter."""
    camera, light = plan_view(site, seed, index, count, size)
    rng = seeded(seed, "clutter", site.name, index)
    extra = clutter(rng, site.centre, camera.centre, site.building.busy if index >= count else 7)
    picture = render([*faces, *extra], camera, light, sky, rng, focus=site.centre)
    return camera, picture
