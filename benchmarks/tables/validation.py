"""What settings and weights are chosen by, from photos of `train/` that no training sees; `eval/` is never
opened here, it reports.

    python benchmarks/tables/validation.py --data ../shared/data --work build/validation --out docs/benchmarks \
        [--extractor NAME ...] [--weights FILE ...] [--set NAME=VALUE ...] [--only warps ...] [--quick]

- warps: pairs of views of single photos (`benchmarks/common/warps.py`), by what changes in them: MMA,
  homography accuracy (MAGSAC, mean of five orders of the matches) and M-score with 2,048 keypoints,
  repeatability and localization error (pixels) of 300.
- retrieval: places looked for among other photos (`benchmarks/common/held_out_retrieval.py`): mAP before and
  after verification, first answers, verdicts, what is proven at 1 % of false accepts.
- global: the same without verification, of extractors that have a global descriptor;
  votes: by the votes of local features, of the others.
- pairs: two photos of a scene, matched and put together (`benchmarks/common/held_out_scenes.py`): right
  matches and relative poses, against poses of our own maps of these scenes by RootSIFT.
- poses: photos localized in a map of others, against the same poses.

Each extractor is compared with RootSIFT (`sift`, with GeM before it where a global descriptor is
needed) on the same pairs: 95 % intervals by the bootstrap over photos. --quick looks at 126 pairs
of warps alone: half a minute to two minutes of one core. What is finished in --work is not done again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from benchmarks.common.differences import (
    Row,
    difference_table,
    error_table,
    mean_table,
    noise,
)
from benchmarks.common.held_out_retrieval import (
    global_scores,
    retrieval_scores,
    vote_scores,
)
from benchmarks.common.held_out_scenes import pair_scores, pose_scores
from benchmarks.common.warp_scores import warp_scores
from locate.errors import LocateError, UnknownNameError
from locate.extractors import registry
from locate.extractors.base import Extractor
from locate.util.files import atomic_write
from pipelines.cli.evaluate import print_report
from pipelines.cli.options import settings_of
from pipelines.evaluation.common import extractor_settings
from pipelines.reports.report import Report, Table

VERSION = 1  # of the measures: another one does not use what an earlier one has kept


@dataclass(frozen=True)
class Part:
    """A measure of an extractor, (extractor, data, work) -> rows, that extractors are compared by with
    `reference`, above all in the measures `main`."""

    measure: Callable[[Extractor, Path, Path], Sequence[Row]]
    reference: str
    main: tuple[str, ...] = ()
    errors: bool = False  # the measures are errors, whose medians count


PARTS: Mapping[str, Part] = {
    "warps": Part(warp_scores, "sift", ("MMA@3", "homography@3")),
    "global": Part(global_scores, "gem", ("mAP before", "R@1")),
    "votes": Part(vote_scores, "sift", ("mAP before", "R@1")),
    "retrieval": Part(retrieval_scores, "gem+sift", ("mAP", "right at 1 %", "false match")),
    "pairs": Part(pair_scores, "sift", ("right matches", "AUC@5")),
    "poses": Part(pose_scores, "sift", errors=True),
}
QUICK: Mapping[str, Part] = {
    "warps-quick": Part(partial(warp_scores, quick=True), "sift", ("MMA@3", "homography@3")),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--work", type=Path, default=Path("build/validation"))
    parser.add_argument("--extractor", nargs="*", default=[], help="see `locate models`")
    parser.add_argument("--weights", type=Path, nargs="*", default=[], help="of trained systems")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="of extractors")
    parser.add_argument("--only", nargs="*", choices=PARTS, default=[], help="these parts")
    parser.add_argument("--quick", action="store_true", help="a few warps alone")
    parser.add_argument("--reference", help="an extractor of the table to compare with instead")
    parser.add_argument("--threads", type=int, default=1, help="of networks")
    parser.add_argument("--out", type=Path, help="write validation.md and validation.json here")
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    parts = QUICK if a.quick else {name: PARTS[name] for name in a.only or PARTS}
    try:
        extractors = registry.named(a.extractor, a.weights, settings_of(a.set))
        report = validate(extractors, parts, a.data, a.work, a.reference)
    except LocateError as error:
        parser.exit(2, f"{error}\n")
    print_report(report)
    if a.out:
        a.out.mkdir(parents=True, exist_ok=True)
        (a.out / "validation.md").write_text(report.to_markdown())
        (a.out / "validation.json").write_text(json.dumps(report.to_json(), indent=1) + "\n")


def validate(
    extractors: Mapping[str, Extractor],
    parts: Mapping[str, Part],
    data: Path,
    work: Path,
    reference: str | None = None,
) -> Report:
    """All parts of all extractors, each beside the reference of the part, and compared with that or with
    the extractor `reference`, a name of the table."""
    tables: list[Table] = []
    notes = []
    for name, part in parts.items():
        asked = {part.reference: registry.create(part.reference), **extractors}
        found = {
            label: rows
            for label, extractor in asked.items()
            if (rows := kept(work, name, part, extractor, data))
        }
        base = reference or part.reference
        if base not in found:
            raise UnknownNameError("extractor of the table", base, found)
        if part.errors:
            tables.append(error_table(name, found, base))
            continue
        tables.append(mean_table(f"{name}: means", found))
        tables.append(difference_table(name, found, base, part.main))
        if any(len(row.groups) > 1 for rows in found.values() for row in rows) and name in PARTS:
            tables.append(mean_table(f"{name}: means by step", found, fine=True))
        notes.append(noise(name, found, base))
    settings = {"version": VERSION, "torch": torch.__version__}
    return Report(
        "validation",
        {**settings, "extractors": extractor_settings(extractors)},
        tuple(tables),
        notes=(*notes, "From photos of train/ alone: these numbers choose, those of eval/ report."),
    )


def kept(work: Path, name: str, part: Part, extractor: Extractor, data: Path) -> list[Row]:
    """The rows of one part, from the file of an earlier call where there is one."""
    home = work / f"v{VERSION}"
    file = home / f"{extractor.info.name}-{extractor.info.fingerprint}-{name}.json"
    if not file.exists():
        home.mkdir(parents=True, exist_ok=True)
        rows = [row.to_json() for row in part.measure(extractor, data, work)]
        with atomic_write(file) as stream:
            stream.write(json.dumps(rows).encode())
    return [Row.from_json(row) for row in json.loads(file.read_text())]


if __name__ == "__main__":
    main()
