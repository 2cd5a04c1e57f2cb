"""What `locate models` says of the weights that come with the package: measured, and kept beside them."""

from __future__ import annotations

import json
from collections.abc import Mapping

from locate.extractors import bundled
from locate.extractors.weights import file_hash

CHOSEN = ("MMA@3", "homography@3", "right matches")


def write_scores(rows: Mapping[str, Mapping[str, float | None]]) -> None:
    """Those of the local features, by system; what is said of other systems stays."""
    kept = json.loads(bundled.SCORES.read_text("utf-8")) if bundled.SCORES.is_file() else {}
    for system, scores in rows.items():
        kept[system] = {
            "weights": file_hash(bundled.BUNDLED[system]),
            "scores": {name: round(scores[name] or 0.0, 3) for name in CHOSEN},
        }
    bundled.SCORES.write_text(json.dumps(kept, indent=1) + "\n")
