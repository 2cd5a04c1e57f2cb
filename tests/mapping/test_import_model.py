"""Maps on given poses, and photos added to maps. The rendered town has exact cameras."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pycolmap
import pytest
from PIL import Image

from index.catalog import Catalog
from index.maps.folder import MapFolder, MapRecord
from index.maps.matches import delete, verified_pairs
from locate.errors import DatabaseMissingError, InputError
from locate.formats.colmap import read_model, write_model
from locate.geometry.rigid import invert
from pipelines.mapping.add import add_to_map
from pipelines.mapping.build import build_map
from pipelines.mapping.import_model import import_map
from pipelines.town.town import make_town


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    out = tmp_path_factory.mktemp("town") / "t"
    return make_town(out, landmarks=1, views=7, size=(640, 480)).root


@pytest.fixture(scope="module")
def photos(town):
    return town / "landmarks"


@pytest.fixture(scope="module")
def truth(town):
    return read_model(town / "colmap")


@pytest.fixture(scope="module")
def imported(town, photos, tmp_path_factory):
    out = tmp_path_factory.mktemp("imported") / "map"
    return out, import_map(town / "colmap", photos, out, extractor="sift", metric=True, workers=1)


def poses_of(model):
    return {image.name: image.cam_from_world().matrix() for image in model.images.values()}


def check_poses(out, truth, cameras=True):
    """The map has the given poses and cameras, and its points project, by hand, to their keypoints."""
    model = pycolmap.Reconstruction(out / "model")
    for name, pose in poses_of(model).items():
        np.testing.assert_allclose(pose, truth.poses[name], atol=1e-12)
        camera = model.cameras[model.find_image_with_name(name).camera_id]
        if cameras:
            assert camera.model == truth.cameras[name].model
            assert camera.params.tolist() == truth.cameras[name].params.tolist()
    return model


def pinhole_residuals(model, truth):
    """Keypoints in our pixels less projections by K [R | t] with the centre of a pixel at (0, 0)."""
    out = []
    for image in model.images.values():
        pose, camera = truth.poses[image.name], truth.cameras[image.name]
        f, cx, cy = camera.params
        for point in image.points2D:
            if point.has_point3D():
                x = pose[:, :3] @ model.points3D[point.point3D_id].xyz + pose[:, 3]
                here = f * x[:2] / x[2] + (cx - 0.5, cy - 0.5)
                out.append(point.xy - 0.5 - here)
    return np.array(out)


# --- import


def test_poses_and_cameras_are_kept_and_our_points_lie_on_them(imported, truth):
    out, report = imported
    assert (report.registered, report.images, report.unregistered) == (7, 7, ())
    model = check_poses(out, truth)
    apart = pinhole_residuals(model, truth)
    assert len(apart) > 2000
    assert np.linalg.norm(apart, axis=1).max() < 4
    assert np.abs(apart.mean(axis=0)).max() < 0.05
    assert report.error < 0.5
    lengths = [point.track.length() for point in model.points3D.values()]
    assert report.track_length == pytest.approx(np.mean(lengths))
    record = MapFolder(out).read_record()
    assert (record.made_by, record.extractor, record.units) == ("import-map", "sift", "metre")
    # what its points are: the church stands some 20 m away, on the meadow
    heights = np.array([point.xyz[2] for point in model.points3D.values()])
    assert np.percentile(heights, 2) > -1
    assert np.percentile(heights, 98) < 60


def test_ids_and_features_are_those_of_the_catalogue(imported):
    out, _ = imported
    model = pycolmap.Reconstruction(out / "model")
    database = pycolmap.Database.open(out / "matches.db")
    with Catalog.open(out / "features") as catalog:
        for row in catalog.images("ok"):
            image = model.images[row.id]
            assert image.name == row.path
            ours = catalog.features(row.id).keypoints
            np.testing.assert_allclose([p.xy for p in image.points2D], ours + 0.5, atol=1e-3)
            camera = database.read_camera(database.read_image(row.id).camera_id)
            assert camera.params.tolist() == model.cameras[image.camera_id].params.tolist()
            assert camera.has_prior_focal_length
    database.close()
    assert len(verified_pairs(out / "matches.db")) == 7 * 6 / 2


def test_a_second_import_does_nothing(town, photos, imported, tmp_path):
    out = tmp_path / "map"
    shutil.copytree(imported[0], out)
    before = (out / "model" / "points3D.bin").stat().st_mtime_ns
    events = []
    report = import_map(
        town / "colmap", photos, out, metric=True, progress=lambda *event: events.append(event)
    )
    assert events == []
    assert (out / "model" / "points3D.bin").stat().st_mtime_ns == before
    assert report.points == imported[1].points


@pytest.mark.parametrize("kind", ["OPENCV", "FULL_OPENCV", "OPENCV_FISHEYE", "RADIAL"])
@pytest.mark.parametrize("binary", [True, False])
def test_other_cameras_as_text_and_binary(kind, binary, truth, photos, imported, tmp_path):
    model = pycolmap.Reconstruction()
    for k, (name, pose) in enumerate(truth.poses.items(), 1):
        old = truth.cameras[name]
        camera = pycolmap.Camera.create_from_model_name(
            k, kind, old.focal_length_x, old.width, old.height
        )
        if kind == "OPENCV_FISHEYE":  # the series of tan: the photos are a pinhole's
            camera.params = [*camera.params[:4], 1 / 3, 2 / 15, 17 / 315, 62 / 2835]
        model.add_camera_with_trivial_rig(camera)
        image = pycolmap.Image(name=name, camera_id=k, image_id=100 - k)
        model.add_image_with_trivial_frame(image, pycolmap.Rigid3d(pose))
    given, out = tmp_path / "model", tmp_path / "map"
    given.mkdir()
    (model.write_binary if binary else model.write_text)(given)
    shutil.copytree(imported[0] / "features", out / "features")
    report = import_map(given, photos, out, workers=1)
    assert report.registered == 7
    made = check_poses(out, truth, cameras=False)
    assert {camera.model_name for camera in made.cameras.values()} == {kind}
    assert np.linalg.norm(pinhole_residuals(made, truth), axis=1).max() < 4


@pytest.mark.parametrize("binary", [True, False])
def test_the_cameras_of_a_rig_come_out_with_their_own_poses(
    binary, truth, photos, imported, tmp_path
):
    """Photos 1 and 2 are one shot of a rig of two cameras."""
    names = sorted(truth.poses)
    model = pycolmap.Reconstruction()
    for k, name in enumerate(names[:2], 1):
        camera = pycolmap.Camera(truth.cameras[name].todict() | {"camera_id": k})
        model.add_camera(camera)
    rig = pycolmap.Rig(rig_id=1)
    first, second = (truth.poses[name] for name in names[:2])
    turn = second[:, :3] @ first[:, :3].T
    between = np.c_[turn, second[:, 3] - turn @ first[:, 3]]
    rig.add_ref_sensor(model.cameras[1].sensor_id)
    rig.add_sensor(model.cameras[2].sensor_id, pycolmap.Rigid3d(between))
    model.add_rig(rig)
    frame = pycolmap.Frame(frame_id=1, rig_id=1, rig_from_world=pycolmap.Rigid3d(first))
    images = [pycolmap.Image(name=n, camera_id=k, image_id=k) for k, n in enumerate(names[:2], 1)]
    for image in images:
        frame.add_data_id(image.data_id)
        image.frame_id = 1
    model.add_frame(frame)
    for image in images:
        model.add_image(image)
    model.register_frame(1)
    for k, name in enumerate(names[2:], 3):
        camera = pycolmap.Camera(truth.cameras[name].todict() | {"camera_id": k})
        model.add_camera_with_trivial_rig(camera)
        image = pycolmap.Image(name=name, camera_id=k, image_id=k)
        model.add_image_with_trivial_frame(image, pycolmap.Rigid3d(truth.poses[name]))
    given, out = tmp_path / "model", tmp_path / "map"
    given.mkdir()
    (model.write_binary if binary else model.write_text)(given)
    shutil.copytree(imported[0] / "features", out / "features")
    assert import_map(given, photos, out, workers=1).registered == 7
    check_poses(out, truth)


@pytest.mark.data
def test_fountain_on_its_true_poses(data, tmp_path):
    scene = data / "eval" / "localization" / "fountain-P11"
    out = tmp_path / "map"
    report = import_map(scene / "colmap_gt", scene / "images", out, extractor="sift", metric=True)
    assert report.registered == 11
    assert report.error < 1
    assert report.points > 2000
    check_poses(out, read_model(scene / "colmap_gt"))


# --- models that do not fit


def given_model(tmp_path, truth, poses=None, cameras=None):
    poses = truth.poses if poses is None else poses
    write_model(tmp_path / "model", poses, truth.cameras if cameras is None else cameras)
    return tmp_path / "model"


def import_again(imported, model, photos, tmp_path):
    """With the features that are there already, since they are not what is tested."""
    shutil.copytree(imported[0] / "features", tmp_path / "map" / "features")
    return import_map(model, photos, tmp_path / "map", workers=1)


@pytest.mark.parametrize("wrong", ["inverted", "shuffled", "mirrored", "focal"])
def test_poses_that_contradict_the_photos_are_refused(wrong, truth, photos, imported, tmp_path):
    names, cameras = sorted(truth.poses), dict(truth.cameras)
    poses = {name: pose.copy() for name, pose in truth.poses.items()}
    if wrong == "inverted":
        poses = {name: invert(pose) for name, pose in poses.items()}
    elif wrong == "shuffled":
        poses = dict(zip(names, [poses[name] for name in names[3:] + names[:3]], strict=True))
    elif wrong == "mirrored":  # y up and z backwards, as OpenGL has them
        poses = {name: np.diag([1.0, -1, -1]) @ pose for name, pose in poses.items()}
    else:
        for name, camera in cameras.items():
            f, cx, cy = camera.params
            cameras[name] = pycolmap.Camera(camera.todict() | {"params": [f * 0.7, cx, cy]})
    model = given_model(tmp_path, truth, poses, cameras)
    says = "would if focal lengths were 1.4 times" if wrong == "focal" else "world_from_cam"
    with pytest.raises(InputError, match=rf"does not fit the photos: .*\d+%.*{says}"):
        import_again(imported, model, photos, tmp_path)
    assert not MapFolder(tmp_path / "map").exists()
    report = import_map(given_model(tmp_path / "right", truth), photos, tmp_path / "map", workers=1)
    assert report.points == pytest.approx(imported[1].points, rel=0.02)
    check_poses(tmp_path / "map", truth)  # nothing of the wrong model is left


def test_one_wrong_pose_is_left_out_with_its_reason(truth, photos, imported, tmp_path):
    poses = {name: pose.copy() for name, pose in truth.poses.items()}
    wrong = sorted(poses)[3]
    poses[wrong] = invert(poses[wrong])
    report = import_again(imported, given_model(tmp_path, truth, poses), photos, tmp_path)
    assert report.registered == 6
    ((name, reason),) = report.unregistered
    assert name == wrong
    assert "pose does not fit" in reason


def test_missing_photos(truth, photos, tmp_path):
    model = given_model(tmp_path, truth)
    (tmp_path / "some" / "church").mkdir(parents=True)
    for name in sorted(truth.poses)[:3]:
        shutil.copy(photos / name, tmp_path / "some" / name)
    with pytest.raises(InputError, match=r"4 of the 7 photos .*church/04\.jpg.*and 1 more"):
        import_map(model, tmp_path / "some", tmp_path / "map")
    with pytest.raises(InputError, match="7 of the 7 photos"):  # one folder too deep
        import_map(model, photos / "church", tmp_path / "map")
    with pytest.raises(InputError, match="is no folder"):
        import_map(model, tmp_path / "nowhere", tmp_path / "map")
    assert not (tmp_path / "map").exists()


def test_missing_photos_can_be_skipped(truth, photos, tmp_path):
    model, own = given_model(tmp_path, truth), copy_photos(photos, tmp_path)
    (own / "church" / "03.jpg").unlink()
    with pytest.raises(InputError, match=r"church/03\.jpg; .* or go on without .*--skip-missing"):
        import_map(model, own, tmp_path / "map", extractor="sift", workers=1)
    given = {"extractor": "sift", "workers": 1, "skip_missing": True}
    report = import_map(model, own, tmp_path / "map", **given)
    assert (report.registered, report.images) == (6, 7)
    ((name, reason),) = report.unregistered
    assert (name, reason) == ("church/03.jpg", f"is not in {own}")
    assert "church/03.jpg" not in poses_of(check_poses(tmp_path / "map", truth))
    again = import_map(model, own, tmp_path / "map", **given)
    assert (again.unregistered, again.seconds) == (report.unregistered, {})
    shutil.copy(photos / "church" / "03.jpg", own / "church")  # it is found again
    assert import_map(model, own, tmp_path / "map", workers=1).registered == 7
    for name in sorted(truth.poses)[1:]:
        (own / name).unlink()
    with pytest.raises(InputError, match=r"6 of the 7 photos .*relative to$"):  # one makes no map
        import_map(model, own, tmp_path / "map", skip_missing=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda n: n.replace(".jpg", ".JPG"),
            r"differ only in case \(.*01\.JPG, .*01\.jpg; 7 such",
        ),
        (lambda n: n.replace("church", "Church"), "names differ only in case"),
        (lambda n: n.replace(".jpg", ".png"), "names differ only in their ending"),
        (lambda n: n.removeprefix("church/"), r"01\.jpg lies in .*/landmarks/church: name that"),
    ],
)
def test_why_photos_are_not_found(change, message, truth, photos, tmp_path):
    model = given_model(
        tmp_path,
        truth,
        {change(name): pose for name, pose in truth.poses.items()},
        {change(name): camera for name, camera in truth.cameras.items()},
    )
    with pytest.raises(InputError, match=message):
        import_map(model, photos, tmp_path / "map")


def test_accents_and_folders_above(truth, photos, tmp_path):
    own = tmp_path / "photos"
    names = {"e\u0301glise/1.jpg": "church/01.jpg", "e\u0301glise/2.jpg": "church/02.jpg"}
    for name, source in names.items():  # as macOS writes é
        (own / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(photos / source, own / name)
    composed = {name.replace("e\u0301", "é"): source for name, source in names.items()}
    model = given_model(
        tmp_path,
        truth,
        {name: truth.poses[source] for name, source in composed.items()},
        {name: truth.cameras[source] for name, source in composed.items()},
    )
    with pytest.raises(InputError, match="names differ only in how accents are encoded"):
        import_map(model, own, tmp_path / "map")
    with pytest.raises(InputError, match=r"church/01\.jpg lies in .*landmarks: name that folder"):
        import_map(given_model(tmp_path / "b", truth), photos / "church", tmp_path / "map")


def test_one_photo_under_two_names(truth, photos, tmp_path):
    first = sorted(truth.poses)[0]
    model = given_model(
        tmp_path,
        truth,
        {**truth.poses, f"./{first}": truth.poses[first]},
        {**truth.cameras, f"./{first}": truth.cameras[first]},
    )
    with pytest.raises(InputError, match="are the same photo; take one out"):
        import_map(model, photos, tmp_path / "map")


def test_cameras_at_one_spot_make_no_map(truth, photos, tmp_path):
    poses = {
        name: np.c_[pose[:, :3], -pose[:, :3] @ (3.0, 4.0, 5.0)]
        for name, pose in truth.poses.items()
    }
    model = given_model(tmp_path, truth, poses)
    with pytest.raises(InputError, match=r"all 7 cameras stand at one spot, \(3, 4, 5\), so no"):
        import_map(model, photos, tmp_path / "map")
    assert not (tmp_path / "map").exists()


def test_which_model_was_read_is_in_the_report(truth, photos, imported, tmp_path):
    model = given_model(tmp_path, truth)
    pycolmap.Reconstruction(model).write_binary(model)
    stale = pycolmap.Reconstruction(model)
    stale.transform(pycolmap.Sim3d(0.1, pycolmap.Rotation3d(), np.zeros(3)))
    stale.write_text(model)
    report = import_again(imported, model, photos, tmp_path)
    (warning,) = report.warnings
    assert "7 of 7 poses are not the same, one 10 times as large" in warning
    check_poses(tmp_path / "map", truth)
    again = import_map(model, photos, tmp_path / "map", workers=1)
    assert (again.warnings, again.seconds) == ((warning,), {})
    (model / "images.txt").unlink()  # and it is no longer said when it is no longer so
    assert import_map(model, photos, tmp_path / "map", workers=1).warnings == ()


def test_metric_against_gps(town, truth, photos, imported, tmp_path):
    """The town's photos know by their EXIF where they were taken."""
    assert imported[1].warnings == ()
    poses = {n: np.c_[p[:, :3], 0.1 * p[:, 3]] for n, p in truth.poses.items()}
    shutil.copytree(imported[0] / "features", tmp_path / "map" / "features")
    model = given_model(tmp_path, truth, poses)
    report = import_map(model, photos, tmp_path / "map", metric=True, workers=1)
    (warning,) = report.warnings
    assert "imported as metric (--metric), but by GPS 1 unit of it is 10" in warning
    assert import_map(model, photos, tmp_path / "map", workers=1).warnings == ()  # claims no metre


def copy_photos(photos, tmp_path):
    shutil.copytree(photos, tmp_path / "photos")
    return tmp_path / "photos"


def test_photos_of_another_size(truth, photos, tmp_path):
    own = copy_photos(photos, tmp_path)
    with Image.open(own / "church" / "02.jpg") as image:
        image.resize((320, 240)).save(own / "church" / "02.jpg")
    with pytest.raises(InputError, match=r"church/02\.jpg is 320 x 240 px, its camera 640 x 480"):
        import_map(given_model(tmp_path, truth), own, tmp_path / "map", extractor="sift")


@pytest.mark.parametrize("orientation", [3, 6])
def test_photos_that_exif_turns(orientation, truth, photos, tmp_path):
    own = copy_photos(photos, tmp_path)
    exif = Image.Exif()
    exif[0x0112] = orientation
    with Image.open(own / "church" / "02.jpg") as image:
        image.save(own / "church" / "02.jpg", exif=exif)
    with pytest.raises(InputError, match=r"church/02\.jpg is .*turned by EXIF.*exiftool"):
        import_map(given_model(tmp_path, truth), own, tmp_path / "map", extractor="sift")


def test_a_photo_that_cannot_be_read_is_left_out(truth, photos, tmp_path):
    own = copy_photos(photos, tmp_path)
    file = own / "church" / "02.jpg"
    file.write_bytes(file.read_bytes()[:3000])
    report = import_map(
        given_model(tmp_path, truth), own, tmp_path / "map", extractor="sift", workers=1
    )
    assert report.registered == 6
    assert dict(report.unregistered)["church/02.jpg"].startswith("is truncated")
    check_poses(tmp_path / "map", truth)


def test_models_that_are_none(truth, photos, tmp_path):
    with pytest.raises(InputError, match="no COLMAP model"):
        import_map(photos, photos, tmp_path / "map")
    model = given_model(tmp_path, truth, {})
    with pytest.raises(InputError, match="0 images with poses"):
        import_map(model, photos, tmp_path / "map")
    shutil.rmtree(model)
    model = given_model(tmp_path, truth)
    text = (model / "images.txt").read_text().splitlines()
    first = next(i for i, line in enumerate(text) if "church" in line)
    fields = text[first].split()
    for wrong in ("nan", "x"):
        text[first] = " ".join([*fields[:6], wrong, *fields[7:]])
        (model / "images.txt").write_text("\n".join(text) + "\n")
        with pytest.raises(InputError, match=r"images\.txt, line \d+: expected finite numbers"):
            import_map(model, photos, tmp_path / "map")
    text[first] = " ".join([*fields[:9], "/absolute/01.jpg"])
    (model / "images.txt").write_text("\n".join(text) + "\n")
    with pytest.raises(InputError, match="must be relative"):
        import_map(model, photos, tmp_path / "map")
    assert not (tmp_path / "map").exists()


def test_build_and_import_leave_each_other_alone(town, photos, imported, tmp_path):
    out = tmp_path / "map"
    shutil.copytree(imported[0], out)
    with pytest.raises(InputError, match="holds a map of import-map"):
        build_map(out, images=photos)
    assert MapFolder(out).read_record().made_by == "import-map"


# --- add


@pytest.fixture(scope="module")
def five(town, photos, truth, tmp_path_factory):
    """A map of the first five photos, which knows where on earth it is."""
    folder = tmp_path_factory.mktemp("five")
    names = sorted(truth.poses)[:5]
    model = folder / "model"
    write_model(model, {name: truth.poses[name] for name in names}, truth.cameras)
    import_map(model, photos, folder / "map", extractor="sift", metric=True, workers=1)
    record = MapFolder(folder / "map").read_record()
    MapFolder(folder / "map").write_record(MapRecord(**(vars(record) | {"georef": {"a": 1}})))
    return folder / "map"


def centre(pose):
    return -pose[:, :3].T @ pose[:, 3]


def test_new_photos_find_their_place_and_old_ones_keep_theirs(five, photos, truth, tmp_path):
    out, new = tmp_path / "map", tmp_path / "new"
    shutil.copytree(five, out)
    new.mkdir()
    (new / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    Image.effect_noise((640, 480), 80).save(new / "noise.jpg")
    before = pycolmap.Reconstruction(out / "model")
    events = []
    report = add_to_map(
        out,
        [photos / "church" / "06.jpg", photos / "church" / "07.jpg", new],
        workers=1,
        progress=lambda *event: events.append(event),
    )
    assert (report.registered, report.images) == (7, 9)
    reasons = dict(report.unregistered)
    assert set(reasons) == {"broken.jpg", "noise.jpg"}
    assert "no verified matches" in reasons["noise.jpg"]
    assert report.verified == {
        "church/06.jpg": 5, "church/07.jpg": 5, "broken.jpg": 0, "noise.jpg": 0,
    }  # fmt: skip
    after = pycolmap.Reconstruction(out / "model")
    for name, pose in poses_of(before).items():
        np.testing.assert_allclose(poses_of(after)[name], pose, atol=1e-9)
    for i, camera in before.cameras.items():
        assert after.cameras[i].params.tolist() == camera.params.tolist()
    for k in (6, 7):
        found, true = (p[f"church/0{k}.jpg"] for p in (poses_of(after), truth.poses))
        assert np.linalg.norm(centre(found) - centre(true)) < 0.2  # metres, at some 30 m
        angle = np.degrees(np.arccos((np.trace(found[:, :3] @ true[:, :3].T) - 1) / 2))
        assert angle < 0.3
    assert after.num_points3D() > before.num_points3D()
    assert {stage for stage, _, _ in events} == {"features", "matching", "mapping"}
    record = MapFolder(out).read_record()
    assert (record.made_by, record.units, record.georef) == ("import-map", "metre", {"a": 1})
    with Catalog.open(out / "features") as catalog:
        for row in catalog.images("ok"):
            if row.id in after.images:
                seen = [p.xy for p in after.images[row.id].points2D]
                np.testing.assert_allclose(
                    seen, catalog.features(row.id).keypoints + 0.5, atol=1e-3
                )


def test_what_is_in_the_map_already_changes_nothing(five, photos, tmp_path):
    out = tmp_path / "map"
    shutil.copytree(five, out)
    before = (out / "model" / "images.bin").read_bytes()
    events = []
    report = add_to_map(
        out, [photos / "church" / "01.jpg"], progress=lambda *event: events.append(event)
    )
    assert (report.registered, report.verified, events) == (5, {}, [])
    assert (out / "model" / "images.bin").read_bytes() == before


def test_an_unrelated_photo_alone_leaves_the_model_as_it_is(five, tmp_path):
    out = tmp_path / "map"
    shutil.copytree(five, out)
    before = (out / "model" / "points3D.bin").read_bytes()
    Image.effect_noise((640, 480), 80).save(tmp_path / "noise.png")
    report = add_to_map(out, [tmp_path / "noise.png"], workers=1)
    assert (report.registered, dict(report.verified)) == (5, {"noise.png": 0})
    assert (out / "model" / "points3D.bin").read_bytes() == before


def test_photos_can_be_added_when_the_matches_are_lost(five, photos, tmp_path):
    out = tmp_path / "map"
    shutil.copytree(five, out)
    delete(out / "matches.db")
    cameras = pycolmap.Reconstruction(out / "model").cameras
    assert add_to_map(out, [photos / "church" / "06.jpg"], workers=1).registered == 6
    after = pycolmap.Reconstruction(out / "model").cameras
    assert {i: after[i].params.tolist() for i in cameras} == {
        i: camera.params.tolist() for i, camera in cameras.items()
    }


@pytest.mark.parametrize("instant", [1, 2])
def test_a_kill_between_two_models_leaves_one(five, photos, tmp_path, monkeypatch, instant):
    out, calls = tmp_path / "map", []
    shutil.copytree(five, out)
    rename = Path.rename

    def killed(self, target):
        calls.append(target)
        if len(calls) == instant:
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        add_to_map(out, [photos / "church" / "06.jpg"], workers=1)
    monkeypatch.undo()
    assert MapFolder(out).read_model().num_reg_images() == 5
    assert add_to_map(out, [photos / "church" / "06.jpg"], workers=1).registered == 6
    assert sorted(f.name for f in out.iterdir() if f.name.startswith("model")) == ["model"]


def test_photos_that_cannot_be_added(five, photos, tmp_path):
    out = tmp_path / "map"
    shutil.copytree(five, out)
    with pytest.raises(InputError, match="no photos to add"):
        add_to_map(out, [])
    with pytest.raises(InputError, match="does not exist"):
        add_to_map(out, [tmp_path / "nowhere.jpg"])
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        shutil.copy(photos / "church" / "06.jpg", tmp_path / folder / "06.jpg")
    with pytest.raises(InputError, match=r"b/06\.jpg would have the name 06\.jpg .*rename it"):
        add_to_map(out, [tmp_path / "a", tmp_path / "b"])
    with Catalog.open(out / "features") as catalog:
        assert catalog.counts()["ok"] == 5
    with pytest.raises(DatabaseMissingError, match="build-map"):
        add_to_map(tmp_path / "nowhere", [photos])
    assert not (tmp_path / "nowhere").exists()


def test_a_photo_of_the_map_that_changed_is_refused(truth, photos, tmp_path):
    own, out = copy_photos(photos, tmp_path), tmp_path / "map"
    import_map(given_model(tmp_path, truth), own, out, extractor="sift", workers=1)
    with Image.open(own / "church" / "02.jpg") as image:
        image.rotate(180).save(own / "church" / "02.jpg")
    with pytest.raises(InputError, match=r"02\.jpg has changed since"):
        add_to_map(out, [own / "church" / "02.jpg"])
    with Catalog.open(out / "features") as catalog:
        ids = {row.id for row in catalog.images("ok")}
    assert ids == set(pycolmap.Reconstruction(out / "model").images)
