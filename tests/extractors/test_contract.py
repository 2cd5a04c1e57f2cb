"""The contract of every extractor, and what is particular to RootSIFT."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec

import cv2
import numpy as np
import pytest
import torch

from locate.errors import InputError, MissingExtraError, UnknownNameError, WeightsError
from locate.extractors import registry
from locate.extractors.base import Extractor, ExtractorInfo
from locate.extractors.recipes import create_recipe
from locate.extractors.sift import Sift, root_sift
from locate.extractors.weights import Record, save_weights
from locate.images.reading import read_photo
from locate.matching.descriptors import match_mutual
from locate.pixels import apply_homography

# A system under development is registered before its module is there.
NAMES = [
    *(n for n in registry.EXTRACTORS if find_spec(f"locate.extractors.{n}") is not None),
    registry.DEFAULT,
]
# Before they are trained these see points anywhere.
SEE_ANYTHING = ("superpoint", "unsuperpoint", "sekd")


@pytest.fixture(scope="module", params=NAMES)
def extractor(request, tmp_path_factory):
    """Those that come without weights by the start of their training."""
    name = request.param
    try:
        return registry.create(name)
    except MissingExtraError as error:
        pytest.skip(str(error))
    except WeightsError:
        recipe = create_recipe(name)
        torch.manual_seed(0)
        file = tmp_path_factory.mktemp(name) / "start.safetensors"
        save_weights(file, recipe.tensors(recipe.network()), Record(name, recipe.settings()))
        return registry.create(name, weights={name: file})


def test_contract(extractor, texture):
    """Shapes, types, ranges, order, determinism, threads: what everything above relies on."""
    assert isinstance(extractor, Extractor)
    info = extractor.info
    assert info.global_dim or info.local_dim
    assert ExtractorInfo.from_json(info.to_json()) == info
    pixels = texture((300, 200), seed=3)
    seen = extractor.extract(pixels, (600, 400))  # as if reduced by two
    if info.global_dim:
        assert seen.global_descriptor.shape == (info.global_dim,)
        assert np.linalg.norm(seen.global_descriptor) == pytest.approx(1.0, abs=1e-4)
    else:
        assert seen.global_descriptor is None
    if info.local_dim:
        features = seen.features
        assert len(features) > 20
        assert features.image_size == (600, 400)
        assert features.descriptors.shape == (len(features), info.local_dim)
        np.testing.assert_allclose(np.linalg.norm(features.descriptors, axis=1), 1.0, atol=1e-3)
        assert np.all(np.diff(features.scores) <= 0)
        assert np.all(features.keypoints > -0.5 - 2)
        assert np.all(features.keypoints < np.array([600, 400]) + 2)
        assert features.keypoints.max(axis=0)[0] > 450  # in pixels of the original
    else:
        assert seen.features is None
    with ThreadPoolExecutor(4) as pool:
        for again in pool.map(lambda _: extractor.extract(pixels, (600, 400)), range(8)):
            if info.global_dim:
                np.testing.assert_allclose(
                    again.global_descriptor, seen.global_descriptor, atol=1e-5
                )
            if info.local_dim:
                # Threads share a convolution out as they are free, which changes the last bit.
                np.testing.assert_allclose(
                    again.features.keypoints, seen.features.keypoints, rtol=0, atol=1e-3
                )


@pytest.mark.parametrize("shape", [(32, 32), (33, 1500), (700, 40)])
def test_empty_and_odd_images_are_no_error(extractor, shape):
    flat = np.full((*shape, 3), 90, np.uint8)
    seen = extractor.extract(flat)
    if seen.features is not None and extractor.info.name not in SEE_ANYTHING:
        assert len(seen.features) == 0
    extractor.extract(np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8))


def test_without_local_features(extractor, texture):
    if extractor.info.global_dim:
        pixels = texture((200, 150))
        short = extractor.extract(pixels, local=False)
        assert short.features is None
        np.testing.assert_allclose(
            short.global_descriptor, extractor.extract(pixels).global_descriptor, atol=1e-6
        )


def test_unknown_names_list_the_known_ones():
    for name in ("surf", "gem+surf", "gem+sift+gem"):
        with pytest.raises(
            UnknownNameError,
            match=r"known: aliked, context, d2net, delf, disk, gem, gem\+sift, lfnet, lift, sekd, sift",
        ):
            registry.create(name)
    with pytest.raises(InputError, match="sift gives no global descriptor; name it second"):
        registry.create("sift+gem")


def test_the_fingerprint_changes_with_the_settings():
    prints = {Sift().info.fingerprint, Sift(max_keypoints=100).info.fingerprint}
    assert len(prints | {Sift().info.fingerprint}) == 2


def test_root_sift_is_the_hellinger_kernel():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 200, (2, 30, 128)).astype(np.float32)
    hellinger = np.sum(
        np.sqrt((a / a.sum(1, keepdims=True)) * (b / b.sum(1, keepdims=True))), axis=1
    )
    np.testing.assert_allclose(np.sum(root_sift(a) * root_sift(b), axis=1), hellinger, atol=1e-5)


def test_sift_keypoints_have_no_bias():
    """Blurred dots at known places; OpenCV's default is off by a quarter of a pixel."""
    rng = np.random.default_rng(0)
    errors = []
    for _ in range(20):
        centre = rng.uniform(50, 60, 2)
        y, x = np.mgrid[:120, :110]
        dot = np.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / (2 * 4**2))
        grey = np.rint(30 + 200 * dot).astype(np.uint8)
        found = Sift().extract(np.repeat(grey[..., None], 3, axis=2)).features.keypoints
        errors.append(found[np.linalg.norm(found - centre, axis=1).argmin()] - centre)
    assert np.abs(np.mean(errors, axis=0)).max() < 0.02


def test_sift_keypoints_do_not_drift_when_the_image_is_shrunk(texture):
    """Half-pixel errors show as a shift between features of the full and the shrunk image."""
    pixels = cv2.GaussianBlur(texture((1200, 900), seed=5), (0, 0), 3)
    full = Sift(max_side=1200).extract(pixels).features
    small = Sift(max_side=600).extract(pixels).features
    pairs = match_mutual(full.descriptors, small.descriptors, 0.8)
    shift = small.keypoints[pairs[:, 1]] - full.keypoints[pairs[:, 0]]
    near = np.linalg.norm(shift, axis=1) < 3
    assert near.sum() > 50
    assert np.abs(np.median(shift[near], axis=0)).max() < 0.1


@pytest.mark.data
def test_root_sift_agrees_with_an_independent_script(data):
    """2048 keypoints, mutual nearest neighbours, full size, on oxford-affine: MMA@1/3/5 of a plain
    script is .311 .456 .477; ours must be within .01."""
    sift = Sift(max_keypoints=2048, max_side=10_000)
    scores = []
    for sequence in sorted((data / "eval/matching/oxford-affine").iterdir()):
        features = [
            sift.extract(read_photo(sequence / f"img{i}.jpg").pixels).features for i in range(1, 7)
        ]
        for k in range(2, 7):
            k_from_1 = np.loadtxt(sequence / f"H1to{k}p")
            a, b = features[0], features[k - 1]
            pairs = match_mutual(a.descriptors, b.descriptors)
            there = apply_homography(k_from_1, a.keypoints[pairs[:, 0]])
            error = np.linalg.norm(there - b.keypoints[pairs[:, 1]], axis=1)
            scores.append([np.mean(error <= t) for t in (1, 3, 5)])
    assert np.mean(scores, axis=0) == pytest.approx([0.311, 0.456, 0.477], abs=0.01)
