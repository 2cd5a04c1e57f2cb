"""What the papers' systems reach elsewhere: another benchmark, other photos, networks trained for days.
Beside our own numbers they say what a system can become, not what ours is worth."""

from __future__ import annotations

from pipelines.reports.report import Table

_MMA = ("MMA@1", "MMA@3", "MMA@5")
_SUPERPOINT = (
    *("repeatability", "error", "homography@1", "homography@3", "homography@5"),
    "M-score",
)
_D2 = "HPatches, full size (D2-Net's protocol: 540 pairs)"
_HALF = "HPatches, 240 x 320, 300 points; homographies and M-score 480 x 640, 1000 points"
_QUARTER = "HPatches, 240 x 320, 300 points"
_OXFORD = "Oxford5k, mAP"
_AACHEN = "Aachen by night, share localized (.5 m, 2 deg; 1 m, 5 deg; 5 m, 10 deg)"

# System, benchmark, measures, values, where they are printed.
_ROWS: tuple[tuple[str, str, tuple[str, ...], tuple[float, ...], str], ...] = (
    ("superpoint", _HALF, _SUPERPOINT, (0.581, 1.158, 0.310, 0.684, 0.829, 0.470), "its paper"),
    ("superpoint", _D2, _MMA, (0.339, 0.645, 0.729), "D2-Net's repository"),
    (
        "unsuperpoint",
        _QUARTER,
        _SUPERPOINT,
        (0.645, 0.832, 0.579, 0.855, 0.903, 0.424),
        "its paper",
    ),
    ("lift", _HALF, _SUPERPOINT, (0.449, 1.102, 0.284, 0.598, 0.717, 0.315), "SuperPoint's paper"),
    ("lfnet", _D2, _MMA, (0.307, 0.530, 0.572), "D2-Net's repository"),
    ("lfnet", _QUARTER, _SUPERPOINT, (0.538, 1.084, 0.347, 0.728, 0.831, 0.296), "KP2D's paper"),
    ("d2net", _D2, _MMA, (0.112, 0.430, 0.665), "D2-Net's repository"),
    ("delf", _D2, _MMA, (0.437, 0.489, 0.572), "D2-Net's repository"),
    ("delf", _OXFORD, ("mAP",), (0.838,), "its paper"),
    ("ur2kid", _AACHEN, (".5 m", "1 m", "5 m"), (0.469, 0.673, 0.888), "SuperGlue's paper"),
    ("sift", _HALF, _SUPERPOINT[2:5], (0.424, 0.676, 0.759), "SuperPoint's paper"),
)


def published_table() -> Table:
    """Each system's numbers in words; of SEKD no table could be found."""
    rows = tuple(
        (
            system,
            where,
            ", ".join(f"{n} {v:.3g}" for n, v in zip(names, values, strict=True)),
            source,
        )
        for system, where, names, values, source in _ROWS
    )
    title = "What the papers report, on other benchmarks"
    return Table(title, ("system", "benchmark", "numbers", "printed in"), rows)
