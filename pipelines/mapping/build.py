"""`locate build-map`: a map of photos from nothing but the photos.

Stages: features, pairs and their matches, mapping by COLMAP (Schönberger and Frahm,
"Structure-from-Motion Revisited", CVPR 2016; Pan et al., "Global Structure-from-Motion Revisited", ECCV
2024). What a stage has finished is kept: run again after a kill, the build goes on where it stopped.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pycolmap

from index import lock
from index.catalog import Catalog
from index.maps.folder import MapFolder, MapRecord, Progress
from index.maps.matches import fingerprint, verified_pairs
from locate.errors import (
    DatabaseCorruptError,
    DatabaseError,
    DatabaseMissingError,
    InputError,
    UnknownNameError,
)
from locate.extractors.base import Extractor
from locate.images.folder import scan
from locate.mapping import structure
from locate.mapping.focal_lengths import focal_doubt
from locate.util.timing import Clock
from pipelines.mapping import features
from pipelines.mapping.covariance_calibration import measure_correlated_ratio
from pipelines.mapping.matching import match_photos
from pipelines.mapping.summary import MapReport, summarize

MADE_BY = "build-map"
MAPPERS = ("auto", "incremental", "global")
MAX_ERROR = 4.0  # pixels at the size that the extractor looks at, as the precision of keypoints is
MIN_MODEL = 3  # photos of a model; of a further one that is worth telling of
MIN_OBSERVATIONS = 15  # of points, by a photo of the map
BOTH = 100  # photos up to which both mappers are tried


def build_map(
    out: Path,
    *,
    index: Path | None = None,
    images: Path | None = None,
    extractor: str | Extractor | None = None,
    weights: Sequence[Path] = (),
    settings: Mapping[str, Any] | None = None,
    mapper: str = "auto",
    masks: Path | str | None = None,
    workers: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> MapReport:
    """Make a map, or bring it up to date with photos that came, went or changed.

    Args:
        out: the map's folder, made if need be.
        index: a database of `locate build-index`, whose features are copied; or
        images: a folder of photos. Exactly one of the two.
        extractor, weights, settings, masks: as for `build_index`; only with `images`.
        mapper: "incremental"; "global", which solves all photos at once and is the more robust one
            where they are few and far apart (`benchmarks/tables/maps.py`); or "auto": both for up to a
            hundred photos, and what explains more is kept; beyond, incremental.
        workers: threads; by default one a core.
        seed: of everything that is drawn.
        progress: called with (stage, done, in all) from this thread. The stages are "features",
            "matching" and "mapping".

    Raises:
        InputError: among others, if no two photos can be put together.
        DatabaseError: the map cannot be written, or is another's.
    """
    if (index is None) == (images is None):
        raise InputError("a map is made of an index or of a folder of images; give one of the two")
    if index is not None and (extractor is not None or weights or settings):
        raise InputError(
            "an index has its extractor already; leave extractor, weights and settings out"
        )
    if index is not None and masks is not None:
        raise InputError("an index was made with its masks already; leave them out")
    if mapper not in MAPPERS:
        raise UnknownNameError("mapper", mapper, MAPPERS)
    progress = progress or (lambda _stage, _done, _total: None)
    if index is not None:
        Catalog.open(index).close()  # raises before anything is written
    elif images is not None and next(scan(images), None) is None:
        raise InputError(f"{images} holds no photos; name a folder of photos")
    folder, clock = features.init_map_folder(out, MADE_BY), Clock()
    with lock.writer(out):
        folder.recover()
        if index is not None:
            roots = features.copy_index(index, folder, progress)
        else:
            assert images is not None
            roots = features.extract_photos(
                images, folder, extractor, weights, workers, progress, masks, settings
            )
        with lock.writer(folder.features), Catalog.create(folder.features) as catalog:
            features.require_unique_names(catalog, roots)
            features.require_local(features.require_info(catalog))
            features.leave_out_panoramas(catalog)
            clock.lap("features")
            pairs = features.choose_pairs(catalog)
            match_photos(folder.matches, catalog, pairs, None, workers, seed, progress)
            clock.lap("matching")
            settings = {
                "matches": fingerprint(folder.matches),
                "mapper": mapper,
                "seed": seed,
                "structure": structure.JUDGED,
            }
            finished = cached_report(folder, settings)
            if finished is not None:
                return finished
            models = _map(folder, catalog, mapper, workers, seed, progress)
            models, proof = _proven(folder, catalog, models)
            doubt = proof.doubt or focal_doubt(models[0], structure.known_cameras(folder.matches))
            record = MapRecord(MADE_BY, features.require_info(catalog).name, doubt=doubt)
            ratio = measure_correlated_ratio(folder, record, models[0])
            clock.lap("mapping")
            report = summarize(
                models[0],
                catalog,
                verified_pairs(folder.matches),
                separate=[set(model.reg_image_ids()) for model in models[1:]],
                unused=proof.left_out,
                warnings=[f"uncertain: {doubt}"] if doubt else [],
                seconds=clock.seconds,
            )
            record = replace(record, systematic=ratio)
            folder.write(models[0], with_summary(record, settings, report))
            return report


def with_summary(record: MapRecord, settings: Mapping[str, object], report: MapReport) -> MapRecord:
    """With what the map was made from, by which it is known to be finished, and how it came out."""
    return replace(record, summary={"settings": dict(settings), "report": report.to_json()})


def cached_report(folder: MapFolder, settings: Mapping[str, object]) -> MapReport | None:
    """The report of a finished map that was made from the same; None if it has to be made (again)."""
    try:
        summary = folder.read_record().summary
    except (DatabaseMissingError, DatabaseCorruptError):
        return None
    if summary.get("settings") != settings:
        return None
    return MapReport.from_json(summary["report"] | {"seconds": {}})


@contextmanager
def silence_colmap() -> Iterator[None]:
    """Within, COLMAP does not write its diary to standard error."""
    before = pycolmap.logging.minloglevel
    pycolmap.logging.minloglevel = pycolmap.logging.FATAL.value
    try:
        yield
    finally:
        pycolmap.logging.minloglevel = before


def _map(
    folder: MapFolder, catalog: Catalog, by: str, workers: int | None, seed: int, progress: Progress
) -> list[pycolmap.Reconstruction]:
    """Models of photos that hang together, the largest first, `by` one of `MAPPERS`."""
    total = len(features.mapped_rows(catalog))
    temporary = folder.folder / "mapping"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    progress("mapping", 0, total)
    scale = features.median_scale(catalog)
    auto = by == "auto" and total <= BOTH
    options = pycolmap.IncrementalPipelineOptions(), pycolmap.GlobalPipelineOptions()
    for of_mapper in options:
        of_mapper.random_seed, of_mapper.num_threads = seed, workers or -1
    found: list[Mapping[int, pycolmap.Reconstruction]] = []
    try:
        with silence_colmap():
            if by != "global":
                scale_errors(options[0], scale)
                found.append(_incremental(folder.matches, temporary, options[0], total, progress))
            if by == "global" or auto:  # its tolerances are angles; it tells no progress
                where = folder.matches, temporary, temporary
                found.append(dict(pycolmap.global_mapping(*where, options[1])))
    except RuntimeError as error:
        raise DatabaseError(
            f"COLMAP failed on {folder.matches} ({str(error).splitlines()[0]}); free some space and "
            "run the same command again"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    kept = [[m for m in map(_pruned, several.values()) if m.num_points3D()] for several in found]
    ranked = (sorted(several, key=_size) for several in kept if several)
    models = min(ranked, key=lambda several: _size(several[0]), default=[])
    if not models:
        pairs = verified_pairs(folder.matches)
        with closing(pycolmap.Database.open(folder.matches)) as database:
            turned = structure.examine_matches(database, pairs, scale=scale)
        if turned is not None:
            count = len({i for pair, inliers in pairs.items() if inliers for i in pair})
            told = structure.nothing_moved(count, turned, alone=count == total)
            raise InputError(f"no map: {told}")
        if total < MIN_MODEL:
            raise InputError(
                f"no map: {total} photos have features, {MIN_MODEL} or more are needed without poses; "
                "take more, or give poses by locate import-map"
            )
        raise InputError(
            f"no map: of {total} photos with features, {sum(map(bool, pairs.values()))} of "
            f"{len(pairs)} pairs have verified matches, and no two of them a view from different "
            "enough places to begin with; take photos that overlap by two thirds, a step apart"
        )
    progress("mapping", total, total)
    return models[:1] + [model for model in models[1:] if model.num_reg_images() >= MIN_MODEL]


def _proven(
    folder: MapFolder, catalog: Catalog, models: list[pycolmap.Reconstruction]
) -> tuple[list[pycolmap.Reconstruction], structure.Structure]:
    """The models with the largest in front that is not invented, without the photos that would be;
    `InputError` if no photo of any model has moved."""
    pairs = [pair for pair, inliers in verified_pairs(folder.matches).items() if inliers]
    calibrated, scale = structure.known_cameras(folder.matches), features.median_scale(catalog)
    found = []
    for k, model in enumerate(models):
        proof = structure.examine(model, pairs, scale=scale, calibrated=calibrated)
        if not proof.nothing:
            structure.leave_out(model, proof.left_out)
            return [model, *models[:k], *models[k + 1 :]], proof
        found.append(proof)
    count = models[0].num_reg_images()
    alone = count == len(features.mapped_rows(catalog))
    raise InputError(f"no map: {structure.nothing_moved(count, found[0].turned, alone=alone)}")


def _pruned(model: pycolmap.Reconstruction) -> pycolmap.Reconstruction:
    """Without the photos that hardly a point holds: the global mapper gives such ones a pose as well."""
    for image in [model.images[i] for i in model.reg_image_ids()]:
        if image.num_points3D < MIN_OBSERVATIONS:
            model.deregister_frame(image.frame_id)
    return model


def _size(model: pycolmap.Reconstruction) -> tuple[int, int]:
    """To sort by, the largest first: photos, then observations that its points explain."""
    return -model.num_reg_images(), -model.compute_num_observations()


def _incremental(
    database: Path,
    temporary: Path,
    options: pycolmap.IncrementalPipelineOptions,
    total: int,
    progress: Progress,
) -> Mapping[int, pycolmap.Reconstruction]:
    options.extract_colors = False  # needs the photos
    options.min_model_size = MIN_MODEL
    token = pycolmap.CancellationToken()
    failures: list[BaseException] = []
    done = 1  # the initial pair has two

    def registered() -> None:
        nonlocal done
        done = min(done + 1, total)
        try:
            progress("mapping", done, total)
        except BaseException as error:  # must not fly through C++
            failures.append(error)
            token.cancel()

    calls = dict.fromkeys(("initial_image_pair_callback", "next_image_callback"), registered)
    where = database, temporary, temporary
    try:
        return dict(
            pycolmap.incremental_mapping(*where, options, cancellation_token=token, **calls)
        )
    except InterruptedError:
        raise failures[0] from None


def scale_errors(options: pycolmap.IncrementalPipelineOptions, scale: float) -> None:
    """COLMAP's tolerances in pixels for photos that were looked at at 1 / `scale` of their size."""
    options.mapper.init_max_error = options.mapper.filter_max_reproj_error = MAX_ERROR * scale
    options.mapper.abs_pose_max_error *= scale
    options.triangulation.merge_max_reproj_error = MAX_ERROR * scale
    options.triangulation.complete_max_reproj_error = MAX_ERROR * scale
