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
    for needed, kind, other, has, some in (
        (search != LOCAL, "global descriptor", LOCAL, info.global_dim, "one"),
        (search != GLOBAL, "local features", GLOBAL, info.local_dim, "some"),
    ):
        if needed and not has:
            raise InputError(
                f"{info.name} gives no {kind}, which the search {search!r} needs; use the search "
                f"{other!r}, or an extractor that has {some}, such as gem+steered"
            )
