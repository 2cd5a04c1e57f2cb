"""Match plots of answers: the query and a candidate side by side, with the matches that agree."""

from __future__ import annotations

import hashlib
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from locate.errors import ImageError
from locate.pixels import resize_points, unrotate_points
from locate.retrieval.verdict import UNVERIFIED
from locate.types import Answer, Array, Candidate, Photo, Verification
from locate.util.files import atomic_write
from pipelines.reports import canvas, picture_io
from pipelines.reports.picture_io import MAX_WIDTH, Picture

MAX_LINES = 60
_MIN_WIDTH, _MIN_HEIGHT, _MAX_HEIGHT = 640, 320, 900  # pixels: caption; photos
_GAP = 6  # pixels between the photos
_REJECTED = (185, 185, 185)
_LINE_OPACITY, _SHADE_OPACITY, _REJECTED_OPACITY = 0.85, 0.25, 0.55


# All matches in a photo, M x 2 float32 pixels of the drawing, and which of them lie on it, M bool (a
# file may have changed since indexing); None if the photo is missing.
_Panel = tuple[Array, Array] | None


def draw_matches(
    query: Picture,
    database: Picture,
    verification: Verification | None,
    *,
    verdict: str = UNVERIFIED,
    label: str | None = None,
    image: str = "",
    similarity: float | None = None,
    rotation: int = 0,
    max_width: int = MAX_WIDTH,
) -> Array:
    """The query on the left, the candidate on the right, lines between what agrees.

    All inliers are dots, colored by where they lie in the query, so that the same part of the
    place has the same color on both sides; at most `MAX_LINES` of them, spread evenly, are joined
    by lines. Rejected matches are faint gray dots.

    Args:
        query, database: photos (perhaps reduced: points are scaled from `info.size`), pixels
            H x W x 3 uint8 RGB at full size, or the error that is shown in place of the photo.
        verification: points in original pixels; None draws the photos side by side.
        rotation: `Answer.rotation`; the query is drawn turned as it was recognised.
        max_width: pixels of the whole, H x W x 3 uint8 RGB.
    """
    photos, turns = [*map(picture_io.as_photo, (query, database))], (rotation, 0)
    originals = [_turned_size(photo, turn) for photo, turn in zip(photos, turns, strict=True)]
    sizes = _panel_sizes(originals, max_width)
    both = sizes[0][0] + _GAP + sizes[1][0]
    paper = canvas.blank(max(both, min(_MIN_WIDTH, max_width)), sizes[0][1])
    left = (paper.shape[1] - both) // 2
    lefts = [left, left + sizes[0][0] + _GAP]
    points = [np.zeros((0, 2), np.float32)] * 2
    if verification is not None:
        points = [verification.query_points, verification.database_points]
    below = paper[canvas.BAR_HEIGHT :]
    rooms = [below[:, x : x + size[0]] for x, size in zip(lefts, sizes, strict=True)]
    panels = [*map(_place, rooms, photos, points, turns, lefts)]
    drawing = Image.fromarray(paper)
    name = f": {photos[0].path.name}" if photos[0].path else ""
    turned = f" (turned by {rotation}°)" if rotation else ""
    canvas.draw_tag(drawing, lefts[0], sizes[0][0], f"query{name}{turned}")
    canvas.draw_tag(drawing, lefts[1], sizes[1][0], "database")
    facts: list[str] = []
    if verification is not None:  # after the tags, which must hide no evidence
        drawing = Image.fromarray(_draw_points(np.array(drawing), panels, verification.inliers))
        facts = [f"{verification.inlier_count} of {len(verification.matches)} matches agree"]
    facts += [] if similarity is None else [f"similarity {similarity:.2f}"]
    canvas.draw_caption(drawing, verdict, label or image, image if label else "", facts)
    if note := _note(verification):
        canvas.draw_note(drawing, note)
    return np.array(drawing)


def draw_candidate(
    query: Picture, candidate: Candidate, *, rotation: int = 0, max_width: int = MAX_WIDTH
) -> Array:
    """`draw_matches` of a candidate, its photo read from where it lay when it was indexed."""
    return draw_matches(
        query,
        picture_io.read_picture(candidate.path, max_width),
        candidate.verification,
        verdict=candidate.verdict,
        label=candidate.label,
        image=candidate.image,
        similarity=candidate.similarity,
        rotation=rotation,
        max_width=max_width,
    )


def save_matches(
    answer: Answer, folder: Path, limit: int, *, query_pixels: Array | None = None
) -> list[Path]:
    """Draw the best verified candidates, at most `limit`, into `folder`, made if need be; the files.

    They are named `<query>--<rank>--<verdict>--<candidate>.jpg`. Asking for the same photo again
    replaces its drawings; another photo of the same name gets a number behind.

    Args:
        query_pixels: H x W x 3 uint8 RGB at full size, for an answer to pixels in memory.
    """
    query = picture_io.query_picture(answer.photo, query_pixels)
    origin = str(answer.photo.absolute()) if answer.photo else "pixels"
    if query_pixels is not None:
        origin = "pixels " + hashlib.sha256(query_pixels.tobytes()).hexdigest()
    verified = [c for c in answer.candidates if c.verification is not None][: max(0, limit)]
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for candidate in verified:
        parts = candidate.verdict.replace(" ", "-"), Path(candidate.image).stem
        verdict, shown = map(picture_io.safe_name, parts)
        stem = picture_io.query_name(answer.photo)
        name = f"{stem}--{candidate.rank:02d}--{verdict}--{shown}"
        # Which photos it shows, so that it is known again; the format holds 65,533 bytes.
        text = f"locate\nquery: {origin}\ncandidate: {candidate.path}"
        comment = text.encode("utf-8", "backslashreplace")[:60_000]
        path = picture_io.free_path(folder, name, comment)
        drawing = draw_candidate(query, candidate, rotation=answer.rotation)
        with atomic_write(path) as file:
            file.write(picture_io.encode_jpeg(drawing, comment=comment))
        written.append(path)
    return written


def _turned_size(photo: Photo | ImageError, rotation: int) -> tuple[int, int]:
    """(width, height) in original pixels as drawn; an error gets the shape of a common photo."""
    size = photo.info.size if isinstance(photo, Photo) else (640, 480)
    return size[::-1] if rotation % 180 else size


def _panel_sizes(sizes: list[tuple[int, int]], max_width: int) -> list[tuple[int, int]]:
    """Photos of these sizes side by side at one height: (width, height) of each in the drawing."""
    aspects = [width / height for width, height in sizes]
    wanted = max(_MIN_HEIGHT, *(height for _, height in sizes))  # nothing is blown up for no gain
    height = max(1, int(min((max_width - _GAP) / sum(aspects), _MAX_HEIGHT, wanted)))
    return [(max(1, int(aspect * height)), height) for aspect in aspects]


def _place(room: Array, photo: Photo | ImageError, points: Array, turn: int, left: int) -> _Panel:
    """Put a photo into its room, whose first column is `left`. Points: M x 2 in its original pixels."""
    size = room.shape[1], room.shape[0]
    if isinstance(photo, ImageError):
        room[:] = canvas.missing_photo(photo, size)
        return None
    # To turn by an angle is to undo the turn by the rest of the circle.
    points = unrotate_points(points, photo.info.size, 360 - turn)
    points = resize_points(points, _turned_size(photo, turn), size)
    inside = ((points >= -0.5) & (points < np.asarray(size) - 0.5)).all(axis=1)
    pixels = np.ascontiguousarray(np.rot90(photo.pixels, turn // 90))
    way = cv2.INTER_AREA if size[0] < pixels.shape[1] else cv2.INTER_CUBIC
    room[:] = cv2.resize(pixels, size, interpolation=way)
    return points + np.array([left, canvas.BAR_HEIGHT], np.float32), np.asarray(inside)


def position_colors(points: Array) -> Array:
    """A color for each of N x 2 places: hue by x, paleness by y, over their extent; N x 3 uint8 RGB."""
    if not len(points):
        return np.zeros((0, 3), np.uint8)
    # Percentiles, so that a few stray points do not take most of the colors.
    low, high = np.percentile(points, (4, 96), axis=0)
    x, y = np.clip((points - low) / np.maximum(high - low, 1e-6), 0, 1).T
    # Not the whole circle: the hue's end would be the red of its beginning.
    hsv = np.stack((300 * x, 1 - 0.5 * y, np.ones(len(x))), axis=1).astype(np.float32)
    rgb = cv2.cvtColor(hsv[None], cv2.COLOR_HSV2RGB)[0]
    return np.asarray(np.rint(255 * rgb), np.uint8)


def _draw_points(paper: Array, panels: list[_Panel], inliers: Array) -> Array:
    """`paper` with rejected matches, lines and inliers, the last on top."""
    drawn = [panel for panel in panels if panel is not None]
    gray = paper.copy()
    for points, visible in drawn:
        for point in points[visible & ~inliers]:
            canvas.draw_dot(gray, point, 1.5, _REJECTED)
    paper = cv2.addWeighted(gray, _REJECTED_OPACITY, paper, 1 - _REJECTED_OPACITY, 0)
    if not drawn:
        return paper
    colors = np.zeros((len(inliers), 3), np.uint8)
    colors[inliers] = position_colors(drawn[0][0][inliers])
    joined = np.zeros(0, np.int64)
    if len(drawn) == 2:
        (a, in_a), (b, in_b) = drawn
        both = np.flatnonzero(inliers & in_a & in_b)
        joined = both[canvas.spread_evenly(np.c_[a, b][both], MAX_LINES)]
        layers = (3, _SHADE_OPACITY, canvas.OUTLINE), (1, _LINE_OPACITY, None)
        for width, opacity, color in layers:
            lines = paper.copy()
            for i in joined:
                canvas.draw_line(lines, a[i], b[i], colors[i] if color is None else color, width)
            paper = cv2.addWeighted(lines, opacity, paper, 1 - opacity, 0)
    radius = 1.8 if inliers.sum() > 150 else 2.4  # pixels: hundreds of large dots hide the photo
    for points, visible in drawn:
        shown = np.flatnonzero(inliers & visible)
        for i in shown:
            canvas.draw_dot(paper, points[i], radius + 1.0, canvas.OUTLINE)
        for i in shown:
            canvas.draw_dot(paper, points[i], radius, colors[i])
        for i in joined:
            canvas.draw_dot(paper, points[i], radius + 2.0, canvas.OUTLINE)
            canvas.draw_dot(paper, points[i], radius + 1.0, colors[i])
    return np.asarray(paper)


def _note(verification: Verification | None) -> str:
    if verification is None:
        return "not verified"
    if len(verification.matches) == 0:
        return "no local feature of one looks like one of the other"
    return "" if verification.inlier_count else "no camera motion explains the matches"
