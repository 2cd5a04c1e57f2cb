"""`locate build-index`, `add` and `remove`: make the database agree with the photos on disk."""

from __future__ import annotations

import fnmatch
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from index import lock, quantization, weights_files
from index.catalog import Catalog
from index.records import Entry, FileState, ImageRow
from index.vectors.base import LocalInfo, VectorsInfo
from index.vectors.stores import open_store
from locate.errors import DatabaseCorruptError, InputError
from locate.extractors import registry
from locate.extractors.base import Extractor, ExtractorInfo
from locate.extractors.bundled import quantizer_for
from locate.images.folder import LeftOut, PhotoFile, photo_file, require_folder, scan
from locate.images.masks import Masks
from locate.retrieval.search_mode import BOTH, GLOBAL, LOCAL, default_search, refuse_unfit
from pipelines.indexing.extraction import ExtractionResult, extract_all
from pipelines.indexing.labels import LabelRule, label_rule
from pipelines.indexing.provenance import (
    first_extractor,
    load_extractor,
    record_extractor,
    refuse_other_extractor,
    restore_weights,
)

COMMIT_SECONDS = 1.0  # the most work that a kill can cost
COMMIT_IMAGES = 64
NO_MASKS = "none"

Progress = Callable[[int, int], None]  # (images done, images in all)


@dataclass
class BuildReport:
    """What a build did; counts are images.

    Attributes:
        failed: (path, reason) of every file that could not be used.
        missing: images of the database whose file is gone; they are kept.
        left_out: what was passed over because of its name.
        seconds: by part, summed over threads, and "total" by the clock on the wall.
        vectors, local: the search indices, None where there is none.
    """

    added: int = 0
    updated: int = 0
    unchanged: int = 0
    failed: list[tuple[str, str]] = field(default_factory=list)
    missing: int = 0
    left_out: LeftOut = field(default_factory=LeftOut)
    seconds: dict[str, float] = field(default_factory=dict)
    vectors: VectorsInfo | None = None
    local: LocalInfo | None = None

    @property
    def images_per_second(self) -> float:
        """Of the images that were looked at."""
        return (self.added + self.updated) / max(self.seconds.get("total", 0.0), 1e-9)

    def add_time(self, part: str, seconds: float) -> None:
        self.seconds[part] = self.seconds.get(part, 0.0) + seconds

    def to_json(self) -> dict[str, Any]:
        values = asdict(self) | {"images_per_second": self.images_per_second}
        return values | self.left_out.to_json()


def build_index(
    photos: Path,
    index: Path,
    *,
    extractor: str | Extractor | None = None,
    weights: Sequence[Path] = (),
    settings: Mapping[str, Any] | None = None,
    search: str | None = None,
    label_from: str = "folder",
    checksum: bool = False,
    masks: Path | str | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
    quantize: bool = True,
) -> BuildReport:
    """Index every photo below the folder `photos`; what did not change since the last time is skipped.

    Args:
        index: the database folder, made if need be.
        extractor: a name of the registry, or one that is made; by default the one that the database was
            filled by, or that the weights are for.
        weights: files that `locate train` made, each for the part of the extractor that it names.
            They are copied into the database.
        settings: of an extractor that is named, where they differ from its defaults (see
            `locate.extractors.registry.settings_by_part`). The database records them.
        search: "global", "local" or "both": what queries find their shortlist by. "local" and
            "both" keep an index of all local descriptors. By default as the database was built.
        label_from: see `pipelines.indexing.labels.label_rule`.
        checksum: tell what changed by the content of every photo instead of by size and date.
        masks: a folder of masks (see `locate.images.masks`), or one for all photos; "none" for
            none. By default those that the database was built with.
        workers: threads; by default one a core.
        progress: called with (done, in all) from this thread.
        quantize: keep local features in a tenth of their bytes, where a quantizer for them is known.

    Raises:
        InputError, WeightsError, DatabaseLockedError, DatabaseMismatchError, DatabaseError
    """
    rule = label_rule(label_from)
    require_folder(photos)  # before anything is written
    with lock.writer(index), Catalog.create(index) as catalog:
        root_id = catalog.add_root(photos)
        how = (extractor, weights, search, settings)
        builder = IndexBuilder(
            catalog,
            rule,
            workers,
            progress,
            *how,
            checksum=checksum,
            masks=masks,
            quantize=quantize,
        )
        # Some were added by name, which no name of a photo need be.
        known = {row.path for row in catalog.images("ok") if row.root_id == root_id}
        found = [
            item
            for item in scan(photos, builder.report.left_out, known)
            if not (builder.masks and builder.masks.holds(item.absolute, photos))
        ]
        builder.index({root_id: found})
        on_disk = {item.path for item in found}
        gone = [r for r in catalog.images() if r.root_id == root_id and r.path not in on_disk]
        builder.report.missing = sum(row.status == "ok" for row in gone)
        # Nothing was ever seen in a failed file, so nothing is lost when its row goes with it.
        catalog.remove([row.id for row in gone if row.status == "failed"])
        return builder.finish()


def add_photos(
    paths: Sequence[Path],
    index: Path,
    *,
    extractor: str | Extractor | None = None,
    label_from: str = "folder",
    checksum: bool = False,
    masks: Path | str | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> BuildReport:
    """Index single photos or further folders.

    A file below a folder that is already indexed keeps its place there; any other makes its own
    folder a new root. `extractor` is one that is made already, where the registry could not make it.
    """
    rule = label_rule(label_from)
    with lock.writer(index), Catalog.create(index) as catalog:
        groups: dict[int, list[PhotoFile]] = {}
        left_out = LeftOut()
        for path in paths:
            for root, found in resolve(path, list(catalog.roots().values()), left_out):
                groups.setdefault(catalog.add_root(root), []).append(found)
        how = (workers, progress, extractor)
        builder = IndexBuilder(catalog, rule, *how, checksum=checksum, masks=masks)
        builder.report.left_out = left_out
        builder.index(groups)
        return builder.finish()


def remove_images(
    index: Path, patterns: Sequence[str] = (), *, label: str | None = None, missing: bool = False
) -> list[str]:
    """Take images out of the database, and return their paths; the photos themselves are never touched.
    Patterns are paths as `locate info --images` shows them, or globs ("louvre/*"); `label` takes all
    images of a landmark, `missing` all whose file is gone. `InputError` if a pattern or the label fits
    nothing; then nothing is removed."""
    with lock.writer(index), Catalog.create(index) as catalog:
        roots = catalog.roots()
        rows = list(catalog.images())
        chosen: dict[int, str] = {}
        for pattern in patterns:
            fitting = {
                r.id: r.path
                for r in rows
                if r.path == pattern or fnmatch.fnmatchcase(r.path, pattern)
            }
            if not fitting:
                why = f"no image of the database fits {pattern!r}"
                raise InputError(f"{why}; list them with: locate info --images")
            chosen |= fitting
        if label is not None:
            fitting = {r.id: r.path for r in rows if r.label == label}
            if not fitting:
                raise InputError(f"no image of the database has the label {label!r}")
            chosen |= fitting
        if missing:
            chosen |= {r.id: r.path for r in rows if not (roots[r.root_id] / r.path).exists()}
        if chosen:
            catalog.remove(list(chosen))
            refresh_vectors(catalog)
            refresh_local(catalog)
        return sorted(chosen.values())


def refresh_vectors(catalog: Catalog, *, force: bool = False) -> VectorsInfo | None:
    """Rebuild the search index if it is missing, stale or unreadable, or in any case with `force`.
    Hold the lock."""
    if catalog.counts()["vectors"] == 0:
        return None
    store = open_store(catalog.folder).vectors
    stored = None if force else store.load(catalog.generation, verify=True)
    return stored.info if stored else store.build(catalog.vectors, catalog.generation)


def refresh_local(catalog: Catalog, *, force: bool = False) -> LocalInfo | None:
    """Bring the index of local descriptors up to date, or make it anew with `force`; None, and its
    files deleted, if the database keeps none. Hold the lock."""
    store = open_store(catalog.folder).local
    if (catalog.meta("search") or GLOBAL) == GLOBAL:
        store.forget()
        return None
    return store.refresh(catalog, force=force)


class IndexBuilder:
    """One run of a writer over some files."""

    def __init__(
        self,
        catalog: Catalog,
        rule: LabelRule,
        workers: int | None,
        progress: Progress | None,
        extractor: str | Extractor | None = None,
        weights: Sequence[Path] = (),
        search: str | None = None,
        settings: Mapping[str, Any] | None = None,
        *,
        checksum: bool = False,
        masks: Path | str | None = None,
        quantize: bool = True,
    ) -> None:
        self.report = BuildReport()
        self._catalog, self._rule, self._workers = catalog, rule, workers
        self._checksum, self._quantize = checksum, quantize
        self._progress = progress or (lambda _done, _total: None)
        self._started = time.perf_counter()
        self._extractor: Extractor | None = None
        self._lock = threading.Lock()
        self.masks = self._choose_masks(masks)
        self._begin(extractor, weights, search, settings or {})

    def _choose_masks(self, named: Path | str | None) -> Masks | None:
        """Those that are named, or else those of the runs before, which the database remembers."""
        if named is None:
            before = self._catalog.meta("masks")
            if before and not Path(before).exists():
                raise InputError(
                    f"the masks {before} that {self._catalog.folder} was made with are gone; name them "
                    f"with --masks, or go on without any: --masks {NO_MASKS}"
                )
            return Masks(before) if before else None
        wanted = None if str(named) == NO_MASKS else Masks(named)
        stored = str(wanted.place.resolve()) if wanted else ""
        if stored != (self._catalog.meta("masks") or ""):
            with self._catalog.transaction():
                self._catalog.set_meta("masks", stored)
        return wanted

    def _begin(
        self,
        extractor: str | Extractor | None,
        weights: Sequence[Path],
        search: str | None,
        settings: Mapping[str, Any],
    ) -> None:
        """The database learns who fills it, and for which search, before the first image is in it."""
        name = extractor if isinstance(extractor, str) else None
        made = None if isinstance(extractor, str) else extractor
        if made is not None and (weights or settings):
            why = "an extractor that is made has its weights and settings"
            raise InputError(f"{why}; leave those out")
        stored = self._catalog.meta("extractor")
        files: Mapping[str, Path] = {}
        if stored is not None:
            info = ExtractorInfo.from_json(stored)
            refuse_other_extractor(self._catalog, extractor, settings)
            restore_weights(self._catalog, weights)
        else:
            if extractor is None and not weights and search in (LOCAL, BOTH):
                name = registry.LOCAL_DEFAULT
            if made is None:
                made, files = first_extractor(name, weights, settings)
            info = made.info
        self._extractor = made
        search = search or self._catalog.meta("search") or default_search(info)
        refuse_unfit(search, info)
        if stored is not None and search == self._catalog.meta("search"):
            return
        folder = self._catalog.folder
        hashes = {n: weights_files.store(folder, p) for n, p in files.items()}
        quantizer = None
        if stored is None and self._quantize:
            quantizer = quantizer_for(info.name, info.weights)
        quantized_by = quantization.store(folder, quantizer) if quantizer else None
        with self._catalog.transaction():
            self._catalog.set_meta("search", search)
            if stored is None and made is not None:
                record_extractor(self._catalog, made, settings)
                weights_files.record(self._catalog, hashes)
                if quantized_by:
                    self._catalog.set_meta(quantization.KEY, quantized_by)

    def _get_extractor(self) -> Extractor:
        """Loaded by the first worker that needs it: a run that finds nothing new costs no network."""
        with self._lock:
            if self._extractor is None:
                self._extractor = load_extractor(self._catalog)
            return self._extractor

    def index(self, groups: dict[int, list[PhotoFile]]) -> None:
        """Bring the catalogue up to date with the files of each root (by id)."""
        stored = {(row.root_id, row.path): row for row in self._catalog.images()}
        todo: list[tuple[int, PhotoFile, ImageRow | None]] = []
        relabelled: list[tuple[int, FileState, str | None]] = []
        for root_id, files in groups.items():
            for item in files:
                row = stored.get((root_id, item.path))
                if (
                    row is None
                    or row.status != "ok"
                    or self._checksum
                    or item.error is not None
                    or (row.file.bytes, row.file.mtime_ns) != (item.bytes, item.mtime_ns)
                    or row.file.mask != (self.masks.hash_of(item.path) if self.masks else "")
                ):
                    todo.append((root_id, item, row))
                    continue
                self.report.unchanged += 1
                if row.label != self._rule(item.path):
                    relabelled.append((row.id, row.file, self._rule(item.path)))
        if relabelled:
            self._catalog.touch(relabelled)
        self._extract(todo)

    def _extract(self, todo: list[tuple[int, PhotoFile, ImageRow | None]]) -> None:
        photos = (item for _, item, _ in todo)
        known = self._catalog.contents()
        results = extract_all(photos, self._get_extractor, known, self._workers, self.masks)
        batch: list[Entry] = []
        last_commit = time.perf_counter()
        try:
            for done, ((root_id, _, row), result) in enumerate(zip(todo, results, strict=True), 1):
                batch += self._record_result(root_id, row, result)
                now = time.perf_counter()
                if len(batch) >= COMMIT_IMAGES or now - last_commit > COMMIT_SECONDS:
                    self._commit(batch)
                    last_commit = now
                self._progress(done, len(todo))
        finally:  # Ctrl-C too: what was seen is kept
            self._commit(batch)

    def _commit(self, batch: list[Entry]) -> None:
        started = time.perf_counter()
        self._catalog.write(batch)
        batch.clear()
        self.report.add_time("write", time.perf_counter() - started)

    def _record_result(
        self, root_id: int, row: ImageRow | None, result: ExtractionResult
    ) -> list[Entry]:
        """Count one result and say what to write about it, if anything."""
        for part, seconds in result.seconds.items():
            self.report.add_time(part, seconds)
        label = self._rule(result.photo.path)
        if result.same_as is None:
            return self._entry(root_id, row, label, result)
        key = (result.file.sha256, result.file.mask)
        if row is not None and row.status == "ok" and (row.file.sha256, row.file.mask) == key:
            self.report.unchanged += 1  # a new date on the same content
            if (row.file, row.label) != (result.file, label):
                self._catalog.touch([(row.id, result.file, label)])
            return []
        try:
            info = self._catalog.image(result.same_as).info
            result = replace(result, info=info, extraction=self._catalog.stored(result.same_as))
        except DatabaseCorruptError:
            # Damaged, or replaced a moment ago in this very run (two files changed names).
            (result,) = extract_all([result.photo], self._get_extractor, {}, 1, self.masks)
        return self._entry(root_id, row, label, result)

    def _entry(
        self, root_id: int, row: ImageRow | None, label: str | None, result: ExtractionResult
    ) -> list[Entry]:
        path, file = result.photo.path, result.file
        if result.error is not None:
            self.report.failed.append((path, result.error))
            if row is not None and (row.error, row.file.sha256) == (result.error, file.sha256):
                return []  # nothing new to say about it
        elif row is None or row.status == "failed":
            self.report.added += 1
        else:
            self.report.updated += 1
        return [Entry(root_id, path, label, file, result.info, result.extraction, result.error)]

    def finish(self) -> BuildReport:
        """Bring the search index up to date and close the books."""
        started = time.perf_counter()
        self.report.vectors = refresh_vectors(self._catalog)
        self.report.local = refresh_local(self._catalog)
        self.report.add_time("search index", time.perf_counter() - started)
        self.report.seconds["total"] = time.perf_counter() - self._started
        return self.report


def resolve(
    path: Path, roots: Iterable[Path], left_out: LeftOut | None = None
) -> Iterator[tuple[Path, PhotoFile]]:
    """The photos that a path of `locate add` means, each with the root it belongs to."""
    if not path.exists():
        raise InputError(f"{path} does not exist; name a photo or a folder of photos")
    # Roots are stored without links; the file itself may be one.
    absolute = path.resolve() if path.is_dir() else path.parent.resolve() / path.name
    home = next((r for r in roots if absolute.is_relative_to(r)), None)
    if absolute.is_dir():
        for item in scan(absolute, left_out):
            yield home or absolute, photo_file(item.absolute, home or absolute)
    else:
        root = home or absolute.parent
        yield root, photo_file(absolute, root)
