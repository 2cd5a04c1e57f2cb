"""Lines of text files: what is wrong is told with file and line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pycolmap

from locate.errors import InputError
from locate.types import Array

_QUATERNION_LENGTH = 1e-2  # how far from 1 the length of one that was rounded may be


def read_lines(path: Path) -> list[str]:
    """The stripped lines of a text file in UTF-8; `InputError` if it cannot be read."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; check the name") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from error
    try:
        return [line.strip() for line in data.decode("utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise _not_utf8(path, data, error.start) from None


def rows(path: Path) -> list[tuple[int, str]]:
    """(number, line) of the lines that are neither empty nor comments (#)."""
    lines = enumerate(read_lines(path), 1)
    return [(number, line) for number, line in lines if line and not line.startswith("#")]


def _not_utf8(path: Path, data: bytes, at: int) -> InputError:
    """The error that a file is no text in UTF-8, with what it may be instead."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return InputError(
            f"{path} is not text in UTF-8 but begins as UTF-16 does; save it as UTF-8 "
            f"(iconv -f UTF-16 -t UTF-8 {path.name})"
        )
    if b"\0" in data:
        return InputError(f"{path} is not text; check the format")
    number = data.count(b"\n", 0, at) + 1
    word = data[:at].split()[-1:] if not data[at - 1 : at].isspace() else []
    text = b"".join([*word, *data[at:].split(maxsplit=1)[:1]]).decode("latin-1")
    return InputError(
        f"{path}, line {number}: byte 0x{data[at]:02x} is not UTF-8 ({text!r} if it is Latin-1); save "
        f"the file as UTF-8 (iconv -f ISO-8859-1 -t UTF-8 {path.name})"
    )


def numbers(path: Path, number: int, fields: list[str]) -> list[float]:
    """Finite numbers of a line."""
    try:
        values = [float(field) for field in fields]
    except ValueError:
        values = [np.nan]
    if not np.isfinite(values).all():
        commas = " with decimal points, no commas" if any("," in field for field in fields) else ""
        raise fault(path, number, f"expected finite numbers{commas}", " ".join(fields))
    return values


def integer(path: Path, number: int, field: str) -> int:
    try:
        return int(field)
    except ValueError:
        raise fault(path, number, "expected a whole number", field) from None


def fault(path: Path, number: int, expected: str, line: str) -> InputError:
    """The error that a line of a file is wrong."""
    return InputError(f"{path}, line {number}: {expected}, got {line[:80]!r}")


def pose_matrix(path: Path, number: int, values: list[float]) -> Array:
    """A rotation (w, x, y, z) and a translation -> 3 x 4 [R | t]."""
    wxyz, translation = values[:4], values[4:]
    length = float(np.linalg.norm(wxyz))
    if abs(length - 1) > _QUATERNION_LENGTH:
        record = "image" if path.suffix == ".bin" else "line"
        raise InputError(
            f"{path}, {record} {number}: the rotation {wxyz} has length {length:.4g}, not 1; check the "
            "order of the columns"
        )
    w, x, y, z = (value / length for value in wxyz)
    rotation = pycolmap.Rotation3d(np.array([x, y, z, w])).matrix()
    return np.asarray(np.c_[rotation, np.array(translation)])
