"""Every extractor by name, written out.

"a+b" pairs the global descriptor of a with the local features of b.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from locate.errors import UnknownNameError, WeightsError
from locate.extractors.base import Extractor

DEFAULT = "context"
# docs/experiments.md, 19 and 20: of a search by local features, and of maps from photos alone
LOCAL_DEFAULT = SFM_DEFAULT = "gem+sift"


def _sift(*, weights: Path | None = None, **settings: Any) -> Extractor:
    from locate.extractors.sift import Sift

    _refuse("sift", weights)
    return Sift(**settings)


def _gem(*, weights: Path | None = None, **settings: Any) -> Extractor:
    from locate.extractors.gem import Gem

    _refuse("gem", weights)
    return Gem.from_pretrained(**settings)


def _context(**settings: Any) -> Extractor:
    from locate.extractors.context.extractor import Context

    return Context.from_pretrained(**settings)


def _d2net(**settings: Any) -> Extractor:
    from locate.extractors.d2net.extractor import D2Net

    return D2Net.from_pretrained(**settings)


def _delf(**settings: Any) -> Extractor:
    from locate.extractors.delf.extractor import Delf

    return Delf.from_pretrained(**settings)


def _steered(**settings: Any) -> Extractor:
    from locate.extractors.steered.extractor import Steered

    return Steered.from_pretrained(**settings)


def _ur2kid(**settings: Any) -> Extractor:
    from locate.extractors.ur2kid.extractor import UR2KiD

    return UR2KiD.from_pretrained(**settings)


def _refuse(name: str, weights: Path | None) -> None:
    if weights is not None:
        raise WeightsError(f"{name} is not trained here, so {weights} is not for it")


# Each takes the settings of its extractor and `weights`, a file that `locate train` made.
EXTRACTORS: Mapping[str, Callable[..., Extractor]] = {
    "context": _context,
    "d2net": _d2net,
    "delf": _delf,
    "gem": _gem,
    "sift": _sift,
    "steered": _steered,
    "ur2kid": _ur2kid,
}


def create(
    name: str = DEFAULT,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    weights: Mapping[str, Path] | None = None,
) -> Extractor:
    """Build the extractor `name`, ready to use; reads its weights.

    Args:
        name: one of `EXTRACTORS`, or two joined by "+" (global first).
        settings: by extractor name, keyword arguments that differ from the defaults.
        weights: by extractor name, the file that `locate train` made; others are as they come
            (trained elsewhere, or the start of a training).

    Raises:
        UnknownNameError: names the known ones.
        WeightsError: a file is missing or does not fit.
    """
    parts = name.split("+")
    if len(parts) > 2 or any(part not in EXTRACTORS for part in parts):
        raise UnknownNameError("extractor", name, [*EXTRACTORS, "gem+sift"])
    made = [
        _make(part, (settings or {}).get(part, {}), (weights or {}).get(part)) for part in parts
    ]
    if len(made) == 1:
        return made[0]
    from locate.extractors.pair import Pair

    return Pair(*made)


def parts_of(name: str) -> list[str]:
    """The one or two extractors of a name; `UnknownNameError` if there is none such."""
    parts = name.split("+")
    if len(parts) > 2 or any(part not in EXTRACTORS for part in parts):
        raise UnknownNameError("extractor", name, [*EXTRACTORS, "gem+sift"])
    return parts


def _make(name: str, settings: Mapping[str, Any], weights: Path | None) -> Extractor:
    named = {} if weights is None else {"weights": weights}
    return EXTRACTORS[name](**settings, **named)
