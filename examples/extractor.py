"""Local features of one's own: OpenCV's ORB as an extractor, for an index, a map, an evaluation.

python examples/extractor.py landmarks/ photo.jpg
"""

import sys
from pathlib import Path

import cv2
import numpy as np

import locate


class Orb:
    """Keypoints (x, y) and descriptors of length 1; several threads may call `extract` at once."""

    max_side = 1024  # larger photos are reduced before they come here
    info = locate.ExtractorInfo("orb", weights=None, settings={"max_side": 1024}, local_dim=256)

    def extract(self, pixels, size=None, *, local=True):  # noqa: ARG002  nothing else to give
        height, width = pixels.shape[:2]
        size = size or (width, height)  # of the original photo, whose pixels keypoints are in
        found, rows = cv2.ORB.create(2000).detectAndCompute(pixels, None)
        points = np.array([k.pt for k in found], np.float32).reshape(-1, 2)
        points = (points + 0.5) * (np.array(size) / (width, height)) - 0.5  # pixel centres
        bits = np.unpackbits(np.zeros((0, 32), np.uint8) if rows is None else rows, axis=1)
        # The squared distance of such vectors is the Hamming distance, but for a factor.
        signs = (bits.astype(np.float32) * 2 - 1) / 16
        scores = np.array([k.response for k in found], np.float32)
        features = locate.Features(points.astype(np.float32), scores, signs, size)
        return locate.Extraction(features, global_descriptor=None)


photos, query = map(Path, sys.argv[1:3])
index = photos.parent / "orb.locate"
report = locate.build_index(photos, index, extractor=Orb())
print(f"{report.added} photos, {len(report.failed)} failed", *report.failed[:1])
with locate.open(index, extractor=Orb()) as db:
    answer = db.query(query)
print(f"{answer.verdict}: {answer.label or 'nothing'} ({answer.reason})")
