"""Answers as one HTML file that needs nothing else: no network, no scripts, pictures inside."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2

from locate.errors import ImageError
from locate.pixels import fit_size
from locate.retrieval.verdict import MATCH, NO_MATCH, UNCERTAIN, UNVERIFIED
from locate.types import Answer, Array, Candidate, Photo
from pipelines.reports.canvas import VERDICT_COLORS
from pipelines.reports.match_pictures import draw_candidate
from pipelines.reports.pages import write_page
from pipelines.reports.picture_io import encode_jpeg, query_picture, read_picture

MAX_DRAWINGS = 5  # of one query
_DRAWING_WIDTH, _THUMB_SIDE, _QUERY_SIDE = 1120, 132, 240  # pixels
_ORDER = (MATCH, UNCERTAIN, NO_MATCH, UNVERIFIED)


def write_report(
    answers: Sequence[Answer],
    file: Path,
    *,
    title: str = "Where was this?",
    failed: Sequence[tuple[str, str]] = (),
) -> None:
    """Write the answers, and (photo, reason) of what failed, as a page for people.

    Each query has its verdict and reason, a table of candidates and drawings of the matches: of
    the candidates with evidence, at most `MAX_DRAWINGS`, or of the most similar failure, so that
    one sees why nothing matched. Photos that are gone become gray panels that say so.
    """
    write_page(
        file,
        "answer_page.html",
        title=title,
        verdicts={verdict: VERDICT_COLORS[verdict] for verdict in _ORDER},
        counts=Counter(answer.verdict for answer in answers),
        total=len(answers) + len(failed),
        queries=_queries(answers),
        failed=failed,
        times=_times,
        share=_share,
    )


def _queries(answers: Sequence[Answer]) -> Iterator[dict[str, Any]]:
    """What the template shows of each query, its pictures made when it is its turn."""
    for number, answer in enumerate(answers, 1):
        query, drawn = query_picture(answer.photo), _to_draw(answer)
        how = {"rotation": answer.rotation, "max_width": _DRAWING_WIDTH}
        others = (c for c in answer.candidates if c not in drawn)
        pictures = ((c, read_picture(c.path, 2 * _THUMB_SIDE)) for c in others)
        yield {
            "number": number,
            "answer": answer,
            "name": answer.photo.name if answer.photo else f"pixels in memory ({number})",
            "picture": _thumbnail(query, _QUERY_SIDE),
            "drawings": [(c, _encoded(draw_candidate(query, c, **how))) for c in drawn],
            "others": [(c, _thumbnail(photo, _THUMB_SIDE)) for c, photo in pictures],
        }


def _to_draw(answer: Answer) -> list[Candidate]:
    """The candidates with evidence; if there are none, the one that came nearest to it."""
    proven = [c for c in answer.candidates if c.verdict in (MATCH, UNCERTAIN)]
    if proven:
        return proven[:MAX_DRAWINGS]
    verified = [c for c in answer.candidates if c.verification is not None]
    verified.sort(key=lambda c: -99.0 if c.evidence is None else c.evidence)
    return verified[-1:]


def _thumbnail(picture: Photo | ImageError, side: int) -> dict[str, Any]:
    """The photo shrunk to `side` pixels, twice that for sharp screens, or why there is none."""
    if isinstance(picture, ImageError):
        return {"missing": picture.reason}
    height, width = picture.pixels.shape[:2]
    size = fit_size((width, height), 2 * side)
    return _encoded(cv2.resize(picture.pixels, size, interpolation=cv2.INTER_AREA))


def _encoded(pixels: Array) -> dict[str, Any]:
    """H x W x 3 uint8 RGB as the template shows it."""
    jpeg = base64.b64encode(encode_jpeg(pixels, 75)).decode("ascii")
    return {"jpeg": jpeg, "width": pixels.shape[1], "height": pixels.shape[0]}


def _times(seconds: Mapping[str, float]) -> str:
    """Time by part, the total first; parts that round to nothing are left out."""
    total = seconds.get("total", sum(seconds.values()))
    shown = {part: s for part, s in seconds.items() if part != "total" and s >= 0.0005}
    parts = ", ".join(f"{part} {_duration(s)}" for part, s in shown.items())
    return _duration(total) + (f" ({parts})" if parts else "")


def _duration(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.0f} ms"


def _share(value: float) -> str:
    percent = 100 * min(value, 1.0)
    return f"≤ {percent:.0f} %" if percent >= 10 else f"≤ {percent:.1g} %"
