"""Every extractor by name, written out.

"a+b" pairs the global descriptor of a with the local features of b.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from locate.errors import UnknownNameError
from locate.extractors.base import Extractor

DEFAULT = "gem+sift"


def _sift(**settings: Any) -> Extractor:
    from locate.extractors.sift import Sift

    return Sift(**settings)


def _gem(**settings: Any) -> Extractor:
    from locate.extractors.gem import Gem

    return Gem.from_pretrained(**settings)


EXTRACTORS: Mapping[str, Callable[..., Extractor]] = {
    "gem": _gem,
    "sift": _sift,
}


def create(
    name: str = DEFAULT, settings: Mapping[str, Mapping[str, Any]] | None = None
) -> Extractor:
    """Build the extractor `name`, ready to use; reads its weights.

    Args:
        name: one of `EXTRACTORS`, or two joined by "+" (global first).
        settings: by extractor name, keyword arguments that differ from the defaults.

    Raises:
        UnknownNameError: names the known ones.
    """
    parts = name.split("+")
    if len(parts) > 2 or any(part not in EXTRACTORS for part in parts):
        raise UnknownNameError("extractor", name, [*EXTRACTORS, DEFAULT])
    made = [EXTRACTORS[part](**(settings or {}).get(part, {})) for part in parts]
    if len(made) == 1:
        return made[0]
    from locate.extractors.pair import Pair

    return Pair(*made)
