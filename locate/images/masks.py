"""Masks: what of a photo is to be ignored, as COLMAP has it ("mask_path", "camera_mask_path").

The mask of `a/b.jpg` is `a/b.jpg.png` (or `a/b.png`) in the folder of masks; `mask.png` there is
for all photos that have none of their own. Black is ignored. A mask is as large as its photo, seen
upright, or has its shape in another size; where the photo is turned by EXIF, one of the photo as
it is stored fits too.

What is ignored is painted over before anything looks at the photo, so that nothing depends on it, the
global descriptor included; and no local feature lies in it or within `MARGIN` of it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path, PurePosixPath

import cv2
import numpy as np
from PIL import Image

from locate.errors import ImageError, InputError
from locate.images.reading import UPRIGHT, read_bytes
from locate.pixels import fit_size
from locate.types import Array, Features, Photo, PhotoInfo

FOR_ALL = "mask.png"
MARGIN = 8.0  # pixels at SIDE: the patch of a feature reaches beyond its place
SIDE = 1024  # pixels: a mask is kept this large at most
# Grey changes a global descriptor less than what surrounds the hole does, smoothed, mirrored or painted
# in (cosines with the whole photo .89 for .79 to .88 with a quarter ignored, by GeM on train/landmarks).
FILL = 114
_SHAPE = 0.01  # by which the ratio of a mask's sides may differ from the photo's


@dataclass(frozen=True, eq=False)
class Mask:
    """`ignored`: H x W bool, of the upright photo in at most `SIDE` pixels; True is ignored."""

    ignored: Array

    def fill(self, pixels: Array) -> Array:
        """H x W x 3 uint8 of the photo in any size, with what is ignored painted over."""
        size = (pixels.shape[1], pixels.shape[0])
        # Linear interpolation of 0 and 1: whatever touches an ignored pixel is above 0.
        small = self.ignored.astype(np.float32)
        filled = pixels.copy()
        filled[cv2.resize(small, size, interpolation=cv2.INTER_LINEAR) > 0] = FILL
        return filled

    def outside(self, features: Features) -> Features:
        """Without the features in what is ignored, or within MARGIN of it."""
        height, width = self.ignored.shape
        reach = round(MARGIN * max(width, height) / SIDE)
        kernel = np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)
        near = cv2.dilate(self.ignored.astype(np.uint8), kernel) > 0
        scale = np.array([width, height]) / np.asarray(features.image_size)
        cells = np.floor((features.keypoints + 0.5) * scale).astype(np.int64)
        x, y = np.clip(cells[:, 0], 0, width - 1), np.clip(cells[:, 1], 0, height - 1)
        return features.take(~near[y, x])


class Masks:
    """A folder of masks, or one mask for all photos."""

    def __init__(self, place: Path | str) -> None:
        """`place` is such a folder, or a PNG file for all photos; `InputError` if there is no mask."""
        self.place = Path(place)
        if self.place.is_dir():
            if next(self.place.rglob("*.png"), None) is None:
                raise InputError(
                    f"{self.place} holds no masks; a mask of a/b.jpg is a/b.jpg.png there, and "
                    f"{FOR_ALL} is for all photos"
                )
        elif not self.place.is_file():
            raise InputError(f"{self.place} does not exist; name a folder of masks, or a mask")
        self._hash = cache(_hash)

    def path_of(self, name: str) -> Path | None:
        """The mask of a photo, or None, by its path (with forward slashes) in the folder of photos."""
        if not self.place.is_dir():
            return self.place
        own = PurePosixPath(name)
        choices = [self.place / f"{name}.png", self.place / own.with_suffix(".png")]
        if own.suffix.lower() == ".png":
            choices.pop()  # the photo itself, where masks lie beside photos
        choices.append(self.place / FOR_ALL)
        return next((path for path in choices if path.is_file()), None)

    def holds(self, file: Path, photos: Path) -> bool:
        """Whether a PNG file is a mask, where masks lie in the folder `photos` itself or below it."""
        place, root = self.place.resolve(), photos.resolve()
        path = file.absolute()
        if place == root:
            named = path.name == FOR_ALL or path.with_suffix("").is_file()
            return path.suffix.lower() == ".png" and named
        inside = place.is_relative_to(root) and path.resolve().is_relative_to(place)
        return path == place or inside

    def hash_of(self, name: str) -> str:
        """What changes with the mask of a photo; "" for none."""
        path = self.path_of(name)
        return "" if path is None else self._hash(path)

    def of_photo(self, photo: Photo) -> Mask | None:
        """`read` for the longest end of a photo's path that a mask is named by; pixels in memory
        have only the one for all."""
        parts = photo.path.absolute().parts[1:] if photo.path else (FOR_ALL,)
        names = ["/".join(parts[k:]) for k in range(len(parts))]
        own = next((n for n in names if self.path_of(n) != self.path_of(FOR_ALL)), names[-1])
        return self.read(own, photo.info)

    def read(self, name: str, info: PhotoInfo) -> Mask | None:
        """The mask of a photo (see `path_of`), or None; `ImageError` if it is broken, does not fit,
        or ignores all."""
        path = self.path_of(name)
        return None if path is None else read_mask(path, info)


def hidden(photo: Photo, masks: Masks | None) -> tuple[Photo, Mask | None]:
    """The photo with what its mask ignores filled, and the mask."""
    mask = None if masks is None else masks.of_photo(photo)
    return (photo, None) if mask is None else (replace(photo, pixels=mask.fill(photo.pixels)), mask)


def read_mask(path: Path, info: PhotoInfo) -> Mask:
    """One mask; see `Masks.read`."""
    try:
        with Image.open(path) as image:
            image.load()
            deep = image.mode in ("I", "F") or image.mode.startswith("I;16")
            values = np.asarray(image if deep else image.convert("RGB"))
            kept = np.asarray(values != 0 if deep else values.any(axis=2))
    except FileNotFoundError:
        raise ImageError(path, "does not exist", "check the name") from None
    except Exception as error:  # Pillow's decoders raise nearly every type on broken files
        reason = f"is no mask that can be read ({error})"
        raise ImageError(path, reason, "save it as a PNG") from error
    width, height = info.size
    stored = info.size[::-1] if info.orientation >= 5 else info.size
    if not _same_shape(kept, width, height):
        if not _same_shape(kept, *stored):
            reason = f"is {kept.shape[1]} x {kept.shape[0]} px, its photo {width} x {height}"
            raise ImageError(path, reason, "make the mask as large as the photo")
        turned = Image.fromarray(kept.astype(np.uint8)).transpose(UPRIGHT[info.orientation])
        kept = np.asarray(turned) > 0
    if not kept.any():
        raise ImageError(path, "is black all over: nothing of the photo is left", "mend the mask")
    small = fit_size((kept.shape[1], kept.shape[0]), SIDE)
    shrunk = cv2.resize((~kept).astype(np.float32), small, interpolation=cv2.INTER_AREA)
    return Mask(shrunk > 0)


def _same_shape(mask: Array, width: int, height: int) -> bool:
    return bool(abs(mask.shape[1] / mask.shape[0] / (width / height) - 1) <= _SHAPE)


def _hash(path: Path) -> str:
    try:
        return hashlib.sha256(read_bytes(path)).hexdigest()
    except ImageError as error:
        return f"unreadable: {error.reason}"  # the same until it can be read
