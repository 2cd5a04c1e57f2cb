"""The default against RootSIFT, by the common evaluation; and against a stronger peer if there is one.

    python benchmarks/tables/accuracy.py --data ../shared/data --work build/extractors --out docs/benchmarks \
        [--peer PEER/bin/python --peer-tool ../shared/tools/peer.py]

- MMA, homography accuracy (MAGSAC, mean of five orders): oxford-affine, 2048 keypoints, full size; bark:
  homographies of that sequence, which is turned and zoomed.
- right matches: wxbs, the share of mutual nearest neighbours that are right at 3 px.
- mAP, right at 1 %: eval/retrieval, web queries, every fifth photo of train/photos as a distractor;
  the latter is the share of queries with a right answer above the score that 1 % of foreign ones reach.
- fountain, Herz-Jesus: five folds on true poses, medians in millimetres and degrees, `locate evaluate
  localization` at its defaults; and how far they may be chance: 95 % intervals by the bootstrap over the
  queries, of the medians and of their ratios to RootSIFT's, in all four scenes of eval/localization
  (fox in thousandths of its unit); and the geometric mean of the ratios of all queries.
- Milliseconds of one image of 640 px, two threads, as `benchmarks/tables/extractors.py` says: a row for this
  kind of processor; rows that --out has of other kinds stay.

The peer (ALIKED-n16, an environment of its own) joins the rows of matching and, if asked to, with GeM
before it and our matching after it, those of retrieval. What is finished in --work is not done again,
but for the speed; `benchmarks/tables/extractors.py` shares it. With --out the scores of the shipped weights
are written beside them for `locate models`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.common.bootstrap import geometric_ratio, interval, ratio_interval
from benchmarks.common.shipped_scores import write_scores
from benchmarks.tables.extractors import (
    SCENES,
    Errors,
    clicks,
    distractors,
    kept,
    medians,
    over_all,
    poses,
    retrieval,
    speeds,
)
from locate.extractors import registry
from locate.extractors.base import Extractor, ExtractorInfo
from locate.extractors.pair import Pair
from locate.images.reading import read_photo
from locate.pixels import resize_points
from locate.precision import precision
from locate.types import Array, Extraction, Features
from pipelines.cli.evaluate import print_report
from pipelines.evaluation.homographies import evaluate_matching
from pipelines.reports.report import Report, Table

NAMES = ("sift", "gem+sift", "gem+steered", "context")
THRESHOLDS = (1, 3, 5)
_PEER = "aliked-n16"

Scores = dict[str, float | None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--work", type=Path, default=Path("build/extractors"))
    parser.add_argument("--peer", help="the python of the peer's environment")
    parser.add_argument("--peer-tool", type=Path, help="its tool")
    parser.add_argument(
        "--peer-retrieval", action="store_true", help="the peer in retrieval as well (15 min)"
    )
    parser.add_argument("--out", type=Path, help="write accuracy.md and accuracy.json here")
    a = parser.parse_args()
    torch.set_num_threads(2)
    a.work.mkdir(parents=True, exist_ok=True)
    rows: dict[str, Scores] = {}
    errors: dict[str, Errors] = {}
    extractors = {name: registry.create(name) for name in NAMES}
    times = speeds(extractors, a.data)
    for name, extractor in extractors.items():
        found: Scores = {}
        for measure in (planes, clicks, retrieval):
            found |= kept(a.work, extractor, measure, a.data)
        errors[name] = kept(a.work, extractor, poses, a.data)
        rows[name] = found | medians(errors[name])
    if a.peer:
        peer = Peer(a.peer, a.peer_tool, a.work)
        peer.look_at_files((a.data / "eval/matching").rglob("*"))
        rows[_PEER] = kept(a.work, peer, planes, a.data) | kept(a.work, peer, clicks, a.data)
        if a.peer_retrieval:
            photos = [*(a.data / "eval/retrieval/images").rglob("*.*"), *distractors(a.data)]
            peer.look_at_photos(photos)
            pair = Pair(registry.create("gem"), peer)
            rows[_PEER] |= kept(a.work, pair, retrieval, a.data)
    report = make_report(rows, errors, {processor(): times} | earlier_times(a.out))
    print_report(report)
    if a.out:
        (a.out / "accuracy.md").write_text(report.to_markdown())
        (a.out / "accuracy.json").write_text(json.dumps(report.to_json(), indent=1) + "\n")
        write_scores({"steered": rows["gem+steered"], "context": rows["context"]})


def planes(extractor: Extractor, data: Path, work: Path) -> Scores:  # noqa: ARG001
    folder = data / "eval/matching/oxford-affine"
    report = evaluate_matching(folder, {"x": extractor}, max_keypoints=2048, estimator="magsac")
    row, sequences = over_all(report), report.to_json()["tables"][1]["rows"]
    names = [f"{kind}@{t}" for kind in ("MMA", "homography") for t in THRESHOLDS]
    (bark,) = [found["homography@3"] for found in sequences if found["sequence"] == "bark"]
    return {name: row[name] for name in names} | {"bark@3": bark}


def pose_table(errors: Mapping[str, Errors]) -> Table:
    rows = []
    for name, found in errors.items():
        if name != "sift" and found == errors["sift"]:
            continue  # gem+sift: the same local features
        for what, values in found.items():
            ours, sift = np.array(values), np.array(errors["sift"][what])
            rows.append((name, what, len(ours), *interval(ours), *ratio_interval(ours, sift)))
        for unit in ("mm", "degrees"):
            ours, sift = (
                np.concatenate([one[f"{scene} {unit}"] for scene in SCENES])
                for one in (found, errors["sift"])
            )
            ratios = geometric_ratio(ours, sift)
            rows.append((name, f"all, {unit}", len(ours), None, None, None, *ratios))
    columns = ("median", "from", "to", "of RootSIFT's", "ratio from", "ratio to")
    return Table(
        "Poses, 95 % intervals (fox: thousandths of its unit)",
        ("extractor", "error", "queries", *columns),
        tuple(rows),
    )


class Peer:
    """What the peer's tool finds in photos, as an extractor that knows these photos alone."""

    max_side = 1024

    def __init__(self, python: str, tool: Path, work: Path) -> None:
        self.info = ExtractorInfo(
            _PEER,
            None,
            {"max_keypoints": 2048},
            local_dim=128,
            rotation_invariant=True,  # it is not, but photos are upright, and seen as they are alone
        )
        self._run, self._work = [python, str(tool), "features"], work
        self._found: dict[str, Features] = {}

    def look_at_files(self, photos: Iterable[Path]) -> None:
        """At their full size."""
        self._look(
            self._work / "peer.npz",
            sorted(path for path in photos if path.suffix in (".jpg", ".png", ".ppm")),
            side=100000,
        )

    def look_at_photos(self, photos: Iterable[Path]) -> None:
        """As an index does: decoded at a fraction of their size, shrunk to `max_side`."""
        folder = self._work / "peer-photos"
        folder.mkdir(exist_ok=True)
        files = []
        for number, path in enumerate(sorted(photos)):
            files.append(folder / f"{number}.png")
            if not files[-1].exists():
                pixels = read_photo(path, min_long_side=self.max_side).pixels
                Image.fromarray(pixels).save(files[-1], compress_level=1)
        self._look(self._work / "peer-photos.npz", files, side=self.max_side)

    def _look(self, out: Path, files: Sequence[Path], side: int) -> None:
        if not out.exists():
            options = ["--keypoints", "2048", "--side", str(side)]
            subprocess.run([*self._run, out, *files, *options], check=True)
        with np.load(out) as stored:
            for i in range(int(stored["count"])):
                pixels = np.asarray(Image.open(str(stored[f"{i}|name"])).convert("RGB"))
                size = tuple(stored[f"{i}|size"].tolist())
                self._found[_digest(pixels)] = Features(*_best_first(stored, i), size)

    def extract(
        self,
        pixels: Array,
        size: tuple[int, int] | None = None,
        *,
        local: bool = True,  # noqa: ARG002
    ) -> Extraction:
        found = self._found[_digest(pixels)]
        if size is not None and size != found.image_size:
            keypoints = resize_points(found.keypoints, found.image_size, size)
            found = replace(found, keypoints=keypoints.astype(np.float32), image_size=size)
        return Extraction(found, None)


def _digest(pixels: Array) -> str:
    return hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()


def _best_first(stored: Any, i: int) -> tuple[Array, Array, Array]:
    order = np.argsort(-stored[f"{i}|scores"], kind="stable")
    names = ("keypoints", "scores", "descriptors")
    keypoints, scores, descriptors = (stored[f"{i}|{name}"][order] for name in names)
    return keypoints, scores.astype(np.float32), descriptors.astype(np.float32)


def processor() -> str:
    """Its kind, and the numbers that convolutions compute in on it."""
    numbers = str(precision(torch.device("cpu"))).removeprefix("torch.")
    return f"{torch.backends.cpu.get_cpu_capability()}, {numbers}"


def earlier_times(out: Path | None) -> dict[str, Scores]:
    """By kind of processor, those of other kinds than this."""
    if out is None or not (out / "accuracy.json").exists():
        return {}
    *_, times = json.loads((out / "accuracy.json").read_text())["tables"]
    rows = {row.pop("processor"): row for row in times["rows"]}
    return {kind: row for kind, row in rows.items() if kind != processor()}


def make_report(
    rows: Mapping[str, Scores],
    errors: Mapping[str, Errors],
    times: Mapping[str, Mapping[str, float | None]],
) -> Report:
    columns = list(dict.fromkeys(column for scores in rows.values() for column in scores))
    table = Table(
        "Accuracy",
        ("extractor", *columns),
        tuple((name, *(scores.get(column) for column in columns)) for name, scores in rows.items()),
    )
    speed = Table(
        "Milliseconds of a photo",
        ("processor", *NAMES),
        tuple((kind, *(row.get(name) for name in NAMES)) for kind, row in sorted(times.items())),
        digits=1,
    )
    return Report("accuracy", {"torch": torch.__version__}, (table, pose_table(errors), speed))


if __name__ == "__main__":
    main()
