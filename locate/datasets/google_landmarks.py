"""Google Landmarks v2: its ground truth, its photos, and files of answers (Weyand et al., CVPR 2020).

`*retrieval_solution*.csv` has id, images (ids, spaces between) and Usage; `*recognition_solution*.csv`
has id, landmarks and Usage. Rows of the usage "Ignored" count nowhere. The photo of id abcdef... is
`a/b/c/abcdef....jpg` below `test/` (queries), `index/` (retrieval's database) or `train/`
(recognition's, with `train*.csv` for the landmarks). Answers are CSV as well: id, images (ids, best
first), or id, landmarks (one landmark and its confidence, or nothing).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from locate.datasets.records import (
    GroundTruth,
    Query,
    Rankings,
    RetrievalData,
    named,
    photos_by_stem,
    read_table,
    refuse_repeated,
)
from locate.errors import InputError

RETRIEVAL, RECOGNITION = "google-retrieval", "google-recognition"
_IGNORED = "ignored"
Predictions = Mapping[str, tuple[str, float]]  # (landmark, confidence) by the id of the photo


def solution_files(folder: Path, task: str) -> list[Path]:
    """The ground truth of "retrieval" or "recognition"."""
    return sorted(folder.glob(f"*{task}_solution*.csv"))


def read_google_retrieval(folder: Path) -> RetrievalData:
    """Which index photos show what a test photo shows."""
    queries, database, notes = _read(folder, "retrieval", "images", "index")
    missing = {i for q in queries for i in q.truth[""].ok} - database.keys() if database else set()
    if missing:
        note = "images of the ground truth that are not below index/ and count as never found"
        notes += (f"{note}: {len(missing)} ({named(missing)})",)
    return RetrievalData(RETRIEVAL, queries, database, notes=notes)


def read_google_recognition(folder: Path) -> RetrievalData:
    """Which landmark a test photo shows, if any."""
    queries, database, notes = _read(folder, "recognition", "landmarks", "train")
    landmarks = _train_landmarks(folder) if database else {}
    unnamed = database.keys() - landmarks.keys()
    if unnamed:
        raise InputError(
            f"photos below {folder / 'train'} in no train*.csv: {len(unnamed)} ({named(unnamed)}); "
            "add the table or take the photos away"
        )
    return RetrievalData(RECOGNITION, queries, database, landmarks, notes=notes)


def read_retrieval_answers(file: Path) -> Rankings:
    """id -> images, best first."""
    return {row["id"]: row["images"].split() for row in _answers(file, "images")}


def read_recognition_answers(file: Path) -> Predictions:
    """id -> (landmark, confidence); an empty cell abstains."""
    predictions = {}
    for row in _answers(file, "landmarks"):
        words = row["landmarks"].split()
        if not words:
            continue
        try:
            landmark, confidence = words[0], float(words[1])
        except (IndexError, ValueError):
            confidence = math.nan
        if len(words) != 2 or math.isnan(confidence):
            raise InputError(
                f"{file}: the answer to {row['id']} must be one landmark and its confidence, "
                f"got {row['landmarks']!r}"
            )
        predictions[row["id"]] = (landmark, confidence)
    return predictions


def ignored_ids(folder: Path, task: str) -> frozenset[str]:
    """Test photos that are in the ground truth but count nowhere."""
    rows = read_table(_solution_file(folder, task), ("id", "Usage"))
    return frozenset(row["id"] for row in rows if row["Usage"].lower() == _IGNORED)


def _solution_file(folder: Path, task: str) -> Path:
    files = solution_files(folder, task)
    if len(files) != 1:
        found = named([f.name for f in files]) or "none"
        raise InputError(f"{folder} must hold one file *{task}_solution*.csv, found {found}")
    return files[0]


def _read(
    folder: Path, task: str, column: str, photos: str
) -> tuple[tuple[Query, ...], dict[str, Path], tuple[str, ...]]:
    """The queries that count, the database photos below `photos`, and a note on the other queries."""
    file = _solution_file(folder, task)
    rows = read_table(file, ("id", column, "Usage"))
    kept = [row for row in rows if row["Usage"].lower() != _IGNORED]
    if not kept:
        raise InputError(f"{file} holds no row that counts (all {len(rows)} are ignored)")
    tests = _tests(folder, [row["id"] for row in kept])
    queries = []
    for row in kept:
        right, none = frozenset(row[column].split()), frozenset[str]()
        ok, landmarks = (right, none) if task == "retrieval" else (none, right)
        truth = {"": GroundTruth(ok)}
        queries.append(Query(row["id"], tests.get(row["id"]), None, row["Usage"], truth, landmarks))
    ignored = len(rows) - len(kept)
    database = photos_by_stem(folder / photos) if (folder / photos).is_dir() else {}
    notes = (f"queries marked as ignored and left out: {ignored}",) if ignored else ()
    return tuple(queries), database, notes


def _tests(folder: Path, ids: list[str]) -> dict[str, Path]:
    """The photos of the queries; empty where there is no folder test/."""
    root = folder / "test"
    if not root.is_dir():
        return {}
    photos = {i: root / i[0:1] / i[1:2] / i[2:3] / f"{i}.jpg" for i in ids}
    missing = [photo for photo in photos.values() if not photo.is_file()]
    if missing:
        count = f"{len(missing)} of {len(ids)}"
        raise InputError(f"{count} test photos are not there, such as {missing[0]}")
    return photos


def _train_landmarks(folder: Path) -> dict[str, str]:
    """Landmark by photo, of `train.csv` (id, url, landmark_id) or `train_clean.csv` (landmark_id,
    images)."""
    landmarks: dict[str, str] = {}
    for file in sorted(folder.glob("train*.csv")):
        rows = read_table(file, ("landmark_id",))
        if rows and "images" in rows[0]:
            landmarks |= {i: row["landmark_id"] for row in rows for i in row["images"].split()}
        elif rows and "id" in rows[0]:
            landmarks |= {row["id"]: row["landmark_id"] for row in rows}
        elif rows:
            raise InputError(f"{file} needs a column id or images beside landmark_id")
    return landmarks


def _answers(file: Path, column: str) -> list[dict[str, str]]:
    rows = read_table(file, ("id", column))
    refuse_repeated(f"{file} answers", (row["id"] for row in rows), "twice")
    return rows
