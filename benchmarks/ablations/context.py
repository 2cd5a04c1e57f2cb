"""What other shares of the context in a cosine do, in turned photos and in upright ones.

    python benchmarks/ablations/context.py --data ../shared/data

`locate train context` fits the context itself (`locate.extractors.context.recipe`).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from benchmarks.ablations.steered import points
from benchmarks.tables.extractors import clicks
from locate.extractors.context.extractor import Context

COMPARED = ((0.0, 0.0), (0.2, 0.2), (0.5, 0.5), (0.5, 0.7), (0.5, 0.85), (0.5, 0.9), (0.85, 0.85))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    data = parser.parse_args().data
    torch.set_num_threads(2)
    for shares in COMPARED:
        extractor = Context.from_pretrained(shares=shares)
        scores = points(extractor, data, data) | clicks(extractor, data, data)
        print(json.dumps({"shares": shares} | scores), flush=True)


if __name__ == "__main__":
    main()
