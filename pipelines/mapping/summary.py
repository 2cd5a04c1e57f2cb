"""What became of each photo of a map, and how good the map is."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import pycolmap

from index.catalog import Catalog
from index.records import ImageRow

Pair = tuple[int, int]
_Ids = Collection[int]
_NAN = ("track_length", "error")  # without points


@dataclass(frozen=True)
class MapReport:
    """What a map is now, and what came of its photos.

    Attributes:
        registered: photos whose pose is in the map.
        images: photos in all, unreadable ones too.
        points: 3-D points.
        track_length: how many photos see a point, on average; NaN without points.
        error: mean reprojection error in pixels of the photos; NaN without points.
        observations: keypoints that see a point, per registered photo.
        unregistered: (name, reason) of each other photo.
        separate: how many photos each further model has that does not hang together with the map.
        verified: of each photo that was added, with how many of the photos before it verified.
        warnings: what the user should know of the map as a whole, a sentence each.
        seconds: by stage; empty if there was nothing to do.
    """

    registered: int
    images: int
    points: int
    track_length: float
    error: float
    observations: float
    unregistered: tuple[tuple[str, str], ...] = ()
    separate: tuple[int, ...] = ()
    verified: Mapping[str, int] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """JSON-able values; None for NaN."""
        return {k: None if k in _NAN and math.isnan(v) else v for k, v in asdict(self).items()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> MapReport:
        """The inverse of `to_json`."""
        filled = dict(values)
        filled |= {key: math.nan for key in _NAN if values[key] is None}
        filled["unregistered"] = tuple((name, reason) for name, reason in filled["unregistered"])
        for key in ("separate", "warnings"):
            filled[key] = tuple(filled.get(key, ()))
        return cls(**filled)


def summarize(
    model: pycolmap.Reconstruction,
    catalog: Catalog,
    pairs: Mapping[Pair, int],
    *,
    separate: Sequence[_Ids] = (),
    unused: Mapping[int, str] | None = None,
    added: _Ids = (),
    warnings: Sequence[str] = (),
    seconds: Mapping[str, float] | None = None,
) -> MapReport:
    """The report on a map, by `verified_pairs`, the image ids of each `separate` model, the reasons,
    by id, of `unused` photos that nobody tried to register, the ids of photos `added` just now,
    warnings, and seconds by stage."""
    registered, rows = set(model.reg_image_ids()), catalog.images()
    partners: dict[int, set[int]] = {row.id: set() for row in rows}
    for (i, j), inliers in pairs.items():
        if inliers and i in partners and j in partners:
            partners[i].add(j)
            partners[j].add(i)
    with_features = set(catalog.feature_counts()[0].tolist())
    reasons = []
    for row in rows:
        if row.id not in registered:
            reason = (unused or {}).get(row.id) or _reason(
                row, row.id in with_features, partners[row.id], registered, separate
            )
            reasons.append((row.path, reason))
    model.update_point_3d_errors()
    points, seen = model.num_points3D(), model.compute_num_observations()
    return MapReport(
        registered=len(registered),
        images=len(rows),
        points=points,
        track_length=seen / points if points else math.nan,
        error=model.compute_mean_reprojection_error() if points else math.nan,
        observations=seen / max(len(registered), 1),
        unregistered=tuple(reasons),
        separate=tuple(len(ids) for ids in separate),
        verified={row.path: len(partners[row.id] - set(added)) for row in rows if row.id in added},
        warnings=tuple(warnings),
        seconds=dict(seconds or {}),
    )


def _reason(
    row: ImageRow, seen: bool, partners: _Ids, registered: _Ids, separate: Sequence[_Ids]
) -> str:
    """Why a photo is not in the map."""
    if row.error is not None:
        return row.error
    if not seen:
        return "no local features: too dark, too blurred or blank"
    if not partners:
        return (
            "no verified matches with any other photo: shows another place, or too dark or blurred"
        )
    near = sum(i in registered for i in partners)
    verified = f"verified with {len(partners)} photo{'s' if len(partners) > 1 else ''}"
    own = next((ids for ids in separate if row.id in ids), None)
    apart = f"{verified}, but these are no part of the map"
    if own is not None:
        return f"{apart} (a separate model of {len(own)} images)"
    if near:
        return (
            f"{verified}, {near} of the map, but COLMAP could not place it: too few common points"
        )
    return apart
