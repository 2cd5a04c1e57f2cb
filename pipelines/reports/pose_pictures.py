"""Localized photos as pictures: what was seen over where the map says it is, and the map from above."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import pycolmap
from PIL import Image, ImageDraw

from locate.errors import ImageError
from locate.geometry.camera_models import SPHERICAL, is_spherical
from locate.geometry.cameras import colmap_camera
from locate.geometry.panorama import nearest_turn, panorama_of
from locate.georef.georef import Georef
from locate.localization.pose import LOCALIZED, NOT_LOCALIZED, UNCERTAIN, Pose
from locate.pixels import fit_size, from_colmap, resize_points
from locate.types import Array, Photo, PhotoInfo
from locate.util.files import atomic_write
from pipelines.reports.canvas import spread_evenly
from pipelines.reports.map_viewer import MapScene, ShownCamera, make_scene
from pipelines.reports.picture_io import Picture, encode_jpeg, read_picture
from pipelines.reports.text import drawable, elided, load_font

VERDICT_COLOURS = {  # RGB, as of the verdicts of retrieval
    LOCALIZED: (26, 127, 55),
    UNCERTAIN: (154, 103, 0),
    NOT_LOCALIZED: (188, 48, 48),
}
MAX_MARKS = 400  # inliers drawn
_RED = 2.0  # pixels, the least error that is drawn in red
BAR_HEIGHT = 64  # pixels above the photo
_WIDTH, _HEIGHT, _LEAST_WIDTH = (
    1600,
    1200,
    480,
)  # pixels of the photo at most; of the picture at least
_MARK = 8.0  # pixels of the picture around a point that its mark takes
_SUBPIXEL = 4  # fractional bits of the coordinates handed to OpenCV
_BACKGROUND, _TEXT, _FAINT, _OUTLINE = (22, 24, 29), (240, 242, 245), (160, 167, 177), (12, 12, 12)
_MAPPING, _LOCALIZED, _UNCERTAIN, _ELLIPSOID = (
    (143, 180, 232),
    (86, 211, 100),
    (227, 179, 65),
    (255, 155, 206),
)
_FIELD = np.radians(50)  # of view of the map's picture, from top to bottom

Direction = Literal["top", "cameras"]


def draw_reprojections(
    pose: Pose, picture: Picture | None = None, *, magnify: float = 1.0
) -> Array:
    """The photo with its inliers: a circle where each was seen, a cross where the point of the map
    projects, a line between, coloured from green to red by the distance.

    Args:
        picture: by default read from `pose.photo`; pixels H x W x 3 uint8 RGB at full size.
        magnify: draws distances so many times as long as they are; the caption says so.

    Returns:
        H x W x 3 uint8 RGB.
    """
    if picture is None:
        if pose.photo is None:
            picture = ImageError("photo", "was pixels in memory", "hand them over to see them here")
        else:
            picture = read_picture(pose.photo)
    if isinstance(picture, np.ndarray):
        picture = Photo(picture, PhotoInfo(size=(picture.shape[1], picture.shape[0])))
    seen, projected = inlier_projections(pose)
    errors = np.linalg.norm(projected - seen, axis=1)
    worst = max(_RED, float(np.percentile(errors, 95))) if len(errors) else _RED
    if isinstance(picture, ImageError):
        size, shown = (640, 480), np.full((480, 640, 3), (72, 76, 84), np.uint8)
        note = f"no picture: {picture.path.name} {picture.reason}"
    else:
        picture = whole_sphere(picture, pose)
        full = picture.info.size
        scale = min(1.0, _WIDTH / full[0], _HEIGHT / full[1])
        size = fit_size(full, max(1, round(max(full) * scale)))
        shown, note = cv2.resize(picture.pixels, size, interpolation=cv2.INTER_AREA), ""
        if pose.camera is not None and pose.camera.model == SPHERICAL:
            seen, projected = _over_the_seam(seen, projected, full[0], _MARK / scale)
        shown = _draw_marks(shown, seen, projected, full, magnify, worst)
    if pose.verdict == NOT_LOCALIZED:
        note = pose.reason if not note else f"{pose.reason}; {note}"
    width = max(_LEAST_WIDTH, size[0])
    canvas = np.full((BAR_HEIGHT + size[1], width, 3), _BACKGROUND, np.uint8)
    left = (width - size[0]) // 2
    canvas[BAR_HEIGHT:, left : left + size[0]] = shown
    drawing = Image.fromarray(canvas)
    _draw_caption(drawing, pose, magnify, worst)
    if note:
        _draw_note(drawing, note)
    return np.array(drawing)


def save_reprojections(
    pose: Pose, out: Path, *, pixels: Array | None = None, magnify: float = 1.0
) -> None:
    """`draw_reprojections` as a JPEG file, whole or not at all.

    Args:
        out: replaced; its folder is made if need be.
        pixels: H x W x 3 uint8 RGB at full size, for a pose of pixels in memory.
    """
    drawing = draw_reprojections(pose, pixels, magnify=magnify)
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(out) as file:
        file.write(encode_jpeg(drawing))


def inlier_projections(pose: Pose) -> tuple[Array, Array]:
    """Where the inliers were seen, and where their points project: M x 2 float64 each in our pixels of
    the photo; those behind the camera or with no camera known are left out."""
    nothing = np.zeros((0, 2)), np.zeros((0, 2))
    if pose.cam_from_world is None or pose.camera is None or not len(pose.points):
        return nothing
    camera = colmap_camera(pose.camera)
    in_cam = pose.world_points @ pose.cam_from_world[:, :3].T + pose.cam_from_world[:, 3]
    projected = from_colmap(np.asarray(camera.img_from_cam(in_cam), np.float64))
    seen = np.asarray(pose.points, np.float64)
    if is_spherical(camera):
        projected[:, 0] = nearest_turn(projected[:, 0], seen[:, 0], camera.width)
    fine = np.isfinite(projected).all(axis=1)
    return seen[fine], projected[fine]


def whole_sphere(photo: Photo, pose: Pose) -> Photo:
    """A 360 degree photo that shows a part of the sphere, on the picture of the whole, in whose pixels
    its pose has its points; others as they are."""
    camera = pose.camera
    if camera is None or camera.model != SPHERICAL:
        return photo
    size = (camera.width, camera.height)
    if photo.info.size == size:
        return photo
    panorama = panorama_of(photo.info)
    if panorama is None:
        return photo
    scale = min(1.0, photo.pixels.shape[1] / panorama.crop[2])
    shown = fit_size(size, max(1, round(max(size) * scale)))
    x, y = np.meshgrid(np.arange(shown[0]), np.arange(shown[1]))
    points = resize_points(np.c_[x.ravel(), y.ravel()].astype(np.float64), shown, size)
    there = panorama.to_photo(points, (photo.pixels.shape[1], photo.pixels.shape[0]))
    across, down = there.astype(np.float32).T.reshape(2, shown[1], shown[0])
    pixels = cv2.remap(photo.pixels, across, down, cv2.INTER_LINEAR)
    return Photo(np.asarray(pixels), PhotoInfo(size=size), photo.path)


def draw_map_view(
    model: pycolmap.Reconstruction,
    poses: Sequence[Pose],
    size: tuple[int, int] = (1000, 700),
    *,
    direction: Direction | tuple[float, float] = "top",
    georef: Georef | None = None,
    exaggeration: float | None = None,
) -> Array:
    """The map with its cameras, the poses and their ellipsoids of 95 %, drawn as the page of
    `pipelines.reports.map_viewer` draws them.

    Args:
        size: (width, height) in pixels.
        direction: "top" looks straight down, "cameras" the way the mapping cameras look, from above
            and behind; or (yaw, pitch) in degrees: clockwise from the scene's y axis (north, if the map
            has a georeference), and how far downwards.
        exaggeration: of the ellipsoids; by default as the page begins with.

    Returns:
        H x W x 3 uint8 RGB.
    """
    scene = make_scene(model, poses, georef=georef)
    ahead = float(np.degrees(np.arctan2(scene.forward[0], scene.forward[1])))
    if isinstance(direction, str):
        direction = (0.0, 90.0) if direction == "top" else (ahead, 25.0)
    return _draw_scene(scene, size, *direction, exaggeration)


# The photo


def _over_the_seam(seen: Array, projected: Array, width: int, reach: float) -> tuple[Array, Array]:
    """Marks of a whole sphere that stand within `reach` of its left or right edge, at both."""
    pairs = np.stack((seen, projected))  # 2 x M x 2
    parts = [pairs]
    for move in (width, -width):
        there = pairs + np.array([move, 0.0])
        near = (there[..., 0].min(axis=0) < width + reach) & (there[..., 0].max(axis=0) > -reach)
        parts.append(there[:, near])
    seen, projected = np.concatenate(parts, axis=1)
    return seen, projected


def _draw_marks(
    photo: Array,
    seen: Array,
    projected: Array,
    full: tuple[int, int],
    magnify: float,
    worst: float,
) -> Array:
    size = (photo.shape[1], photo.shape[0])
    errors = np.linalg.norm(projected - seen, axis=1)
    order = spread_evenly(seen, MAX_MARKS)
    ends = resize_points(seen + magnify * (projected - seen), full, size)
    starts = resize_points(seen, full, size)
    canvas = np.ascontiguousarray(photo)
    for width in (3, 1):  # a dark line below a bright one shows on any photo
        for i in order:
            colour = _OUTLINE if width == 3 else _error_colour(errors[i] / worst)
            a, b = _fixed(starts[i]), _fixed(ends[i])
            cv2.circle(canvas, a, 5 << _SUBPIXEL, colour, width, cv2.LINE_AA, _SUBPIXEL)
            cv2.line(canvas, a, b, colour, width, cv2.LINE_AA, _SUBPIXEL)
            for dx, dy in ((3, 3), (3, -3)):
                arm = np.array([dx, dy])
                first, last = _fixed(ends[i] - arm), _fixed(ends[i] + arm)
                cv2.line(canvas, first, last, colour, width, cv2.LINE_AA, _SUBPIXEL)
    return canvas


def _error_colour(part: float) -> tuple[int, int, int]:
    """Green at 0, yellow at a half, red from 1 on."""
    part = min(max(float(part), 0.0), 1.0)
    return (int(255 * min(1.0, 2 * part)), int(255 * min(1.0, 2 - 2 * part)), 60)


def _fixed(point: Array) -> tuple[int, int]:
    """OpenCV's fixed-point coordinates; a pixel's centre is an integer there as well."""
    x, y = np.rint(np.asarray(point, np.float64) * 2**_SUBPIXEL).astype(int).tolist()
    return x, y


def _draw_caption(drawing: Image.Image, pose: Pose, magnify: float, worst: float) -> None:
    """Two rows: verdict, photo and inliers; reason and error."""
    draw, margin = ImageDraw.Draw(drawing), 12
    large, small = load_font(19), load_font(14)
    facts = [(f"{pose.inliers} of {pose.matches} matches agree", large, 21, _TEXT)]
    if np.isfinite(pose.error):
        times = f", drawn {magnify:g} times as long" if magnify != 1 else ""
        legend = "\u25cb seen, \u00d7 by the map, green to red"
        text = f"error {pose.error:.2f} px{times} ({legend}: 0 to {worst:.1f} px)"
        facts.append((drawable(text, small), small, 47, _FAINT))
    room = [float(drawing.width - margin)] * 2
    for row, (fact, font, y, colour) in enumerate(facts):
        draw.text((drawing.width - margin, y), fact, colour, font, anchor="rm")
        room[row] -= draw.textlength(fact, font=font) + margin
    pill = draw.textlength(pose.verdict, font=large) + 2 * margin
    box = (margin, 7, margin + pill, 35)
    draw.rounded_rectangle(box, 8, VERDICT_COLOURS[pose.verdict])
    draw.text((2 * margin, 21), pose.verdict, (255, 255, 255), large, anchor="lm")
    left = 2 * margin + pill
    name = pose.photo.name if pose.photo else "pixels in memory"
    draw.text((left, 21), elided(name, large, room[0] - left), _TEXT, large, anchor="lm")
    reason = elided(pose.reason, small, room[1] - margin)
    draw.text((margin, 47), reason, _FAINT, small, anchor="lm")


def _draw_note(drawing: Image.Image, text: str) -> None:
    """What there is to say instead of marks, in the middle of the photo's lower half."""
    draw, font = ImageDraw.Draw(drawing, "RGBA"), load_font(18)
    letters = max(8, int(drawing.width * 0.8 / draw.textlength("n", font=font)))
    lines = textwrap.wrap(text, letters, max_lines=5)
    shown = "\n".join(drawable(line, font) for line in lines)
    place = (drawing.width / 2, BAR_HEIGHT + (drawing.height - BAR_HEIGHT) * 0.75)
    left, top, right, bottom = draw.multiline_textbbox(place, shown, font, anchor="mm")
    draw.rounded_rectangle((left - 12, top - 9, right + 12, bottom + 9), 8, (0, 0, 0, 175))
    draw.multiline_text(place, shown, _TEXT, font, anchor="mm", align="center")


# The map


def _view(
    size: tuple[int, int], distance: float, yaw: float, pitch: float
) -> tuple[Array, Array, float]:
    """(eye, axes, focal): rows of axes are right, down and forward; as `makeView` of the page has it."""
    y, p = np.radians([yaw, pitch])
    forward = np.array([np.sin(y) * np.cos(p), np.cos(y) * np.cos(p), -np.sin(p)])
    right = np.array([np.cos(y), -np.sin(y), 0.0])
    axes = np.array([right, np.cross(forward, right), forward])
    return -distance * forward, axes, size[1] / 2 / np.tan(_FIELD / 2)


def _draw_scene(
    scene: MapScene, size: tuple[int, int], yaw: float, pitch: float, factor: float | None
) -> Array:
    width, height = size
    eye, axes, focal = _view(size, 2.4 * scene.radius, yaw, pitch)
    canvas = np.full((height, width, 3), _BACKGROUND, np.uint8)

    def project(points: Array) -> Array:
        """N x 3 -> N x 3: x and y on the canvas, where a pixel's centre is a half, and depth."""
        x, y, z = axes @ (np.asarray(points).reshape(-1, 3) - eye).T
        z = np.where(z > 1e-3 * scene.radius, z, np.nan)
        return np.stack((width / 2 + focal * x / z, height / 2 + focal * y / z, z), axis=1)

    spots = project(scene.points)
    inside = ((spots[:, :2] >= 1) & (spots[:, :2] < (width, height))).all(axis=1)
    order = np.flatnonzero(inside)[np.argsort(-spots[inside, 2], kind="stable")]
    columns, rows = np.floor(spots[order, :2]).astype(int).T
    for dy in (0, 1):
        for dx in (0, 1):  # far ones first: where two fall on a pixel numpy keeps the last
            canvas[rows - dy, columns - dx] = scene.colours[order]

    def line(points: Array, colour: tuple[int, int, int], thick: int) -> None:
        flat = project(points)[:, :2] - 0.5
        for a, b in pairwise(flat):
            if np.isfinite([a, b]).all() and np.abs([a, b]).max() < 1e5:
                cv2.line(canvas, _fixed(a), _fixed(b), colour, thick, cv2.LINE_AA, _SUBPIXEL)

    def frustum(
        camera: ShownCamera, length: float, colour: tuple[int, int, int], thick: int
    ) -> None:
        corners = camera.center + length * np.c_[camera.corners, np.ones(4)] @ camera.axes
        line(corners[[0, 1, 2, 3, 0]], colour, thick)
        for corner in corners:
            line(np.array([camera.center, corner]), colour, thick)
        top = (corners[0] + corners[1]) / 2 - 0.25 * length * camera.axes[1]
        line(np.array([corners[0], top, corners[1]]), colour, thick)

    for camera in scene.cameras:
        frustum(camera, scene.camera_size, _MAPPING, 1)
    turn = np.linspace(0, 2 * np.pi, 49)
    circle = np.c_[np.cos(turn), np.sin(turn)]
    for query in scene.queries:
        if query.camera is None:
            continue
        colour = _LOCALIZED if query.pose.verdict == LOCALIZED else _UNCERTAIN
        frustum(query.camera, 1.3 * scene.camera_size, colour, 2)
        if query.ellipsoid is not None:
            blown = query.ellipsoid * (scene.exaggeration if factor is None else factor)
            for pair in ([0, 1], [1, 2], [2, 0]):
                line(query.camera.center + circle @ blown[pair], _ELLIPSOID, 1)
    return canvas
