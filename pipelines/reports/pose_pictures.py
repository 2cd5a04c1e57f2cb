"""Reprojection plots of localized photos: what was seen over where the map says it is."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from locate.errors import ImageError
from locate.geometry.cameras import SPHERICAL, colmap_camera, is_spherical
from locate.geometry.panorama import nearest_turn, panorama_of
from locate.localization.pose import NOT_LOCALIZED, Pose
from locate.pixels import fit_size, from_colmap, resize_points
from locate.types import Array, Photo, PhotoInfo
from locate.util.files import atomic_write
from pipelines.reports import canvas
from pipelines.reports.canvas import Color
from pipelines.reports.picture_io import Picture, as_photo, encode_jpeg, query_picture

MAX_MARKS = 400  # inliers drawn
_RED = 2.0  # pixels, the least error that is drawn in red
_WIDTH, _HEIGHT, _MIN_WIDTH = 1600, 1200, 480  # pixels: photo at most; picture at least
_MARK = 8.0  # pixels of the picture around a point that its mark takes


def draw_reprojections(
    pose: Pose, picture: Picture | None = None, *, magnify: float = 1.0
) -> Array:
    """The photo with its inliers, H x W x 3 uint8 RGB: a circle where each was seen, a cross where the
    point of the map projects, a line between, colored from green to red by the distance.

    Args:
        picture: by default read from `pose.photo`; pixels H x W x 3 uint8 RGB at full size.
        magnify: draws distances so many times as long as they are; the caption says so.
    """
    photo = query_picture(pose.photo) if picture is None else as_photo(picture)
    seen, projected = inlier_projections(pose)
    errors = np.linalg.norm(projected - seen, axis=1)
    worst = max(_RED, float(np.percentile(errors, 95))) if len(errors) else _RED
    if isinstance(photo, ImageError):
        size = (640, 480)
        shown = canvas.missing_photo(photo, size)
    else:
        photo = whole_sphere(photo, pose)
        full = photo.info.size
        scale = min(1.0, _WIDTH / full[0], _HEIGHT / full[1])
        size = fit_size(full, max(1, round(max(full) * scale)))
        shown = cv2.resize(photo.pixels, size, interpolation=cv2.INTER_AREA)
        if pose.camera is not None and pose.camera.model == SPHERICAL:
            seen, projected = _over_the_seam(seen, projected, full[0], _MARK / scale)
        drawn = canvas.spread_evenly(seen, MAX_MARKS)
        seen, offsets = seen[drawn], (projected - seen)[drawn]
        colors = [_error_color(error / worst) for error in np.linalg.norm(offsets, axis=1)]
        ends = resize_points(seen + magnify * offsets, full, size)
        _draw_marks(shown, resize_points(seen, full, size), ends, colors)
    width = max(_MIN_WIDTH, size[0])
    paper, left = canvas.blank(width, size[1]), (width - size[0]) // 2
    paper[canvas.BAR_HEIGHT :, left : left + size[0]] = shown
    drawing = Image.fromarray(paper)
    facts = [f"{pose.inliers} of {pose.matches} matches agree"]
    if np.isfinite(pose.error):
        times = f", drawn {magnify:g} times as long" if magnify != 1 else ""
        legend = "\u25cb seen, \u00d7 by the map, green to red"
        facts.append(f"error {pose.error:.2f} px{times} ({legend}: 0 to {worst:.1f} px)")
    name = pose.photo.name if pose.photo else "pixels in memory"
    canvas.draw_caption(drawing, pose.verdict, name, pose.reason, facts)
    if pose.verdict == NOT_LOCALIZED:
        canvas.draw_reason(drawing, pose.reason)
    return np.array(drawing)


def save_reprojections(
    pose: Pose, out: Path, *, pixels: Array | None = None, magnify: float = 1.0
) -> None:
    """`draw_reprojections` as a JPEG file, whole or not at all; its folder is made if need be."""
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
    size, panorama = (camera.width, camera.height), panorama_of(photo.info)
    if photo.info.size == size or panorama is None:
        return photo
    scale = min(1.0, photo.pixels.shape[1] / panorama.crop[2])
    shown = fit_size(size, max(1, round(max(size) * scale)))
    x, y = np.meshgrid(np.arange(shown[0]), np.arange(shown[1]))
    points = resize_points(np.c_[x.ravel(), y.ravel()].astype(np.float64), shown, size)
    there = panorama.to_photo(points, (photo.pixels.shape[1], photo.pixels.shape[0]))
    across, down = there.astype(np.float32).T.reshape(2, shown[1], shown[0])
    pixels = cv2.remap(photo.pixels, across, down, cv2.INTER_LINEAR)
    return Photo(np.asarray(pixels), PhotoInfo(size=size), photo.path)


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


def _draw_marks(paper: Array, starts: Array, ends: Array, colors: list[Color]) -> None:
    for width in (3, 1):  # a dark line below a bright one shows on any photo
        for start, end, bright in zip(starts, ends, colors, strict=True):
            color = canvas.OUTLINE if width == 3 else bright
            canvas.draw_circle(paper, start, 5, color, width)
            canvas.draw_line(paper, start, end, color, width)
            for arm in ((3, 3), (3, -3)):
                canvas.draw_line(paper, end - arm, end + arm, color, width)


def _error_color(part: float) -> Color:
    """Green at 0, yellow at a half, red from 1 on."""
    part = min(float(part), 1.0)
    return (int(255 * min(1.0, 2 * part)), int(255 * min(1.0, 2 - 2 * part)), 60)
