"""How candidates are found: by the global descriptor, by the votes of local features, or by both."""

from __future__ import annotations

from locate.errors import InputError
from locate.extractors.base import ExtractorInfo

GLOBAL, LOCAL, BOTH = "global", "local", "both"
SEARCHES = (GLOBAL, LOCAL, BOTH)


def default_search(info: ExtractorInfo) -> str:
    """By the global descriptor where the extractor has one."""
    return GLOBAL if info.global_dim else LOCAL


def refuse_unfit(search: str, info: ExtractorInfo) -> None:
    """`InputError` if `search` is none, or needs descriptors that the extractor does not give."""
    if search not in SEARCHES:
        raise InputError(f"search must be {', '.join(SEARCHES)}, got {search!r}")
    if search != LOCAL and not info.global_dim:
        raise InputError(
            f"{info.name} gives no global descriptor, which the search {search!r} needs; use the "
            f"search {LOCAL!r}, or an extractor that has one, such as gem+steered"
        )
    if search != GLOBAL and not info.local_dim:
        raise InputError(
            f"{info.name} gives no local features, which the search {search!r} needs; use the "
            f"search {GLOBAL!r}, or an extractor that has some, such as gem+steered"
        )
