"""Pictures of poses: marks lie where points were seen and where they project."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from locate.errors import InputError
from locate.geometry.cameras import Camera
from locate.localization.pose import NOT_LOCALIZED, Pose
from pipelines.reports.canvas import BAR_HEIGHT
from pipelines.reports.pose_pictures import (
    draw_reprojections,
    inlier_projections,
    save_reprojections,
)
from tests.helpers.poses import by_hand, pose_of


def test_projections_of_inliers_by_hand():
    pose = pose_of()
    seen, projected = inlier_projections(pose)
    np.testing.assert_allclose(projected, by_hand(pose.cam_from_world, pose.world_points))
    np.testing.assert_allclose(seen, projected, atol=1e-9)
    behind = np.concatenate((pose.world_points, [[0.0, -50, 0]]))
    more = pose_of(world_points=behind, points=np.concatenate((pose.points, [[5.0, 5]])))
    assert len(inlier_projections(more)[0]) == 12
    assert len(inlier_projections(Pose(None, NOT_LOCALIZED, "dark"))[0]) == 0


def test_marks_lie_where_points_were_seen_and_project():
    """One inlier, seen 30 px left of where the map says it is: a red circle here, a red cross there."""
    world = np.array([[0.0, 0, 0]])
    truth = by_hand(pose_of().cam_from_world, world)[0]
    pose = pose_of(world_points=world, points=truth[None] - (30, 0))
    drawing = draw_reprojections(pose, np.full((480, 640, 3), 128, np.uint8)).astype(int)
    assert drawing.shape == (480 + BAR_HEIGHT, 640, 3)
    photo = drawing[BAR_HEIGHT:]
    reddish = (photo[..., 0] > 200) & (photo[..., 1] < 80)
    rows, columns = np.nonzero(reddish)
    assert columns.min() == pytest.approx(truth[0] - 35, abs=1.5)
    assert columns.max() == pytest.approx(truth[0] + 3, abs=1.5)
    assert rows.mean() == pytest.approx(truth[1], abs=1)
    # Magnified, the cross goes on to the right; a good match is green.
    far = draw_reprojections(pose, np.full((480, 640, 3), 128, np.uint8), magnify=3).astype(int)
    columns = np.nonzero((far[BAR_HEIGHT:, :, 0] > 200) & (far[BAR_HEIGHT:, :, 1] < 80))[1]
    assert columns.max() == pytest.approx(truth[0] + 60 + 3, abs=1.5)
    good = draw_reprojections(pose_of(), np.full((480, 640, 3), 128, np.uint8)).astype(int)
    assert ((good[BAR_HEIGHT:, :, 1] > 200) & (good[BAR_HEIGHT:, :, 0] < 80)).any()
    assert not ((good[BAR_HEIGHT:, :, 0] > 200) & (good[BAR_HEIGHT:, :, 1] < 80)).any()


def test_large_photos_are_reduced_with_their_marks():
    camera = Camera("SIMPLE_PINHOLE", 6400, 4800, (5000.0, 3200.0, 2400.0))
    pose = pose_of(camera=camera, world_points=np.array([[1.0, 0, 0]]), points=np.zeros((1, 2)))
    _, projected = inlier_projections(pose)
    pose = pose_of(camera=camera, world_points=np.array([[1.0, 0, 0]]), points=projected)
    drawing = draw_reprojections(pose, np.full((4800, 6400, 3), 128, np.uint8)).astype(int)
    assert drawing.shape == (1200 + BAR_HEIGHT, 1600, 3)
    photo = drawing[BAR_HEIGHT:]
    rows, columns = np.nonzero((photo[..., 1] > 200) & (photo[..., 0] < 80))
    assert columns.mean() == pytest.approx((projected[0, 0] + 0.5) / 4 - 0.5, abs=0.7)
    assert rows.mean() == pytest.approx((projected[0, 1] + 0.5) / 4 - 0.5, abs=0.7)


def test_saved_pictures(tmp_path, photo_factory):
    photo = photo_factory(tmp_path / "a" / "hall.jpg", size=(640, 480))
    path = tmp_path / "out" / "hall.jpg"
    save_reprojections(pose_of(photo), path)
    first = path.read_bytes()
    lost = Pose(photo, NOT_LOCALIZED, "only 3 matches agree, which chance gives too")
    save_reprojections(lost, path)
    assert path.read_bytes() != first
    assert [file.name for file in path.parent.iterdir()] == ["hall.jpg"]
    with Image.open(path) as image, Image.open(photo) as original:
        assert image.size == (640, 480 + BAR_HEIGHT)
        shown = np.asarray(image)[BAR_HEIGHT : BAR_HEIGHT + 200].astype(int)
        assert np.abs(shown - np.asarray(original.convert("RGB"))[:200]).mean() < 8
    # Photos that are gone, and pixels in memory.
    gone = draw_reprojections(pose_of(tmp_path / "gone.jpg"))
    assert gone.shape == (480 + BAR_HEIGHT, 640, 3)
    assert draw_reprojections(Pose(None, NOT_LOCALIZED, "dark")).shape == gone.shape
    save_reprojections(pose_of(photo), path, pixels=np.zeros((480, 640, 3), np.uint8))
    with Image.open(path) as image:
        assert np.asarray(image)[BAR_HEIGHT:].mean() < 40


def test_poses_are_validated_before_they_are_shown():
    with pytest.raises(InputError, match="finite"):
        pose_of(covariance=np.full((6, 6), np.nan))
