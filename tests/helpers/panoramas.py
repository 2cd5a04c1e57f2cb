"""360 degree photos of the rendered town, with exact cameras."""

from __future__ import annotations

import io
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from locate.geometry.rigid import rotation_of
from locate.types import Array
from pipelines.town.clutter import clutter
from pipelines.town.model import Camera
from pipelines.town.paint import seeded
from pipelines.town.render import render
from pipelines.town.scene import ELSEWHERE, LANDMARKS, build_site, horizon, meadow
from pipelines.town.view import plan_view

_MARGIN = 1.05  # of a face of the cube beyond 90 degrees, so that every ray has four neighbours
_FACES = [
    rotation_of(np.array(v) * np.pi / 2) for v in ((0, 0, 0), (0, 1, 0), (0, 2, 0), (0, 3, 0))
]
_FACES += [rotation_of(np.array(v) * np.pi / 2) for v in ((1, 0, 0), (-1, 0, 0))]


_place, _horizon, _meadow = lru_cache(build_site), lru_cache(horizon), lru_cache(meadow)


def level_rotation(yaw: float, roll: float = 0.0, pitch: float = 0.0) -> Array:
    """3 x 3 cam_from_world of a camera that looks `yaw` degrees clockwise from north in the town's world
    (x east, y north, z up), then tilted: pitch looks up, roll turns it clockwise."""
    a, b, c = np.radians([yaw, pitch, roll])
    level = np.array([[np.cos(a), -np.sin(a), 0], [0, 0, -1], [np.sin(a), np.cos(a), 0]])
    return rotation_of(np.array([0, 0, -c])) @ rotation_of(np.array([-b, 0, 0])) @ level


def sphere_rays(width: int, height: int) -> Array:
    """H W x 3: where each pixel of a panorama looks. Written anew here, as this is what is tested."""
    across, down = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    longitude = 2 * np.pi * across / width - np.pi
    colatitude = np.pi * down / height  # 0 straight up
    rays = [
        np.sin(colatitude) * np.sin(longitude),
        -np.cos(colatitude),
        np.sin(colatitude) * np.cos(longitude),
    ]
    return np.stack(rays, axis=-1).reshape(-1, 3)


def panorama_of_town(
    name: str,
    rotation: Array,
    width: int = 2000,
    *,
    offset: tuple[float, float, float] = (0.0, 0.0, 0.0),
    seed: int = 0,
    index: int = 6,
    parallax: float = 0.0,
    whole: bool = True,
) -> tuple[Array, Array]:
    """(H x W x 3 uint8, 3 x 4 cam_from_world) of a panorama taken where query `index` of a square was.

    Args:
        rotation: 3 x 3 cam_from_world.
        offset: metres from there.
        parallax: metres between the lenses that look forwards and backwards, as in cameras of two.
        whole: False draws the square alone, for speed.
    """
    where, sky = _place(seed, name), _horizon(seed)
    camera, light = plan_view(where, seed, index, 6, (800, 600))
    eye = camera.centre + offset
    names = (*LANDMARKS, *ELSEWHERE) if whole else (name,)
    faces = [_meadow(seed), *(f for n in names for f in _place(seed, n).faces)]
    rng = seeded(seed, "panorama", name, index)
    faces += clutter(rng, where.centre, eye, 7)
    side = width // 4
    focal = side / 2 / _MARGIN
    rays = sphere_rays(width, width // 2)
    axes = np.stack([face[2] for face in _FACES])
    owner = np.argmax(rays @ axes.T, axis=1)
    out = np.zeros((len(rays), 3), np.uint8)
    for number, face in enumerate(_FACES):
        turned = face @ rotation
        front = np.sign(face[2, 2].round())
        stand = eye + parallax / 2 * front * rotation[2]
        pinhole = Camera(side, side, focal, turned, -turned @ stand)
        picture = render(faces, pinhole, light, sky, rng, focus=where.centre).image
        mine = np.flatnonzero(owner == number)
        seen = rays[mine] @ face.T
        at = focal * seen[:, :2] / seen[:, 2:] + (side - 1) / 2
        mapped = at.astype(np.float32).reshape(-1, 1, 2)
        for i in range(0, len(mine), 30_000):  # OpenCV's remap ends at 32,767 rows
            part = cv2.remap(picture, mapped[i : i + 30_000], None, cv2.INTER_CUBIC)
            out[mine[i : i + 30_000]] = part[:, 0]
    pose = np.c_[rotation, -rotation @ eye]
    return out.reshape(width // 2, width, 3), pose


def xmp_of(**tags: object) -> bytes:
    """Photo Sphere XMP with these tags, half of them as attributes, half as elements."""
    names = list(tags)
    attributes = " ".join(f'GPano:{name}="{tags[name]}"' for name in names[::2])
    elements = "".join(f"<GPano:{name}>{tags[name]}</GPano:{name}>" for name in names[1::2])
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description '
        f'rdf:about="" xmlns:GPano="http://ns.google.com/photos/1.0/panorama/" {attributes}>'
        f'{elements}</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
    ).encode()


def save_panorama(path: Path, pixels: Array, xmp: bytes | None = None) -> Path:
    """As a JPEG, with XMP if given."""
    file = io.BytesIO()
    options = {} if xmp is None else {"xmp": xmp}
    Image.fromarray(pixels).save(file, "JPEG", quality=92, **options)
    path.write_bytes(file.getvalue())
    return path
