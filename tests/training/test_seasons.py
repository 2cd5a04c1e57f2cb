"""Night, other colours and other sensors, each by what it must do to pixels."""

import numpy as np
import pytest

from locate.training.data.photometric import (
    PhotometricSettings,
    _colors,
    _night,
    _sensor,
    augment_appearance,
    photometric_noise,
)


@pytest.fixture
def steps():
    """Eight grey bars, dark to light."""
    bars = np.repeat(np.linspace(10, 245, 8).astype(np.uint8), 12)
    return np.repeat(np.repeat(bars[None, :, None], 48, axis=0), 3, axis=2)


def test_a_night_is_dark_but_for_its_lamps(steps):
    nights = [_night(steps, np.random.default_rng(seed)) for seed in range(40)]
    unlit = [night for night in nights if all(np.ptp(night[:, 50, c]) == 0 for c in range(3))]
    assert 2 < len(unlit) < 25  # of up to four lamps none
    for night in unlit:
        # Gamma above 1.5 and a colour of at most .9 x 1.2.
        assert (night <= 1.08 * 255 * (steps / 255.0) ** 1.5 + 1).all()
        assert (np.diff(night[0].astype(int), axis=0) >= 0).all()  # light stays lighter than dark
    assert any(night.mean() > steps.mean() for night in nights)


def test_colours_follow_one_curve_each(steps):
    made = [_colors(steps, np.random.default_rng(seed)) for seed in range(20)]
    for image in made:
        for k in range(8):  # one value in, one value out
            assert len(np.unique(image[:, 12 * k : 12 * k + 12].reshape(-1, 3), axis=0)) == 1
    assert any((np.diff(image[0, :, 0].astype(int)) < 0).any() for image in made)  # falls somewhere
    assert all(np.ptp(image.mean(axis=(0, 1))) > 0 for image in made)  # channels differ


def test_a_sensor_sees_a_mixture_or_its_negative():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
    kinds = []
    for seed in range(40):
        grey = _sensor(image, np.random.default_rng(seed))
        assert (grey == grey[..., :1]).all()
        weights = np.linalg.lstsq(
            np.c_[image.reshape(-1, 3), np.ones(600)],
            grey[..., 0].reshape(-1).astype(float),
            rcond=None,
        )[0]
        kinds.append(np.sign(weights[:3].sum()))
        assert abs(weights[:3].sum()) == pytest.approx(1, abs=0.01)
    assert 3 < kinds.count(-1) < 22


def test_another_season_comes_as_often_as_it_is_told(texture):
    image = texture((60, 40))
    quiet = dict.fromkeys(PhotometricSettings.__dataclass_fields__, 0.0) | {
        "jpeg_quality": 90,
        "erase_count": 0,
    }
    changed = 0
    for seed in range(100):
        settings = PhotometricSettings(**quiet | {"season_chance": 0.3})
        changed += not np.array_equal(
            photometric_noise(image, np.random.default_rng(seed), settings), image
        )
    assert 15 < changed < 45
    same = [augment_appearance(image, np.random.default_rng(5)) for _ in range(2)]
    np.testing.assert_array_equal(*same)
