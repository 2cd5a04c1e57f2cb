"""Ask an index for every photo of a folder, and write one line of CSV for each.

python examples/batch.py .locate queries/ answers.csv
"""

import csv
import sys
from pathlib import Path

import locate

index, folder, out = map(Path, sys.argv[1:4])
photos = sorted(folder.glob("*.jpg"))
with locate.open(index) as db, out.open("w", newline="") as file:
    lines = csv.writer(file)
    lines.writerow(["photo", "verdict", "label"])
    for photo, answer in zip(photos, db.query_many(photos), strict=True):
        if isinstance(answer, locate.ImageError):  # one bad photo does not end the batch
            lines.writerow([photo.name, "failed", ""])
        else:
            lines.writerow([photo.name, answer.verdict, answer.label or ""])
