"""What proves a match, for those extractors whose rule comes with the package.

    python benchmarks/ablations/calibration.py --data ../shared/data --work build/calibration [--extractor context]

Indexes train/ (scenes, a house, single photos; `proofs.places`), asks 1,000 of its photos without their
place (`locate calibrate`) and puts the rule into locate/calibration.json, in the place of the
extractor's before. An hour on two cores; an index that is there is brought up to date and used.

--photos N indexes N of them, drawn evenly over the places, and --queries N asks so many, at least 381:
for systems that take long, whose rule follows from fewer photos and so is more cautious. --rerank measures what
LightGlue finds in the three candidates that look most alike (`pipelines.retrieval.rerank`).
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path

from benchmarks.ablations.proofs import Labelled, evenly, places
from locate.extractors import registry
from pipelines.indexing.build import build_index
from pipelines.retrieval.calibration import calibrate_database
from pipelines.retrieval.rerank import KEY

RULES = Path(__file__).resolve().parents[2] / "locate/calibration.json"
CALIBRATED = ("gem+sift", registry.DEFAULT, "ur2kid", "d2net", "delf")
FORMER = ("d533f073a023",)  # the default of databases from before features were quantized
QUERIES = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--work", type=Path, default=Path("build/calibration"))
    parser.add_argument("--extractor", default=registry.DEFAULT)
    parser.add_argument("--photos", type=int, help="index so many; by default all")
    parser.add_argument("--queries", type=int, default=QUERIES)
    parser.add_argument("--rerank", action="store_true", help="LightGlue's rule instead")
    a = parser.parse_args()
    train, index = a.data / "train", a.work / a.extractor
    a.work.mkdir(parents=True, exist_ok=True)
    table = a.work / "labels.csv"
    labelled = places(train)
    folder = train
    if a.photos:
        labelled = evenly(labelled, a.photos)
        folder = _folder_of(labelled, train, a.work / f"photos-{a.photos}")
    with table.open("w", newline="", encoding="utf-8") as stream:
        rows = csv.writer(stream)
        rows.writerow(("image", "label"))
        rows.writerows((path.relative_to(train).as_posix(), label) for path, label in labelled)
    print(build_index(folder, index, extractor=a.extractor, label_from=f"csv:{table}"), flush=True)
    report = calibrate_database(
        index, queries=a.queries, known=False, rerank=a.rerank, progress=_tell
    )
    scenes = len({label for path, label in labelled if path.parts[-3] == "scenes"})
    single = sum(path.parent.name == "photos" for path, _ in labelled)
    words = (
        f"{report.calibration.queries} photos of {scenes} scenes, a house of many floors and {single} "
        "single photos (train/ of the project's data)"
    )
    rule = json.loads(report.calibration.to_json()) | {"data": words}
    print(*report.worst, rule["match_evidence"], rule["uncertain_evidence"], sep="\n")
    # Rules of extractors that are no more have no use, but for those that databases remember.
    now = {registry.create(name).info.fingerprint for name in CALIBRATED}
    others = {*now, *FORMER, KEY} - {rule["extractor"]}
    rules = [r for r in json.loads(RULES.read_text()) if r["extractor"] in others]
    RULES.write_text(json.dumps([*rules, rule]) + "\n")


def _folder_of(photos: Labelled, train: Path, folder: Path) -> Path:
    """A folder with these photos alone, at the places that they have in `train`."""
    for path, _ in photos:
        link = folder / path.relative_to(train)
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.exists():
            link.symlink_to(path.resolve())
    return folder


def _tell(done: int, count: int) -> None:
    if done % 50 == 0:
        print(f"{done} of {count}", flush=True)


if __name__ == "__main__":
    main()
