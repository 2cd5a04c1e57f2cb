"""Which RANSAC separates pairs that show one place from pairs that do not, and how fast.

    python benchmarks/ablations/verifiers.py --data ../shared/data

Pairs: every query of eval/retrieval with its 30 nearest database images by global descriptor and its 15
nearest of other landmarks. For each verifier and ratio test: CPU milliseconds a pair; the inliers that
the most deceptive 1 % of the false pairs reach; the share of true web pairs beyond; and by query, the
share of web queries with a true candidate beyond ALL false candidates of all queries.
"""

from __future__ import annotations

import argparse
import csv
import time
from pathlib import Path

import cv2
import numpy as np
import poselib
from rich.console import Console
from rich.table import Table

from locate.extractors.registry import create
from locate.images.reading import read_photo
from locate.matching.descriptors import match_mutual
from locate.matching.two_view import distinct_matches

POSELIB = {"max_iterations": 2000, "min_iterations": 100, "seed": 0}
VERIFIERS = {
    "PoseLib F": lambda a, b: poselib.estimate_fundamental(
        a, b, {"max_epipolar_error": 2.0, **POSELIB}
    )[1]["inliers"],
    "MAGSAC F": lambda a, b: cv2.findFundamentalMat(a, b, cv2.USAC_MAGSAC, 2.0, 0.999, 2000)[1],
    "PoseLib H": lambda a, b: poselib.estimate_homography(
        a, b, {"max_reproj_error": 6.0, **POSELIB}
    )[1]["inliers"],
    "MAGSAC H": lambda a, b: cv2.findHomography(a, b, cv2.USAC_MAGSAC, 6.0, None, 2000, 0.999)[1],
}
RATIOS = (0.75, 0.8, 0.85)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    a = parser.parse_args()
    folder = a.data / "eval/retrieval"
    with (folder / "labels.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    extractor = create()
    seen = {r["image"]: extractor.extract(read_photo(folder / r["image"]).pixels) for r in rows}
    label = {r["image"]: r["landmark"] for r in rows}
    web = {r["image"] for r in rows if r["kind"] == "web"}
    database = [r["image"] for r in rows if r["split"] == "database"]
    pairs = []
    for query in (r["image"] for r in rows if r["split"] == "query"):
        vector = seen[query].global_descriptor
        ranked = sorted(database, key=lambda d, v=vector: -float(seen[d].global_descriptor @ v))
        foreign = [d for d in ranked if label[d] != label[query]]
        pairs += [(query, d) for d in dict.fromkeys(ranked[:30] + foreign[:15])]
    true = np.array([label[q] == label[d] for q, d in pairs])
    from_web = np.array([q in web for q, _ in pairs])
    table = Table(
        "verifier", "ratio", "CPU ms", "false 99 %", "false max",
        "true web pairs beyond 99 %", "web queries beyond max",
    )  # fmt: skip
    for ratio in RATIOS:
        points = [tentative(seen[q].features, seen[d].features, ratio) for q, d in pairs]
        for name, verifier in VERIFIERS.items():
            started = time.process_time()
            inliers = np.array([count(verifier, *p) for p in points])
            milliseconds = 1000 * (time.process_time() - started) / len(pairs)
            limit, most = np.percentile(inliers[~true], 99), inliers[~true].max()
            proven = {
                q for (q, _), n, t in zip(pairs, inliers, true, strict=True) if t and n > most
            }
            queries = {q for q, _ in pairs if q in web}
            table.add_row(
                name,
                str(ratio),
                f"{milliseconds:.2f}",
                f"{limit:.0f}",
                str(most),
                f"{np.mean(inliers[true & from_web] > limit):.3f}",
                f"{len(proven & queries) / len(queries):.3f}",
            )
    Console(width=120).print(table)


def tentative(a, b, ratio):
    matches = match_mutual(a.descriptors, b.descriptors, ratio)
    points_a, points_b = a.keypoints[matches[:, 0]], b.keypoints[matches[:, 1]]
    keep = distinct_matches(points_a, points_b)
    return points_a[keep].astype(np.float64), points_b[keep].astype(np.float64)


def count(verifier, a, b) -> int:
    if len(a) < 8:
        return 0
    try:
        inliers = verifier(a, b)
    except cv2.error:
        return 0
    return 0 if inliers is None else int(np.sum(inliers))


if __name__ == "__main__":
    cv2.setNumThreads(1)
    main()
