"""`locate info` and `locate check`: what is in a database, and whether it is sound."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from index import lock
from index.catalog import FILE, Catalog
from index.check import Problem, check
from index.records import Entry
from index.vectors import faiss_store
from index.vectors.base import VectorsInfo
from locate.extractors.base import ExtractorInfo
from pipelines.build import load_extractor, refresh_vectors
from pipelines.extraction import extract_all
from pipelines.scan import look


@dataclass(frozen=True)
class DatabaseInfo:
    """What `locate info` tells.

    Attributes:
        counts: images ok and failed, labels, vectors, local features.
        roots: folders that image paths are relative to.
        extractor: who filled it.
        vectors: the search index; None if there is none or it is not up to date.
        disk: bytes by file.
        labels: images by landmark.
    """

    folder: Path
    counts: dict[str, int]
    roots: list[Path]
    extractor: ExtractorInfo | None
    vectors: VectorsInfo | None
    disk: dict[str, int]
    labels: dict[str, int]

    def to_json(self) -> dict[str, Any]:
        return {
            "folder": str(self.folder),
            "counts": self.counts,
            "roots": [str(root) for root in self.roots],
            "extractor": asdict(self.extractor) if self.extractor else None,
            "vectors": asdict(self.vectors) if self.vectors else None,
            "disk": self.disk,
            "labels": self.labels,
        }


def database_info(index: Path) -> DatabaseInfo:
    """Reads only."""
    with Catalog.open(index) as catalog:
        stored = catalog.meta("extractor")
        record = faiss_store.read_record(index)
        fresh = record is not None and record.generation == catalog.generation
        labels: dict[str, int] = {}
        for row in catalog.images("ok"):
            labels[row.label or ""] = labels.get(row.label or "", 0) + 1
        return DatabaseInfo(
            folder=index,
            counts=catalog.counts(),
            roots=list(catalog.roots().values()),
            extractor=ExtractorInfo.from_json(stored) if stored else None,
            vectors=record if fresh else None,
            disk={
                file.name: file.stat().st_size
                for file in sorted(index.iterdir())
                if file.name.startswith((FILE, "vectors"))
            },
            labels=dict(sorted(labels.items())),
        )


@dataclass(frozen=True)
class CheckReport:
    """Attributes:
    problems: what does not hold (before the repair, if there was one).
    repaired: what was done about it.
    remaining: what still does not hold after the repair; equals `problems` without one.
    """

    problems: list[str]
    repaired: list[str]
    remaining: list[str]


def check_database(index: Path, *, repair: bool = False) -> CheckReport:
    """Check every invariant; with `repair`, rebuild what is derived: the search index from the
    catalogue, damaged features from their photo. An image whose photo is gone is marked as failed.
    """
    if not repair:
        with Catalog.open(index) as catalog:
            found = [p.what for p in _check(catalog)]
        return CheckReport(found, [], found)
    with Catalog.open(index):
        pass  # an unreadable or missing database is an error before anything is created
    with lock.writer(index), Catalog.create(index) as catalog:
        problems = _check(catalog)
        orphans = catalog.remove_orphans()
        repaired = [f"removed {orphans} rows that belong to no image"] if orphans else []
        repaired += _look_again(catalog, problems)
        if problems:
            refresh_vectors(catalog, force=True)
            repaired.append("rebuilt the search index")
        remaining = [p.what for p in _check(catalog)] if problems else []
        return CheckReport([p.what for p in problems], repaired, remaining)


def _check(catalog: Catalog) -> list[Problem]:
    stored = catalog.meta("extractor")
    if stored is None:
        return []
    info = ExtractorInfo.from_json(stored)
    return check(catalog, global_dim=info.global_dim, local_dim=info.local_dim)


def _look_again(catalog: Catalog, problems: list[Problem]) -> list[str]:
    """Extract anew from the photos of the images that have a problem."""
    damaged = sorted({p.image_id for p in problems if p.image_id is not None})
    if not damaged:
        return []
    roots = catalog.roots()
    rows = [catalog.image(image_id) for image_id in damaged]
    extractor = load_extractor(catalog.folder, catalog.meta("extractor"))
    files = [look(roots[row.root_id] / row.path, roots[row.root_id]) for row in rows]
    done = []
    for row, seen in zip(rows, extract_all(files, lambda: extractor, {}), strict=True):
        entry = Entry(
            row.root_id, row.path, row.label, seen.file, seen.info, seen.extraction, seen.error
        )
        catalog.write([entry])
        done.append(
            f"{row.path} could not be read again: {seen.error}"
            if seen.error
            else f"extracted {row.path} again"
        )
    return done


def image_rows(index: Path) -> list[dict[str, Any]]:
    """Every image of the catalogue, as flat JSON-able rows in the order of their path."""
    with Catalog.open(index) as catalog:
        rows = []
        for row in catalog.images():
            values = asdict(row)
            file, info = values.pop("file"), values.pop("info")
            width, height = info.pop("size")
            rows.append({**values, **file, **info, "width": width, "height": height})
        return rows
