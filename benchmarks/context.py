"""Fit what joins steered features and their context (`locate.extractors.context`).

    python benchmarks/context.py fit --data ../shared/data/train --matches build/teacher/pairs.npz \
        --out locate/extractors/context/weights.safetensors
    python benchmarks/context.py compare --data ../shared/data

`fit` reads matches of photos of one scene (`benchmarks/teacher.py` makes them) and takes a minute.
`compare` prints what other shares of the context in a cosine do, from none to half.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import time
from pathlib import Path

import numpy as np
import torch
from extractors import clicks
from steered import points
from torch import Tensor

from locate.extractors import efficientnet, shipped
from locate.extractors.context.extractor import SYSTEM, Context, DeepMaps
from locate.extractors.context.projection import Projection, fit_context, fit_joint
from locate.extractors.steered.extractor import Steered
from locate.extractors.weights import Record, file_hash, save_weights
from locate.images import read_photo
from locate.pixels import resize_points
from locate.training.correspondences import load_pairs
from locate.types import Array

PAIRS, MATCHES = 500, 80  # pairs of photos, and matches of each
PHOTOS, KEYPOINTS = 140, 200  # by which the dimensions of the whole are chosen
CONTEXT, WIDTH, RIDGE, SHARE = 64, 128, 0.1, 0.5
TURNED = 0.5  # of the pairs, one photo by quarters: what a turn changes shall count less
SHARES = (0.0, 0.2, 0.35, 0.5)


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
    begin, rng = time.monotonic(), np.random.default_rng(0)
    deep = DeepMaps(efficientnet.load_imagenet(efficientnet.imagenet_weights_path()))
    pairs = load_pairs(matches, data)
    a, b = [], []
    with torch.inference_mode():
        for i in rng.permutation(len(pairs))[:PAIRS]:
            pair = pairs[i]
            chosen = rng.permutation(len(pair.points_a))[:MATCHES]
            turns = int(rng.integers(1, 4)) if rng.random() < TURNED else 0
            a.append(seen_at(deep, pair.image_a, pair.points_a[chosen]))
            b.append(seen_at(deep, pair.image_b, pair.points_b[chosen], turns))
        mean, context = fit_context(torch.cat(a), torch.cat(b), CONTEXT, RIDGE)
        part = Projection(mean.float(), context.float(), torch.zeros(0, 0))
        steered = Steered.from_pretrained()
        photos = sorted((data / "photos").iterdir())
        both = []
        for path in photos[:: max(1, len(photos) // PHOTOS)]:
            pixels = read_photo(path, min_long_side=steered.max_side).pixels
            found = steered.extract(pixels).features
            assert found is not None
            maps, small = deep.look(pixels)
            places = resize_points(found.keypoints[:KEYPOINTS], found.image_size, small)
            own = torch.from_numpy(found.descriptors[:KEYPOINTS])
            both.append(part.with_context(own, deep.around(maps, places, part.context)))
    all_of_them = torch.cat(both)
    split = all_of_them.shape[1] - CONTEXT
    joint = fit_joint(all_of_them[:, :split], all_of_them[:, split:], SHARE, WIDTH)
    seconds = time.monotonic() - begin
    words = (
        f"{min(PAIRS, len(pairs))} pairs of photos of {data.name} ({len(torch.cat(a))} matches), half "
        f"of them turned, {len(both)} photos"
    )
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    record = Record(
        SYSTEM,
        {"steered": file_hash(shipped.SHIPPED["steered"]), "share": SHARE, "ridge": RIDGE},
        words,
        f"python benchmarks/context.py fit --data {data} --matches {matches}",
        commit,
        round(seconds, 1),
        licence="Apache-2.0",
    )
    tensors = {"mean": mean.float(), "context": context.float(), "joint": joint.float()}
    print(save_weights(out, tensors, record), words, f"{seconds:.0f} s")


def seen_at(deep: DeepMaps, path: Path, places: Array, turns: int = 0) -> Tensor:
    """What the deep network sees at places in pixels of the original photo, when that has been turned
    to the left by so many quarters."""
    photo = read_photo(path, min_long_side=1024)
    pixels = photo.pixels
    places = resize_points(places.astype(np.float64), photo.info.size, size_of(pixels))
    for _ in range(turns):
        places = np.stack((places[:, 1], pixels.shape[1] - 1 - places[:, 0]), axis=1)
        pixels = np.ascontiguousarray(np.rot90(pixels))
    maps, small = deep.look(pixels)
    return deep.around(maps, resize_points(places, size_of(pixels), small))


def size_of(pixels: Array) -> tuple[int, int]:
    return pixels.shape[1], pixels.shape[0]


def compare(data: Path) -> None:
    """The shipped projection with other weights of its parts; all of them, not only the best 128."""
    extractor = Context.from_pretrained()
    shipped_projection = extractor._projection
    local = shipped_projection.joint.shape[1] - CONTEXT
    for share in SHARES:
        weights = torch.cat((torch.full((local,), 1 - share), torch.full((CONTEXT,), share))).sqrt()
        extractor._projection = shipped_projection._replace(joint=torch.diag(weights))
        scores = points(extractor, data, data) | clicks(extractor, data, data)
        print(json.dumps({"share": share} | scores), flush=True)


if __name__ == "__main__":
    main()
