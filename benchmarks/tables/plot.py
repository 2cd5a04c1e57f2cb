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
NOTE = "filled: AVX-512, bfloat16, as extractors.md; hollow: AVX2, float32, as accuracy.md"


def rows(name: str, table: int = 0) -> list[dict]:
    return json.loads((FOLDER / f"{name}.json").read_text())["tables"][table]["rows"]


def points() -> list[dict]:
    """Rows of scores with "ms", as they were measured: of extractors.json on a processor with
    bfloat16, of accuracy.json ("slower": True) on one with AVX2 alone."""
    found = rows("extractors")
    known = {row["extractor"] for row in found if row["extractor"] != "gem+sift"}
    times = next(row for row in rows("accuracy", 2) if row["context"] is not None)
    for row in rows("accuracy"):
        if (name := row["extractor"]) in times and name not in known:
            found.append({**row, "ms": times[name], "slower": True})
    return found


def main() -> None:
    mpl.rcParams.update({"font.size": 9})
    figure, axes = plt.subplots(1, len(TITLES), figsize=(9, 3.1), layout="constrained")
    names: dict[str, int] = {}
    handles: dict[str, Line2D] = {}
    for axis, (key, title) in zip(axes, TITLES.items(), strict=True):
        for row in points():
            if row.get(key) is None:
                continue
            name, slower = row["extractor"], row.get("slower", False)
            order = names.setdefault(name, len(names))
            fill = "white" if slower else f"C{order}"
            size = 10 if name == "context" else 7  # the default
            marker = "o^sDvP*X"[order % 8]
            style = {"color": f"C{order}", "marker": marker, "ls": "", "markersize": size}
            axis.plot(row["ms"], row[key], markerfacecolor=fill, **style)
            handles[name] = Line2D([], [], label=name, **style)
        axis.set(title=title, xscale="log", xlabel="ms a photo", ylim=(0, 1.08), xlim=(18, 500))
        axis.set_xticks([20, 50, 100, 200, 400], ["20", "50", "100", "200", "400"])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    figure.legend(handles=list(handles.values()), loc="outside right center", frameon=False)
    figure.supxlabel(NOTE, fontsize=8)
    figure.savefig(FOLDER / "plot.png", dpi=110)


main()
