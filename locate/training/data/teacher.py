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

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from locate.errors import InputError
from locate.training.data.correspondences import relative_names, rise_from_zero
from locate.types import Array
from locate.util.files import atomic_write

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
    """Read what `save_teacher` or another program wrote; `InputError` if there is no such file, or it is
    not of the layout above.

    Args:
        root: the data folder that image paths are relative to.
    """
    try:
        with np.load(file, allow_pickle=False) as stored:
            missing = [key for key in _KEYS if key not in stored]
            if missing:
                raise InputError(
                    f"{file}: {', '.join(missing)} missing; see locate.training.data.teacher"
                )
            images, offsets, keypoints, scores, descriptors, name = (stored[k] for k in _KEYS)
    except FileNotFoundError:
        raise InputError(f"{file} does not exist; name a file of a teacher's features") from None
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(f"{file} is no file of a teacher's features ({error})") from error
    rules = {
        "`images` must be one or more strings": images.ndim == 1 and images.dtype.kind == "U",
        f"`offsets` must be {len(images) + 1} integers that rise from 0": (
            offsets.shape == (len(images) + 1,)
            and offsets.dtype.kind in "iu"
            and rise_from_zero(offsets)
        ),
        "`keypoints` must be M x 2 float32 and finite": (
            keypoints.ndim == 2
            and keypoints.shape[1] == 2
            and keypoints.dtype == np.float32
            and bool(np.isfinite(keypoints).all())
        ),
        "`scores` must be M float32, 0 to 1": (
            scores.shape == keypoints.shape[:1]
            and scores.dtype == np.float32
            and bool(((scores >= 0) & (scores <= 1)).all())
        ),
        "`descriptors` must be M x D float16": (
            descriptors.ndim == 2
            and len(descriptors) == len(keypoints) == int(offsets[-1])
            and descriptors.dtype == np.float16
        ),
    }
    for rule, kept in rules.items():
        if not kept:
            raise InputError(f"{file}: {rule}; see locate.training.data.teacher")
    rows = dict(
        zip((root / str(image) for image in images), pairwise(offsets.tolist()), strict=True)
    )
    return TeacherFeatures(
        {path: keypoints[a:b] for path, (a, b) in rows.items()},
        {path: descriptors[a:b] for path, (a, b) in rows.items()},
        str(name),
    )
