"""Which photos lie below a folder, and which files that look like some are passed over."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path, PurePath
from typing import Any

from locate.errors import InputError, NoPhotoError
from locate.images.file_kinds import kind_of
from locate.images.reading import is_photo_name


@dataclass(frozen=True)
class PhotoFile:
    """A file that looks like a photo by its name: `path` is relative to the root with forward slashes;
    `error` says why it cannot even be looked at."""

    path: str
    absolute: Path
    bytes: int
    mtime_ns: int
    error: str | None = None


@dataclass
class Group:
    """Files of one ending (in small letters, "" for none) that were passed over: name, reason and
    cure of their kind (`FileKind`), the path of the first, and how many there are."""

    ending: str
    kind: str
    reason: str
    cure: str
    example: str
    count: int = 0

    def __str__(self) -> str:
        files = "1 file" if self.count == 1 else f"{self.count} files"
        ending = self.ending or "without an ending"
        return f"{files} {ending} ({self.example}): {self.reason}; {self.cure}"


@dataclass
class LeftOut:
    """What a walk over folders passed over: pictures and videos, by ending and reason, which make a
    command exit with "some files could not be used"; and how many other files (text, tables, ...),
    but for hidden ones."""

    groups: dict[tuple[str, str], Group] = field(default_factory=dict)
    others: int = 0

    def __bool__(self) -> bool:
        return bool(self.groups)

    def lines(self) -> list[str]:
        """A sentence about each group, for people; the largest first."""
        return [str(group) for group in sorted(self.groups.values(), key=lambda g: -g.count)]

    def to_json(self) -> dict[str, Any]:
        return {"left_out": list(map(asdict, self.groups.values())), "others": self.others}

    def count(self, file: Path, root: Path) -> None:
        """Book a file whose name is not that of a photo."""
        kind = kind_of(file)
        if kind is None:
            self.others += 1
            return
        ending, example = PurePath(file.name).suffix.lower(), file.relative_to(root).as_posix()
        group = Group(ending, kind.name, kind.reason, kind.cure, example)
        self.groups.setdefault((ending, kind.reason), group).count += 1


def require_folder(root: Path) -> None:
    """`InputError` if there is no folder of that name."""
    if not root.exists():
        raise InputError(f"{root} does not exist; name a folder of photos")
    if not root.is_dir():
        raise InputError(f"{root} is a file; name a folder, or use: locate add {root}")


def scan(
    root: Path, left_out: LeftOut | None = None, known: Collection[str] = ()
) -> Iterator[PhotoFile]:
    """Photos below `root`, recursively, sorted within each folder; `InputError` if it is no folder.

    Hidden files and folders (a leading dot: caches, macOS's "._" files, `.locate` itself) are left
    out; links are followed, each folder once. A folder that cannot be listed is found with its error.

    Args:
        left_out: learns what was passed over while the photos are taken from the iterator.
        known: paths relative to the root that are photos whatever their names say.
    """
    require_folder(root)
    seen: set[tuple[int, int]] = set()
    unlisted: list[OSError] = []
    for folder, folders, files in os.walk(root, onerror=unlisted.append, followlinks=True):
        try:
            status = Path(folder).stat()
        except OSError as vanished:
            unlisted.append(vanished)
            status = None
        if status is None or (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if name.startswith("."):
                continue
            file = Path(folder) / name
            if is_photo_name(name) or (known and file.relative_to(root).as_posix() in known):
                yield photo_file(file, root)
            elif left_out is not None:
                left_out.count(file, root)
    for error in unlisted:
        reason = f"cannot be listed ({error.strerror}); check its permissions"
        yield replace(photo_file(Path(error.filename), root), error=reason)


def photos_in(root: Path) -> dict[str, Path]:
    """The files among what `scan` finds, by their paths relative to `root` with forward slashes, in
    the order of these; what cannot be opened is left out."""
    files = (found.absolute for found in scan(root) if found.absolute.is_file())
    return dict(sorted((file.relative_to(root).as_posix(), file) for file in files))


def survey(paths: Iterable[Path]) -> LeftOut:
    """What a walk over the folders among `paths` passes over; `NoPhotoError` if there are no photos
    in them, nor files among `paths`."""
    left_out, photos, named = LeftOut(), 0, list(paths)
    for path in named:
        photos += sum(1 for _ in scan(path, left_out)) if path.is_dir() else 1
    if named and not photos:
        raise no_photo(", ".join(map(str, named)), left_out)
    return left_out


def no_photo(where: str, left_out: LeftOut) -> NoPhotoError:
    """The error for a command that needs photos and was given none."""
    because = "name photos, or a folder that holds some"
    if left_out.groups:
        because = "; ".join(left_out.lines())
    elif left_out.others:
        because = f"{left_out.others} files of other kinds"
    return NoPhotoError(f"no photo found in {where}: {because}")


def photo_file(file: Path, root: Path) -> PhotoFile:
    """One file below `root`."""
    path = file.relative_to(root).as_posix()
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        safe = path.encode("utf-8", "backslashreplace").decode()
        return PhotoFile(safe, file, 0, 0, _unnameable(path))
    try:
        status = file.stat()
    except OSError as error:
        reason = f"cannot be read ({error.strerror}); check the link or disk"
        return PhotoFile(path, file, 0, 0, reason)
    return PhotoFile(path, file, status.st_size, status.st_mtime_ns)


def _unnameable(path: str) -> str:
    """Why a path has characters that stand for bytes: the name's fault, or that of the environment."""
    try:
        os.fsencode(path).decode("utf-8")
    except UnicodeError:
        return "its name is not valid UTF-8; rename it"
    encoding = sys.getfilesystemencoding()
    return f"its name is UTF-8, which this environment forbids ({encoding}); set PYTHONUTF8=1"
