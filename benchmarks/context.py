"""Fit what joins steered features and their context (`locate.extractors.context`).

    python benchmarks/context.py fit --data ../shared/data/train --matches build/teacher/pairs.npz \
        --out locate/extractors/context/weights.safetensors
    python benchmarks/context.py compare --data ../shared/data

`fit` reads matches of photos of one scene (`benchmarks/teacher.py` makes them) and takes five minutes.
`compare` prints what other shares of the context in a cosine do, in turned photos and in upright ones.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import time
from pathlib import Path

import numpy as np
import torch
from context_data import joined, matched_spots, turned_views
from extractors import clicks
from steered import points

from locate.extractors import efficientnet, shipped
from locate.extractors.context.extractor import SHARES, SYSTEM, Context, DeepMaps
from locate.extractors.context.projection import Projection, fit_context, fit_joint
from locate.extractors.context.upright import Upright, fit_upright
from locate.extractors.steered.extractor import Steered
from locate.extractors.weights import Record, file_hash, save_weights
from locate.training.correspondences import load_pairs

PAIRS, MATCHES = 1000, 80  # pairs of photos, and matches of each
PHOTOS, KEYPOINTS = 140, 200  # by which the dimensions of the whole are chosen
CONTEXT, WIDTH, RIDGE = 128, 192, 0.1
PENALTY = 0.03  # on what says whether a photo is the right way up
COMPARED = ((0.0, 0.0), (0.5, 0.5), (0.5, 0.7), SHARES, (0.5, 0.9), (0.85, 0.85))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    verbs = parser.add_subparsers(required=True)
    fitting = verbs.add_parser("fit")
    fitting.add_argument("--data", type=Path, default=Path("../shared/data/train"))
    fitting.add_argument("--matches", type=Path, required=True)
    fitting.add_argument("--out", type=Path, required=True)
    fitting.set_defaults(run=lambda a: fit(a.data, a.matches, a.out))
    comparing = verbs.add_parser("compare")
    comparing.add_argument("--data", type=Path, default=Path("../shared/data"))
    comparing.set_defaults(run=lambda a: compare(a.data))
    torch.set_num_threads(2)
    arguments = parser.parse_args()
    arguments.run(arguments)


def fit(data: Path, matches: Path, out: Path) -> None:
    begin = time.monotonic()
    deep = DeepMaps(efficientnet.load_imagenet(efficientnet.imagenet_weights_path()))
    photos = sorted((data / "photos").iterdir())
    with torch.inference_mode():
        projection, words = fit_projection(deep, data, matches, photos)
    upright, more = fit_upright_to(deep, photos)
    seconds = time.monotonic() - begin
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    record = Record(
        SYSTEM,
        {"steered": file_hash(shipped.SHIPPED["steered"]), "ridge": RIDGE, "penalty": PENALTY},
        f"{words}; {more}",
        f"python benchmarks/context.py fit --data {data} --matches {matches}",
        commit,
        round(seconds, 1),
        licence="Apache-2.0",
    )
    tensors = {f"upright.{name}": value for name, value in upright._asdict().items()}
    tensors = {name: part.float() for name, part in (projection._asdict() | tensors).items()}
    print(save_weights(out, tensors, record), record.data, f"{seconds:.0f} s")


def fit_projection(
    deep: DeepMaps, data: Path, matches: Path, photos: list[Path]
) -> tuple[Projection, str]:
    """And what it was fitted to, in words."""
    rng, pairs = np.random.default_rng(0), load_pairs(matches, data)
    chosen = rng.permutation(len(pairs))[:PAIRS]
    ends = [matched_spots(deep, pairs[i], MATCHES, rng) for i in chosen]
    a, b = (torch.cat([end[side] for end in ends]) for side in (0, 1))
    mean, context = fit_context(a, b, CONTEXT, RIDGE)
    part = Projection(mean.float(), context.float(), torch.zeros(0, 0))
    steered, share = Steered.from_pretrained(), sum(SHARES) / 2
    some = photos[:: max(1, len(photos) // PHOTOS)]
    both = [joined(deep, steered, part, path, KEYPOINTS, share) for path in some]
    words = f"{len(chosen)} pairs of photos of {data.name} ({len(a)} matches), {len(some)} photos"
    return Projection(mean, context, fit_joint(torch.cat(both), WIDTH)), words


def fit_upright_to(deep: DeepMaps, photos: list[Path]) -> tuple[Upright, str]:
    """And how well it does on every seventh photo when fitted to the others."""
    rng = np.random.default_rng(0)
    with torch.inference_mode():
        views = [turned_views(deep, path, rng) for path in photos]
    aside = torch.tensor([i % 7 == 3 for i, (found, _) in enumerate(views) for _ in found])
    seen = torch.stack([one for found, _ in views for one in found]).clone()
    truth = torch.tensor([one for _, ups in views for one in ups]).double()
    judge = fit_upright(seen[~aside], truth[~aside], PENALTY)
    judged = torch.tensor([judge.likelihood(one) > 0.5 for one in seen[aside].double()])
    right = (judged == truth[aside].bool()).double().mean().item()
    words = (
        f"{len(seen)} views of {len(photos)} photos, turned or not ({right:.0%} of those held out "
        "judged right)"
    )
    return fit_upright(seen, truth, PENALTY), words


def compare(data: Path) -> None:
    for shares in COMPARED:
        extractor = Context.from_pretrained(shares=shares)
        scores = points(extractor, data, data) | clicks(extractor, data, data)
        print(json.dumps({"shares": shares} | scores), flush=True)


if __name__ == "__main__":
    main()
