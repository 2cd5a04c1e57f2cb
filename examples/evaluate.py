"""How well do extractors find the landmarks of one's own photos, a folder a landmark?

python examples/evaluate.py landmarks/ context sift
"""

import csv
import sys
from pathlib import Path

import locate

photos, names = Path(sys.argv[1]), sys.argv[2:] or ["context", "sift"]
with (photos / "labels.csv").open("w", newline="") as file:
    rows = csv.writer(file)
    rows.writerow(["image", "landmark", "split"])
    for folder in sorted(path for path in photos.iterdir() if path.is_dir()):
        for number, photo in enumerate(sorted(folder.glob("*.jpg"))):
            split = "query" if number % 4 == 0 else "database"  # every fourth photo is asked
            rows.writerow([photo.relative_to(photos).as_posix(), folder.name, split])

extractors = {name: locate.create_extractor(name) for name in names}
report = locate.evaluate_retrieval(photos, extractors)
print(report.to_markdown())
report.save(photos.parent / "report")  # report.md, report.json, plots
