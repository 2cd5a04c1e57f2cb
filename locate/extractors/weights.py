"""Trained weights as files: safetensors, with a record of where they come from inside.

Unlike a pickle such a file holds numbers and text alone; reading one cannot run anything."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from safetensors import SafetensorError, safe_open

from locate.errors import WeightsError
from locate.util.files import atomic_write, sha256_of

if TYPE_CHECKING:  # records are read without torch, which takes a second to import
    from torch import Tensor, nn

_KEY = "locate"
file_hash = sha256_of
log = logging.getLogger("locate")

Network = TypeVar("Network", bound="nn.Module")


@dataclass(frozen=True)
class Record:
    """Where weights come from."""

    system: str  # name of the extractor that they are for, as in the registry
    # What its network was built with ("backbone", dimensions, ...), JSON-able.
    settings: Mapping[str, Any] = field(default_factory=dict)
    data: str = ""  # what they were trained on, in words
    command: str = ""  # that trained them
    commit: str = ""  # of this repository, or "" if it is not known
    seconds: float = 0.0  # of training
    scores: Mapping[str, float] = field(default_factory=dict)  # measured ones, by name
    licence: str = ""
    started_from: str = ""  # sha256 of the weights file that the training started from

    def to_json(self) -> str:
        values = asdict(self)
        values["settings"], values["scores"] = dict(self.settings), dict(self.scores)
        return json.dumps(values, indent=1, sort_keys=True)


def save_weights(path: Path, tensors: Mapping[str, Tensor], record: Record) -> str:
    """Write `tensors` and their record; the old file stays until the new one is complete. The sha256 of
    the file."""
    from safetensors.torch import save

    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    data = save(plain, metadata={_KEY: record.to_json()})
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as stream:
        stream.write(data)
    return hashlib.sha256(data).hexdigest()


def in_float16(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Matrices and kernels in half the room; statistics and biases, whose range is wide, and what has no
    finite float16, as they are."""
    halves = {n: t.half() for n, t in tensors.items() if t.ndim > 1 and t.is_floating_point()}
    return {**tensors, **{n: half for n, half in halves.items() if half.isfinite().all()}}


def read_record(path: Path) -> Record:
    """The record alone; `WeightsError` if `path` is no file of ours."""
    return _read(path, with_tensors=False)[1]


def load_weights(path: Path, system: str | None = None) -> tuple[dict[str, Tensor], Record]:
    """Tensors (on the CPU, float32) and record of `path`; `WeightsError` if not for `system`."""
    tensors, record = _read(path, with_tensors=True)
    tensors = {n: t.float() if t.is_floating_point() else t for n, t in tensors.items()}
    if system is not None and record.system != system:
        raise WeightsError(f"{path} holds weights of {record.system}, not of {system}")
    return tensors, record


def load_network(
    path: Path, system: str, build: Callable[[Mapping[str, Any]], Network]
) -> tuple[Network, Mapping[str, Any], str]:
    """The network of a weights file of `system`, which `build` makes of the settings in it, these
    settings, and the sha256 of the file; `WeightsError` if it does not fit."""
    tensors, record = load_weights(path, system)
    network = build(record.settings)
    load_into(network, tensors, path)
    return network, record.settings, file_hash(path)


def warn_untrained(system: str, what: str) -> None:
    log.warning("%s; train it with: locate train %s", what, system)


def load_into(network: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Set all parameters and buffers of `network`; `WeightsError` naming what does not fit."""
    try:
        network.load_state_dict(dict(tensors))
    except RuntimeError as error:
        raise WeightsError(
            f"{path} does not fit its network: {' '.join(str(error).split())}"
        ) from error


def _read(path: Path, *, with_tensors: bool) -> tuple[dict[str, Tensor], Record]:
    try:
        with safe_open(path, framework="pt" if with_tensors else "np") as file:
            text = (file.metadata() or {}).get(_KEY)
            tensors = {n: file.get_tensor(n) for n in file.keys()} if with_tensors else {}  # noqa: SIM118
    except FileNotFoundError:
        raise WeightsError(f"{path} does not exist; name a file that `locate train` made") from None
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            f"{path} is no safetensors file ({error}); name one that `locate train` made"
        ) from error
    if text is None:
        raise WeightsError(f"{path} has no record of `locate train`, so nobody knows what it is")
    try:
        return tensors, Record(**json.loads(text))
    except (TypeError, ValueError) as error:
        raise WeightsError(f"{path}: its record cannot be read ({error})") from error
