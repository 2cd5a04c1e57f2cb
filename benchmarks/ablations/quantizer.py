"""The quantizer that databases keep `context`'s features by: learned, and what is lost by it.

    python benchmarks/ablations/quantizer.py --data ../shared/data --work build/quantizer [--learn FILE] [--out docs/benchmarks]

- --learn writes it (`locate/extractors/context/quantizer.safetensors` ships): rotations and centroids
  (FAISS: optimized product quantization) of descriptors of photos of `train/` that are not held out.
- Measured on places that are (`held_out_retrieval`): each query against its most similar photos of the
  same place and of others, database features as they are and quantized, at some of Lowe's ratios.
  "proofs": matches with the weights and by the ratio of queries; "proven" are pairs of one place with
  more evidence than all strangers but the most deceptive two have for anything. "maps": matches with the
  weights of maps, both photos quantized; the inliers of pairs of one place.

Five minutes of one core.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import faiss
import numpy as np
import torch

from benchmarks.common.held_out import places_of
from benchmarks.common.held_out_retrieval import write_places
from index.quantization import CENTROIDS, Quantizer
from locate.datasets.retrieval import read_retrieval
from locate.extractors import registry
from locate.extractors.base import Extractor
from locate.extractors.bundled import QUANTIZERS
from locate.extractors.weights import Record, save_weights
from locate.images.reading import read_photo
from locate.matching.descriptors import match_mutual
from locate.matching.evidence import evidence_of
from locate.matching.two_view import verify
from locate.training.data.photos import PhotoPool
from locate.types import Array, Extraction, Features
from pipelines.cli.evaluate import print_report
from pipelines.reports.report import Report, Table
from pipelines.retrieval.verification import reweighted

SYSTEM = "context"
PIECES = ((64, 8), (64, 8), (96, 24))  # of the parts: dimensions that are kept, and bytes
PHOTOS, INDOOR, PER_PHOTO = 450, 40, 300  # photos that it is learned from, features of each
ITERATIONS, FOR_ROTATIONS, FOR_CENTROIDS = 8, 20_000, 60_000
RIGHT, STRANGERS = 4, 8  # photos of its place, and of others, that a query is compared with
PROOF_RATIOS, MAP_RATIOS = (0.94, 0.95, 0.96, 0.97), (0.98, 0.985, 0.99)
DECEPTIVE = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--work", type=Path, default=Path("build/quantizer"))
    parser.add_argument("--learn", type=Path, metavar="FILE")
    parser.add_argument("--out", type=Path, help="write quantizer.md and quantizer.json here")
    a = parser.parse_args()
    torch.set_num_threads(1)
    extractor = registry.create(SYSTEM)
    if a.learn:
        learn(extractor, a.data, a.learn)
    quantizer = Quantizer.read(a.learn or QUANTIZERS[SYSTEM])
    rows = tuple(measure(extractor, quantizer, a.data, a.work))
    columns = (
        "kind",
        "features",
        "ratio",
        "strongest strangers",
        "proven",
        "mean inliers",
        "median",
    )
    settings = {"extractor": SYSTEM, "bytes a descriptor": quantizer.bytes}
    report = Report("quantizer", settings, (Table("What is lost", columns, rows),))
    print_report(report)
    if a.out:
        a.out.mkdir(parents=True, exist_ok=True)
        (a.out / "quantizer.md").write_text(report.to_markdown())
        (a.out / "quantizer.json").write_text(json.dumps(report.to_json(), indent=1) + "\n")


def learn(extractor: Extractor, data: Path, file: Path) -> None:
    """From the features of photos of `train/` that are not held out: single ones, landmarks, places."""
    photos, rng = _photos(data), np.random.default_rng(0)
    found = []
    for path in photos:
        photo = read_photo(path, extractor.max_side)
        features = extractor.extract(photo.pixels, photo.info.size).features
        assert features is not None
        found.append(features.descriptors[rng.permutation(len(features))[:PER_PHOTO]])
    seen, start = np.concatenate(found).astype(np.float32), 0
    tensors = {}
    for i, (width, (kept, pieces)) in enumerate(zip(extractor.info.parts, PIECES, strict=True)):
        part = seen[:, start : start + width]
        start += width
        length = np.linalg.norm(part, axis=1, keepdims=True)
        part = (part / np.maximum(length, 1e-6))[length[:, 0] > 1e-3]
        rotation, centroids = _learn_part(rng.permutation(part), kept, pieces)
        # Half the digits are enough, and half the bytes.
        tensors[f"rotation.{i}"] = torch.from_numpy(rotation).half()
        tensors[f"centroids.{i}"] = torch.from_numpy(centroids).half()
    words = f"{len(seen)} features of {len(photos)} photos of train/"
    command = "benchmarks/ablations/quantizer.py --learn"
    record = Record(SYSTEM, {"weights": extractor.info.weights}, words, command)
    save_weights(file, tensors, record)


def _photos(data: Path) -> list[Path]:
    rng = np.random.default_rng(0)
    pool = PhotoPool.scan(data / "train/photos", held_out=None)
    held_out = set(pool.held_out)
    single = [path for i, path in enumerate(pool.paths) if i not in held_out]
    kinds = [single, *(_of_places(data, kind) for kind in ("landmarks", "places"))]
    counts = (PHOTOS * 5 // 9, PHOTOS * 4 // 9, INDOOR)
    return [
        kind[i]
        for kind, n in zip(kinds, counts, strict=True)
        for i in rng.permutation(len(kind))[:n]
    ]


def _of_places(data: Path, kind: str) -> list[Path]:
    return [path for photos in places_of(data, kind, held_out=False).values() for path in photos]


def _learn_part(vectors: Array, kept: int, pieces: int) -> tuple[Array, Array]:
    """The rotation, kept x D, and the centroids, pieces x 256 x kept / pieces."""
    turn = faiss.OPQMatrix(vectors.shape[1], pieces, kept)
    turn.niter = ITERATIONS
    turn.train(np.ascontiguousarray(vectors[:FOR_ROTATIONS]))
    rotation = faiss.vector_to_array(turn.A).reshape(kept, -1)
    learner = faiss.ProductQuantizer(kept, pieces, 8)
    learner.train(np.ascontiguousarray(vectors[:FOR_CENTROIDS] @ rotation.T))
    centroids = faiss.vector_to_array(learner.centroids)
    return rotation, centroids.reshape(pieces, CENTROIDS, kept // pieces)


def measure(
    extractor: Extractor, quantizer: Quantizer, data: Path, work: Path
) -> Iterator[tuple[str, str, float, str, float, float, float]]:
    """Rows of the table."""
    info, side = extractor.info, extractor.max_side
    look = _look(extractor)
    comparisons = list(_comparisons(look, data, work))

    @cache
    def features(path: Path, quantized: bool):
        found = look(path).features
        if quantized:
            found = _quantized(found, quantizer)
        return found, reweighted(found, info)

    def evidence(
        query: Path, other: Path, ratio: float, kinds: tuple[bool, bool], which: int
    ) -> tuple[float, int]:
        a, b = features(query, kinds[0])[which], features(other, kinds[1])[which]
        found = verify(a, b, match_mutual(a.descriptors, b.descriptors, ratio), side)
        return evidence_of(found), found.inlier_count

    for quantized in (False, True):
        words = "quantized" if quantized else "as they are"
        for ratio in PROOF_RATIOS:
            right, strangers = [], []
            for query, same, others in comparisons:
                kinds = (False, quantized)
                right += [evidence(query, other, ratio, kinds, 1) for other in same]
                most = [evidence(query, other, ratio, kinds, 1)[0] for other in others]
                strangers.append(max(most, default=0.0))
            strangers.sort(reverse=True)
            proven = float(np.mean([e > strangers[DECEPTIVE] for e, _ in right]))
            told = ", ".join(f"{e:.1f}" for e in strangers[: DECEPTIVE + 2])
            inliers = [n for _, n in right]
            yield ("proofs", words, ratio, told, proven, *_middles(inliers))
        for ratio in MAP_RATIOS:
            inliers = [
                evidence(query, other, ratio, (quantized, quantized), 0)[1]
                for query, same, _ in comparisons
                for other in same
            ]
            yield ("maps", words, ratio, "", float("nan"), *_middles(inliers))


def _middles(inliers: list[int]) -> tuple[float, float]:
    return float(np.mean(inliers)), float(np.median(inliers))


def _quantized(features: Features, quantizer: Quantizer) -> Features:
    return replace(features, descriptors=quantizer.decode(*quantizer.encode(features.descriptors)))


def _look(extractor: Extractor) -> Callable[[Path], Extraction]:
    @cache
    def look(path: Path) -> Extraction:
        photo = read_photo(path, extractor.max_side)
        return extractor.extract(photo.pixels, photo.info.size)

    return look


def _comparisons(
    look: Callable[[Path], Extraction], data: Path, work: Path
) -> Iterator[tuple[Path, list[Path], list[Path]]]:
    """Queries, with the most similar photos of their place and of others."""
    places = read_retrieval(write_places(data, work) / "places")
    names = list(places.database)
    known = np.stack([look(places.database[name]).global_descriptor for name in names])
    for query in places.queries:
        assert query.photo is not None
        order = np.argsort(-(known @ look(query.photo).global_descriptor))[:30]
        truth = query.truth[""]
        right = [names[i] for i in order if names[i] in truth.ok]
        strangers = [
            names[i]
            for i in order
            if names[i] not in truth.ok | truth.junk and places.database[names[i]] != query.photo
        ]
        yield (
            query.photo,
            [places.database[name] for name in right[:RIGHT]],
            [places.database[name] for name in strangers[:STRANGERS]],
        )


if __name__ == "__main__":
    main()
