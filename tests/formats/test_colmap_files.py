"""Which files of a COLMAP model are read, and what is said of the others. pycolmap is the judge."""

from __future__ import annotations

import re
import shutil

import numpy as np
import pycolmap
import pytest

from locate.datasets.localization import find_scenes
from locate.errors import InputError
from locate.formats.colmap import add_views, read_model
from locate.formats.colmap_files import form_of
from locate.formats.trajectories import read_poses

NAMES = ("a/1.jpg", "a/2.jpg", "b/3.jpg")


def reconstruction(scale=1.0, focal=500.0):
    """Three cameras in a row, looking along z."""
    model = pycolmap.Reconstruction()
    camera = pycolmap.Camera(
        model="SIMPLE_PINHOLE", width=640, height=480, params=[focal, 320, 240]
    )
    poses = [np.c_[np.eye(3), (-scale * i, 0.5 * scale * i, 0)] for i in range(3)]
    views = [(n, camera, p, np.full((2, 2), 9.0)) for n, p in zip(NAMES, poses, strict=True)]
    add_views(model, views)
    return model


def rig(path, *, shift=(1.0, 2.0, 3.0)):
    """Two cameras on one rig, one frame; the second camera is turned and moved against the first."""
    model = pycolmap.Reconstruction()
    for i in (1, 2):
        model.add_camera(
            pycolmap.Camera(
                camera_id=i, model="SIMPLE_PINHOLE", width=64, height=48, params=[50, 32, 24]
            )
        )
    sensors = [model.cameras[i].sensor_id for i in (1, 2)]
    made = pycolmap.Rig(rig_id=7)
    made.add_ref_sensor(sensors[0])
    turned = pycolmap.Rotation3d(np.array([0, np.sin(0.3), 0, np.cos(0.3)]))
    made.add_sensor(sensors[1], pycolmap.Rigid3d(turned, np.array(shift)))
    model.add_rig(made)
    frame = pycolmap.Frame(frame_id=3, rig_id=7)
    for sensor, image_id in zip(sensors, (11, 12), strict=True):
        frame.add_data_id(pycolmap.data_t(sensor, image_id))
    tilted = pycolmap.Rotation3d(np.array([np.sin(0.2), 0, 0, np.cos(0.2)]))
    frame.rig_from_world = pycolmap.Rigid3d(tilted, np.array([0.1, 0.2, 0.3]))
    model.add_frame(frame)
    for image_id, camera_id in ((11, 1), (12, 2)):
        image = pycolmap.Image(name=f"{image_id}.jpg", camera_id=camera_id, image_id=image_id)
        image.frame_id = 3
        model.add_image(image)
    model.register_frame(3)
    path.mkdir(exist_ok=True)
    model.write_text(path)
    model.write_binary(path)
    return model


def centres(model):
    return {name: -pose[:, :3].T @ pose[:, 3] for name, pose in model.poses.items()}


def colmap_centres(folder):
    images = pycolmap.Reconstruction(folder).images.values()
    return {image.name: image.projection_center() for image in images}


def assert_as_colmap(folder):
    ours, theirs = centres(read_model(folder)), colmap_centres(folder)
    assert ours.keys() == theirs.keys()
    for name, centre in theirs.items():
        np.testing.assert_allclose(ours[name], centre, atol=1e-9)


def test_binary_is_read_before_an_older_text_and_it_is_said(tmp_path, caplog):
    reconstruction(scale=10).write_binary(tmp_path)
    reconstruction(scale=1).write_text(tmp_path)
    model = read_model(tmp_path)
    assert np.linalg.norm(centres(model)["b/3.jpg"]) == pytest.approx(20 * 1.25**0.5)
    assert_as_colmap(tmp_path)
    (note,) = model.notes
    assert "2 of 3 poses are not the same, one 10 times as large" in note
    assert "the binary one was read" in note
    # Who reads poses or a scene is told as well.
    assert read_poses(tmp_path, "colmap").keys() == set(NAMES)
    assert [record.message for record in caplog.records] == [note]
    for name in NAMES:
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / name).write_bytes(b"")
    (scene,) = find_scenes(tmp_path)
    assert scene.notes == (note,)


def test_equal_forms_and_single_ones_are_read_without_a_word(tmp_path):
    reconstruction().write_binary(tmp_path)
    reconstruction().write_text(tmp_path)
    assert read_model(tmp_path).notes == ()
    # Rounded to the six digits that some tools write.
    text = (tmp_path / "cameras.txt").read_text()
    (tmp_path / "cameras.txt").write_text(text.replace("500", "500.00002"))
    assert read_model(tmp_path).notes == ()
    for name in ("cameras.bin", "images.bin", "points3D.bin"):
        (tmp_path / name).unlink()
    assert read_model(tmp_path).notes == ()


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"focal": 400.0}, "the cameras of 3 images are not the same"),
        (None, r"the other cannot be read: .*images\.txt, line 1"),
    ],
)
def test_other_cameras_or_a_damaged_text(tmp_path, other, message):
    reconstruction().write_binary(tmp_path)
    reconstruction(**(other or {})).write_text(tmp_path)
    if other is None:
        (tmp_path / "images.txt").write_text("1 2 3\n")
    model = read_model(tmp_path)
    assert model.cameras["a/1.jpg"].params[0] == 500
    (note,) = model.notes
    assert re.search(message, note)


def test_images_of_one_form_only_are_told(tmp_path):
    reconstruction().write_binary(tmp_path)
    reconstruction().write_text(tmp_path)
    lines = (tmp_path / "images.txt").read_text().splitlines()
    (tmp_path / "images.txt").write_text("\n".join(lines[:-2]) + "\n")
    for name in ("frames.txt", "rigs.txt"):
        (tmp_path / name).unlink()
    assert "1 images are in one of them only" in read_model(tmp_path).notes[0]


@pytest.mark.parametrize(
    ("files", "form"),
    [
        ("cameras.bin images.bin points3D.bin cameras.txt images.txt points3D.txt", "bin"),
        ("cameras.bin images.bin cameras.txt images.txt points3D.txt", "txt"),
        ("cameras.bin images.bin cameras.txt images.txt", "bin"),
        ("cameras.bin cameras.txt images.txt", "txt"),
        ("cameras.bin images.txt", None),
        ("images.bin points3D.bin", None),
    ],
)
def test_which_form_is_read(tmp_path, files, form):
    for name in files.split():
        (tmp_path / name).write_bytes(b"")
    assert form_of(tmp_path) == form


@pytest.mark.parametrize("binary", [False, True])
def test_poses_come_from_frames_where_images_are_stale(tmp_path, binary):
    rig(tmp_path)
    whole = {name: pose.copy() for name, pose in read_model(tmp_path).poses.items()}
    assert read_model(tmp_path).notes == ()
    assert_as_colmap(tmp_path)
    other = tmp_path / "other"
    rig(other, shift=(4.0, 2.0, 3.0))
    end = "bin" if binary else "txt"
    shutil.copy(other / f"images.{end}", tmp_path)
    for path in tmp_path.glob("*.txt" if binary else "*.bin"):
        path.unlink()
    model = read_model(tmp_path)
    for name, pose in whole.items():
        np.testing.assert_allclose(model.poses[name], pose, atol=1e-12)
    assert_as_colmap(tmp_path)
    (note,) = model.notes
    assert f"frames.{end} and images.{end} differ (1 of 2 poses are not the same" in note
    (tmp_path / f"frames.{end}").unlink()
    (tmp_path / f"rigs.{end}").unlink()
    stale = read_model(tmp_path)
    assert stale.notes == ()
    assert np.linalg.norm(centres(stale)["12.jpg"] - centres(model)["12.jpg"]) == pytest.approx(3)


def test_damaged_rigs_and_frames(tmp_path):
    rig(tmp_path)
    for name in ("rigs.bin", "frames.bin"):
        data = (tmp_path / name).read_bytes()
        for length in range(0, len(data), 5):
            (tmp_path / name).write_bytes(data[:length])
            with pytest.raises(InputError, match=rf"{name} is cut off"):
                read_model(tmp_path)
        (tmp_path / name).write_bytes(data)
    for path in tmp_path.glob("*.bin"):
        path.unlink()
    for name, line, message in (
        ("rigs.txt", "7 2 CAMERA", "expected RIG_ID"),
        ("rigs.txt", "7 2 CAMERA 1 CAMERA 2 1 1 0 0", "expected SENSOR_TYPE"),
        ("frames.txt", "3 7 1 0 0 0 1 2 3 2 CAMERA 1 11", "expected FRAME_ID"),
        ("frames.txt", "3 7 2 0 0 0 1 2 3 1 CAMERA 1 11", "has length 2"),
    ):
        text = (tmp_path / name).read_text()
        (tmp_path / name).write_text(line + "\n")
        with pytest.raises(InputError, match=f"{name}, line 1: .*{message}"):
            read_model(tmp_path)
        (tmp_path / name).write_text(text)
    assert read_model(tmp_path).notes == ()


def test_where_the_model_lies_is_told(tmp_path):
    with pytest.raises(InputError, match="no COLMAP model, as it does not exist"):
        read_model(tmp_path / "nowhere")
    (tmp_path / "sparse/0").mkdir(parents=True)
    reconstruction().write_text(tmp_path / "sparse/0")
    with pytest.raises(InputError, match=r"the model lies in .*sparse/0: name that folder"):
        read_model(tmp_path / "sparse")
    with pytest.raises(InputError, match=r"the model lies in .*sparse/0: name that folder"):
        read_model(tmp_path)
    (tmp_path / "sparse/1").mkdir()
    reconstruction().write_binary(tmp_path / "sparse/1")
    with pytest.raises(InputError, match=r"models lie in .*sparse/0 or .*sparse/1: name"):
        read_model(tmp_path)
    with pytest.raises(InputError, match=r"is a file; name the folder of the model, maybe .*0"):
        read_model(tmp_path / "sparse/0/images.txt")
    (tmp_path / "sparse/1/images.bin").unlink()
    with pytest.raises(InputError, match=r"only cameras\.bin of it is there"):
        read_model(tmp_path / "sparse/1")


@pytest.mark.parametrize(
    ("encoding", "message"),
    [
        ("latin-1", r"images\.txt, line 2: byte 0xe9 is not UTF-8 \('café.jpg' if it is Latin-1"),
        ("utf-16", r"images\.txt is not text in UTF-8 but begins as UTF-16 does; save it"),
    ],
)
def test_text_that_is_not_utf8(tmp_path, encoding, message):
    (tmp_path / "cameras.txt").write_text("1 SIMPLE_PINHOLE 64 48 50 32 24\n")
    text = "# images\n1 1 0 0 0 1 2 3 1 café.jpg\n\n"
    (tmp_path / "images.txt").write_text(text, encoding)
    with pytest.raises(InputError, match=message):
        read_model(tmp_path)
    (tmp_path / "images.txt").write_text(text, "utf-8-sig")
    assert list(read_model(tmp_path).poses) == ["café.jpg"]


def test_binary_models_that_are_damaged_in_value(tmp_path):
    reconstruction().write_binary(tmp_path)
    whole = (tmp_path / "images.bin").read_bytes()
    (tmp_path / "images.bin").write_bytes(whole.replace(b"a/2.jpg", b"a/\xe9.jpg"))
    with pytest.raises(InputError, match=r"images\.bin: a name is not UTF-8 \('a/é\.jpg'"):
        read_model(tmp_path)
    (tmp_path / "images.bin").write_bytes(whole.replace(b"a/2.jpg", b"a/1.jpg"))
    with pytest.raises(InputError, match=r"images\.bin, image 2: a/1\.jpg stands there a second"):
        read_model(tmp_path)
    (tmp_path / "images.bin").write_bytes(whole)
    focal = np.float64(500).tobytes()
    cameras = (tmp_path / "cameras.bin").read_bytes()
    assert cameras.count(focal) == 1
    (tmp_path / "cameras.bin").write_bytes(cameras.replace(focal, np.float64(-500).tobytes()))
    with pytest.raises(InputError, match=r"cameras\.bin: camera 1 is none: .* -500, 320, 240"):
        read_model(tmp_path)
