"""Fit what joins steered features and their context (`locate.extractors.context`).

    python benchmarks/context.py fit --data ../shared/data/train --matches build/teacher/pairs.npz \
        --out locate/extractors/context/weights.safetensors [--style context-wide]
    python benchmarks/context.py compare --data ../shared/data [--style context-wide]

`fit` reads matches of photos of one scene (`benchmarks/teacher.py` makes them) and takes a minute,
context-wide two. `compare` prints what other shares of the context in a cosine do, in turned photos and
in upright ones.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from context_data import joined, matched_spots, turned_views
from extractors import clicks
from steered import points

from locate.extractors import efficientnet, shipped
from locate.extractors.context.extractor import PLAIN, STYLES, WIDE, Context, DeepMaps, Style
from locate.extractors.context.projection import Projection, fit_context, fit_joint
from locate.extractors.context.upright import Upright, fit_upright
from locate.extractors.steered.extractor import Steered
from locate.extractors.weights import Record, file_hash, save_weights
from locate.training.correspondences import load_pairs

MATCHES = 80  # of each pair of photos
PHOTOS, KEYPOINTS = 140, 200  # by which the dimensions of the whole are chosen
RIDGE = 0.1
PENALTY = 0.03  # on what says whether a photo is the right way up
COMPARED = ((0.0, 0.0), (0.2, 0.2), (0.5, 0.5), (0.5, 0.7), (0.5, 0.85), (0.5, 0.9), (0.85, 0.85))


@dataclass(frozen=True)
class Recipe:
    """Attributes:
    pairs: of photos.
    turned: share of the pairs with one photo turned by quarters: what a turn changes shall count less.
    context, width: numbers of a context, and of the whole.
    """

    pairs: int
    turned: float
    context: int
    width: int


RECIPES = {
    PLAIN.system: Recipe(500, 0.5, 64, 128),
    WIDE.system: Recipe(1000, 0.0, 128, 192),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    verbs = parser.add_subparsers(required=True)
    fitting = verbs.add_parser("fit")
    fitting.add_argument("--data", type=Path, default=Path("../shared/data/train"))
    fitting.add_argument("--matches", type=Path, required=True)
    fitting.add_argument("--out", type=Path, required=True)
    fitting.set_defaults(run=lambda a: fit(a.data, a.matches, a.out, STYLES[a.style]))
    comparing = verbs.add_parser("compare")
    comparing.add_argument("--data", type=Path, default=Path("../shared/data"))
    comparing.set_defaults(run=lambda a: compare(a.data, STYLES[a.style]))
    for verb in (fitting, comparing):
        verb.add_argument("--style", choices=STYLES, default=PLAIN.system)
    torch.set_num_threads(2)
    arguments = parser.parse_args()
    arguments.run(arguments)


def fit(data: Path, matches: Path, out: Path, style: Style) -> None:
    begin = time.monotonic()
    imagenet = efficientnet.load_imagenet(efficientnet.imagenet_weights_path())
    deep = DeepMaps(imagenet, style.taps)
    photos = sorted((data / "photos").iterdir())
    with torch.inference_mode():
        projection, words = fit_projection(deep, data, matches, photos, style)
    tensors, settings = projection._asdict(), {"ridge": RIDGE}
    if style.judges:
        upright, more = fit_upright_to(deep, photos)
        tensors |= {f"upright.{name}": value for name, value in upright._asdict().items()}
        settings["penalty"], words = PENALTY, f"{words}; {more}"
    seconds = time.monotonic() - begin
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    record = Record(
        style.system,
        {"steered": file_hash(shipped.SHIPPED["steered"])} | settings,
        words,
        f"python benchmarks/context.py fit --style {style.system} --data {data} --matches {matches}",
        commit,
        round(seconds, 1),
        licence="Apache-2.0",
    )
    tensors = {name: part.float() for name, part in tensors.items()}
    print(save_weights(out, tensors, record), record.data, f"{seconds:.0f} s")


def fit_projection(
    deep: DeepMaps, data: Path, matches: Path, photos: list[Path], style: Style
) -> tuple[Projection, str]:
    """And what it was fitted to, in words."""
    recipe, rng, pairs = RECIPES[style.system], np.random.default_rng(0), load_pairs(matches, data)
    chosen = rng.permutation(len(pairs))[: recipe.pairs]
    ends = [matched_spots(deep, pairs[i], MATCHES, rng, recipe.turned) for i in chosen]
    a, b = (torch.cat([end[side] for end in ends]) for side in (0, 1))
    mean, context = fit_context(a, b, recipe.context, RIDGE)
    part = Projection(mean.float(), context.float(), torch.zeros(0, 0))
    steered, share = Steered.from_pretrained(), sum(style.shares) / 2
    some = photos[:: max(1, len(photos) // PHOTOS)]
    both = [joined(deep, steered, part, path, KEYPOINTS, share) for path in some]
    words = f"{len(chosen)} pairs of photos of {data.name} ({len(a)} matches), {len(some)} photos"
    if recipe.turned:
        words += f", {recipe.turned:.0%} of the pairs turned"
    return Projection(mean, context, fit_joint(torch.cat(both), recipe.width)), words


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


def compare(data: Path, style: Style) -> None:
    for shares in COMPARED:
        extractor = Context.from_pretrained(style=replace(style, shares=shares))
        scores = points(extractor, data, data) | clicks(extractor, data, data)
        print(json.dumps({"style": style.system, "shares": shares} | scores), flush=True)


if __name__ == "__main__":
    main()
