"""From files to catalogue entries: decoding and extraction overlap on a pool of threads."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from index.records import FileState, StoredExtraction
from locate.errors import ImageError
from locate.extractors.base import Extractor
from locate.extractors.rotated import extract_rotated
from locate.images.folder import PhotoFile
from locate.images.masks import Masks
from locate.images.reading import decode_photo, read_bytes
from locate.types import Extraction, PhotoInfo
from locate.util.memory import is_out_of_memory
from locate.util.parallel import ordered_map
from locate.util.timing import Clock


@dataclass(frozen=True, eq=False)
class ExtractionResult:
    """What came of one file: an extraction, the id of an image of the same content, or an error."""

    photo: PhotoFile
    file: FileState
    info: PhotoInfo | None = None
    extraction: Extraction | StoredExtraction | None = None
    same_as: int | None = None
    error: str | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)


def extract_all(
    files: Iterable[PhotoFile],
    get_extractor: Callable[[], Extractor],
    known: Mapping[tuple[str, str], int],
    workers: int | None = None,
    masks: Masks | None = None,
) -> Iterator[ExtractionResult]:
    """Extract from `files` on a pool of threads, in order, while whoever consumes the iterator writes.
    One bad file is a result with an error, never the end. `get_extractor` is called when the first
    file really needs it (networks load slowly); `known` are ids by sha256 of content and of mask that
    need not be extracted again."""
    return ordered_map(lambda item: _extract(item, get_extractor, known, masks), files, workers)


def _extract(
    item: PhotoFile,
    get_extractor: Callable[[], Extractor],
    known: Mapping[tuple[str, str], int],
    masks: Masks | None,
) -> ExtractionResult:
    hidden = masks.hash_of(item.path) if masks else ""
    state = FileState("", item.bytes, item.mtime_ns, hidden)
    clock = Clock()

    def failed(reason: str) -> ExtractionResult:
        return ExtractionResult(item, state, error=reason, seconds=clock.seconds)

    if item.error is not None:
        return failed(item.error)
    try:
        data = read_bytes(item.absolute)
        state = FileState(hashlib.sha256(data).hexdigest(), len(data), item.mtime_ns, hidden)
        clock.lap("read")
        same = known.get((state.sha256, hidden))
        if same is not None:
            return ExtractionResult(item, state, same_as=same, seconds=clock.seconds)
        extractor = get_extractor()
        clock.lap("load")
        photo = decode_photo(data, item.absolute, extractor.max_side)
        clock.lap("decode")
        mask = masks.read(item.path, photo.info) if masks else None
    except ImageError as error:
        of_mask = "" if error.path == item.absolute else f"its mask {error.path} "
        return failed(f"{of_mask}{error.reason}; {error.cure}")
    try:
        pixels = mask.fill(photo.pixels) if mask else photo.pixels
        extraction = extract_rotated(extractor, pixels, photo.info.size, 0, local=True, mask=mask)
        clock.lap("extract")
    except Exception as error:  # one photo that an extractor stumbles over does not end the build
        if is_out_of_memory(error):
            return failed("does not fit into memory; use fewer threads (--workers 1), or shrink it")
        reason = f"{extractor.info.name} failed on it ({type(error).__name__}: {error})"
        return failed(f"{reason}; please report this")
    return ExtractionResult(item, state, photo.info, extraction, seconds=clock.seconds)
