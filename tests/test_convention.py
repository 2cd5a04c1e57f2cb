"""Pins every convention of locate/pixels.py by computations that do not use it."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from locate.images.reading import decode_photo
from locate.pixels import (
    apply_homography,
    fit_size,
    from_colmap,
    resize_points,
    to_colmap,
    unrotate_points,
)


def blob(size, at, sigma=6.0):
    """H x W float64 image of a Gaussian dot: value at array index [y, x] is exp(-|(x, y) - at|^2)."""
    width, height = size
    y, x = np.mgrid[:height, :width]
    return np.exp(-((x - at[0]) ** 2 + (y - at[1]) ** 2) / (2 * sigma**2))


def centroid(image):
    """(x, y), by array indices."""
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    return np.array([(image * x).sum(), (image * y).sum()]) / image.sum()


@pytest.mark.parametrize(
    ("size", "target"),
    [
        ((160, 120), (80, 60)),
        ((160, 120), (320, 240)),
        ((160, 120), (53, 71)),
        ((101, 200), (64, 99)),
    ],
)
def test_convention_resize_keeps_corners_on_corners(size, target):
    at = (0.42 * size[0], 0.55 * size[1])
    small = cv2.resize(
        blob(size, at),
        target,
        interpolation=cv2.INTER_AREA if target[0] < size[0] else cv2.INTER_LINEAR,
    )
    expected = resize_points(np.array([at]), size, target)[0]
    np.testing.assert_allclose(centroid(small), expected, atol=0.02)


def test_convention_resize_matches_torch_align_corners_false():
    torch = pytest.importorskip("torch")
    image = torch.from_numpy(blob((120, 90), (40, 50)))[None, None]
    half = torch.nn.functional.interpolate(
        image, size=(45, 60), mode="bilinear", align_corners=False, antialias=True
    )
    expected = resize_points(np.array([[40.0, 50.0]]), (120, 90), (60, 45))[0]
    np.testing.assert_allclose(centroid(half[0, 0].numpy()), expected, atol=0.02)


def test_convention_resize_by_hand():
    # Four pixels become one: its centre is the corner where the four meet.
    np.testing.assert_array_equal(
        resize_points(np.array([[0.5, 0.5], [2.5, 0.5]]), (4, 2), (2, 1)), [[0, 0], [1, 0]]
    )
    # The outer corners stay the outer corners.
    corners = np.array([[-0.5, -0.5], [639.5, 479.5]])
    np.testing.assert_allclose(
        resize_points(corners, (640, 480), (100, 50)), [[-0.5, -0.5], [99.5, 49.5]]
    )


def test_convention_resize_keeps_dtype_and_inverts():
    points = np.random.default_rng(0).uniform(0, 4000, (50, 2)).astype(np.float32)
    there = resize_points(points, (4000, 3000), (1024, 768))
    back = resize_points(there, (1024, 768), (4000, 3000))
    assert there.dtype == back.dtype == np.float32
    np.testing.assert_allclose(back, points, atol=2e-3)


def test_convention_points_are_x_then_y():
    image = np.zeros((30, 50))
    image[7, 41] = 1  # row 7, column 41
    np.testing.assert_allclose(centroid(image), (41, 7))
    # x is scaled by the widths, y by the heights.
    np.testing.assert_allclose(
        resize_points(np.array([[9.5, 9.5]]), (10, 20), (30, 20)), [[29.5, 9.5]]
    )


def test_convention_sift_answers_in_these_pixels():
    """OpenCV's detectors put the centre of the top-left pixel at (0, 0), as we do."""
    found = cv2.SIFT_create().detect((blob((160, 120), (70, 50)) * 255).astype(np.uint8), None)
    best = max(found, key=lambda point: point.response)
    np.testing.assert_allclose(best.pt, (70, 50), atol=0.3)


@pytest.mark.parametrize(
    ("size", "side", "expected"),
    [
        ((4000, 3000), 1024, (1024, 768)),
        ((3000, 4000), 1024, (768, 1024)),
        ((640, 480), 1024, (640, 480)),
        ((1024, 768), 1024, (1024, 768)),
        ((10000, 3), 100, (100, 1)),
    ],
)
def test_convention_fit_size_bounds_the_long_side(size, side, expected):
    assert fit_size(size, side) == expected


@pytest.mark.parametrize("degrees", [0, 90, 180, 270, 360, -90])
@pytest.mark.parametrize("size", [(7, 4), (4, 7), (5, 5)])
def test_convention_unrotate_against_rot90(size, degrees):
    width, height = size
    for x, y in [(0, 0), (width - 1, 0), (1, 2), (width - 1, height - 1)]:
        image = np.zeros((height, width))
        image[y, x] = 1
        turned = np.rot90(image, k=degrees // 90)
        row, column = np.argwhere(turned == 1)[0]
        back = unrotate_points(
            np.array([[column, row]], np.float32), (turned.shape[1], turned.shape[0]), degrees
        )
        np.testing.assert_array_equal(back, [[x, y]])
        assert back.dtype == np.float32


def test_convention_unrotate_keeps_fractions_of_a_pixel():
    # A quarter turn of a 7 x 4 image counter-clockwise is 4 wide; (0.25, 0) comes from the right edge.
    back = unrotate_points(np.array([[0.25, 0.0]]), (4, 7), 90)
    np.testing.assert_allclose(back, [[6.0, 0.25]])


def test_convention_unrotate_refuses_other_angles():
    with pytest.raises(ValueError, match="multiple of 90, got 45"):
        unrotate_points(np.zeros((1, 2)), (4, 7), 45)


def test_convention_colmap_puts_the_origin_at_the_corner():
    # The centre of the top-left pixel is (0.5, 0.5) in COLMAP; the principal point of a centred
    # camera is (W / 2, H / 2) there and (W - 1) / 2 here.
    np.testing.assert_array_equal(to_colmap(np.array([[0.0, 0.0]])), [[0.5, 0.5]])
    np.testing.assert_array_equal(from_colmap(np.array([[320.0, 240.0]])), [[319.5, 239.5]])
    points = np.random.default_rng(1).uniform(0, 100, (5, 2))
    np.testing.assert_allclose(from_colmap(to_colmap(points)), points)


B_FROM_A = np.array([[1.1, 0.2, 12.0], [-0.15, 0.9, 7.0], [4e-4, -3e-4, 1.0]])


def test_convention_homography_maps_a_to_b_like_warp_perspective():
    """`warpPerspective(a, H)` draws a dot of a where H puts it. Fails if H is inverted, transposed or
    x and y change places."""
    at = np.array([60.0, 45.0])
    warped = cv2.warpPerspective(blob((160, 120), at, 3.0), B_FROM_A, (240, 200))
    peak = np.unravel_index(warped.argmax(), warped.shape)
    (there,) = apply_homography(B_FROM_A, at[None])
    np.testing.assert_allclose(there, peak[::-1], atol=0.75)
    for wrong in (np.linalg.inv(B_FROM_A), B_FROM_A.T):
        assert np.linalg.norm(apply_homography(wrong, at[None])[0] - peak[::-1]) > 5
    assert np.linalg.norm(apply_homography(B_FROM_A, at[None, ::-1])[0] - peak[::-1]) > 5


def test_convention_homography_and_its_inverse():
    points = np.random.default_rng(2).uniform(0, 100, (20, 2)).astype(np.float32)
    there = apply_homography(B_FROM_A, points)
    np.testing.assert_allclose(apply_homography(np.linalg.inv(B_FROM_A), there), points, atol=1e-4)
    np.testing.assert_allclose(
        there, cv2.perspectiveTransform(points[None], B_FROM_A)[0], rtol=1e-5
    )


# How each EXIF orientation stores an upright image: what a camera would have written. By hand from
# the EXIF standard: where the 0th row and the 0th column of what is stored lie in the scene.
STORED = {
    1: lambda up: up,  # row 0 top, column 0 left
    2: lambda up: up[:, ::-1],  # top, right
    3: lambda up: up[::-1, ::-1],  # bottom, right
    4: lambda up: up[::-1],  # bottom, left
    5: lambda up: up.transpose(1, 0, 2),  # left, top
    6: lambda up: up.transpose(1, 0, 2)[::-1],  # right, top
    7: lambda up: up.transpose(1, 0, 2)[::-1, ::-1],  # right, bottom
    8: lambda up: up.transpose(1, 0, 2)[:, ::-1],  # left, bottom
}


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "JPEG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_convention_exif_orientation(texture, orientation, file_format):
    upright = texture((72, 40), seed=3)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stream = io.BytesIO()
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](upright)))
    quality = {"quality": 98, "subsampling": 0} if file_format == "JPEG" else {}
    stored.save(stream, file_format, exif=exif, **quality)

    photo = decode_photo(stream.getvalue(), Path("turned"))

    assert photo.info.orientation == orientation
    assert photo.info.size == (72, 40)
    assert photo.pixels.shape == upright.shape
    difference = np.abs(photo.pixels.astype(int) - upright).max()
    assert difference <= (12 if file_format == "JPEG" else 0)
