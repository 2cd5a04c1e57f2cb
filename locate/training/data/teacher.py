"""What another network found in the training photos, for a student to learn from.

A file of teacher's features (.npz) holds arrays and no Python objects, so any network can write one:

- `images`: strings (`<U...`), I: paths with forward slashes, relative to the data folder
- `offsets`: int64, I + 1: image i has the rows `offsets[i]` up to `offsets[i + 1]` of the following
- `keypoints`: float32, M x 2: (x, y) in pixels of the original, upright image. The centre of the
  top-left pixel is (0, 0)
- `scores`: float32, M, 0 to 1: how sure the teacher is of each
- `descriptors`: float16, M x D, unit vectors
- `teacher`: a string: its name, for the record
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from locate.training.data.correspondences import (
    demand,
    has_form,
    read_arrays,
    relative_names,
    rise_to,
)
from locate.types import Array
from locate.util.files import atomic_write

_WHAT = "a teacher's features"
_KEYS = ("images", "offsets", "keypoints", "scores", "descriptors", "teacher")


@dataclass(frozen=True, eq=False)
class TeacherFeatures:
    """Keypoints N x 2 float32 and descriptors N x D float16 by path of the photo; the teacher's name."""

    keypoints: Mapping[Path, Array]
    descriptors: Mapping[Path, Array]
    name: str

    @property
    def dim(self) -> int:
        return int(next(iter(self.descriptors.values())).shape[1])


def save_teacher(
    file: Path,
    images: Sequence[Path],
    keypoints: Sequence[Array],
    scores: Sequence[Array],
    descriptors: Sequence[Array],
    name: str,
    root: Path,
) -> None:
    """Write features of photos below `root` to an .npz file; it is there complete or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(file) as stream:
        np.savez(
            stream,
            images=relative_names(images, root),
            offsets=np.cumsum([0, *(len(k) for k in keypoints)], dtype=np.int64),
            keypoints=np.concatenate(keypoints).astype(np.float32),
            scores=np.concatenate(scores).astype(np.float32),
            descriptors=np.concatenate(descriptors).astype(np.float16),
            teacher=np.array(name, np.str_),
        )


def load_teacher(file: Path, root: Path) -> TeacherFeatures:
    """What `save_teacher` or another program wrote of photos below `root`; `InputError` if there is no
    such file, or it is not of the layout above."""
    images, offsets, keypoints, scores, descriptors, name = read_arrays(file, _KEYS, _WHAT)
    count, m, dims = images.size, len(np.atleast_1d(keypoints)), descriptors.shape[1:]
    rules = {
        "`images` must be one or more strings": has_form(images, (count,), np.str_) and count > 0,
        "`keypoints` must be M x 2 float32 and finite": (
            has_form(keypoints, (m, 2), np.float32) and bool(np.isfinite(keypoints).all())
        ),
        "`scores` must be M float32, 0 to 1": (
            has_form(scores, (m,), np.float32) and bool(((scores >= 0) & (scores <= 1)).all())
        ),
        "`descriptors` must be M x D float16": (
            has_form(descriptors, (m, *dims), np.float16) and len(dims) == 1
        ),
        f"`offsets` must be {count + 1} integers that rise from 0 to the number of keypoints": (
            has_form(offsets, (count + 1,), np.integer) and rise_to(offsets, m)
        ),
    }
    demand(file, _WHAT, rules)
    rows = dict(zip((root / str(image) for image in images), pairwise(offsets), strict=True))
    seen, said = ({p: a[i:j] for p, (i, j) in rows.items()} for a in (keypoints, descriptors))
    return TeacherFeatures(seen, said, str(name))
