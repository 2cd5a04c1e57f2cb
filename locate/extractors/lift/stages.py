"""What each stage of LIFT's training is shown of quadruplets of keypoints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from locate.extractors.lift.network import PATCH, REACH, SMALL, WINDOW, WINDOW_REACH
from locate.training.data.patches import Quadruplets, crop_patches, wrapped
from locate.types import Array

DESCRIBE, ORIENT, OVERLAP, DETECT = "descriptor", "orientation", "overlap", "detector"


@dataclass(frozen=True)
class Jitter:
    """How far what is shown lies from the keypoint's frame."""

    place: float = 0.2  # of the detector's patches: largest shift, as a share of half a side
    # Standard deviations of what the descriptor and the orientation estimator see, for the detector
    # is not exact.
    shift: float = 0.5  # scales
    growth: float = 0.15  # octaves
    turn: float = 8.0  # degrees; of the descriptor's windows
    upright: bool = False  # patches are not turned, but those of the descriptor as SIFT says


def window_batch(
    drawn: Sequence[Quadruplets], rng: np.random.Generator, jitter: Jitter
) -> dict[str, Tensor]:
    """windows: 3 N x 1 x 64 x 64, all that are first, then second, then other, turned as their frames
    are."""
    shown: list[list[Array]] = [[], [], []]
    for quads in drawn:
        parts = (quads.first, quads.second, quads.other)
        levels = (quads.levels_a, quads.levels_b, quads.levels_a)
        for rows, frames, photo in zip(shown, parts, levels, strict=True):
            noise = np.radians(jitter.turn) * rng.normal(size=len(frames))
            moved = _moved(frames, rng, jitter, frames[:, 3] + noise)
            rows.append(crop_patches(photo, moved, WINDOW, WINDOW_REACH))
    return {"windows": _tensor([row for rows in shown for row in rows])}


def patch_batch(
    drawn: Sequence[Quadruplets], rng: np.random.Generator, jitter: Jitter
) -> dict[str, Tensor]:
    """patches: 2 N x 1 x 128 x 128, all that are first, then second, turned at random; turn: N, by how
    many radians the second are to be turned more than the first."""
    shown: list[list[Array]] = [[], []]
    turns = []
    for quads in drawn:
        angles = []
        parts = ((quads.first, quads.levels_a), (quads.second, quads.levels_b))
        for rows, (frames, photo) in zip(shown, parts, strict=True):
            turned = _angles(rng, len(frames), jitter)
            moved = _moved(frames, rng, jitter, turned)
            rows.append(crop_patches(photo, moved, PATCH, REACH))
            angles.append(frames[:, 3] - turned)
        turns.append(wrapped(angles[1] - angles[0]))
    turn = torch.from_numpy(np.concatenate(turns)).float()
    return {"patches": _tensor([row for rows in shown for row in rows]), "turn": turn}


def detector_batch(
    drawn: Sequence[Quadruplets], rng: np.random.Generator, jitter: Jitter, *, wide: bool
) -> dict[str, Tensor]:
    """small: 4 N x 1 x 48 x 48, quadruplet by quadruplet, turned and shifted at random; place: N x 2 x 2
    (x, y), where the keypoints of first and second lie from the middles of their patches, in scales
    along the patches' axes; turn: N x 2, the angles of their frames in these, in radians. If `wide`,
    patches: 2 N x 1 x 128 x 128, first and second in turn."""
    small, patches, places, turns = [], [], [], []
    for quads in drawn:
        parts = (quads.first, quads.second, quads.other, quads.empty)
        levels = (quads.levels_a, quads.levels_b, quads.levels_a, quads.levels_a)
        shown, large = [], []
        for number, (frames, photo) in enumerate(zip(parts, levels, strict=True)):
            turned = _angles(rng, len(frames), jitter)
            place = jitter.place * REACH * rng.uniform(-1, 1, (len(frames), 2))
            centre = frames[:, :2] - frames[:, 2, None] * _rotated(place, turned)
            moved = np.column_stack((centre, frames[:, 2], turned))
            shown.append(crop_patches(photo, moved, SMALL, REACH))
            if number < 2:
                places.append(place)
                turns.append(wrapped(frames[:, 3] - turned))
            if wide and number < 2:
                large.append(crop_patches(photo, moved, PATCH, REACH))
        small.append(_interleaved(shown))
        if wide:
            patches.append(_interleaved(large))
    batch = {
        "small": _tensor(small),
        "place": torch.from_numpy(_side_by_side(places)).float(),
        "turn": torch.from_numpy(_side_by_side(turns)).float(),
    }
    return batch | ({"patches": _tensor(patches)} if wide else {})


def _angles(rng: np.random.Generator, count: int, jitter: Jitter) -> Array:
    drawn = rng.uniform(-np.pi, np.pi, count)
    return np.zeros(count) if jitter.upright else drawn


def _moved(frames: Array, rng: np.random.Generator, jitter: Jitter, angles: Array) -> Array:
    shift = jitter.shift * frames[:, 2, None] * rng.normal(size=(len(frames), 2))
    growth = 2 ** (jitter.growth * rng.normal(size=len(frames)))
    return np.column_stack((frames[:, :2] + shift, frames[:, 2] * growth, angles))


def _rotated(points: Array, angles: Array) -> Array:
    """R(angle) of N x 2."""
    c, s = np.cos(angles), np.sin(angles)
    return np.stack((c * points[:, 0] - s * points[:, 1], s * points[:, 0] + c * points[:, 1]), 1)


def _interleaved(parts: Sequence[Array]) -> Array:
    """P arrays K x ... -> K P x ..., one of each in turn."""
    return np.stack(parts, axis=1).reshape(-1, *parts[0].shape[1:])


def _side_by_side(parts: Sequence[Array]) -> Array:
    """Of first and second in turn, K x ... each of several photos -> N x 2 x ..."""
    return np.stack((np.concatenate(parts[::2]), np.concatenate(parts[1::2])), axis=1)


def _tensor(patches: Sequence[Array]) -> Tensor:
    return torch.from_numpy(np.concatenate(patches))[:, None].float()
