"""Fit what joins steered features and their context (`locate.extractors.context`).

    python benchmarks/ablations/context.py fit --data ../shared/data/train --matches build/teacher/pairs.npz \
        --out locate/extractors/context/weights.safetensors
    python benchmarks/ablations/context.py fit --data ../shared/data/train --context-of OLD --out NEW
    python benchmarks/ablations/context.py compare --data ../shared/data

`fit` reads matches of photos of one scene (`benchmarks/ablations/teacher.py` makes them) and takes two minutes;
with `--context-of` the context and the judge of what is upright come from other weights, and only what
is kept of a keypoint's own descriptors is fitted. `compare` prints what other shares of the context in a
cosine do, in turned photos and in upright ones.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.ablations.steered import points
from benchmarks.tables.extractors import clicks
from locate.extractors import bundled as shipped
from locate.extractors.backbones import efficientnet
from locate.extractors.context.extractor import SYSTEM, Context, DeepMaps
from locate.extractors.context.projection import fit_context, strongest
from locate.extractors.context.recipe import matched_spots, own_descriptors, turned_views
from locate.extractors.context.upright import Upright, fit_upright
from locate.extractors.steered.extractor import Steered
from locate.extractors.weights import (
    Record,
    file_hash,
    load_weights,
    read_record,
    save_weights,
)
from locate.training.data.correspondences import load_pairs

PAIRS, MATCHES = 1000, 80  # of photos; of each pair
PHOTOS, KEYPOINTS = 140, 200  # by which the dimensions of own descriptors are chosen
OWN, CONTEXT = 64, 128  # numbers of each part
DEEP = ("mean", "context", "upright.weight", "upright.bias")
RIDGE = 0.1
PENALTY = 0.03  # on what says whether a photo is the right way up
COMPARED = ((0.0, 0.0), (0.2, 0.2), (0.5, 0.5), (0.5, 0.7), (0.5, 0.85), (0.5, 0.9), (0.85, 0.85))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    verbs = parser.add_subparsers(required=True)
    fitting = verbs.add_parser("fit")
    fitting.add_argument("--data", type=Path, default=Path("../shared/data/train"))
    source = fitting.add_mutually_exclusive_group(required=True)
    source.add_argument("--matches", type=Path)
    source.add_argument("--context-of", type=Path)
    fitting.add_argument("--out", type=Path, required=True)
    fitting.set_defaults(run=lambda a: fit(a.data, a.matches, a.context_of, a.out))
    comparing = verbs.add_parser("compare")
    comparing.add_argument("--data", type=Path, default=Path("../shared/data"))
    comparing.set_defaults(run=lambda a: compare(a.data))
    torch.set_num_threads(2)
    arguments = parser.parse_args()
    arguments.run(arguments)


def fit(data: Path, matches: Path | None, context_of: Path | None, out: Path) -> None:
    begin = time.monotonic()
    photos = sorted((data / "photos").iterdir())
    with torch.inference_mode():
        if context_of:
            tensors, old = load_weights(context_of, read_record(context_of).system)
            tensors = {name: tensors[name] for name in DEEP}
            words, commits = old.data, [old.commit]
        else:
            assert matches
            tensors, words = fit_deep(data, matches, photos)
            commits = []
        some = photos[:: max(1, len(photos) // PHOTOS)]
        steered = Steered.from_pretrained()
        both = [own_descriptors(steered, path, KEYPOINTS) for path in some]
        turned, upright = (torch.cat([pair[way] for pair in both]) for way in (0, 1))
    tensors["own_turned"], tensors["own_upright"] = strongest(turned, OWN), strongest(upright, OWN)
    seconds = time.monotonic() - begin
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    record = Record(
        SYSTEM,
        {
            "steered": file_hash(shipped.SHIPPED["steered"]),
            "ridge": RIDGE,
            "penalty": PENALTY,
        },
        f"{words}; {len(turned)} keypoints of {len(some)} photos",
        shlex.join(["python", *sys.argv]),
        " ".join([*commits, commit]),
        round(seconds, 1),
        licence="Apache-2.0",
    )
    tensors = {name: part.float().contiguous() for name, part in tensors.items()}
    print(save_weights(out, tensors, record), record.data, f"{seconds:.0f} s")


def fit_deep(data: Path, matches: Path, photos: list[Path]) -> tuple[dict[str, Tensor], str]:
    """The context and what judges whether a photo is upright; and what they were fitted to, in words."""
    deep = DeepMaps(efficientnet.load_imagenet(efficientnet.imagenet_weights_path()))
    rng, pairs = np.random.default_rng(0), load_pairs(matches, data)
    chosen = rng.permutation(len(pairs))[:PAIRS]
    ends = [matched_spots(deep, pairs[i], MATCHES, rng) for i in chosen]
    a, b = (torch.cat([end[side] for end in ends]) for side in (0, 1))
    mean, context = fit_context(a, b, CONTEXT, RIDGE)
    judge, more = fit_upright_to(deep, photos)
    words = f"{len(chosen)} pairs of photos of {data.name} ({len(a)} matches); {more}"
    fitted = (mean, context, judge.weight, judge.bias)
    return dict(zip(DEEP, fitted, strict=True)), words


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
