"""Vector stores by URI.

Other people's packages add theirs by the entry point `locate.stores`: the scheme, and a function that
takes what follows "://" and gives a `Store`.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path

from index.vectors.base import Store
from locate.errors import InputError

GROUP = "locate.stores"


def _faiss(folder: str) -> Store:
    from index.vectors.faiss_store import FaissStore
    from index.vectors.local_store import LocalFaissStore

    return Store(FaissStore(Path(folder)), LocalFaissStore(Path(folder)))


STORES: dict[str, Callable[[str], Store]] = {"faiss": _faiss}


def open_store(uri: str | Path) -> Store:
    """The store at "scheme://place"; a plain path is "faiss://PATH", files in that folder.
    `InputError` if no store is known by that scheme."""
    scheme, mark, place = str(uri).partition("://")
    if not mark:
        scheme, place = "faiss", str(uri)
    if scheme in STORES:
        return STORES[scheme](place)
    others = {point.name: point for point in entry_points(group=GROUP)}
    if scheme not in others:
        raise InputError(
            f"no vector store is called {scheme} ({uri}); known: {', '.join([*STORES, *others])}. "
            f"Install the package that brings it (entry point {GROUP}), or name a folder"
        )
    store: Store = others[scheme].load()(place)
    return store
