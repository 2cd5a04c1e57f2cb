"""Draw docs/benchmarks/plot.png, accuracy against time, from the tables that lie beside it.

python benchmarks/tables/plot.py
"""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib as mpl

mpl.use("agg")
import matplotlib.pyplot as plt
from matplotlib.lines import Line2D

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "benchmarks"
TITLES = {
    "MMA@3": "matches right within 3 px\n(MMA@3, oxford-affine)",
    "mAP": "ranking with distractors\n(mAP, web queries)",
    "right at 1 %": "queries proven right\nat 1 % false ones",
}
NOTE = "AVX-512, bfloat16, two threads; of accuracy.md, and d2net, delf, ur2kid of extractors.md"


def rows(name: str, table: int = 0) -> list[dict]:
    return json.loads((FOLDER / f"{name}.json").read_text())["tables"][table]["rows"]


def points() -> list[dict]:
    """Rows of scores with "ms", of a processor with bfloat16: those of accuracy.json, and of
    extractors.json what is not there."""
    times = next(row for row in rows("accuracy", 2) if "bfloat16" in row["processor"])
    found = [
        {**row, "ms": times[row["extractor"]]}
        for row in rows("accuracy")
        if row["extractor"] in times
    ]
    known = {row["extractor"] for row in found}
    return [*found, *(row for row in rows("extractors") if row["extractor"] not in known)]


def main() -> None:
    mpl.rcParams.update({"font.size": 9})
    figure, axes = plt.subplots(1, len(TITLES), figsize=(9, 3.1), layout="constrained")
    names: dict[str, int] = {}
    handles: dict[str, Line2D] = {}
    for axis, (key, title) in zip(axes, TITLES.items(), strict=True):
        for row in points():
            if row.get(key) is None:
                continue
            name = row["extractor"]
            order = names.setdefault(name, len(names))
            size = 10 if name == "context" else 7  # the default
            marker = "o^sDvP*X"[order % 8]
            style = {"color": f"C{order}", "marker": marker, "ls": "", "markersize": size}
            axis.plot(row["ms"], row[key], **style)
            handles[name] = Line2D([], [], label=name, **style)
        axis.set(title=title, xscale="log", xlabel="ms a photo", ylim=(0, 1.08), xlim=(18, 500))
        axis.set_xticks([20, 50, 100, 200, 400], ["20", "50", "100", "200", "400"])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    figure.legend(handles=list(handles.values()), loc="outside right center", frameon=False)
    figure.supxlabel(NOTE, fontsize=8)
    figure.savefig(FOLDER / "plot.png", dpi=110)


main()
