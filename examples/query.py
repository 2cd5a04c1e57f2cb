"""Index a folder of photos and ask it for one: the smallest useful program.

python examples/query.py landmarks/ photo.jpg
"""

import sys
from pathlib import Path

import locate

photos, query = map(Path, sys.argv[1:3])
report = locate.build_index(photos, photos.parent / ".locate")
print(f"{report.added} new photos, {report.unchanged} known, {len(report.failed)} failed")

with locate.open(photos.parent / ".locate") as db:
    answer = db.query(query)
print(f"{answer.verdict}: {answer.label or 'nothing'} ({answer.reason})")
