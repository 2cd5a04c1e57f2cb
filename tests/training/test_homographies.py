"""Warped pairs against dots drawn by hand and loops over pixels; photometric noise effect by effect."""

from __future__ import annotations

import dataclasses
import math

import cv2
import numpy as np
import pytest

from locate.errors import InputError
from locate.training.data.homographies import (
    HomographySettings,
    WarpedPair,
    random_homography,
    random_view,
    render_view,
    visible_grid,
    warped_pair,
)
from locate.training.data.photometric import PhotometricSettings, photometric_noise

STILL = HomographySettings(
    rotation=0, scale=(1, 1), perspective=0, translation=0, anisotropy=1, min_overlap=0
)


def apply(h, x, y):
    """One point by one homography, spelled out."""
    w = h[2][0] * x + h[2][1] * y + h[2][2]
    return (
        (h[0][0] * x + h[0][1] * y + h[0][2]) / w,
        (h[1][0] * x + h[1][1] * y + h[1][2]) / w,
    )


def dots(size, spacing, sigma):
    """A black image with round white dots off any grid."""
    width, height = size
    rng = np.random.default_rng(5)
    ys, xs = np.mgrid[:height, :width]
    image = np.zeros((height, width))
    for cy in range(spacing // 2, height, spacing):
        for cx in range(spacing // 2, width, spacing):
            x, y = np.array([cx, cy]) + rng.uniform(-spacing / 5, spacing / 5, 2)
            image += np.exp(-((xs - x) ** 2 + (ys - y) ** 2) / (2 * sigma**2))
    return np.repeat(np.rint(255 * image.clip(0, 1)).astype(np.uint8)[..., None], 3, axis=2)


def centroids(image):
    """Brightness-weighted centres (x, y) of the dots that lie wholly within the image."""
    grey = image[..., 0].astype(np.float64)
    count, labels = cv2.connectedComponents((grey > 3).astype(np.uint8))
    found = []
    for label in range(1, count):
        ys, xs = np.nonzero(labels == label)
        at_edge = min(xs.min(), ys.min()) == 0
        at_edge |= xs.max() == image.shape[1] - 1 or ys.max() == image.shape[0] - 1
        if not at_edge and len(xs) > 5:
            weight = grey[ys, xs]
            found.append(((xs * weight).sum() / weight.sum(), (ys * weight).sum() / weight.sum()))
    return np.array(found)


def nearest(b_from_a, dots_a, dots_b, size):
    """Distance of each dot of a, carried over, to the nearest dot of b; of those that b shows."""
    distances = []
    for x, y in dots_a:
        u, v = apply(b_from_a, x, y)
        if 15 < u < size[0] - 15 and 15 < v < size[1] - 15:
            distances.append(min(math.hypot(u - p, v - q) for p, q in dots_b))
    return distances


# A photo that is shrunk, one about as large as the view, one that is enlarged: (size, spacing, sigma)
@pytest.mark.parametrize(
    ("photo", "spacing", "sigma"),
    [((1000, 820), 110, 7.0), ((340, 300), 36, 2.5), ((150, 180), 20, 1.6)],
)
def test_dots_lie_where_the_homography_says(photo, spacing, sigma):
    size = (240, 200)
    image = dots(photo, spacing, sigma)
    rng = np.random.default_rng(0)
    settings = HomographySettings(perspective=0.1, full_circle=0.3)
    right, wrong = [], {"inverse": [], "transposed": [], "corner": []}
    half = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
    swap = np.array([[0, 1, 0], [1, 0, 0], [0, 0, 1]])
    for _ in range(12):
        pair = warped_pair(image, rng, size, settings)
        a, b = centroids(pair.image_a), centroids(pair.image_b)
        h = pair.b_from_a
        right += nearest(h, a, b, size)
        wrong["inverse"] += nearest(np.linalg.inv(h), a, b, size)
        wrong["transposed"] += nearest(swap @ h @ swap, a, b, size)
        wrong["corner"] += nearest(half @ h @ np.linalg.inv(half), a, b, size)
    assert len(right) > 100
    assert np.percentile(right, 90) < 0.06
    # A dot that touches the end of the photo in b is cut there; the rest is exact.
    assert np.mean(np.array(right) < 0.1) > 0.97
    assert np.median(wrong["inverse"]) > 1
    assert np.median(wrong["transposed"]) > 1
    assert np.percentile(wrong["corner"], 90) > 0.1


def test_a_view_is_bilinear_at_pixel_centres(texture):
    image = texture((40, 30), 1)
    view_from_image = np.array([[1.3, 0.2, -3.0], [-0.1, 1.2, 2.0], [0.002, 0.001, 1.0]])
    size = (32, 27)
    view, inside = render_view(image, view_from_image, size)
    image_from_view = np.linalg.inv(view_from_image)
    compared = 0
    for v in range(size[1]):
        for u in range(size[0]):
            x, y = apply(image_from_view, u, v)
            beyond = max(-0.5 - x, x - 39.5, -0.5 - y, y - 29.5)  # how far outside, in pixels
            if abs(beyond) > 0.05:
                assert inside[v, u] == (beyond < 0), (u, v)
            if not inside[v, u]:
                assert not view[v, u].any()
            elif 0 <= x <= 38.9 and 0 <= y <= 28.9:
                j, i = int(x), int(y)
                s, t = x - j, y - i
                patch = image[i : i + 2, j : j + 2].astype(np.float64)
                expected = (1 - t) * ((1 - s) * patch[0, 0] + s * patch[0, 1])
                expected += t * ((1 - s) * patch[1, 0] + s * patch[1, 1])
                slope = np.ptp(patch.reshape(4, 3), axis=0).max()
                # older OpenCVs round the place to 1/32 pixel
                assert np.abs(view[v, u] - expected).max() <= 0.51 + slope / 16, (u, v)
                compared += 1
    assert compared > 300
    assert 0 < inside.mean() < 1
    white = np.full((30, 40, 3), 255, np.uint8)
    view, inside = render_view(white, view_from_image, size)
    assert (view[inside] == 255).all()  # nothing of the darkness outside is mixed in


def test_shrinking_averages_and_keeps_corners_on_corners(texture):
    image = texture((96, 63), 2)
    third = np.array([[1 / 3, 0, -1 / 3], [0, 1 / 3, -1 / 3], [0, 0, 1]])  # x' + .5 = (x + .5) / 3
    view, inside = render_view(image, third, (32, 21))
    blocks = image.astype(np.float64).reshape(21, 3, 32, 3, 3).mean(axis=(1, 3))
    assert inside.all()
    assert np.abs(view - blocks).max() <= 0.51

    # The largest window that fits, with nothing else drawn, is the photo itself.
    whole = dataclasses.replace(STILL, crop=(1, 1))
    pair = warped_pair(image, np.random.default_rng(0), (32, 21), whole)
    assert np.abs(pair.image_a - blocks).max() <= 0.51
    assert np.array_equal(pair.image_a, pair.image_b)
    assert pair.valid_a.all()

    checks = np.indices((200, 300)).sum(axis=0) % 2 * 255
    checks = np.repeat(checks.astype(np.uint8)[..., None], 3, axis=2)
    pair = warped_pair(checks, np.random.default_rng(0), (64, 48), HomographySettings(rotation=180))
    for seen, valid in ((pair.image_a, pair.valid_a), (pair.image_b, pair.valid_b)):
        assert seen[valid].std() < 20  # 127 without averaging
        assert abs(seen[valid].mean() - 127.5) < 5


def centre_and_slope(h, size):
    """Where the centre goes, and the derivative there by differences."""
    x, y = (size[0] - 1) / 2, (size[1] - 1) / 2
    e = 1e-5
    at = np.array(apply(h, x, y))
    right = (np.array(apply(h, x + e, y)) - apply(h, x - e, y)) / (2 * e)
    down = (np.array(apply(h, x, y + e)) - apply(h, x, y - e)) / (2 * e)
    return at - (x, y), np.stack((right, down), axis=1)


def samples(size, count=400, **settings):
    rng = np.random.default_rng(1)
    chosen = dataclasses.replace(STILL, **settings)
    found = [random_homography(rng, size, chosen) for _ in range(count)]
    return found, [centre_and_slope(h, size) for h in found]


def fills(values, low, high, slack=1e-6):
    """Whether values stay in [low, high] and come near to both ends."""
    reach = 0.05 * (high - low)
    return low - slack <= min(values) <= low + reach and high - reach <= max(values) <= high + slack


def test_each_setting_is_drawn_within_its_limits_and_alone():
    size = (320, 160)
    found, _ = samples(size, count=1)
    assert np.allclose(found[0], np.eye(3), atol=1e-12)

    _, local = samples(size, rotation=30)
    angles = [math.degrees(math.atan2(j[1, 0], j[0, 0])) for _, j in local]
    assert fills(angles, -30, 30)
    assert all(np.allclose(j @ j.T, np.eye(2), atol=1e-6) for _, j in local)
    assert all(np.allclose(shift, 0, atol=1e-9) for shift, _ in local)

    _, local = samples(size, scale=(0.5, 3))
    assert fills([math.sqrt(np.linalg.det(j)) for _, j in local], 0.5, 3)
    half = np.mean(
        [np.linalg.det(j) < 1.5 for _, j in local]
    )  # log-uniform: sqrt(.5 * 3) in the middle
    assert 0.4 < half < 0.6

    _, local = samples(size, translation=0.25)
    assert fills([shift[0] for shift, _ in local], -80, 80)
    assert fills([shift[1] for shift, _ in local], -40, 40)

    _, local = samples(size, anisotropy=1.6)
    stretches = [np.linalg.svd(j)[1] for _, j in local]
    assert fills([s[0] / s[1] for s in stretches], 1, 1.6)
    assert all(abs(s[0] * s[1] - 1) < 1e-6 for s in stretches)

    found, local = samples(size, perspective=0.3)
    tilts = [(h[2, 0] * 160, h[2, 1] * 80) / (h[2] @ (159.5, 79.5, 1)) for h in found]
    assert fills([t[0] for t in tilts], -0.3, 0.3)
    assert fills([t[1] for t in tilts], -0.3, 0.3)
    assert all(np.allclose(j, np.eye(2), atol=1e-5) for _, j in local)

    _, local = samples(size, rotation=10, full_circle=0.5)
    turned = [abs(math.degrees(math.atan2(j[1, 0], j[0, 0]))) > 10 for _, j in local]
    assert 0.37 < np.mean(turned) < 0.57  # half of them, less those that fall within 10 degrees


def test_the_horizon_stays_out_of_both_views():
    size = (300, 200)
    rng = np.random.default_rng(2)
    wild = HomographySettings(
        rotation=180, scale=(0.2, 4), perspective=0.4, translation=0.6, anisotropy=3
    )
    for _ in range(300):
        b_from_a = random_homography(rng, size, wild)
        for h in (b_from_a, np.linalg.inv(b_from_a)):
            depths = [h[2] @ (x, y, 1) for x in (0, 299) for y in (0, 199)]
            assert min(depths) > 0
        assert np.linalg.det(b_from_a) > 0  # no mirror


def shared(pair):
    """Mean share of valid pixels of each view that the other shows, pixel by pixel."""
    height, width = pair.valid_a.shape
    shares = []
    for h, here, there in (
        (pair.b_from_a, pair.valid_a, pair.valid_b),
        (np.linalg.inv(pair.b_from_a), pair.valid_b, pair.valid_a),
    ):
        seen = 0
        for y in range(0, height, 5):
            for x in range(0, width, 5):
                u, v = (round(c) for c in apply(h, x, y))
                seen += here[y, x] and 0 <= u < width and 0 <= v < height and there[v, u]
        shares.append(seen / (len(range(0, height, 5)) * len(range(0, width, 5))))
    return np.mean(shares)


def test_views_overlap_as_much_as_asked(texture):
    image = texture((300, 220), 3)
    wild = HomographySettings(translation=0.6, scale=(0.4, 2.5))
    for least, any_below in ((0.0, True), (0.5, False)):
        settings = dataclasses.replace(wild, min_overlap=least)
        rng = np.random.default_rng(4)
        shares = [shared(warped_pair(image, rng, (100, 80), settings)) for _ in range(40)]
        assert (min(shares) < 0.45) == any_below, min(shares)
    impossible = HomographySettings(translation=0.6, min_overlap=1.0)
    assert shared(warped_pair(image, rng, (100, 80), impossible)) > 0.5  # the best of ten


def test_a_random_view_is_drawn_as_the_other_view_of_a_pair(texture):
    image = texture((300, 220), 3)
    wild = HomographySettings(translation=0.6, scale=(0.4, 2.5), crop=(0.5, 1))
    for least in (0.0, 0.8):
        settings = dataclasses.replace(wild, min_overlap=least)
        shares, views = [], set()
        for seed in range(40):
            view, valid = random_view(image, np.random.default_rng(seed), (100, 80), settings)
            assert view.shape == (80, 100, 3)
            assert valid.shape == (80, 100)
            assert not view[~valid].any()
            shares.append(valid.mean())
            views.add(view.tobytes())
            again, _ = random_view(image, np.random.default_rng(seed), (100, 80), settings)
            assert np.array_equal(view, again)
        assert (min(shares) > 0.7) == (least > 0)
        assert len(views) == 40
    # With nothing drawn it is the photo, shrunk to a third.
    whole = dataclasses.replace(STILL, crop=(1, 1))
    view, _ = random_view(texture((96, 63), 2), np.random.default_rng(0), (32, 21), whole)
    blocks = texture((96, 63), 2).astype(np.float64).reshape(21, 3, 32, 3, 3).mean(axis=(1, 3))
    assert np.abs(view - blocks).max() <= 0.51
    with pytest.raises(InputError, match="uint8"):
        random_view(np.zeros((50, 50, 3)), np.random.default_rng(0), (32, 32))


def test_the_visible_grid_against_loops(texture):
    rng = np.random.default_rng(6)
    settings = HomographySettings(
        scale=(0.5, 1.6), rotation=60, translation=0.4, crop=(0.9, 1.0), min_overlap=0
    )
    lost = 0
    for stride in (4, 8, 7, 4):
        pair = warped_pair(texture((150, 120), 1), rng, (90, 64), settings)
        cells, points = visible_grid(pair, stride)
        assert cells.shape == points.shape == (len(cells), 2)
        assert points.dtype == np.float32
        expected = {}
        for i in range(64 // stride):
            for j in range(90 // stride):
                x, y = (j + 0.5) * stride - 0.5, (i + 0.5) * stride - 0.5
                u, v = apply(pair.b_from_a, x, y)
                if not (0 <= u <= 89 and 0 <= v <= 63):
                    lost += 1
                    continue
                around_a = [
                    (a, b)
                    for a in (math.floor(x), math.ceil(x))
                    for b in (math.floor(y), math.ceil(y))
                ]
                around_b = [
                    (a, b)
                    for a in (math.floor(u), math.ceil(u))
                    for b in (math.floor(v), math.ceil(v))
                ]
                if all(pair.valid_a[b, a] for a, b in around_a) and all(
                    pair.valid_b[b, a] for a, b in around_b
                ):
                    expected[j, i] = (u, v)
                else:
                    lost += 1
        assert [tuple(c) for c in cells.tolist()] == list(expected)  # row by row
        assert np.allclose(points, list(expected.values()), atol=1e-4)
    assert lost > 20


def test_the_visible_grid_heeds_both_masks():
    image = np.full((16, 24, 3), 9, np.uint8)
    everywhere = np.ones((16, 24), np.bool_)
    hole = everywhere.copy()
    hole[11, 12] = False  # one pixel of the cell centre (11.5, 11.5)
    views = (np.eye(3), np.eye(3))
    full = WarpedPair(image, image, np.eye(3), everywhere, everywhere, *views)
    assert len(visible_grid(full, 8)[0]) == 6
    for valid_a, valid_b in ((hole, everywhere), (everywhere, hole)):
        pair = WarpedPair(image, image, np.eye(3), valid_a, valid_b, *views)
        cells, _ = visible_grid(pair, 8)
        assert [1, 1] not in cells.tolist()
        assert len(cells) == 5
    with pytest.raises(InputError, match="stride"):
        visible_grid(full, 17)


def test_a_pair_is_a_function_of_the_random_numbers(texture):
    image = texture((200, 160))
    noise = PhotometricSettings()
    one, same, other = (
        warped_pair(image, np.random.default_rng(seed), (96, 64), photometric=noise)
        for seed in (3, 3, 4)
    )
    for field in dataclasses.fields(WarpedPair):
        assert np.array_equal(getattr(one, field.name), getattr(same, field.name)), field.name
    assert not np.allclose(one.b_from_a, other.b_from_a)
    plain = warped_pair(image, np.random.default_rng(3), (96, 64))
    assert np.array_equal(plain.b_from_a, one.b_from_a)  # noise moves nothing
    assert not np.array_equal(plain.image_a, one.image_a)
    assert not np.array_equal(plain.image_b, one.image_b)
    assert image.shape == (160, 200, 3)


@pytest.mark.parametrize(
    "change",
    [
        {"rotation": 181},
        {"scale": (0, 1)},
        {"scale": (2, 1)},
        {"perspective": 0.5},
        {"anisotropy": 0.9},
        {"full_circle": 1.1},
        {"crop": (0.5, 1.5)},
    ],
)
def test_settings_that_make_no_sense(change):
    with pytest.raises(InputError, match=next(iter(change))):
        HomographySettings(**change)


def test_images_that_are_none():
    rng = np.random.default_rng(0)
    with pytest.raises(InputError, match="uint8"):
        warped_pair(np.zeros((50, 50, 3)), rng, (32, 32))
    with pytest.raises(InputError, match="uint8"):
        photometric_noise(np.zeros((50, 50), np.uint8), rng)


# Photometric noise: one effect at a time

NONE = PhotometricSettings(
    **{
        f.name: 0.0
        for f in dataclasses.fields(PhotometricSettings)
        if f.name not in ("jpeg_quality", "erase_count")
    }
)


def only(**settings):
    return dataclasses.replace(NONE, **settings)


def test_no_noise_is_no_change(texture):
    image = texture((64, 48))
    assert np.array_equal(photometric_noise(image, np.random.default_rng(0), NONE), image)


def test_noise_is_a_function_of_the_random_numbers_and_leaves_its_input(texture):
    image = texture((64, 48))
    before = image.copy()
    every = dataclasses.replace(
        PhotometricSettings(),
        **{
            f.name: 0.7
            for f in dataclasses.fields(PhotometricSettings)
            if f.name.endswith("_chance")
        },
    )
    seen = set()
    for seed in range(30):
        one, same = (photometric_noise(image, np.random.default_rng(seed), every) for _ in range(2))
        assert np.array_equal(one, same)
        assert one.shape == image.shape
        assert one.dtype == np.uint8
        seen.add(one.tobytes())
    assert len(seen) == 30
    assert np.array_equal(image, before)


def many(image, settings, count=60):
    return [photometric_noise(image, np.random.default_rng(s), settings) for s in range(count)]


def test_brightness_contrast_gamma_and_cast_against_their_formulas():
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
    x = np.arange(256) / 255

    shifts = [out[0, 100, 0] - 100.0 for out in many(ramp, only(brightness=0.2))]
    assert fills(shifts, -51, 51, slack=0.6)

    factors = [
        (float(out[0, 137, 0]) - float(out[0, 117, 0])) / 20
        for out in many(ramp, only(contrast=0.5))
    ]
    assert fills(factors, 1 / 1.5, 1.5, slack=0.06)
    assert all(abs(out[0, 127, 1] - 127.0) < 2 for out in many(ramp, only(contrast=0.5)))

    for out in many(ramp, only(gamma=1.0), 20):
        exponent = math.log(out[0, 128, 0] / 255) / math.log(128 / 255)
        assert 0.49 < exponent < 2.03
        assert np.abs(out[0, :, 0] - 255 * x**exponent).max() < 2

    for out in many(ramp, only(color_cast=0.2), 20):
        gains = out[0, 200].astype(np.float64) / 200
        assert gains.min() > 0.79
        assert gains.max() < 1.21
        assert np.abs(out[0, 100] - 100 * gains).max() < 1.1
        assert np.ptp(gains) > 0.005


def test_saturation_and_grey(texture):
    image = texture((40, 30))
    for out in many(image, only(grey_chance=1.0), 3):
        assert np.array_equal(out[..., 0], out[..., 1])
        assert np.array_equal(out[..., 0], out[..., 2])
        luma = image @ np.array([0.299, 0.587, 0.114])  # BT.601; red is first
        assert np.abs(out[..., 0] - luma).max() <= 1
    colour = np.array([[[150, 100, 90]]], np.uint8).repeat(8, 0).repeat(8, 1)
    spreads = [np.ptp(out[0, 0].astype(float)) / 60 for out in many(colour, only(saturation=0.5))]
    assert fills(spreads, 0.5, 1.5, slack=0.02)


def test_sensor_noise_is_gaussian():
    grey = np.full((128, 128, 3), 128, np.uint8)
    sigmas = []
    for out in many(grey, only(noise=10.0, noise_chance=1.0), 40):
        error = out - 128.0
        sigma = error.std()
        sigmas.append(sigma)
        assert abs(error.mean()) < 0.1
        if sigma > 3:
            exact = math.sqrt(sigma**2 - 1 / 12)  # before it was rounded
            for k in (2, 4, 8):
                expected = math.erf((k + 0.5) / exact / math.sqrt(2))
                assert abs(np.mean(np.abs(error) <= k) - expected) < 0.01
            assert abs(np.mean((error / sigma) ** 4) - 3) < 0.15
            # each pixel and channel on its own
            assert abs(np.corrcoef(error[..., 0].ravel(), error[..., 1].ravel())[0, 1]) < 0.04
            assert abs(np.corrcoef(error[:, 1:, 0].ravel(), error[:, :-1, 0].ravel())[0, 1]) < 0.04
    assert fills(sigmas, 0, 10, slack=0.2)


@pytest.mark.parametrize(
    "settings", [only(blur=3.0, blur_chance=1.0), only(motion=9.0, motion_chance=1.0)]
)
def test_blur_spreads_but_does_not_shift(settings):
    image = np.zeros((61, 61, 3), np.uint8)
    image[27:34, 25:32] = 255  # centre (28, 30)
    ys, xs = np.mgrid[:61, :61]
    wider = []
    for out in many(image, settings, 30):
        weight = out[..., 0].astype(np.float64)
        x, y = (xs * weight).sum() / weight.sum(), (ys * weight).sum() / weight.sum()
        assert abs(x - 28) < 0.06
        assert abs(y - 30) < 0.06
        assert abs(weight.sum() / (49 * 255) - 1) < 0.03
        wider.append(
            ((xs - x) ** 2 * weight).sum() / weight.sum() - 4.0
        )  # 4 = variance of 7 pixels
    assert max(wider) > 2
    assert min(wider) < 1


def test_motion_blur_is_as_long_as_it_may_be():
    image = np.zeros((41, 41, 3), np.uint8)
    image[20, 20] = 255
    lengths, slopes = [], []
    for out in many(image, only(motion=12.0, motion_chance=1.0)):
        ys, xs = np.nonzero(out[..., 0] > 4)
        ends = np.hypot(np.ptp(xs), np.ptp(ys))
        lengths.append(ends)
        if ends > 6:
            slopes.append(np.corrcoef(xs, ys)[0, 1] if np.ptp(xs) * np.ptp(ys) > 12 else 0.0)
    assert max(lengths) > 9
    assert max(lengths) <= 14
    assert min(slopes) < -0.8
    assert max(slopes) > 0.8


def test_jpeg_keeps_colours_in_their_channels(texture):
    red = np.zeros((32, 32, 3), np.uint8)
    red[..., 0] = 200
    for out in many(red, only(jpeg_chance=1.0, jpeg_quality=60), 5):
        assert np.abs(out.astype(int) - red).max() < 12
    image = texture((64, 64))
    errors = [
        np.abs(out.astype(int) - image).mean()
        for out in many(image, only(jpeg_chance=1.0, jpeg_quality=1))
    ]
    assert max(errors) > 2 * min(errors) > 0


def test_a_shadow_has_a_lit_side_and_a_soft_edge():
    grey = np.full((60, 90, 3), 120, np.uint8)
    levels = []
    for out in many(grey, only(shadow=0.5, shadow_chance=1.0)):
        light = out[..., 0].astype(np.float64) / 120
        assert np.array_equal(out[..., 0], out[..., 2])
        assert light.min() > 0.49
        assert light.max() < 1.31
        assert np.abs(np.diff(light, axis=1)).max() < 0.45  # soft
        levels += [light.min(), light.max()]
    assert min(levels) < 0.6
    assert max(levels) > 1.1


def test_erasing_paints_rectangles():
    grey = np.full((80, 100, 3), 120, np.uint8)
    shares = []
    for out in many(grey, only(erase_chance=1.0, erase_count=1, erase_side=0.5)):
        gone = (out != 120).any(axis=2)
        shares.append(gone.mean())
        if gone.any():
            ys, xs = np.nonzero(gone)
            box = out[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1].reshape(-1, 3)
            assert np.ptp(box, axis=0).max() == 0
    assert 0.05 < max(shares) <= 0.25
    assert np.array_equal(grey, np.full_like(grey, 120))


@pytest.mark.parametrize("change", [{"blur_chance": 2.0}, {"shadow": -0.1}, {"jpeg_quality": 0}])
def test_noise_settings_that_make_no_sense(change):
    with pytest.raises(InputError, match=next(iter(change))):
        PhotometricSettings(**change)
