"""What `locate models` says of the weights that come with the package: measured, and kept beside them."""

from __future__ import annotations

import json
from collections.abc import Mapping

from locate.extractors import bundled
from locate.extractors.weights import file_hash

CHOSEN = ("MMA@3", "homography@3", "right matches")
SPEED = "ms a photo"  # of 640 px, two threads


def write_scores(rows: Mapping[str, Mapping[str, float | None]]) -> None:
    """Those of the local features, by system, and the speed ("ms") where it was measured too; what is
    said of other systems stays."""
    kept = json.loads(bundled.SCORES.read_text("utf-8")) if bundled.SCORES.is_file() else {}
    for system, scores in rows.items():
        found = {name: round(scores[name] or 0.0, 3) for name in CHOSEN}
        if (speed := scores.get("ms")) is not None:
            found[SPEED] = round(speed)
        kept[system] = {"weights": file_hash(bundled.BUNDLED[system]), "scores": found}
    bundled.SCORES.write_text(json.dumps(kept, indent=1) + "\n")
