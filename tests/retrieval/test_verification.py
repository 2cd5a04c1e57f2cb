"""Which candidates of a shortlist are verified in full, on made-up features."""

import numpy as np
import pytest

from locate.extractors.base import ExtractorInfo
from locate.matching.descriptors import match_mutual
from locate.matching.two_view import verify
from locate.types import Features
from pipelines.retrieval.verification import AT_A_TIME, STRONGEST, Verifier

INFO = ExtractorInfo("made-up", None, local_dim=128, query_ratio=0.9)
SIZE = (640, 480)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def features(rng: np.random.Generator, count: int = 700) -> Features:
    descriptors = rng.normal(size=(count, 128)).astype(np.float32)
    return Features(
        keypoints=rng.uniform(0, SIZE, (count, 2)).astype(np.float32),
        scores=np.sort(rng.random(count).astype(np.float32))[::-1].copy(),
        descriptors=descriptors / np.linalg.norm(descriptors, axis=1, keepdims=True),
        image_size=SIZE,
    )


def seen_again(query: Features, rng: np.random.Generator, share: float = 0.5) -> Features:
    """Another photo of the scene: `share` of its features, at random, are the query's, moved by a
    rigid camera over a scene of many depths; the others are of its own."""
    other = features(rng, len(query))
    same = rng.random(len(query)) < share
    depth = rng.uniform(2, 6, len(query))
    moved = query.keypoints + np.stack((60 / depth, 20 / depth), axis=1).astype(np.float32)
    return Features(
        keypoints=np.where(same[:, None], moved, other.keypoints).astype(np.float32),
        scores=other.scores,
        descriptors=np.where(same[:, None], query.descriptors, other.descriptors),
        image_size=SIZE,
    )


def ask(query: Features, candidates, map_=map, **ways):
    verifier = Verifier(query, INFO, 1024, map_)
    strongest = [one and one.take(slice(STRONGEST)) for one in candidates]
    return verifier.verify(strongest, candidates.__getitem__, **ways)


class Counted:
    """`map` that knows how often each function ran."""

    def __init__(self) -> None:
        self.calls: dict[str, int] = {}

    def __call__(self, function, items):
        found = [function(item) for item in items]
        self.calls[function.__name__] = self.calls.get(function.__name__, 0) + len(found)
        return found


def test_first_look_finds_what_stands_last(rng):
    query = features(rng)
    strangers = [features(rng) for _ in range(24)]
    counted = Counted()
    found = ask(query, [*strangers, seen_again(query, rng)], counted)
    assert found[-1] is not None
    assert found[-1].inlier_count > 200
    # It showed something, so the next few were looked at, and these nothing.
    assert counted.calls == {"_look": 25, "verified": 2 * AT_A_TIME}
    assert sum(one is not None for one in found) == 2 * AT_A_TIME


def test_nothing_promising_ends_the_search(rng):
    query, counted = features(rng), Counted()
    found = ask(query, [features(rng) for _ in range(20)], counted)
    assert counted.calls["verified"] == AT_A_TIME == sum(one is not None for one in found)


def test_all_of_many_right_ones_are_verified(rng):
    query = features(rng)
    right = [seen_again(query, rng) for _ in range(2 * AT_A_TIME + 1)]
    strangers = [features(rng) for _ in range(12)]
    mixed = [one for pair in zip(right, strangers, strict=False) for one in pair] + right[12:]
    found = ask(query, mixed)
    places = [i for i, one in enumerate(mixed) if any(one is r for r in right)]
    assert all(found[i] is not None and found[i].inlier_count > 200 for i in places)


def test_the_first_look_takes_the_strongest_of_both(rng):
    """Weak features that match do not make a candidate promising; strong ones do."""
    query = features(rng, 2 * STRONGEST)
    strangers = [features(rng, 2 * STRONGEST) for _ in range(3 * AT_A_TIME)]
    weak, strong = features(rng, 2 * STRONGEST), features(rng, 2 * STRONGEST)
    weak.descriptors[STRONGEST:] = query.descriptors[STRONGEST:]
    strong.descriptors[:40] = query.descriptors[STRONGEST - 40 : STRONGEST]
    look = Verifier(query, INFO, 1024, map)._look
    assert look(strong) >= 40 > 5 > look(weak)
    assert max(map(look, strangers)) <= 5


@pytest.mark.parametrize("ways", [{"exhaustive": True}, {}])
def test_each_is_what_a_verification_by_hand_gives(rng, ways):
    query = features(rng)
    others = [seen_again(query, rng), *(features(rng) for _ in range(AT_A_TIME + 3)), None]
    found = ask(query, others, **ways)
    assert found[-1] is None
    assert sum(one is not None for one in found[:-1]) == (10 if ways else AT_A_TIME) or not ways
    for other, ours in zip(others[:-1], found[:-1], strict=True):
        if ours is not None:
            pairs = match_mutual(query.descriptors, other.descriptors, 0.9)
            by_hand = verify(query, other, pairs, 1024)
            np.testing.assert_array_equal(ours.matches, by_hand.matches)
            np.testing.assert_array_equal(ours.inliers, by_hand.inliers)


def test_nothing_to_verify(rng):
    query = features(rng)
    assert ask(query, []) == ask(query, [], exhaustive=True) == []
    assert ask(query, [None, None]) == [None, None]
    nothing = Features(
        *(np.zeros(shape, np.float32) for shape in ((0, 2), 0, (0, 128))), image_size=SIZE
    )
    (found,) = ask(query, [nothing])
    assert found.inlier_count == 0
