"""By which ratio of Lowe's test an extractor's matches are judged, chosen on photos of train/.

    python benchmarks/ablations/ratios.py --data ../shared/data --work build/ratios --extractor d2net [--out docs/benchmarks]

Every second place of train/landmarks and train/scenes chooses; what was chosen is shown on the others.

- Proofs (`ExtractorInfo.query_ratio`): photos are asked for among photos of their own place, and among
  those of other places that GeM finds most similar. "proven": the share with more evidence (inliers
  beyond chance) for their own place than all strangers but the most deceptive 0 to 2 % have for theirs,
  on average. With --model and --errors, other ways to verify than the extractor's own are compared too.
- Matches (`ExtractorInfo.ratio`): two views of a photo of train/photos under a known homography, in
  different light. Right is a match within 3 px, or what the extractor's verification allows. F1 is the
  harmonic mean of the share of the kept that are right and the share of the right ones that are kept;
  chosen is the strictest ratio that comes within .01 of the best, since wrong matches cost time too.

Some ten minutes an extractor on two cores; what was seen in photos is kept in --work.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from locate.extractors import registry
from locate.extractors.base import Extractor
from locate.images.reading import read_photo
from locate.matching.descriptors import match_mutual
from locate.matching.evidence import evidence_of
from locate.matching.two_view import verify
from locate.pixels import apply_homography
from locate.training.data.homographies import warped_pair
from locate.training.data.photometric import PhotometricSettings
from locate.types import FUNDAMENTAL, MODELS, Array, Features
from pipelines.cli.evaluate import print_report
from pipelines.reports.report import Report, Table

RATIOS = (0.8, 0.85, 0.9, 0.95, 0.98, 1.0)
PER_PLACE, NEAREST = 3, 8  # photos of a place; strangers for each
DECEIVED = 0.02  # largest share of the strangers that is let pass
VIEWS, SIDE = 40, 352
RIGHT = 3.0  # pixels
ALIKE = 0.01  # of F1

Labelled = tuple[Path, str]
Way = tuple[str, float]  # model and error of verification


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--work", type=Path, default=Path("build/ratios"))
    parser.add_argument("--extractor", default="d2net")
    parser.add_argument("--weights", type=Path, help="of a training; else as the extractor comes")
    parser.add_argument("--model", choices=MODELS, help="of another verification to compare with")
    parser.add_argument("--errors", type=float, nargs="*", default=[], help="of it, in pixels")
    parser.add_argument("--per-place", type=int, default=PER_PLACE)
    parser.add_argument("--nearest", type=int, default=NEAREST)
    parser.add_argument("--out", type=Path, help="write ratios-NAME.md and ratios-NAME.json here")
    a = parser.parse_args()
    torch.set_num_threads(1)
    weights = {} if a.weights is None else {a.extractor.split("+")[-1]: a.weights}
    extractor = registry.create(a.extractor, weights=weights)
    own = (extractor.info.verification, extractor.info.max_error)
    ways = [own, *((a.model or own[0], error) for error in a.errors)]
    train = a.data / "train"
    tables = [
        proofs(extractor, train, a, list(dict.fromkeys(ways))),
        matches(extractor, train),
    ]
    settings = {"extractor": a.extractor, "fingerprint": extractor.info.fingerprint}
    report = Report("ratios", settings, tuple(tables))
    print_report(report)
    if a.out:
        file = a.out / f"ratios-{a.extractor}"
        file.with_suffix(".md").write_text(report.to_markdown())
        file.with_suffix(".json").write_text(json.dumps(report.to_json(), indent=1) + "\n")


# --- proofs -------------------------------------------------------------------------------------------


def proofs(extractor: Extractor, train: Path, a: argparse.Namespace, ways: Sequence[Way]) -> Table:
    photos = chosen_photos(train, a.per_place)
    features = [seen(extractor, path, train, a.work) for path, _ in photos]
    similar = similarities([path for path, _ in photos], train, a.work)
    # Of each photo the most evidence for its own place and for another, by way and ratio.
    shape = (len(photos), len(ways), len(RATIOS))
    right, wrong = np.zeros(shape), np.zeros(shape)
    tasks = list(pairs(photos, similar, a.nearest))

    def evidence(pair: tuple[int, int]) -> Array:
        a, b = features[pair[0]], features[pair[1]]
        return np.array(
            [
                [
                    evidence_of(verify(a, b, found, extractor.max_side, *way))
                    for found in by_ratio(a, b)
                ]
                for way in ways
            ]
        )

    with ThreadPoolExecutor(2) as pool:
        for (i, j), values in zip(tasks, pool.map(evidence, tasks), strict=True):
            best = right if photos[i][1] == photos[j][1] else wrong
            best[i] = np.maximum(best[i], values)
    places = sorted({place for _, place in photos})
    chooses = np.array([places.index(place) % 2 == 0 for _, place in photos])
    rows = []
    for w, (model, error) in enumerate(ways):
        for r, ratio in enumerate(RATIOS):
            first, second = (
                proven(right[which, w, r], wrong[which, w, r]) for which in (chooses, ~chooses)
            )
            area = auc(right[~chooses, w, r], wrong[~chooses, w, r])
            rows.append((f"{model} {error:g} px", ratio, first, second, area))
    best = max(range(len(rows)), key=lambda k: rows[k][2])
    title = (
        f"Proofs, {len(photos)} photos of {len(places)} places: "
        f"{rows[best][0]} at {rows[best][1]:g} proves most where it is chosen"
    )
    columns = ("verification", "ratio", "proven, chooses", "proven, held out", "AUC, held out")
    return Table(title, columns, tuple(rows))


def chosen_photos(train: Path, per_place: int) -> list[Labelled]:
    """So many photos of every place, the same every time."""
    found: list[Labelled] = []
    for folder in sorted([*(train / "landmarks").iterdir(), *(train / "scenes").iterdir()]):
        files = sorted(folder.glob("*.jpg"))
        order = np.random.default_rng(0).permutation(len(files))[:per_place]
        found += [(files[i], folder.name) for i in sorted(order)]
    return found


def pairs(photos: Sequence[Labelled], similar: Array, nearest: int) -> Iterator[tuple[int, int]]:
    """Each photo with all of its own place, and with the most similar of others."""
    for i, (_, place) in enumerate(photos):
        order = np.argsort(-similar[i], kind="stable")
        yield from ((i, j) for j in range(len(photos)) if j != i and photos[j][1] == place)
        yield from [(i, int(j)) for j in order if _city(photos[j][1]) != _city(place)][:nearest]


def _city(place: str) -> str:
    """Places of one city may show one another: none of them is a stranger."""
    return place.split("_", maxsplit=1)[0] if not place.startswith("scannet") else place


def by_ratio(a: Features, b: Features) -> list[Array]:
    """`match_mutual` by each of `RATIOS`, with one look at the similarities."""
    found = match_mutual(a.descriptors, b.descriptors)
    similarity = a.descriptors[found[:, 0]] @ b.descriptors.T
    rows = np.arange(len(found))
    best = similarity[rows, found[:, 1]]
    similarity[rows, found[:, 1]] = -2.0
    second = similarity.max(axis=1) if len(b) > 1 else np.full(len(found), -2.0)
    squared = (2 - 2 * best).clip(min=0)
    return [found[squared < ratio**2 * (2 - 2 * second)] for ratio in RATIOS]


def proven(right: Array, wrong: Array) -> float:
    """The share of `right` above all of `wrong` but the strongest 0, 1, ..., `DECEIVED` of them; their
    mean."""
    strongest = np.sort(wrong)[::-1]
    allowed = range(1 + int(DECEIVED * len(wrong)))
    return float(np.mean([np.mean(right > max(strongest[k], 0.0)) for k in allowed]))


def auc(right: Array, wrong: Array) -> float:
    """The chance that a right one has more evidence than a wrong one; a tie is half a chance."""
    more = (right[:, None] > wrong).mean() + (right[:, None] == wrong).mean() / 2
    return float(more)


def seen(extractor: Extractor, path: Path, train: Path, work: Path) -> Features:
    name = path.relative_to(train).as_posix().replace("/", " ")
    file = work / extractor.info.fingerprint / f"{name}.npz"
    if not file.exists():
        found = extractor.extract(
            read_photo(path, min_long_side=extractor.max_side).pixels
        ).features
        assert found is not None
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(".part.npz")
        np.savez(
            part,
            keypoints=found.keypoints,
            scores=found.scores,
            descriptors=found.descriptors.astype(np.float16),
            image_size=found.image_size,
        )
        part.rename(file)
    with np.load(file) as kept:
        width, height = kept["image_size"].tolist()
        descriptors = kept["descriptors"].astype(np.float32)
        return Features(kept["keypoints"], kept["scores"], descriptors, (width, height))


def similarities(paths: Sequence[Path], train: Path, work: Path) -> Array:
    file = work / f"gem-{len(paths)}.npz"
    names = [path.relative_to(train).as_posix() for path in paths]
    if file.exists():
        with np.load(file) as kept:
            if kept["names"].tolist() == names:
                return np.asarray(kept["vectors"] @ kept["vectors"].T)
    gem = registry.create("gem")
    found = [gem.extract(read_photo(path, min_long_side=gem.max_side).pixels) for path in paths]
    vectors = np.stack([one.global_descriptor for one in found])
    work.mkdir(parents=True, exist_ok=True)
    np.savez(file, names=np.array(names), vectors=vectors)
    return np.asarray(vectors @ vectors.T)


# --- matches ------------------------------------------------------------------------------------------


def matches(extractor: Extractor, train: Path) -> Table:
    info = extractor.info
    allowed = RIGHT if info.verification == FUNDAMENTAL else info.max_error
    files = sorted((train / "photos").iterdir())
    chosen = [files[i] for i in np.random.default_rng(0).permutation(len(files))[:VIEWS]]
    counts = np.array(
        [right_and_kept(extractor, path, k, allowed) for k, path in enumerate(chosen)]
    )
    rows = []
    for r, ratio in enumerate(RATIOS):
        scores = [score(part[:, r], part[:, -1]) for part in (counts[::2], counts[1::2])]
        rows.append((ratio, scores[0][2], *scores[1]))
    most = max(row[1] for row in rows)
    best = min(row[0] for row in rows if row[1] >= most - ALIKE)
    columns = ("ratio", "F1, chooses", "precision, held out", "recall, held out", "F1, held out")
    title = (
        f"Matches within {allowed:g} px of a homography, {VIEWS} pairs of views: chosen is {best:g}"
    )
    return Table(title, columns, tuple(rows))


def right_and_kept(extractor: Extractor, path: Path, number: int, allowed: float) -> Array:
    """By ratio: how many matches are right, and how many there are."""
    rng = np.random.default_rng((1, number))
    photo = read_photo(path).pixels
    pair = warped_pair(photo, rng, (SIDE, SIDE), photometric=PhotometricSettings())
    a, b = (extractor.extract(view).features for view in (pair.image_a, pair.image_b))
    assert a is not None
    assert b is not None
    found = []
    for kept in by_ratio(a, b):
        there = apply_homography(pair.b_from_a, a.keypoints[kept[:, 0]].astype(np.float64))
        error = np.linalg.norm(there - b.keypoints[kept[:, 1]], axis=1)
        found.append(((error <= allowed).sum(), len(kept)))
    return np.array(found)


def score(counts: Array, loosest: Array) -> tuple[float, float, float]:
    """Precision, recall and F1 of all pairs together.

    Args:
        counts: pairs x 2, right and kept. loosest: the same at the loosest ratio.
    """
    right, kept = counts.sum(axis=0)
    precision, recall = right / max(kept, 1), right / max(loosest[:, 0].sum(), 1)
    return precision, recall, 2 * precision * recall / max(precision + recall, 1e-9)


if __name__ == "__main__":
    main()
