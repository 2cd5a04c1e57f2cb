"""`locate info` and `locate check`: what is in a database, and whether it is sound."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from index import lock, quantization, weights_files
from index.catalog import FILE, Catalog
from index.check import Violation, check, check_photos
from index.maps.folder import MapFolder
from index.records import Entry
from index.vectors.base import LocalInfo, VectorsInfo
from index.vectors.stores import open_store
from locate.errors import LocateError
from locate.extractors.base import ExtractorInfo
from locate.extractors.bundled import QUANTIZERS, quantizer_for
from locate.images.folder import photo_file
from locate.images.masks import Masks
from locate.util.files import sha256_of
from pipelines.indexing.build import refresh_local, refresh_vectors
from pipelines.indexing.extraction import extract_all
from pipelines.indexing.provenance import extractor_of, load_extractor, search_of


@dataclass(frozen=True)
class DatabaseInfo:
    """What `locate info` shows.

    Attributes:
        counts: images ok and failed, labels, vectors, local features.
        roots: folders that image paths are relative to.
        search: what queries find their shortlist by unless they say otherwise; None if empty.
        vectors, local: the search indices; None if there is none or it is not up to date.
        disk, labels: bytes by file, images by landmark.
        per_image: bytes that an image takes in the catalogue, by kind.
    """

    folder: Path
    counts: dict[str, int]
    roots: list[Path]
    extractor: ExtractorInfo | None
    search: str | None
    vectors: VectorsInfo | None
    local: LocalInfo | None
    disk: dict[str, int]
    labels: dict[str, int]
    masks: str | None = None
    per_image: dict[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        paths = {"folder": str(self.folder), "roots": [str(root) for root in self.roots]}
        return asdict(self) | paths


def database_info(index: Path) -> DatabaseInfo:
    """Reads only."""
    with Catalog.open(index) as catalog:
        store = open_store(index)
        copies = [index / folder for folder in (weights_files.FOLDER, quantization.FOLDER)]
        vectors, local = store.vectors.read_record(), store.local.read_record()
        now = catalog.generation
        labels = Counter(row.label or "" for row in catalog.images("ok"))
        return DatabaseInfo(
            folder=index,
            counts=catalog.counts(),
            roots=list(catalog.roots().values()),
            extractor=extractor_of(catalog),
            search=search_of(catalog),
            vectors=vectors if vectors and vectors.generation == now else None,
            local=local if local and local.generation == now else None,
            disk={
                file.relative_to(index).as_posix(): file.stat().st_size
                for file in [
                    *sorted(index.iterdir()),
                    *(f for c in copies for f in sorted(c.glob("*"))),
                ]
                if file.name.startswith((FILE, "vectors", "local")) or file.parent != index
            },
            labels=dict(sorted(labels.items())),
            masks=catalog.meta("masks") or None,
            per_image=catalog.bytes_per_image(),
        )


@dataclass(frozen=True)
class CheckReport:
    """What does not hold, what was done about it, and what still does not hold after the repair
    (without one, the same); how many photos were compared with what was indexed (None if none was to
    be), and how many are absent or cannot be read."""

    problems: list[str]
    repaired: list[str]
    remaining: list[str]
    compared: int | None = None
    absent: int = 0


def check_database(
    index: Path,
    *,
    repair: bool = False,
    photos: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> CheckReport:
    """Check every invariant; with `repair`, rebuild what is derived: the search index from the
    catalogue, damaged or outdated features from their photo. An image that is damaged and whose photo
    is gone is marked as failed. `photos` that are there are compared with what was indexed; `progress`
    is called with (photos read, in all) from this thread."""
    if not repair:
        with Catalog.open(index) as catalog:
            problems, compared, absent = _check_all(catalog, photos, progress)
        found = [p.what for p in problems]
        return CheckReport(found, [], found, compared, absent)
    with Catalog.open(index):
        pass  # an unreadable or missing database is an error before anything is created
    with lock.writer(index), Catalog.create(index) as catalog:
        problems, compared, absent = _check_all(catalog, photos, progress)
        repaired = _restore_quantizer(catalog)
        if repaired:  # now the features can be read
            problems += [p for p in _check(catalog) if p not in problems]
        orphans = catalog.remove_orphans()
        repaired += [f"removed {orphans} rows that belong to no image"] if orphans else []
        repaired += _extract_again(catalog, problems)
        quantized = _quantize(catalog)
        repaired += quantized
        if problems or quantized:
            refresh_vectors(catalog, force=True)
            local = refresh_local(catalog, force=True)
            repaired.append("rebuilt the search " + ("index" if local is None else "indices"))
        remaining = [p.what for p in _check(catalog)] if problems else []
        return CheckReport([p.what for p in problems], repaired, remaining, compared, absent)


def _check_all(
    catalog: Catalog, photos: bool, progress: Callable[[int, int], None] | None
) -> tuple[list[Violation], int | None, int]:
    """(what does not hold, photos that were compared or None, photos that are absent)."""
    found = _check(catalog)
    if not photos:
        return found, None, 0
    seen = check_photos(catalog, progress=progress)
    return [*found, *seen.problems], seen.compared, seen.absent


def _check(catalog: Catalog) -> list[Violation]:
    info = extractor_of(catalog)
    if info is None:
        return []
    return check(catalog, global_dim=info.global_dim, local_dim=info.local_dim)


def _extract_again(catalog: Catalog, problems: list[Violation]) -> list[str]:
    """Extract anew from the photos of the images that have a problem."""
    damaged = {p.image_id for p in problems if p.image_id is not None}
    if not damaged:
        return []
    roots, rows = catalog.roots(), [catalog.image(i) for i in sorted(damaged)]
    extractor = load_extractor(catalog)
    files = [photo_file(roots[row.root_id] / row.path, roots[row.root_id]) for row in rows]
    place = catalog.meta("masks")
    found = extract_all(files, lambda: extractor, {}, masks=Masks(place) if place else None)
    done = []
    for row, new in zip(rows, found, strict=True):
        own = (row.root_id, row.path, row.label)
        catalog.write([Entry(*own, new.file, new.info, new.extraction, new.error)])
        failed = f"{row.path} could not be read again: {new.error}"
        done.append(failed if new.error else f"extracted {row.path} again")
    return done


def _restore_quantizer(catalog: Catalog) -> list[str]:
    """Put back the copies that are gone of a quantizer that comes with this version."""
    known = {sha256_of(file): file for file in QUANTIZERS.values() if file.is_file()}
    lost = [s for s in catalog.quantizers() if any(quantization.problems(catalog.folder, [s]))]
    found = [sha256 for sha256 in lost if sha256 in known]
    for sha256 in found:
        quantization.store(catalog.folder, known[sha256])
    return [f"put the quantizer {sha256[:12]} back" for sha256 in found]


def _quantize(catalog: Catalog) -> list[str]:
    """What an older version wrote in full is kept in a tenth of its bytes."""
    info, written_in_full = extractor_of(catalog), catalog.unquantized()
    file = quantizer_for(info.name, info.weights) if info else None
    if file is None or not written_in_full or _of_a_map(catalog.folder):
        return []
    before = _bytes_of(catalog)
    sha256, now = quantization.store(catalog.folder, file), load_extractor(catalog).info
    with catalog.transaction():
        # How matches are judged may have changed. First: a kill leaves features in full, and so the next
        # repair goes on; after them nothing would tell that this is missing.
        catalog.set_meta("extractor", now.to_json())
    catalog.quantize(sha256)
    sizes = f"{before / 1e6:.1f} MB, now {_bytes_of(catalog) / 1e6:.1f} MB"
    again = "; measure what proves a match again: locate calibrate --save"
    own = again if catalog.meta("calibration") else ""
    return [f"quantized the features of {len(written_in_full)} images ({sizes}){own}"]


def _of_a_map(folder: Path) -> bool:
    """Whether a database holds the features of a map, whose poses are exact to what they are."""
    map_folder = MapFolder(folder.resolve().parent)
    try:
        map_folder.read_record()
    except LocateError:
        return False
    return map_folder.features.resolve() == folder.resolve()


def _bytes_of(catalog: Catalog) -> int:
    return (catalog.folder / FILE).stat().st_size


def image_rows(index: Path) -> list[dict[str, Any]]:
    """Every image of the catalogue, as flat JSON-able rows in the order of their path."""
    rows = []
    with Catalog.open(index) as catalog:
        for row in catalog.images():
            values = asdict(row)
            file, info = values.pop("file"), values.pop("info")
            width, height = info.pop("size")
            rows.append({**values, **file, **info, "width": width, "height": height})
    return rows
