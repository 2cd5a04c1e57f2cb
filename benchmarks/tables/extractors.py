"""All extractors in one table, by the common evaluation: which is best at what.

    python benchmarks/tables/extractors.py --data ../shared/data --work build/extractors --out docs/benchmarks \
        [--weights FILE ...]
    python benchmarks/tables/extractors.py --data ../shared/data --work build/extractors --scores [NAME ...]

Those that have no weights are left out, which a line says.

- MMA, homography accuracy (MAGSAC, mean of five orders), M-score: oxford-affine, 2048 keypoints, full
  size.
- repeatability, error (pixels, of localization): the same, 300 keypoints at 320 x 240, 3 px; and what
  knows nothing and has to be beaten, a regular grid, and of the extractor's own points 300 at random.
- right matches: wxbs, the share of matches that are right at 3 px.
- mAP, right at 1 %: eval/retrieval, web queries, every fifth photo of train/photos as a distractor;
  candidates by the global descriptor where there is one, else by local search; mAP after
  verification, and before it.
- fountain, Herz-Jesus: five folds on true poses, medians in millimetres and degrees, `locate evaluate
  localization` at its defaults.
- kB: of a photo in an index, the mean over twenty; MB: the most memory of a process that extracts five.
- ms: of one image of 640 px in full, two threads; the extractors take turns, 20 photos each, ten
  times; the fastest of a photo's times, since what else a machine does only adds; their median.

What is finished in --work is not done again, but for the speed, and --only some extractors fills it, in several
processes side by side. With --out or --scores the scores of shipped
systems are written beside their weights for `locate models`; --scores looks at planes and wxbs alone, of all
shipped systems or of those named.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import cv2
import torch

from benchmarks.common.baselines import GridPoints, RandomScores
from benchmarks.common.pose_errors import errors_of
from benchmarks.common.published import published_table
from benchmarks.common.shipped_scores import write_scores
from locate.extractors import registry
from locate.extractors.base import Extractor
from locate.extractors.bundled import BUNDLED
from locate.images.reading import read_photo
from locate.pixels import fit_size
from locate.types import Array
from locate.util.memory import keep_freed_memory
from pipelines.cli.evaluate import print_report
from pipelines.evaluation.homographies import evaluate_matching
from pipelines.evaluation.repeatability import evaluate_repeatability
from pipelines.evaluation.retrieval import evaluate_retrieval
from pipelines.indexing.build import build_index
from pipelines.reports.report import Report, Table

SYSTEMS = ("ur2kid", "delf", "d2net", "superpoint", "unsuperpoint", "sekd", "lift", "lfnet")
SHIPPED = tuple(name for name in SYSTEMS if name in BUNDLED)
NAMES = ("sift", "gem", "gem+sift", "gem+steered", "context", "ur2kid+delf", *SYSTEMS)
SCENES = {  # by the name in the tables
    "fountain": "fountain-P11",
    "Herz-Jesus": "Herz-Jesus-P25",
    "tum": "tum-fr2-desk",
    "fox": "fox",
}
STRECHA = ("fountain", "Herz-Jesus")
SIDE, TIMED, ROUNDS = 640, 20, 10
DISTRACTORS = 5  # every so-manieth photo

Scores = dict[str, float | None]
Errors = dict[str, list[float]]
Found = TypeVar("Found")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--work", type=Path, default=Path("build/extractors"))
    parser.add_argument("--weights", type=Path, nargs="*", default=[], help="of trained systems")
    parser.add_argument("--out", type=Path, help="write extractors.md and extractors.json here")
    parser.add_argument(
        "--scores", nargs="*", choices=SHIPPED, metavar="NAME", help="of shipped systems alone"
    )
    parser.add_argument(
        "--only", nargs="+", choices=NAMES, metavar="NAME", help="measure these for a later table"
    )
    parser.add_argument("--memory", metavar="NAME", help="only print what this one takes")
    a = parser.parse_args()
    torch.set_num_threads(2)
    if a.memory:
        print_memory(a.memory, a.data)
        return
    a.work.mkdir(parents=True, exist_ok=True)
    if a.scores is not None:
        for name in a.scores or SHIPPED:
            found = planes_and_clicks(name, a.work, a.data)
            print(name, json.dumps(found), flush=True)
            write_scores({name: found})
        return
    if a.only:
        for extractor in registry.named(a.only, a.weights).values():
            measured(extractor, a.work, a.data)
        return
    rows = []
    extractors = registry.named([name for name in NAMES if has_weights(name)], a.weights)
    times = speeds(extractors, a.data)
    for name, extractor in extractors.items():
        found = {"ms": times[name]} | measured(extractor, a.work, a.data)
        found["MB"] = memory(name, a.data) if name in NAMES else None
        rows.append((name.split(" ")[0], *(found.get(column) for column in COLUMNS)))
    found = kept(a.work, GridPoints(), repeatability, a.data)
    rows.append(("grid", *(found.get(column) for column in COLUMNS)))
    report = make_report(rows)
    print_report(report)
    if a.out:
        a.out.mkdir(parents=True, exist_ok=True)
        (a.out / "extractors.md").write_text(report.to_markdown())
        (a.out / "extractors.json").write_text(json.dumps(report.to_json(), indent=1) + "\n")
        for name in SHIPPED:
            write_scores({name: planes_and_clicks(name, a.work, a.data) | {"ms": times[name]}})


def measured(extractor: Extractor, work: Path, data: Path) -> Scores:
    """All but speed and memory."""
    found: Scores = {}
    for measure in (matching, repeatability, clicks, retrieval, room):
        found |= kept(work, extractor, measure, data)
    if extractor.info.local_dim:
        found |= medians(kept(work, extractor, poses, data))
    return found


def planes_and_clicks(name: str, work: Path, data: Path) -> Scores:
    extractor = registry.create(name)
    measures = (matching, repeatability, clicks)
    return {k: v for one in measures for k, v in kept(work, extractor, one, data).items()}


PLANES = (*(f"MMA@{t}" for t in (1, 3, 5)), *(f"homography@{t}" for t in (1, 3, 5)), "M-score")
COLUMNS = (
    *PLANES,
    *("repeatability", "at random", "error", "right matches", "mAP before", "mAP", "right at 1 %"),
    *(f"{scene} {unit}" for scene in STRECHA for unit in ("mm", "degrees")),
    *("kB", "MB", "ms"),
)
UNITS = ("mm", "degrees", "error", "kB", "MB", "ms")  # of which less is better


def has_weights(name: str) -> bool:
    for part in name.split("+"):
        if part in SYSTEMS and part not in BUNDLED:
            print(f"{name} is left out: {part} has no weights", flush=True)
            return False
    return True


def kept(work: Path, extractor: Extractor, measure: Callable[..., Found], data: Path) -> Found:
    """What `measure` finds, from the file of an earlier call where there is one."""
    file = work / f"{extractor.info.name}-{extractor.info.fingerprint}-{measure.__name__}.json"
    if not file.exists():
        file.write_text(json.dumps(measure(extractor, data, work)))
        print(file.read_text(), flush=True)
    found: Found = json.loads(file.read_text())
    return found


def timed_photos(data: Path) -> list[Path]:
    photos = sorted((data / "eval/retrieval/images").rglob("*.jpg"))
    return photos[:: max(1, 60 // TIMED)][:TIMED]


def timed_images(data: Path) -> list[Array]:
    images = []
    for path in timed_photos(data):
        pixels = read_photo(path, min_long_side=SIDE).pixels
        size = fit_size((pixels.shape[1], pixels.shape[0]), SIDE)
        images.append(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA))
    return images


def speeds(extractors: Mapping[str, Extractor], data: Path) -> dict[str, float]:
    """Milliseconds by extractor."""
    keep_freed_memory()  # as commands do
    images = timed_images(data)
    best = {name: [math.inf] * len(images) for name in extractors}
    for _ in range(ROUNDS):
        for name, extractor in extractors.items():
            extractor.extract(images[0])  # finds everybody else's data in the caches
            for i, pixels in enumerate(images):
                begin = time.perf_counter()
                extractor.extract(pixels)
                best[name][i] = min(best[name][i], 1000 * (time.perf_counter() - begin))
    return {name: median(times) for name, times in best.items()}


def matching(extractor: Extractor, data: Path, work: Path) -> Scores:  # noqa: ARG001
    if not extractor.info.local_dim:
        return {}
    folder = data / "eval/matching/oxford-affine"
    row = over_all(
        evaluate_matching(folder, {"x": extractor}, max_keypoints=2048, estimator="magsac")
    )
    return {name: row[name] for name in PLANES}


def repeatability(extractor: Extractor, data: Path, work: Path) -> Scores:  # noqa: ARG001
    if not extractor.info.local_dim:
        return {}
    folder = data / "eval/matching/oxford-affine"
    row = over_all(evaluate_repeatability(folder, {"x": extractor}))
    found = {"repeatability": row["rep (image b)"], "error": row["error (image b)"]}
    if not isinstance(extractor, GridPoints):
        chance = over_all(evaluate_repeatability(folder, {"x": RandomScores(extractor)}))
        found["at random"] = chance["rep (image b)"]
    return found


def clicks(extractor: Extractor, data: Path, work: Path) -> Scores:  # noqa: ARG001
    if not extractor.info.local_dim:
        return {}
    row = over_all(evaluate_matching(data / "eval/matching/wxbs", {"x": extractor}))
    return {"right matches": row["right@3"]}


def distractors(data: Path) -> list[Path]:
    return sorted((data / "train/photos").iterdir())[::DISTRACTORS]


def retrieval(extractor: Extractor, data: Path, work: Path) -> Scores:
    folder = work / "distractors"
    folder.mkdir(exist_ok=True)
    for path in distractors(data):
        if not (folder / path.name).exists():
            (folder / path.name).symlink_to(path.resolve())
    report = evaluate_retrieval(
        data / "eval/retrieval",
        {"x": extractor},
        distractors=[folder],
        kinds=["web"],
        work=work / "databases",
    ).to_json()
    ranking, *rest = report["tables"]
    by_stage = {row["ranking"]: row["mAP"] for row in ranking["rows"]}
    before, after = by_stage.values()
    right = [row["right at 1 %"] for table in rest for row in table["rows"]]
    return {"mAP before": before, "mAP": after, "right at 1 %": right[0] if right else None}


def poses(extractor: Extractor, data: Path, work: Path) -> Errors:  # noqa: ARG001
    found: Errors = {}
    for scene, folder in SCENES.items():
        millimetres, degrees = errors_of(extractor, data / "eval/localization" / folder)
        found |= {f"{scene} mm": millimetres.tolist(), f"{scene} degrees": degrees.tolist()}
    return found


def medians(errors: Errors) -> Scores:
    found: Scores = {}
    for scene in STRECHA:
        for unit in ("mm", "degrees"):
            found[f"{scene} {unit}"] = median(errors[f"{scene} {unit}"])
        millimetres = errors[f"{scene} mm"]
        found[f"{scene} localized"] = sum(map(math.isfinite, millimetres)) / len(millimetres)
    return found


def room(extractor: Extractor, data: Path, work: Path) -> Scores:  # noqa: ARG001
    """Of the disk and of memory."""
    with TemporaryDirectory() as folder:
        photos, index = Path(folder) / "photos", Path(folder) / "new.locate"
        photos.mkdir()
        for number, path in enumerate(timed_photos(data)):
            shutil.copy(path, photos / f"{number}{path.suffix}")
        build_index(photos, index, extractor=extractor)
        stored = sum(file.stat().st_size for file in index.rglob("*") if file.is_file())
    return {"kB": stored / TIMED / 1000}


def memory(name: str, data: Path) -> float:
    """Megabytes, of a process of its own."""
    command = [sys.executable, __file__, "--data", str(data), "--memory", name]
    run = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(run.stdout.split()[-1])


def print_memory(name: str, data: Path) -> None:
    extractor = registry.create(name)
    for pixels in timed_images(data)[:5]:
        extractor.extract(pixels)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000)


def over_all(report: Report) -> dict[str, Any]:
    """The row of the first table that is the mean over everything."""
    rows: list[dict[str, Any]] = report.to_json()["tables"][0]["rows"]
    return next((row for row in rows if "all" in row.values()), rows[-1])


def make_report(rows: list[tuple[Any, ...]]) -> Report:
    best = []
    for number, column in enumerate(COLUMNS, start=1):
        choose = min if column.split()[-1] in UNITS else max
        known = [row for row in rows if row[number] is not None]
        if known:
            best.append(f"{column}: {choose(known, key=lambda row: row[number])[0]}")
    table = Table("All extractors", ("extractor", *COLUMNS), tuple(rows))
    settings = {"torch": torch.__version__, "timed": TIMED * ROUNDS, "side": SIDE}
    return Report(
        "extractors", settings, (table, published_table()), notes=("Best: " + "; ".join(best),)
    )


if __name__ == "__main__":
    main()
