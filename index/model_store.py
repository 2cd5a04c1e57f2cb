"""Weights files by name, for all databases of a user: `locate models add`.

They lie as NAME.safetensors in the folder that the environment variable LOCATE_MODELS names, else in
`locate/models` of the user's data folder (XDG Base Directory Specification)."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from locate.errors import InputError, UnknownNameError
from locate.util.files import atomic_path, sha256_of

_NAME = re.compile(r"[\w.-]+", re.ASCII)
_ENDING = ".safetensors"
_TAKEN = "bundled"  # means those that come with locate


def folder() -> Path:
    """Where they lie."""
    if named := os.environ.get("LOCATE_MODELS"):
        return Path(named)
    data = os.environ.get("XDG_DATA_HOME")
    return (Path(data) if data else Path.home() / ".local/share") / "locate/models"


def stored() -> Mapping[str, Path]:
    """The files by name."""
    found = sorted(folder().glob(f"*{_ENDING}"))
    return {
        file.name.removesuffix(_ENDING): file for file in found if not file.name.startswith(".")
    }


def add(file: Path, name: str) -> Path:
    """Copy a file under a name; `InputError` if another has it, or it cannot be written."""
    if not _NAME.fullmatch(name) or name.startswith((".", "-")) or name == _TAKEN:
        raise InputError(
            f"a name has letters, digits, '.', '-' and '_', not {name!r}; say --name NAME"
        )
    target = folder() / f"{name}{_ENDING}"
    try:
        if target.exists():
            if sha256_of(target) == sha256_of(file):
                return target
            raise InputError(
                f"there is another {name} in {folder()}; say --name ANOTHER, or first: "
                f"locate models remove {name}"
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(target) as temporary:
            shutil.copyfile(file, temporary)
    except OSError as error:
        why = f"cannot copy {file} to {target} ({error.strerror})"
        raise InputError(f"{why}; check the disk and permissions") from error
    return target


def remove(name: str) -> Path:
    """Forget one; databases that were built with it keep copies of their own."""
    there = stored()
    if name not in there:
        raise UnknownNameError(
            "model", name, there or ("none yet; add one by locate models add FILE",)
        )
    try:
        there[name].unlink()
    except OSError as error:
        raise InputError(
            f"cannot remove {there[name]} ({error.strerror}); check permissions"
        ) from error
    return there[name]


def find(word: str | Path) -> Path:
    """The file that a user means: a path, or the name of one that was added."""
    path = Path(word)
    return path if path.exists() else stored().get(str(word), path)
