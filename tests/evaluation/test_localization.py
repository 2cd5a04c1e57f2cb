"""The instrument that measures poses: planted features of known points give back the true poses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pycolmap
import pytest
from PIL import Image

from locate.datasets.localization import find_scenes
from locate.datasets.records import PosedPhoto, Scene
from locate.errors import InputError, UnknownNameError
from locate.extractors.base import ExtractorInfo
from locate.extractors.sift import Sift
from locate.formats.colmap import write_model
from locate.localization.absolute_pose import SOLVERS, estimate_pose
from locate.mapping.triangulation import (
    choose_pairs,
    epipolar_errors,
    observed_points,
    scene_depth,
    triangulate,
)
from locate.metrics.pose import pose_errors
from locate.types import Extraction, Features
from pipelines.evaluation.localization import (
    MapMaker,
    evaluate_localization,
    evaluate_localizers,
    reference_depth,
    splits,
)
from pipelines.evaluation.pose_tables import Outcome, pose_curves, pose_tables
from pipelines.localization.localizer import Localizer
from pipelines.localization.matcher import Request
from pipelines.mapping.import_model import import_map

WIDTH, HEIGHT = 320, 240
# fx, fy, cx, cy in COLMAP's pixels (top-left corner at 0), k1, k2, p1, p2; lopsided to tell x from y
LENS = (300.0, 280.0, 150.0, 125.0, 0.08, -0.05, 0.002, -0.001)
POINTS = 400


def project(points, pose, lens=LENS):
    """World points -> our pixels, by the formulas of the OPENCV lens written out; and the depths."""
    fx, fy, cx, cy, k1, k2, p1, p2 = lens
    x, y, z = pose[:, :3] @ points.T + pose[:, 3:]
    x, y = x / z, y / z
    r = x * x + y * y
    radial = 1 + k1 * r + k2 * r * r
    u = x * radial + 2 * p1 * x * y + p2 * (r + 2 * x * x)
    v = y * radial + 2 * p2 * x * y + p1 * (r + 2 * y * y)
    # The centre of the top-left pixel is (0, 0) for us and (0.5, 0.5) for COLMAP.
    return np.stack((fx * u + cx - 0.5, fy * v + cy - 0.5), axis=1), z


def look_at(centre, target, roll):
    forward = (target - centre) / np.linalg.norm(target - centre)
    right = np.cross(forward, (np.sin(roll), -np.cos(roll), 0.1))
    right /= np.linalg.norm(right)
    rotation = np.stack((right, np.cross(forward, right), forward))
    return np.c_[rotation, -rotation @ centre]


@pytest.fixture(scope="module")
def world():
    """400 points in a box about the origin and ten cameras before it."""
    rng = np.random.default_rng(7)
    points = rng.uniform((-2, -1.5, -1), (2, 1.5, 1), (POINTS, 3))
    poses = [
        look_at(
            np.array([rng.uniform(-2, 2), rng.uniform(-1, 1), rng.uniform(-7, -5)]),
            rng.uniform(-0.3, 0.3, 3),
            rng.uniform(-0.3, 0.3),
        )
        for _ in range(10)
    ]
    return points, poses


class Planted:
    """An extractor that knows which photo it sees by its colour, and where the points lie in it.

    Args:
        change: keypoints N x 2 -> N x 2, a mistake to plant.
        noise: of the keypoints in pixels, seeded.
        facing: give a global descriptor that calls photo i most similar to photo `facing[i]`.
    """

    max_side = 4096

    def __init__(self, world, change=lambda k: k, noise=0.0, facing=None, lens=LENS):
        self._points, self._poses = world
        self._change, self._noise, self._facing, self._lens = change, noise, facing, lens
        table = np.random.default_rng(1).normal(size=(len(self._points), 32))
        self._table = table / np.linalg.norm(table, axis=1, keepdims=True)
        self.info = ExtractorInfo(
            "planted", None, {"noise": noise}, global_dim=10 if facing else 0, local_dim=32
        )

    def extract(self, pixels, size=None, *, local=True):
        height, width = pixels.shape[:2]
        number = int(pixels[0, 0, 0])
        rng = np.random.default_rng(number)
        keypoints, _ = project(self._points, self._poses[number], self._lens)
        seen = rng.permutation(len(keypoints))[: len(keypoints) * 4 // 5]
        keypoints = keypoints[seen] + self._noise * rng.normal(size=(len(seen), 2))
        descriptors = self._table[seen] + 0.02 * rng.normal(size=(len(seen), 32))
        descriptors /= np.linalg.norm(descriptors, axis=1, keepdims=True)
        features = Features(
            self._change(keypoints).astype(np.float32),
            np.linspace(1, 0, len(seen), dtype=np.float32),
            descriptors.astype(np.float32),
            (width, height),
        )
        vector = None
        if self._facing:
            vector = np.zeros(10, np.float32)
            vector[number], vector[self._facing[number]] = 0.8, 0.6
        return Extraction(features, vector)


def write_photos(folder, count, mode="images/{:02d}.png"):
    names = [mode.format(i) for i in range(count)]
    for i, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (WIDTH, HEIGHT), (i, i, i)).save(folder / name)
    return names


def quaternion(rotation):
    """(w, x, y, z) of a rotation by less than 180 degrees, by hand."""
    w = np.sqrt(1 + np.trace(rotation)) / 2
    skew = rotation - rotation.T
    return np.array([w, *(np.array([skew[2, 1], skew[0, 2], skew[1, 0]]) / (4 * w))])


def text(values):
    return " ".join(repr(float(value)) for value in values)


@pytest.fixture
def scene_folder(tmp_path, world):
    """The layout of a COLMAP model without points, written by hand."""
    folder = tmp_path / "box"
    names = [name.removeprefix("images/") for name in write_photos(folder, len(world[1]))]
    (folder / "colmap_gt").mkdir()
    (folder / "colmap_gt/cameras.txt").write_text(f"1 OPENCV {WIDTH} {HEIGHT} {text(LENS)}\n")
    lines = [
        f"{i + 1} {text(quaternion(pose[:, :3]))} {text(pose[:, 3])} 1 {name}\n\n"
        for i, (name, pose) in enumerate(zip(names, world[1], strict=True))
    ]
    (folder / "colmap_gt/images.txt").write_text("# comment\n" + "".join(reversed(lines)))
    (folder / "queries.txt").write_text("03.png\n07.png\n")
    return folder


def medians(report, row=0):
    errors = dict(zip(report.tables[0].columns, report.tables[0].rows[row], strict=True))
    return errors["median m"], errors["median degrees"], errors["localized"]


def run(folder, extractor, **options):
    return evaluate_localization(folder, {"planted": extractor}, workers=2, **options)


@pytest.mark.parametrize("solver", sorted(SOLVERS))
def test_planted_features_give_back_the_true_poses(scene_folder, world, solver):
    report = run(scene_folder, Planted(world), solver=solver)
    metres, degrees, localized = medians(report)
    assert metres < 1e-5  # float32 keypoints
    assert degrees < 1e-3
    assert localized == 1
    assert report.tables[0].rows[0][2] == 10  # each photo is a query once
    points, photos = report.tables[-1].rows[0][2:4]
    assert 0.95 * POINTS < points <= POINTS
    assert photos > 5  # of eight on a map that see four fifths of the points each


@pytest.mark.parametrize(
    ("mistake", "least"),
    [
        (lambda k: k + 0.5, 2e-3),
        (lambda k: k - 0.5, 2e-3),
        (lambda k: k[:, ::-1], 0.1),
        (lambda k: k * 1.01, 3e-3),
        (lambda k: (WIDTH - 1, 0) + k * (-1, 1), 0.1),
    ],
    ids=["+0.5 px", "-0.5 px", "x and y swapped", "scaled", "mirrored"],
)
def test_a_mistake_in_keypoints_shows(scene_folder, world, mistake, least):
    metres, _, _ = medians(run(scene_folder, Planted(world, mistake)))
    assert metres > least


def test_the_same_seed_gives_the_same_tables(scene_folder, world):
    reports = [run(scene_folder, Planted(world, noise=0.5), seed=3) for _ in range(2)]
    assert json.dumps(reports[0].to_json()) == json.dumps(reports[1].to_json())
    assert 1e-4 < medians(reports[0])[0] < 0.05
    other = run(scene_folder, Planted(world, noise=0.5), seed=4)
    assert other.settings["seed"] == 4
    assert other.tables[0].to_json() != reports[0].tables[0].to_json()
    assert medians(other)[0] == pytest.approx(medians(reports[0])[0], rel=0.1)
    assert (
        other.settings["extractors"]["planted"]["fingerprint"]
        == Planted(world, noise=0.5).info.fingerprint
    )
    assert str(scene_folder.parent) not in json.dumps(reports[0].to_json())


def test_queries_of_the_list(scene_folder, world):
    calls = []
    report = run(
        scene_folder, Planted(world), protocol="queries", progress=lambda *at: calls.append(at)
    )
    assert report.tables[0].rows[0][2] == 2
    assert medians(report)[0] < 1e-3
    assert calls == [(i + 1, 10) for i in range(10)]  # eight photos of the map, two queries asked
    (scene_folder / "queries.txt").unlink()
    with pytest.raises(InputError, match="has no list of queries"):
        run(scene_folder, Planted(world), protocol="queries")
    with pytest.raises(UnknownNameError, match="folds, queries"):
        run(scene_folder, Planted(world), protocol="random")


def test_a_query_may_bring_its_own_camera(scene_folder):
    (scene_folder / "queries.txt").write_text(f"03.png PINHOLE {WIDTH} {HEIGHT} 1 2 3 4\n")
    (scene,) = find_scenes(scene_folder)
    assert [p.camera.params.tolist() for p in scene.photos[2:4]] == [list(LENS), [1, 2, 3, 4]]
    assert scene.queries == {"03.png"}
    for line in ("99.png", "03.png PINHOLE 320"):
        (scene_folder / "queries.txt").write_text(f"\n{line}\n")
        with pytest.raises(InputError, match=r"queries\.txt, line 2"):
            find_scenes(scene_folder)


def test_every_photo_is_a_query_once_and_never_on_its_map(scene_folder):
    (scene,) = find_scenes(scene_folder)
    made = splits(scene)
    assert sorted(p.name for queries, _ in made for p in queries) == [p.name for p in scene.photos]
    for queries, mapped in made:
        assert not {p.name for p in queries} & {p.name for p in mapped}
        assert len(queries) + len(mapped) == 10
    with pytest.raises(InputError, match="at least 2 photos"):
        splits(replace(scene, photos=scene.photos[:2]))
    with pytest.raises(InputError, match="2 folds"):
        splits(scene, folds=1)


def test_candidates_by_global_descriptor(scene_folder, world):
    """One candidate: with it at hand the query is localized; if all else call a useless photo most
    similar, it is not."""
    (scene,) = find_scenes(scene_folder)
    blind = (np.tile([[50.0, 50.0, -20.0]], (POINTS, 1)), world[1])
    useful, useless = [5] * 5 + [6] + [5] * 4, [9] * 9 + [8]

    class LastIsBlind(Planted):
        def extract(self, pixels, size=None, *, local=True):
            own = Planted(blind if pixels[0, 0, 0] == 9 else world, facing=self._facing)
            return own.extract(pixels, size, local=local)

    for facing, found in ((useful, True), (useless, False)):
        with MapMaker(LastIsBlind(world, facing=facing), Request(candidates=1), workers=1) as make:
            localize = make(scene, scene.photos[1:])
            pose = localize(scene.photos[0].path, scene.photos[0].camera)
        assert (pose is not None) == found
        if found:
            assert pose_errors([pose], [world[1][0]])[0][0] < 1e-3


def test_it_is_the_localizer_that_users_run(scene_folder, world, tmp_path):
    """The poses of `import_map` and `Localizer`, bit by bit."""
    (scene,) = find_scenes(scene_folder)
    extractor, mapped, query = Planted(world, noise=0.3), scene.photos[1:], scene.photos[0]
    with MapMaker(extractor, workers=1) as make:
        pose = make(scene, mapped)(query.path, query.camera)
        (asked,) = make.facts[0].poses
    write_model(
        tmp_path / "truth",
        {photo.name: photo.cam_from_world for photo in mapped},
        {photo.name: photo.camera for photo in mapped},
    )
    images = scene_folder / "images"
    import_map(
        tmp_path / "truth", images, tmp_path / "map", extractor=extractor, metric=True, workers=1
    )
    with Localizer(tmp_path / "map", extractor=extractor, workers=1) as localizer:
        own = localizer.localize(query.path, query.camera)
    assert own.verdict == "localized"
    np.testing.assert_array_equal(pose, own.cam_from_world)
    np.testing.assert_array_equal(asked.covariance, own.covariance)


def test_too_few_inliers_are_no_pose(scene_folder, world):
    (scene,) = find_scenes(scene_folder)
    for points, found in ((30, True), (11, False)):  # of which a query sees four fifths
        with MapMaker(Planted((world[0][:points], world[1])), workers=1) as make:
            localize = make(scene, scene.photos[1:])
            pose = localize(scene.photos[0].path, scene.photos[0].camera)
            assert (pose is not None) == found


def test_an_extractor_without_points_localizes_nothing(scene_folder, world):
    blind = (np.tile([[0.0, 0.0, 0.0]], (POINTS, 1)), world[1])
    report = run(scene_folder, Planted((blind[0][:3], blind[1])))
    metres, degrees, localized = medians(report)
    assert localized == 0
    assert np.isinf(metres)
    assert np.isinf(degrees)
    assert report.tables[1].rows[0][2:] == (0.0,) * 8
    assert (report.curves[0].series["planted"][1] == 0).all()
    assert sum(note.startswith("box: no map by planted") for note in report.notes) == 1


def test_a_model_that_does_not_fit_the_photos_is_told(scene_folder, world):
    """By the scene and the reason; of several folds each reason once."""
    (scene,) = find_scenes(scene_folder)
    shuffled = Planted((world[0], world[1][::-1]))
    report = run(scene_folder, shuffled)
    told = [note for note in report.notes if "the model does not fit the photos" in note]
    assert medians(report)[2] == 0
    assert len(told) == len(set(told)) >= 1
    assert all(note.startswith(f"{scene.name}: ") and "not localized" in note for note in told)


def test_any_localizer_can_be_judged(scene_folder, world):
    (scene,) = find_scenes(scene_folder)
    asked = []

    def make(own, photos):
        assert own is scene
        known = {photo.path for photo in photos}

        def localize(path, camera):
            assert path not in known
            assert camera.width == WIDTH
            asked.append(path.name)
            number = int(path.stem)
            if number >= 8:
                return None
            pose = world[1][number].copy()
            pose[:, 3] -= pose[:, :3] @ (0, 0.03, 0)  # the centre moves 3 cm along the world's y
            return pose

        return localize

    report = evaluate_localizers([scene], {"mine": make}, folds=3)
    assert sorted(asked) == [f"{i:02d}.png" for i in range(10)]
    metres, degrees, localized = medians(report)
    assert metres == pytest.approx(0.03)
    assert degrees < 1e-5
    assert localized == 0.8
    recall = dict(zip(report.tables[1].columns, report.tables[1].rows[0], strict=True))
    assert recall["2 cm 0.2°"] == 0
    assert recall["5 cm 0.5°"] == recall["5 m 10°"] == 0.8
    assert report.settings["scenes"] == {"box": {"layout": "colmap", "photos": 10, "metric": True}}


def test_damaged_missing_and_turned_photos(scene_folder, world):
    (scene_folder / "images/02.png").write_bytes(b"nothing")
    (scene_folder / "images/05.png").unlink()
    report = run(scene_folder, Planted(world))
    assert report.tables[0].rows[0][2] == 9
    assert medians(report)[2] == pytest.approx(8 / 9)
    assert sum("02.png" in note and "not localized" in note for note in report.notes) == 1
    assert sum("05.png" in note and "left out" in note for note in report.notes) == 1
    Image.new("RGB", (HEIGHT, WIDTH), (2, 2, 2)).save(scene_folder / "images/02.png")
    with pytest.raises(InputError, match=r"02\.png is 240 x 320 px, its camera 320 x 240 px"):
        run(scene_folder, Planted(world))


def test_a_query_of_another_size_is_told(scene_folder, world):
    (scene,) = find_scenes(scene_folder)
    other = pycolmap.Camera(
        model="SIMPLE_PINHOLE", width=WIDTH, height=HEIGHT + 1, params=[300, 160, 120]
    )
    with MapMaker(Planted(world), workers=1) as make:
        assert make(scene, scene.photos[1:])(scene.photos[0].path, other) is None
    (told,) = make.notes
    assert "00.png is 320 x 240 px, but its camera is 320 x 241" in told


def test_extractors_without_local_features_are_refused(scene_folder, world):
    extractor = Planted(world)
    extractor.info = replace(extractor.info, local_dim=0, global_dim=8)
    with pytest.raises(InputError, match="no local features"):
        run(scene_folder, extractor)


def test_other_layouts_hold_the_same_poses(tmp_path, scene_folder, world):
    """The same cameras as Cambridge's centre and rotation, and as 7-Scenes' world_from_cam."""
    poses = world[1]
    (truth,) = find_scenes(scene_folder)
    centres = [-pose[:, :3].T @ pose[:, 3] for pose in poses]

    college = tmp_path / "college"
    names = write_photos(college, 10, "seq1/frame{:05d}.png")
    rows = [
        f"{name} {text(centre)} {text(quaternion(pose[:, :3]))}"
        for name, centre, pose in zip(names, centres, poses, strict=True)
    ]
    heading = "Visual Landmark Dataset V1\nImageFile, Camera Position [X Y Z W P Q R]\n\n"
    (college / "dataset_train.txt").write_text(heading + "\n".join(rows[:7]) + "\n")
    (college / "dataset_test.txt").write_text(heading + "\n".join(rows[7:]))
    lenses = [f"{n.replace('png', 'jpg')}\t300 1 0 0 0 0 0 0 0.04 0" for n in names[1:]]
    (college / "reconstruction.nvm").write_text("NVM_V3 \n\n9\n" + "\n".join(lenses) + "\n\n0\n")

    chess = tmp_path / "chess"
    names = write_photos(chess, 10, "seq-01/frame-{:06d}.color.png")
    write_photos(chess, 1, "seq-02/frame-{:06d}.color.png")
    for i, name in enumerate([*names, "seq-02/frame-000000.color.png"]):
        full = np.linalg.inv(np.vstack((poses[i % 10], (0, 0, 0, 1))))
        rows = "\n".join("\t".join(f"{v:.17g}" for v in row) for row in full)
        (chess / name.replace("color.png", "pose.txt")).write_text(rows + "\n")
    (chess / "TrainSplit.txt").write_text("sequence1\n")
    (chess / "TestSplit.txt").write_text("sequence2\r\n")

    box, seven, cambridge = find_scenes(tmp_path)
    assert [s.layout for s in (box, seven, cambridge)] == ["colmap", "7scenes", "cambridge"]
    assert len(seven.photos) == 11
    assert seven.queries == {"seq-02/frame-000000.color.png"}
    assert len(cambridge.photos) == 9
    assert cambridge.queries == {f"seq1/frame{i:05d}.png" for i in (7, 8, 9)}
    assert any("1 photos without a focal length" in note for note in cambridge.notes)
    for scene, first in ((box, 0), (seven, 0), (cambridge, 1)):
        for i, photo in enumerate(scene.photos[: 10 - first]):
            np.testing.assert_allclose(photo.cam_from_world, poses[first + i], atol=1e-9)
    assert cambridge.photos[0].camera.params.tolist() == [300, 160, 120, -0.04]
    assert seven.photos[0].camera.params.tolist() == [525, 320, 240]
    # VisualSFM undistorts by (1 + k r^2), COLMAP distorts by (1 + k r^2).
    ray = cambridge.photos[0].camera.cam_from_img(np.array([[280.0, 120.0]]))[0, 0]
    assert ray == pytest.approx(0.4 * (1 + 0.04 * 0.4**2), rel=1e-3)
    assert [p.name for p in truth.photos] == [p.name for p in box.photos]


def test_what_is_no_scene_is_refused(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "dataset_train.txt").write_text("")
    with pytest.raises(InputError) as error:
        find_scenes(tmp_path)
    assert "colmap: cameras and images" in str(error.value)
    assert "cambridge: dataset_test.txt, reconstruction.nvm" in str(error.value)
    assert "7scenes: TrainSplit.txt, TestSplit.txt" in str(error.value)
    with pytest.raises(UnknownNameError, match="7scenes, auto, cambridge, colmap"):
        find_scenes(tmp_path, "nvm")
    with pytest.raises(InputError, match="is no folder"):
        find_scenes(tmp_path / "elsewhere")


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("dataset_train.txt", "\n\n\na.png 1 2 3 1 0 0\n", "line 4.*x y z w p q r"),
        ("dataset_train.txt", "\n\n\na.png 1 2 3 1 0 0 x\n", "line 4.*finite"),
        ("reconstruction.nvm", "BUNDLE\n", "NVM_V3"),
        ("reconstruction.nvm", "NVM_V3\n1\na.jpg 300 1 0 0\n", "line 3.*name f"),
    ],
)
def test_damaged_cambridge_files(tmp_path, file, content, message):
    for name in ("dataset_train.txt", "dataset_test.txt"):
        (tmp_path / name).write_text("")
    (tmp_path / "reconstruction.nvm").write_text("NVM_V3\n0\n")
    (tmp_path / file).write_text(content)
    with pytest.raises(InputError, match=f"{file}.*{message}"):
        find_scenes(tmp_path)


def test_a_damaged_pose_of_seven_scenes(tmp_path):
    (tmp_path / "TrainSplit.txt").write_text("sequence1\n")
    (tmp_path / "TestSplit.txt").write_text("")
    (tmp_path / "seq-01").mkdir()
    (tmp_path / "seq-01/frame-000000.pose.txt").write_text("1 0 0 0\n0 1 0 0\n0 0 1 0\n")
    with pytest.raises(InputError, match=r"frame-000000\.pose\.txt: expected a 4 x 4 matrix"):
        find_scenes(tmp_path)
    (tmp_path / "TrainSplit.txt").write_text("all of them\n")
    with pytest.raises(InputError, match=r"TrainSplit\.txt, line 1"):
        find_scenes(tmp_path)


def posed(poses, lens=LENS):
    camera = pycolmap.Camera(model="OPENCV", width=WIDTH, height=HEIGHT, params=list(lens))
    return [PosedPhoto(f"{i}.png", None, camera, pose) for i, pose in enumerate(poses)]


def planted(world, **options):
    extractor = Planted(world, **options)
    pixels = [np.full((HEIGHT, WIDTH, 3), i, np.uint8) for i in range(len(world[1]))]
    return [extractor.extract(p).features for p in pixels]


def points_of(model):
    """P x 3, in the order of their ids."""
    return np.array([model.point3D(i).xyz for i in sorted(model.point3D_ids())])


def seen_by(model, photo):
    """The row of the point that each feature of a photo sees, -1 for none."""
    rows = {point_id: row for row, point_id in enumerate(sorted(model.point3D_ids()))}
    return observed_points(model.find_image_with_name(photo.name), rows)


def test_triangulated_points_are_the_true_ones(world):
    points, poses = world
    photos, features = posed(poses[:4]), planted((points, poses[:4]))
    where = [np.random.default_rng(i).permutation(POINTS)[: POINTS * 4 // 5] for i in range(4)]

    def match(i, j):
        _, a, b = np.intersect1d(where[i], where[j], return_indices=True)
        good = np.stack((a, b), axis=1)
        bad = np.stack((a[:40], b[40:80]), axis=1)  # false ones, to be thrown out
        return np.r_[good, bad]

    made = triangulate(photos, features, match)
    assert made.num_points3D() > 0.9 * POINTS
    made.update_point_3d_errors()
    assert made.compute_mean_reprojection_error() < 0.01
    for i, photo in enumerate(photos):
        ids = seen_by(made, photo)
        assert ids.shape == (len(features[i]),)
        seen = ids >= 0
        assert seen.mean() > 0.85
        off = np.linalg.norm(points_of(made)[ids[seen]] - points[where[i][seen]], axis=1)
        assert np.median(off) < 1e-3
        assert (off < 0.05).mean() > 0.98
        assert len(np.unique(ids[seen])) == seen.sum()
    again = triangulate(photos, features, match)
    np.testing.assert_array_equal(points_of(made), points_of(again))
    depths = [np.median(project(points[where[i]], poses[i])[1]) for i in range(4)]
    assert scene_depth(made) == pytest.approx(np.median(depths), rel=0.02)


def test_two_photos_are_enough_and_one_place_is_not(world):
    points, poses = world
    everything = np.stack([np.arange(POINTS * 4 // 5)] * 2, axis=1)
    keypoints = [project(points[:320], pose)[0].astype(np.float32) for pose in poses[:2]]
    features = [
        Features(k, np.ones(320, np.float32), np.ones((320, 1), np.float32), (WIDTH, HEIGHT))
        for k in keypoints
    ]
    made = triangulate(posed(poses[:2]), features, lambda i, j: everything)
    assert made.num_points3D() > 250
    assert made.compute_mean_track_length() == 2
    same = triangulate(posed([poses[0]] * 2), [features[0]] * 2, lambda i, j: everything)
    assert same.num_points3D() == 0
    assert np.isnan(scene_depth(same))
    with pytest.raises(InputError, match="2 photos of different names"):
        triangulate(posed(poses[:2]), features[:1], lambda i, j: everything)
    with pytest.raises(InputError, match="must be positive"):
        triangulate(posed(poses[:2]), features, lambda i, j: everything, max_error=0)


def test_matches_off_the_epipolar_line_make_no_points(world):
    """By 1.7 px across it: 1.2 px by Sampson, but 0.85 px in each photo once a point stands between."""
    camera = pycolmap.Camera(model="SIMPLE_PINHOLE", width=320, height=240, params=[300, 160, 120])
    poses = [np.c_[np.eye(3), (x, 0, 6)] for x in (0.0, -2.0)]
    photos = [PosedPhoto(f"{x}.png", None, camera, pose) for x, pose in enumerate(poses)]
    flat = (300, 300, 160, 120, 0, 0, 0, 0)
    everything = np.stack([np.arange(300)] * 2, axis=1)
    for across, found in ((1.3, True), (1.7, False)):
        where = [project(world[0][:300], pose, flat)[0] for pose in poses]
        where[1][:, 1] += across
        features = [
            Features(
                k.astype(np.float32),
                np.ones(300, np.float32),
                np.ones((300, 1), np.float32),
                (320, 240),
            )
            for k in where
        ]
        made = triangulate(photos, features, lambda i, j: everything, max_error=1.0)
        assert (made.num_points3D() > 250) == found
        assert (made.num_points3D() > 0) == found


def test_points_stand_where_their_projections_fit_best(world):
    """No small step of a point lowers the sum of its (soft L1) reprojection errors."""
    poses = world[1][:6]
    photos, features = posed(poses), planted((world[0], poses), noise=0.5)
    lists = [np.random.default_rng(i).permutation(POINTS)[: POINTS * 4 // 5] for i in range(6)]

    def match(i, j):
        _, a, b = np.intersect1d(lists[i], lists[j], return_indices=True)
        return np.stack((a, b), axis=1)

    made = triangulate(photos, features, match)

    def costs(points):
        total = np.zeros(len(points))
        for photo, own in zip(photos, features, strict=True):
            ids = seen_by(made, photo)
            seen = np.flatnonzero(ids >= 0)
            off = project(points[ids[seen]], photo.cam_from_world)[0] - own.keypoints[seen]
            np.add.at(total, ids[seen], 2 * (np.sqrt(1 + (off**2).sum(axis=1)) - 1))
        return total

    best = costs(points_of(made))
    for step in np.r_[np.eye(3), -np.eye(3)] * 3e-3:
        assert (costs(points_of(made) + step) >= best).mean() > 0.95


def test_strong_lenses_are_not_skipped(world):
    """COLMAP's triangulator leaves out cameras that it takes for gone astray."""
    points, poses = world
    lens = (20.0, 20.0, 160.0, 120.0, 1.5, 0.0, 0.0, 0.0)
    where = [project(points[:100], pose, lens)[0].astype(np.float32) for pose in poses[:3]]
    features = [
        Features(k, np.ones(100, np.float32), np.ones((100, 1), np.float32), (WIDTH, HEIGHT))
        for k in where
    ]
    everything = np.stack([np.arange(100)] * 2, axis=1)
    made = triangulate(posed(poses[:3], lens), features, lambda i, j: everything)
    assert made.num_points3D() > 50


def test_epipolar_errors_by_hand():
    """Cameras side by side: epipolar lines are horizontal, and d pixels across shared by both photos
    make d / sqrt(2)."""
    camera = pycolmap.Camera(model="SIMPLE_PINHOLE", width=100, height=100, params=[50, 50, 50])
    left = PosedPhoto("l", None, camera, np.c_[np.eye(3), (0, 0, 0)])
    right = PosedPhoto("r", None, camera, np.c_[np.eye(3), (-2, 0, 0)])
    rays = np.array([[0.1, 0.2], [-0.3, 0.0]])
    moved = rays + np.array([[0.4, 3 / 50], [0.1, 0.0]])
    np.testing.assert_allclose(
        epipolar_errors(left, right, rays, moved), [3 / np.sqrt(2), 0], atol=1e-12
    )
    assert np.isinf(epipolar_errors(left, left, rays, moved)).all()


def test_epipolar_errors_of_true_matches_are_none(world):
    points, poses = world
    photos = posed(poses)
    rays = [photos[i].camera.cam_from_img(project(points, poses[i])[0] + 0.5) for i in range(2)]
    assert epipolar_errors(photos[0], photos[1], *rays).max() < 1e-6
    assert np.median(epipolar_errors(photos[0], photos[1], *rays[::-1])) > 1
    assert np.median(epipolar_errors(photos[1], photos[0], *rays)) > 1


def test_pairs_of_few_photos_are_all(world):
    assert choose_pairs(posed(world[1][:4])) == [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    assert choose_pairs(posed(world[1][:4]), [2]) == [(0, 2), (1, 2), (2, 3)]


def test_pairs_of_many_photos_are_near_and_far_but_face_the_same_way():
    """A camera that moves along x, 100 frames looking along y and 100 back, rolled and in any order."""
    rng = np.random.default_rng(5)
    place = rng.permutation(200)  # photo i stands at place[i] % 100 and looks back from 100 on
    poses = []
    for p in place:
        forward = np.array([0.0, 1.0 if p < 100 else -1.0, 0.0])
        roll = rng.uniform(0, 2 * np.pi)
        right = np.array([np.cos(roll), 0.0, np.sin(roll)])
        rotation = np.stack((right, np.cross(forward, right), forward))
        poses.append(np.c_[rotation, -rotation @ (0.1 * (p % 100), 0, 0)])
    pairs = choose_pairs(posed(poses))
    assert pairs == sorted(set(pairs))
    assert all(i < j and (place[i] < 100) == (place[j] < 100) for i, j in pairs)
    assert 200 * 20 / 2 <= len(pairs) <= 200 * 20
    first = int(np.flatnonzero(place == 0)[0])
    partners = sorted(place[i + j - first] for i, j in choose_pairs(posed(poses), [first]))
    assert len(partners) == 20
    assert partners[:5] == [1, 2, 3, 4, 5]
    assert partners[-1] == 99


@pytest.mark.parametrize("solver", sorted(SOLVERS))
def test_poses_from_points_with_outliers(world, solver):
    points, poses = world
    camera = posed(poses)[0].camera
    rng = np.random.default_rng(0)
    for pose in poses[:3]:
        pixels = project(points, pose)[0]
        wrong = rng.random(POINTS) < 0.4
        noisy = np.where(wrong[:, None], rng.uniform(0, 240, (POINTS, 2)), pixels)
        found = estimate_pose(noisy, points, camera, solver=solver, max_error=2.0)
        (metres,), (degrees,) = pose_errors([found.cam_from_world], [pose])
        assert metres < 1e-3
        assert degrees < 0.01
        assert found.inliers[~wrong].all()
        assert found.inliers[wrong].mean() < 0.1
        again = estimate_pose(noisy, points, camera, solver=solver, max_error=2.0)
        np.testing.assert_array_equal(found.cam_from_world, again.cam_from_world)


@pytest.mark.parametrize("solver", sorted(SOLVERS))
def test_no_pose_from_nothing(world, solver):
    camera = posed(world[1])[0].camera
    assert estimate_pose(np.zeros((0, 2)), np.zeros((0, 3)), camera, solver=solver) is None
    pixels = project(world[0][:3], world[1][0])[0]
    assert estimate_pose(pixels, world[0][:3], camera, solver=solver) is None


def test_wrong_options_are_refused(world):
    camera = posed(world[1])[0].camera
    with pytest.raises(UnknownNameError, match="poselib, pycolmap"):
        estimate_pose(np.zeros((5, 2)), np.zeros((5, 3)), camera, solver="opencv")
    with pytest.raises(InputError, match="but 4 points of the world"):
        estimate_pose(np.zeros((5, 2)), np.zeros((4, 3)), camera)
    with pytest.raises(InputError, match="positive"):
        estimate_pose(np.zeros((5, 2)), np.zeros((5, 3)), camera, max_error=0)
    for options in ({"ratio": 1.2}, {"solver": "x"}, {"candidates": 0}, {"seed": -1}):
        with pytest.raises(InputError):
            evaluate_localization(Path("none"), {"planted": Planted(world)}, **options)


def test_tables_pool_scenes_honestly():
    inf = np.inf
    outcomes = [
        Outcome("a", "hall", np.array([0.01, 0.02, inf]), np.array([0.1, 0.2, inf]), depth=2.0),
        Outcome("a", "yard", np.array([0.3]), np.array([1.0]), depth=10.0),
        Outcome("a", "model", np.array([0.5, 7.0]), np.array([0.1, 9.0]), metric=False, depth=5.0),
    ]
    errors, metres, shares = pose_tables(outcomes)
    rows = {row[1]: dict(zip(errors.columns, row, strict=True)) for row in errors.rows}
    assert list(rows) == ["hall", "yard", "model", "all metric", "all"]
    assert rows["hall"]["median cm"] == 2
    assert rows["hall"]["localized"] == pytest.approx(2 / 3)
    assert rows["all metric"]["queries"] == 4
    assert rows["all metric"]["median m"] == pytest.approx((0.02 + 0.3) / 2)
    assert np.isnan(rows["model"]["median m"])
    assert np.isnan(rows["all"]["median m"])
    # Shares of depth: 0.005 0.01 inf | 0.03 | 0.1 1.4
    assert rows["model"]["median % of depth"] == pytest.approx(75)
    assert rows["all"]["median % of depth"] == pytest.approx(100 * (0.03 + 0.1) / 2)
    assert [row[1] for row in metres.rows] == ["hall", "yard", "all metric"]
    assert metres.rows[-1][metres.columns.index("0.5 m 5°")] == 0.75
    assert metres.rows[-1][metres.columns.index("5 cm 5°")] == 0.5
    assert [row[1] for row in shares.rows] == list(rows)
    assert shares.rows[-1][shares.columns.index("5 % 5°")] == 0.5
    position, relative, rotation = pose_curves(outcomes)
    x, y = position.series["a"]
    assert y[-1] == 0.75  # of four queries of metric scenes, one is not localized
    assert y[np.searchsorted(x, 0.1)] == 0.5
    assert relative.series["a"][1][-1] == pytest.approx(4 / 6)  # 140 % lies beyond the axis
    assert rotation.series["a"][1][-1] == pytest.approx(5 / 6)
    assert position.x_log


def test_scenes_of_another_unit_are_told_by_depth(scene_folder, world):
    report = run(scene_folder, Planted(world), unscaled={"box"})
    assert len(report.tables) == 2  # no recall: RootSIFT sees no depth in blank photos
    assert any("box is not metric" in note for note in report.notes)
    assert [c.name for c in report.curves] == ["localization-rotation"]
    assert find_scenes(scene_folder.rename(scene_folder.parent / "fox"))[0].metric is False


@pytest.mark.data
def test_rootsift_on_the_fountain(data):
    folder = data / "eval/localization/fountain-P11"
    report = evaluate_localization(folder, {"sift": Sift(max_keypoints=1000)})
    metres, degrees, localized = medians(report)
    assert localized == 1
    assert metres < 5e-3
    assert degrees < 0.05
    (scene,) = find_scenes(folder)
    assert isinstance(scene, Scene)
    assert 5 < reference_depth(scene) < 15  # metres from the fountain
