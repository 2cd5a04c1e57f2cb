"""Which photo goes with which, known for whole images only: an anchor, a positive, negatives.

As in Radenovic, Tolias and Chum, "Fine-tuning CNN image retrieval with no human annotation", TPAMI
2018, section 4.2: positives are photos proven to show what the anchor shows, negatives come from
other scenes, and the hardest of those are the ones that the network of today finds most similar, at
most one per scene, since several photos of one scene teach the same."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from locate.errors import InputError
from locate.training.data.correspondences import MatchedPair
from locate.types import Array


@dataclass(frozen=True)
class TrainingTuple:
    """One example for image-level training: a photo, one of the same place (itself if it is a single
    photo, and then the caller makes two views of it), and photos of other places."""

    anchor: Path
    positive: Path
    negatives: tuple[Path, ...]


class TupleMiner:
    """Draws tuples from scenes, by name of two photos or more, and single photos, each a scene of its
    own.

    If `pairs` of photos proven to show the same are given, only they are anchors and positives of
    scenes; photos of a scene without one are negatives at most. Pairs of unknown photos are ignored.
    `single_share` is the chance that the anchor is a single photo."""

    def __init__(
        self,
        scenes: Mapping[str, Sequence[Path]],
        singles: Sequence[Path] = (),
        *,
        pairs: Iterable[MatchedPair] | None = None,
        single_share: float = 0.25,
    ) -> None:
        if not 0 <= single_share <= 1:
            raise InputError(f"the share of single photos must be 0 to 1, got {single_share}")
        # The photos of a scene stand together, so that "all others" is a range left out.
        groups = [tuple(scenes[name]) for name in sorted(scenes)]
        for name in scenes:
            if len(scenes[name]) < 2:
                raise InputError(f"scene {name!r} has less than two photos; hand it in as a single")
        self._photos = tuple(path for group in (*groups, tuple(singles)) for path in group)
        self._place = {path: k for k, path in enumerate(self._photos)}
        if len(self._place) < len(self._photos):
            twice = next(p for k, p in enumerate(self._photos) if self._place[p] != k)
            raise InputError(f"{twice} occurs twice; a photo belongs to one scene or is single")
        sizes = [len(group) for group in groups] + [1] * len(singles)
        self._starts = np.cumsum([0, *sizes])
        self._scene = np.repeat(np.arange(len(sizes)), sizes)
        self._scene_count = len(groups)
        self._partners = self._positives(pairs)
        ranges = [range(*ends) for ends in pairwise(self._starts[: len(groups) + 1])]
        anchors = [[k for k in group if len(self._partners[k])] for group in ranges]
        self._anchors = [group for group in anchors if group]
        self._single_share = single_share if self._anchors and singles else float(bool(singles))
        if not self._anchors and not singles:
            raise InputError(
                "no two photos show the same place; give scenes, pairs or single photos"
            )
        # The root evens out: by photos one large scene would rule, by scenes those of two photos.
        weights = np.sqrt([len(group) for group in self._anchors])
        self._weights = weights / weights.sum() if len(weights) else weights

    def _positives(self, pairs: Iterable[MatchedPair] | None) -> list[Array]:
        """For each photo the places of its possible positives."""
        if pairs is None:
            ranges = [np.arange(*ends) for ends in pairwise(self._starts)]
            return [np.delete(group, k) for group in ranges for k in range(len(group))]
        partners: list[set[int]] = [set() for _ in self._photos]
        for pair in pairs:
            a, b = self._place.get(pair.image_a), self._place.get(pair.image_b)
            if a is None or b is None or a == b:
                continue
            if self._scene[a] != self._scene[b]:
                raise InputError(
                    f"{pair.image_a} and {pair.image_b} are a pair, but of different scenes; "
                    "join the scenes or drop the pair"
                )
            partners[a].add(b)
            partners[b].add(a)
        return [np.array(sorted(found), np.int64) for found in partners]

    def draw(self, rng: np.random.Generator, negatives: int = 5) -> TrainingTuple:
        """A random tuple: a scene is drawn in proportion to the root of its number of anchors, then the
        anchor and the positive evenly; the negatives evenly from all photos of other scenes, without
        repetition, `InputError` if there are not as many."""
        if rng.random() < self._single_share:
            first = int(self._starts[self._scene_count])
            anchor = positive = int(rng.integers(first, len(self._photos)))
        else:
            group = self._anchors[int(rng.choice(len(self._anchors), p=self._weights))]
            anchor = int(rng.choice(group))
            positive = int(rng.choice(self._partners[anchor]))
        start, stop = self._starts[self._scene[anchor] : self._scene[anchor] + 2]
        others = len(self._photos) - (stop - start)
        if not 0 <= negatives <= others:
            raise InputError(
                f"{negatives} negatives were asked for, but {others} photos show another place than "
                f"{self._photos[anchor]}; ask for fewer or add scenes"
            )
        drawn = rng.choice(others, negatives, replace=False)
        drawn = np.where(drawn < start, drawn, drawn + (stop - start))
        return TrainingTuple(
            self._photos[anchor], self._photos[positive], tuple(self._photos[k] for k in drawn)
        )

    def hardest(self, vectors: Mapping[Path, Array], anchor: Path, count: int) -> tuple[Path, ...]:
        """At most `count` photos of other scenes, one of each, that are most similar to the anchor,
        best first; by the vectors D, L2-normalised, of the anchor and of those to choose from."""
        if anchor not in vectors:
            raise InputError(f"{anchor} has no descriptor; compute it before mining")
        unknown = next((path for path in vectors if path not in self._place), None)
        if unknown is not None:
            raise InputError(f"{unknown} is in no scene and no single photo of this miner")
        paths = sorted(vectors, key=self._place.__getitem__)  # ties do not depend on the caller
        similarity = np.stack([vectors[path] for path in paths]) @ vectors[anchor]
        scene = self._scene[[self._place[path] for path in paths]]
        order = np.argsort(-similarity, kind="stable")
        order = order[scene[order] != self._scene[self._place[anchor]]]
        _, best = np.unique(scene[order], return_index=True)  # the first of each scene
        return tuple(paths[k] for k in order[np.sort(best)[: max(count, 0)]])
