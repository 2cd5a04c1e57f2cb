"""Lists, dicts, text and numpy arrays out of a pickle, and nothing else.

A pickle is a program: `pickle.load` runs whatever it names. Here the few names that arrays are made of
stand for harmless look-alikes, which only take values down; any other name is refused. Not even numpy
sees the file's own idea of a dtype, since a forged one can reach beyond its memory.
"""

from __future__ import annotations

import io
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from locate.errors import InputError

_MODULES = ("numpy.core", "numpy._core")  # numpy 1 and 2


def load_plain(file: Path) -> Any:
    """The content of a pickle of dicts, lists, tuples, sets, text, numbers and numpy arrays (as
    lists of Python's numbers). `InputError` if it cannot be read, is no pickle, or names anything
    else, which is not run."""
    try:
        stream = io.BytesIO(file.read_bytes())
        return _Unpickler(stream, encoding="latin1").load()
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror}") from error
    except _RefusedError as error:
        raise InputError(
            f"{file} asks to run {error}, which a list of images has no need for; it was not run. "
            "Get the file from its authors again"
        ) from error
    except Exception as error:  # a broken pickle raises nearly every type
        raise InputError(
            f"{file} is no readable pickle ({type(error).__name__}: {error})"
        ) from error


class _RefusedError(Exception):
    pass


class _Array(list[Any]):
    """What a pickle says of an ndarray: an empty one is made, then its state is set."""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        # (version, shape, dtype, whether the columns come first, content)
        shape, dtype, by_column, content = state[-4:]
        self.fill(content, dtype, shape, by_column=bool(by_column))

    def fill(self, content: Any, dtype: Any, shape: Any, *, by_column: bool) -> _Array:
        shape = (shape,) if isinstance(shape, int) else tuple(shape)
        flat = dtype.read(content)
        if math.prod(shape) != len(flat):
            raise ValueError(f"{len(flat)} values for an array of shape {shape}")
        if len(shape) > 1:
            flat = np.asarray(flat).reshape(shape, order="F" if by_column else "C").tolist()
        self[:] = flat
        return self


class _Dtype:
    """A dtype of numbers or of objects; records and text are refused."""

    def __init__(self, code: str, *_: Any) -> None:
        self._code = str(code)
        self._order = "|"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        # (version, byte order, subarray, names, fields, ...)
        if any(part is not None for part in state[2:5]):
            raise ValueError("an array of records")
        self._order = str(state[1])

    def read(self, content: Any) -> list[Any]:
        """The values that bytes, or a list of objects, stand for."""
        if self._code == "O8":
            return list(content)
        if self._code[:1] not in "biuf" or self._code[1:] not in ("1", "2", "4", "8"):
            raise ValueError(f"an array of {self._code}")
        if self._order not in ("<", ">", "|", "="):
            raise ValueError(f"an array of byte order {self._order}")
        raw = content.encode("latin1") if isinstance(content, str) else bytes(content)
        values: list[Any] = np.frombuffer(raw, np.dtype(self._order + self._code)).tolist()
        return values


class _Safe:
    """A function that a pickle may call; it cannot change it."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setstate__(self, _: Any) -> None:
        raise ValueError("a pickle that changes a function")


def _encode(text: str, encoding: str) -> bytes:
    """How bytes travel in old protocols."""
    if encoding != "latin1":
        raise ValueError(f"bytes as {encoding}")
    return text.encode("latin1")


def _scalar(dtype: _Dtype, content: Any) -> Any:
    (value,) = dtype.read(content)
    return value


def _from_buffer(content: Any, dtype: _Dtype, shape: Any, order: str) -> _Array:
    return _Array().fill(content, dtype, shape, by_column=order == "F")


_SAFE: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "ndarray"): _Safe(_Array),
    ("numpy", "dtype"): _Safe(_Dtype),
    ("_codecs", "encode"): _Safe(_encode),
    ("__builtin__", "bytes"): _Safe(lambda: b""),  # the content of an empty array
    ("builtins", "set"): _Safe(set),
    ("__builtin__", "set"): _Safe(set),
    ("builtins", "frozenset"): _Safe(frozenset),
    ("__builtin__", "frozenset"): _Safe(frozenset),
    **{(f"{m}.multiarray", "_reconstruct"): _Safe(lambda *_: _Array()) for m in _MODULES},
    **{(f"{m}.multiarray", "scalar"): _Safe(_scalar) for m in _MODULES},
    **{(f"{m}.numeric", "_frombuffer"): _Safe(_from_buffer) for m in _MODULES},
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _SAFE:
            raise _RefusedError(f"{module}.{name}")
        return _SAFE[module, name]
