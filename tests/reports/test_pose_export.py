"""Localized photos in other programs' files: directions, frames, and nothing lost or made up."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pycolmap
import pytest

from locate.errors import InputError, UnknownNameError
from locate.formats.trajectories import read_poses
from locate.geometry.cameras import Camera
from locate.georef.georef import Georef
from locate.localization.pose import LOCALIZED, NOT_LOCALIZED, UNCERTAIN, Pose
from pipelines.reports.pose_export import (
    FORMS,
    photo_names,
    poses_json,
    write_poses_as,
)

# The camera of tests/formats/test_trajectories.py: at (1, 2, 3), turned by 90 degrees about z.
BY_HAND = np.array([[0, -1, 0, 2], [1, 0, 0, -1], [0, 0, 1, -3]], float)
CAMERA = Camera("SIMPLE_RADIAL", 640, 480, (500.0, 320.0, 240.0, 0.01))
# Map: x is north, y is west, z is up, a unit is 2 m; its zero lies 10 m to the east.
GEOREF = Georef(
    2.0,
    np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1]], float),
    np.array([10.0, 0, 0]),
    (48.0, -11.0, 500.0),
    used=9,
    inliers=9,
    error=0.5,
    turn=1.0,
)
TEXTS = ("hloc", "colmap", "tum", "kitti")


def pose_of(name, matrix=BY_HAND, verdict=LOCALIZED, **changed):
    values = {"camera": CAMERA, "matches": 50, "inliers": 40, "error": 0.8, **changed}
    return Pose(Path("/photos") / name, verdict, "40 of 50 agree", matrix, **values)


def nowhere(name, reason="only 5 matches"):
    return Pose(Path("/photos") / name, NOT_LOCALIZED, reason)


def random_matrix(seed):
    rng = np.random.default_rng(seed)
    q, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    return np.c_[q * np.linalg.det(q), rng.normal(size=3) * 5]


@pytest.fixture
def batch():
    """1.jpg is localized, 2.jpg not at all, 3.jpg uncertain, 10.5.jpg localized."""
    return [
        pose_of("q/1.jpg"),
        nowhere("q/2.jpg", "only 5\nmatches"),
        pose_of("q/3.jpg", random_matrix(3), UNCERTAIN),
        pose_of("r/10.5.jpg", random_matrix(4), covariance=np.diag([4.0, 9, 16, 1, 1, 1]) * 1e-4),
    ]


def file_of(path, form):
    return path / "images.txt" if form == "colmap" else path


@pytest.mark.parametrize("form", TEXTS)
@pytest.mark.parametrize("uncertain", [False, True])
def test_text_is_read_back(tmp_path, batch, form, uncertain):
    path = tmp_path / "new" / "out"
    count = write_poses_as(path, batch, form, uncertain=uncertain)
    names = ["q/1.jpg", "r/10.5.jpg"] if not uncertain else ["q/1.jpg", "q/3.jpg", "r/10.5.jpg"]
    assert count == len(names)
    expected = [p.cam_from_world for p in batch if p.verdict == LOCALIZED or uncertain]
    expected = [m for m in expected if m is not None]
    keys = {
        "tum": [n.split("/")[1].removesuffix(".jpg") for n in names],
        "kitti": [f"{i:06d}" for i in range(len(names))],
    }.get(form, names)
    back = read_poses(path, form)
    assert list(back) == keys
    for found, matrix in zip(back.values(), expected, strict=True):
        np.testing.assert_allclose(found, matrix, atol=1e-9)
    header = [line for line in file_of(path, form).read_text().splitlines() if line.startswith("#")]
    assert "left out, not localized: q/2.jpg: only 5?matches" in "\n".join(header)
    assert ("left out, uncertain: q/3.jpg" in "\n".join(header)) != uncertain


@pytest.mark.parametrize("form", TEXTS)
def test_the_header_tells_the_direction_of_the_numbers(tmp_path, batch, form):
    """What the first line says holds for the numbers below: the camera's centre is (1, 2, 3)."""
    write_poses_as(tmp_path / "p", batch, form, units="metre")
    text = file_of(tmp_path / "p", form).read_text()
    first, second, *_ = text.splitlines()
    assert second == "# world: the frame of the map, in metres"
    row = next(line for line in text.splitlines() if not line.startswith("#")).split()
    if form == "kitti":
        rotation = np.array(row, float).reshape(3, 4)[:, :3]
        t = np.array(row, float).reshape(3, 4)[:, 3]
    else:
        place = {"hloc": (slice(1, 5), slice(5, 8)), "colmap": (slice(1, 5), slice(5, 8))}
        turn, move = place.get(form, ((7, 4, 5, 6), slice(1, 4)))
        w, x, y, z = np.array(row)[np.r_[turn]].astype(float)
        rotation = np.array(  # the textbook's matrix of a unit quaternion
            [
                [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
                [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
                [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
            ]
        )
        t = np.array(row)[np.r_[move]].astype(float)
    if first.startswith("# cam_from_world: x_cam = R x_world + t"):
        np.testing.assert_allclose(rotation @ (1, 2, 3) + t, 0, atol=1e-9)
        np.testing.assert_allclose(rotation @ (2, 2, 3) + t, (0, 1, 0), atol=1e-9)
    else:
        assert first.startswith("# world_from_cam: x_world = R x_cam + t")
        np.testing.assert_allclose(t, (1, 2, 3), atol=1e-9)
        np.testing.assert_allclose(rotation @ (0, 1, 0) + t, (2, 2, 3), atol=1e-9)
    assert first.startswith("# world") == (form in ("tum", "kitti"))


def test_numpy_reads_the_texts(tmp_path, batch):
    write_poses_as(tmp_path / "kitti.txt", batch, "kitti")
    rows = np.loadtxt(tmp_path / "kitti.txt").reshape(-1, 3, 4)
    np.testing.assert_allclose(rows[0][:, 3], (1, 2, 3), atol=1e-12)
    write_poses_as(tmp_path / "tum.txt", batch, "tum")
    rows = np.loadtxt(tmp_path / "tum.txt")
    assert rows[:, 0].tolist() == [1, 10.5]
    np.testing.assert_allclose(rows[0, 1:4], (1, 2, 3), atol=1e-12)
    write_poses_as(tmp_path / "hloc.txt", batch, "hloc")
    rows = np.loadtxt(tmp_path / "hloc.txt", usecols=range(1, 8))
    np.testing.assert_allclose(rows[0, 4:], (2, -1, -3), atol=1e-12)


def test_colmap_opens_the_folder(tmp_path, batch):
    write_poses_as(tmp_path / "m", batch, "colmap")
    model = pycolmap.Reconstruction(tmp_path / "m")
    image = model.find_image_with_name("q/1.jpg")
    np.testing.assert_allclose(image.projection_center(), (1, 2, 3), atol=1e-9)
    (camera,) = model.cameras.values()
    assert (camera.model.name, camera.width, camera.height) == ("SIMPLE_RADIAL", 640, 480)
    assert camera.params.tolist() == list(CAMERA.params)
    with pytest.raises(InputError, match=r"the camera of 1\.jpg is not known"):
        write_poses_as(tmp_path / "n", [pose_of("1.jpg", camera=None)], "colmap")


def test_tum_wants_timestamps(tmp_path):
    poses = [nowhere("x.jpg"), pose_of("hall.jpg"), pose_of("yard.jpg", random_matrix(1))]
    with pytest.raises(InputError, match=r"timestamps in seconds, not 'hall\.jpg'; number them"):
        write_poses_as(tmp_path / "t", poses, "tum")
    assert not (tmp_path / "t").exists()
    write_poses_as(tmp_path / "t", poses, "tum", numbered=True)
    back = read_poses(tmp_path / "t", "tum")
    assert list(back) == ["1", "2"]  # positions in the batch
    np.testing.assert_allclose(back["1"], BY_HAND, atol=1e-9)
    assert "# 1: hall.jpg\n# 2: yard.jpg\n" in (tmp_path / "t").read_text()
    for name in ("nan.jpg", "2024_06_01.jpg"):
        with pytest.raises(InputError, match="timestamps"):
            write_poses_as(tmp_path / "t", [pose_of(name)], "tum")
    with pytest.raises(InputError, match="1 is among the photos twice"):
        write_poses_as(tmp_path / "t", [pose_of("a/1.jpg"), pose_of("b/1.png")], "tum")


def test_kapture(tmp_path, batch):
    other = Camera("PINHOLE", 800, 600, (1.0, 2.0, 3.0, 4.0))
    batch.append(pose_of("q/5.jpg", random_matrix(5), camera=other))
    assert write_poses_as(tmp_path, batch, "kapture") == 3
    rows = {}
    for name in ("sensors", "trajectories", "records_camera"):
        lines = (tmp_path / "sensors" / f"{name}.txt").read_text().splitlines()
        assert lines[0] == "# kapture format: 1.1"
        rows[name] = [
            [field.strip() for field in line.split(",")]
            for line in lines
            if not line.startswith("#")
        ]
    assert rows["sensors"][0][:6] == ["camera0", "", "camera", "SIMPLE_RADIAL", "640", "480"]
    assert [float(v) for v in rows["sensors"][0][6:]] == list(CAMERA.params)
    assert rows["sensors"][1][3] == "PINHOLE"
    assert rows["records_camera"] == [
        ["0", "camera0", "q/1.jpg"],
        ["3", "camera0", "r/10.5.jpg"],
        ["4", "camera1", "q/5.jpg"],
    ]
    assert [row[:2] for row in rows["trajectories"]] == [r[:2] for r in rows["records_camera"]]
    # "The rotation quaternion from world to device (same as in colmap)": that of BY_HAND.
    half = np.sqrt(0.5)
    np.testing.assert_allclose(
        np.array(rows["trajectories"][0][2:], float), (half, 0, 0, half, 2, -1, -3), atol=1e-12
    )
    header = (tmp_path / "sensors" / "trajectories.txt").read_text().splitlines()[1]
    assert header.startswith("# cam_from_world: x_cam = R x_world + t")
    with pytest.raises(InputError, match=r"no comma in 'a,b\.jpg'"):
        write_poses_as(tmp_path, [pose_of("a,b.jpg")], "kapture")


@pytest.mark.parametrize("form", TEXTS)
def test_poses_in_metres(tmp_path, batch, form):
    write_poses_as(tmp_path / "p", batch, form, georef=GEOREF, frame="enu")
    found = next(iter(read_poses(tmp_path / "p", form).values()))
    # By hand: (1, 2, 3) of the map is 2 m to the north, 4 m to the west of (10, 0), 6 m up.
    center = -found[:, :3].T @ found[:, 3]
    np.testing.assert_allclose(center, (6, 2, 6), atol=1e-9)
    # The map's x axis (north) is the camera's y axis.
    np.testing.assert_allclose(found[:, :3] @ (0, 1, 0), (0, 1, 0), atol=1e-9)
    text = file_of(tmp_path / "p", form).read_text()
    assert "metres East-North-Up about WGS84 latitude 48.000000000, longitude -11.0000" in text
    with pytest.raises(InputError, match="run locate georef"):
        write_poses_as(tmp_path / "p", batch, form, frame="enu")


def test_json_has_every_record(tmp_path, batch):
    write_poses_as(tmp_path / "p.json", batch, "json", georef=GEOREF)
    values = json.loads((tmp_path / "p.json").read_text())
    assert values["direction"].startswith("cam_from_world: x_cam = R x_world + t")
    assert values["world"] == "the frame of the map, in arbitrary units (the map is not metric)"
    assert [p["name"] for p in values["poses"]] == ["q/1.jpg", "q/2.jpg", "q/3.jpg", "r/10.5.jpg"]
    first, second, _, last = values["poses"]
    assert (second["verdict"], second["enu"], second["wgs84"]) == ("not localized", None, None)
    assert first["center"] == pytest.approx([1, 2, 3])
    assert first["enu"]["center"] == pytest.approx([6, 2, 6])
    # The optical axis is the map's z: straight up.
    assert first["enu"]["pitch_deg"] == pytest.approx(90)
    assert first["wgs84"]["altitude"] == pytest.approx(506, abs=1e-3)
    assert first["wgs84"]["longitude"] > -11
    # x of the map is north: sigma 0.02 units are 0.04 m to the north, 0.03 are 0.06 m to the west.
    covariance = np.array(last["enu"]["covariance"])
    np.testing.assert_allclose(np.sqrt(np.diag(covariance))[:3], (0.06, 0.04, 0.08), atol=1e-9)
    assert Georef.from_json(values["georef"]).scale == 2
    plain = poses_json(batch, units="metre")
    assert plain["world"].endswith("in metres")
    assert "enu" not in plain["poses"][0]


def test_geojson_is_longitude_first(tmp_path, batch):
    assert write_poses_as(tmp_path / "p.json", batch, "geojson", georef=GEOREF) == 2
    values = json.loads((tmp_path / "p.json").read_text())
    assert values["type"] == "FeatureCollection"
    first, last = values["features"]
    longitude, latitude, altitude = first["geometry"]["coordinates"]
    assert longitude == pytest.approx(-11 + 6 / (111_320 * np.cos(np.radians(48))), rel=1e-5)
    assert latitude == pytest.approx(48 + 2 / 111_200, abs=1e-6)
    assert altitude == pytest.approx(506, abs=1e-3)
    assert last["properties"]["horizontal_sigma_m"] == pytest.approx(np.hypot(0.04, 0.06))
    assert last["properties"]["vertical_sigma_m"] == pytest.approx(0.08)
    assert [entry["name"] for entry in values["left_out"]] == ["q/2.jpg", "q/3.jpg"]
    flat = Georef(**{**vars(GEOREF), "vertical": "none"})
    write_poses_as(tmp_path / "p.json", batch, "geojson", georef=flat, uncertain=True)
    values = json.loads((tmp_path / "p.json").read_text())
    assert [len(f["geometry"]["coordinates"]) for f in values["features"]] == [2, 2, 2]


@pytest.mark.parametrize("form", ["geojson", "kml"])
def test_places_on_earth_need_an_origin(tmp_path, batch, form):
    local = Georef(**{**vars(GEOREF), "origin": None})
    for georef in (None, local):
        with pytest.raises(InputError, match="run locate georef with GPS"):
            write_poses_as(tmp_path / "p", batch, form, georef=georef)
    write_poses_as(tmp_path / "p.txt", batch, "hloc", georef=local, frame="enu")
    assert "# world: local frame of the georeference, in metres" in (tmp_path / "p.txt").read_text()
    assert poses_json(batch, georef=local)["poses"][0]["wgs84"] is None


def test_kml(tmp_path):
    """A camera that looks 30 degrees east of north and 10 degrees down; names are escaped."""
    h, p = np.radians([30, -10])
    forward = np.array([np.sin(h) * np.cos(p), np.cos(h) * np.cos(p), np.sin(p)])
    right = np.array([np.cos(h), -np.sin(h), 0])
    in_enu = np.array([right, np.cross(forward, right), forward])
    matrix = np.c_[in_enu @ GEOREF.rotation, np.zeros(3)]
    poses = [pose_of("<a> & b\x01.jpg", matrix), nowhere("<c>.jpg")]
    write_poses_as(tmp_path / "p.kml", poses, "kml", georef=GEOREF)
    space = {"k": "http://www.opengis.net/kml/2.2"}
    root = ElementTree.parse(tmp_path / "p.kml").getroot()
    (mark,) = root.findall(".//k:Placemark", space)
    assert mark.find("k:name", space).text == "<a> & b?.jpg"
    assert "<c>.jpg: only 5 matches" in root.find(".//k:Document/k:description", space).text
    view = mark.find("k:Camera", space)
    assert float(view.find("k:heading", space).text) == pytest.approx(30)
    assert float(view.find("k:tilt", space).text) == pytest.approx(80)
    start, end = (
        np.array(text.split(","), float)
        for text in mark.find(".//k:LineString/k:coordinates", space).text.split()
    )
    # (10, 0, 0) East-North-Up, and 10 m farther along `forward`; longitude comes first.
    metres = np.array([111_320 * np.cos(np.radians(48)), 111_200, 1])
    np.testing.assert_allclose((start - (-11, 48, 500)) * metres, (10, 0, 0), atol=0.05)
    np.testing.assert_allclose((end - start) * metres, 10 * forward, atol=0.05)
    flat = Georef(**{**vars(GEOREF), "vertical": "none"})
    write_poses_as(tmp_path / "p.kml", poses, "kml", georef=flat)
    text = (tmp_path / "p.kml").read_text()
    assert "clampToGround" in text
    assert "absolute" not in text


def test_names():
    poses = [pose_of("a/1.jpg"), pose_of("b/2.jpg"), Pose(None, NOT_LOCALIZED, "dark")]
    assert photo_names(poses) == ["a/1.jpg", "b/2.jpg", "pixels-2"]
    assert photo_names([pose_of("a/1.jpg")]) == ["1.jpg"]
    assert photo_names([]) == []


def test_what_cannot_be_written(tmp_path, batch):
    with pytest.raises(UnknownNameError, match="colmap, geojson"):
        write_poses_as(tmp_path / "p", batch, "g2o")
    with pytest.raises(InputError, match="4 poses need 4 names, got 1"):
        write_poses_as(tmp_path / "p", batch, "hloc", names=["a"])
    with pytest.raises(InputError, match=r"1\.jpg is among the photos twice"):
        write_poses_as(tmp_path / "p", [batch[0], batch[0]], "hloc")
    for name in ("#1.jpg", "a\nb.jpg", " a.jpg"):
        with pytest.raises(InputError, match="cannot stand in a text file"):
            write_poses_as(tmp_path / "p", [batch[0]], "hloc", names=[name])
    assert not (tmp_path / "p").exists()


@pytest.mark.parametrize("form", FORMS)
def test_a_batch_of_failures_is_written_too(tmp_path, form):
    count = write_poses_as(tmp_path / "p", [nowhere("a.jpg")], form, georef=GEOREF)
    assert count == (1 if form == "json" else 0)
    file = {"colmap": "p/images.txt", "kapture": "p/sensors/trajectories.txt"}.get(form, "p")
    assert "only 5 matches" in (tmp_path / file).read_text()
