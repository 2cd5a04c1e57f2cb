"""A map on disk: a folder that owns all that localization needs.

    features/    a database as `locate build-index` makes them: what was seen in each photo
    model/       a COLMAP model (binary), which COLMAP opens: cameras, poses, points, and which keypoint
                 sees which point. Keypoint k of an image is feature k of the photo of the same name.
                 Beside it map.json: what made the map; and where it lies on the earth, if that is
                 known (`georef`)
    matches.db   a COLMAP database: the verified matches, kept so that photos can be added later

The photos are copied nowhere; landmarks that are removed from the index that a map was made of, or its
folder, leave the map as it is. A new model is written beside the old one, its record in it, and put in
its place by two renames; one that is killed between them is found again. So there is a map at every
instant from the first one on. Photos that change while it is made again have new ids in the features, so
that the old model does without them until the new one is there.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pycolmap

from locate.errors import (
    DatabaseCorruptError,
    DatabaseError,
    DatabaseMismatchError,
    DatabaseMissingError,
)
from locate.util.files import atomic_path, sha256_of, sync, sync_folder

_RECORD = "map.json"
_FILES = ("cameras.bin", "images.bin", "points3D.bin", _RECORD)
# Sizes and checksums of the model's files: COLMAP does not return from some that are damaged, and takes
# others as they are.
_SIZES = "sizes.json"
_VERSION = 2  # 2: with a doubt
# What reading damaged files raises.
_DAMAGED = (OSError, ValueError, AttributeError, RuntimeError, IndexError, MemoryError)


@dataclass(frozen=True)
class MapRecord:
    """What a map remembers of itself, in map.json.

    Attributes:
        made_by: "build-map" or "import-map".
        extractor: name of what looked at the photos.
        units: "metre" if the poses are known to be metric, else "arbitrary".
        georef: see `locate.georef.georef`, or None.
        systematic: share of systematic errors in the residuals of queries, as the map's own photos
            show it (`locate.localization.refinement`); None if there are too few to tell.
        summary: counts and errors of the last change, see `pipelines.mapping.summary`.
        doubt: why no pose in this map is certain (`locate.mapping.structure`); None if nothing is known.
    """

    made_by: str
    extractor: str
    units: str = "arbitrary"
    georef: dict[str, Any] | None = None
    systematic: float | None = None
    summary: dict[str, Any] = field(default_factory=dict)
    doubt: str | None = None


class MapFolder:
    """The names in a map's folder. Creating one touches nothing."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self.features = self.folder / "features"
        self.model = self.folder / "model"
        self.matches = self.folder / "matches.db"

    @property
    def record(self) -> Path:
        """`map.json` of the model that counts."""
        return self._current / _RECORD

    @property
    def _current(self) -> Path:
        """The model; the old one if a writer was killed while it changed them."""
        return self.model if _whole(self.model) or not _whole(self._old) else self._old

    @property
    def _old(self) -> Path:
        return self.folder / "model.old"

    def exists(self) -> bool:
        """Whether there is a finished map."""
        return _whole(self._current)

    def read_record(self) -> MapRecord:
        """`DatabaseMissingError` if there is no map, `DatabaseCorruptError` if its record is damaged,
        `DatabaseMismatchError` if a newer version of `locate` made it."""
        if not self.exists():
            raise DatabaseMissingError(
                f"no finished map at {self.folder}; make one with: locate build-map --out "
                f"{self.folder} (run again, it goes on where it stopped)"
            )
        try:
            values = json.loads(self.record.read_text("utf-8"))
            newer = values.pop("version") > _VERSION  # one that may have further fields
            made = None if newer else MapRecord(**values)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            why = f"{self.record} is damaged ({error})"
            raise DatabaseCorruptError(f"{why}; make the map again") from error
        if made is None:
            why = f"{self.folder} was made by a newer version of locate"
            raise DatabaseMismatchError(f"{why}; upgrade locate")
        return made

    def read_model(self) -> pycolmap.Reconstruction:
        """`DatabaseCorruptError` if its files are missing or damaged."""
        folder = self._current
        try:
            sizes = json.loads((folder / _SIZES).read_text("utf-8"))
            for name, written in sizes.items():
                found = _seal(folder / name)
                if written not in (found, found[0]):  # first versions knew the size only
                    raise ValueError(f"{name} is not as it was written")
            return pycolmap.Reconstruction(folder)
        except _DAMAGED as error:
            why = f"{folder} is damaged ({str(error).splitlines()[0]})"
            raise DatabaseCorruptError(f"{why}; make the map again") from error

    def write_record(self, record: MapRecord) -> None:
        """Change the record of the model that is there, wholly or not at all. Hold the lock."""
        with self._translate_errors(), atomic_path(self.record) as temporary:
            temporary.write_text(_text(record))

    def write(self, model: pycolmap.Reconstruction, record: MapRecord) -> None:
        """Put `model` and its record in the place of those that are there. Hold the lock."""
        new = self.folder / "model.new"
        with self._translate_errors():
            self.recover()
            shutil.rmtree(new, ignore_errors=True)
            new.mkdir(parents=True)
            model.write_binary(new)
            sizes = {file.name: _seal(file) for file in sorted(new.iterdir())}
            (new / _SIZES).write_text(json.dumps(sizes))
            (new / _RECORD).write_text(_text(record))
            for file in new.iterdir():
                sync(file)
            sync_folder(new)
            if self.model.exists():
                self.model.rename(self._old)
            new.rename(self.model)
            sync_folder(self.folder)
            shutil.rmtree(self._old, ignore_errors=True)

    def recover(self) -> None:
        """Finish or undo the change of models that a killed process left. Hold the lock."""
        if _whole(self._old) and not _whole(self.model):
            shutil.rmtree(self.model, ignore_errors=True)
            self._old.rename(self.model)
        shutil.rmtree(self._old, ignore_errors=True)

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        """The system's errors as ours, with the cure."""
        try:
            yield
        except (OSError, RuntimeError, ValueError) as error:
            raise DatabaseError(
                f"cannot write the map in {self.folder} ({error}); free some space, check the "
                "permissions and run the same command again; the old map is still there"
            ) from error


def _text(record: MapRecord) -> str:
    return json.dumps({"version": _VERSION, **vars(record)}, indent=1)


def _seal(file: Path) -> list[object]:
    """The size in bytes and the sha256 of a file."""
    return [file.stat().st_size, sha256_of(file)]


def _whole(model: Path) -> bool:
    return all((model / name).is_file() for name in _FILES)


Progress = Callable[[str, int, int], None]  # (stage, done, in all)
