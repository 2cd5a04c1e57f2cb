"""360 degree photos of the rendered town find their place; maps, rigs and files know what they are."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pycolmap
import pytest
from PIL import Image

from index.catalog import Catalog
from locate.datasets.localization import find_scenes
from locate.errors import InputError
from locate.geometry.rigid import rotation_of
from locate.localization.pose import LOCALIZED, NOT_LOCALIZED
from locate.localization.rig import read_rigs
from locate.pixels import from_colmap
from pipelines.cli import exit_codes as exits
from pipelines.cli.main import main
from pipelines.localization.localizer import Localizer
from pipelines.mapping.add import add_to_map
from pipelines.mapping.features import leave_out_panoramas
from pipelines.mapping.import_model import import_map
from pipelines.reports.pose_pictures import draw_reprojections, inlier_projections
from tests.helpers.panoramas import (
    level_rotation,
    panorama_of_town,
    save_panorama,
    sphere_rays,
    xmp_of,
)
from tests.helpers.small_town import nees, queries_of, small_town

WIDTH = 3600
CHI_SQUARED = 20.0  # of six degrees of freedom, 99.7 % lie below
TAGS = {"FullPanoWidthPixels": WIDTH, "FullPanoHeightPixels": WIDTH // 2}


@pytest.fixture(scope="module")
def town_and_map(tmp_path_factory):
    return small_town(tmp_path_factory)


@pytest.fixture(scope="module")
def localizer(town_and_map):
    with Localizer(town_and_map[1], workers=1) as made:
        yield made


def on_a_sphere(photo, camera, rotation):
    """H x W x 3 uint8: what a panorama would see of a photo's scene, taken where the photo was, the rest
    grey. `rotation` is 3 x 3 photo_from_panorama."""
    rays = sphere_rays(WIDTH, WIDTH // 2) @ rotation.T
    ahead = rays[:, 2] > 0.1
    focal, cx, cy = camera.params
    at = np.full((len(rays), 2), -10.0)
    at[ahead] = focal * rays[ahead, :2] / rays[ahead, 2:] + (cx - 0.5, cy - 0.5)
    x, y = at.astype(np.float32).T.reshape(2, WIDTH // 2, WIDTH)
    grey = (128, 128, 128)
    mode = cv2.BORDER_CONSTANT
    return cv2.remap(photo, x, y, cv2.INTER_CUBIC, borderMode=mode, borderValue=grey)


TURNS = {  # vectors of rotations; the photo lies in the middle, on the seam tilted, and near a pole
    "ahead": (0.0, 0.1, 0.0),
    "seam": (0.0, 3.1, 0.25),
    "up": (1.2, 0.2, 0.1),
}


@pytest.fixture(scope="module")
def spheres(town_and_map, tmp_path_factory):
    """Panoramas by (query, turn) and their true poses; with XMP of a whole sphere."""
    folder = tmp_path_factory.mktemp("spheres")
    found = {}
    queries = queries_of(town_and_map[0])
    for name, turn in (("church", "seam"), ("church", "up"), ("town-hall", "ahead")):
        query = queries[name]
        rotation = rotation_of(np.array(TURNS[turn]))
        pixels = on_a_sphere(np.array(Image.open(query.path)), query.camera, rotation)
        xmp = xmp_of(ProjectionType="equirectangular", **TAGS)
        file = save_panorama(folder / f"{name}-{turn}.jpg", pixels, xmp)
        found[name, turn] = file, rotation.T @ query.truth
    return found


@pytest.fixture(scope="module")
def found(localizer, spheres):
    return {key: localizer.localize(file) for key, (file, _) in spheres.items()}


def check(pose, truth, degrees=0.5, metres=0.25):
    assert pose.verdict == LOCALIZED
    centre = -truth[:, :3].T @ truth[:, 3]
    assert np.linalg.norm(pose.center - centre) < metres
    turn = pose.cam_from_world[:, :3] @ truth[:, :3].T
    assert np.degrees(np.arccos(np.clip((np.trace(turn) - 1) / 2, -1, 1))) < degrees
    assert nees(pose, truth) < CHI_SQUARED


@pytest.mark.parametrize("key", [("church", "seam"), ("church", "up"), ("town-hall", "ahead")])
def test_a_panorama_finds_its_place(key, found, spheres):
    pose = found[key]
    check(pose, spheres[key][1])
    assert (pose.camera.model, pose.camera.source) == ("EQUIRECTANGULAR", "xmp")
    assert pose.camera.params == (WIDTH, WIDTH / 2)
    seen, projected = inlier_projections(pose)
    errors = np.linalg.norm(seen - projected, axis=1)
    assert len(seen) == len(pose.points)
    assert np.percentile(errors, 95) < 12
    if key != ("church", "up"):  # near a pole pixels are wider than at the equator
        assert pose.error == pytest.approx(np.sqrt((errors**2).mean()), rel=0.2)


def test_a_part_of_a_sphere_at_half_size(localizer, spheres, tmp_path):
    """Its pose is that of the whole, in whose pixels its points are; the picture shows the whole."""
    file, truth = spheres["church", "seam"]
    left, top, width, height = 2800, 400, 1600, 1000  # over the seam
    whole = np.roll(np.array(Image.open(file)), -left, axis=1)
    part = cv2.resize(whole[top : top + height, :width], (800, 500), interpolation=cv2.INTER_AREA)
    tags = TAGS | {"CroppedAreaLeftPixels": left, "CroppedAreaTopPixels": top}
    tags |= {"CroppedAreaImageWidthPixels": width, "CroppedAreaImageHeightPixels": height}
    xmp = xmp_of(ProjectionType="equirectangular", **tags)
    pose = localizer.localize(save_panorama(tmp_path / "part.jpg", part, xmp))
    check(pose, truth, degrees=1.5, metres=1.0)
    assert (pose.camera.width, pose.camera.height) == (WIDTH, WIDTH // 2)
    shown = draw_reprojections(pose)
    assert shown.shape[1] == 1600
    right = shown[
        64 + 200 : 64 + 500, 1250:1590
    ]  # the photo: bright; what it does not show is black
    assert right.mean() > 60
    assert shown[64 + 300 : 64 + 500, 600:900].mean() < 5


def test_a_mask_hides_a_part_of_the_sphere(town_and_map, spheres, found, tmp_path):
    """All that is left of the seam; and then there is not enough."""
    file, _ = spheres["church", "seam"]
    kept = np.full((450, 900), 255, np.uint8)
    kept[:, :450] = 0
    Image.fromarray(kept).save(tmp_path / "mask.png")
    with Localizer(town_and_map[1], workers=1, masks=tmp_path / "mask.png") as masked:
        pose = masked.localize(file)
    assert pose.matches < found["church", "seam"].matches
    assert (pose.points[:, 0] > WIDTH / 2).all()


def test_given_instead_of_tagged(localizer, spheres, found, tmp_path):
    file, truth = spheres["church", "seam"]
    pose = localizer.localize(np.array(Image.open(file)), "EQUIRECTANGULAR")
    check(pose, truth)
    assert pose.camera.source == "given"
    np.testing.assert_allclose(
        pose.cam_from_world, found["church", "seam"].cam_from_world, atol=0.05
    )
    bare = tmp_path / "bare.jpg"
    with Image.open(file) as image:
        image.save(bare, quality=95)
    ordinary = localizer.localize(bare)
    assert ordinary.verdict != LOCALIZED
    assert ordinary.reason.endswith("360 degree photo, say --camera EQUIRECTANGULAR")


def test_another_place_and_an_empty_sphere(localizer, town_and_map, tmp_path):
    query = sorted((town_and_map[0].root / "queries").glob("elsewhere-1.jpg"))[0]
    camera = next(iter(queries_of(town_and_map[0]).values())).camera
    photo = np.array(Image.open(query))
    pose = localizer.localize(on_a_sphere(photo, camera, np.eye(3)), "EQUIRECTANGULAR")
    assert pose.verdict == NOT_LOCALIZED
    blank = np.full((400, 800, 3), 128, np.uint8)
    pose = localizer.localize(blank, "EQUIRECTANGULAR")
    assert (pose.verdict, pose.reason[:25]) == (NOT_LOCALIZED, "no features were found: a")


def test_a_rendered_panorama(localizer):
    """All six faces of the cube, taken anew, level and turned to the north-west."""
    pixels, truth = panorama_of_town(
        "town-hall", level_rotation(300.0, roll=2.0), 2000, whole=False
    )
    check(localizer.localize(pixels, "EQUIRECTANGULAR"), truth, metres=0.4)


# --- on the command line and in files


def test_the_command_and_its_files(town_and_map, spheres, tmp_path, capsys):
    file, truth = spheres["church", "seam"]
    base = ["localize", str(file), "--map", str(town_and_map[1])]
    outs = ["--out", str(tmp_path / "c"), "--format", "colmap", "--show", str(tmp_path / "p.html")]
    assert main([*base, "--json", *outs, "--save-matches", str(tmp_path / "m")]) == 0
    record = json.loads(capsys.readouterr().out)["poses"][0]
    assert record["camera"]["model"] == "EQUIRECTANGULAR"
    model = pycolmap.Reconstruction()
    model.read_text(tmp_path / "c")
    image = next(iter(model.images.values()))
    np.testing.assert_allclose(image.cam_from_world().matrix(), truth, atol=0.3)
    assert image.camera.model_name == "EQUIRECTANGULAR"
    assert "church-seam" in (tmp_path / "p.html").read_text()
    assert len(list((tmp_path / "m").iterdir())) == 1
    kapture = tmp_path / "k"
    assert main([*base, "--out", str(kapture), "--format", "kapture"]) == 0
    sensors = (kapture / "sensors/sensors.txt").read_text()
    assert f"camera, UNKNOWN_CAMERA, {WIDTH}, {WIDTH // 2}\n" in sensors
    capsys.readouterr()
    wrong = ["--camera", "EQUIRECTANGULAR,4000,2000"]
    assert main([*base, *wrong]) == exits.ERROR
    assert f"is {WIDTH} x {WIDTH // 2} px, but its camera is" in " ".join(
        capsys.readouterr().out.split()
    )


def test_marks_on_the_seam_are_drawn_on_both_sides(found):
    pose = found["church", "seam"]
    x = pose.points[:, 0]
    assert (x < WIDTH / 4).any()
    assert (x > WIDTH * 3 / 4).any()
    seen, projected = inlier_projections(pose)
    assert np.abs(seen[:, 0] - projected[:, 0]).max() < WIDTH / 2
    camera = pycolmap.Camera(
        model="EQUIRECTANGULAR", width=WIDTH, height=WIDTH // 2, params=[WIDTH, WIDTH / 2]
    )
    in_cam = pose.world_points @ pose.cam_from_world[:, :3].T + pose.cam_from_world[:, 3]
    direct = from_colmap(np.asarray(camera.img_from_cam(in_cam)))
    np.testing.assert_allclose(np.mod(projected - direct + 1, [WIDTH, 9]), 1, atol=1e-6)


# --- where they do not belong


def test_a_model_of_panoramas_is_refused(town_and_map, tmp_path):
    root = town_and_map[0].root
    text = (root / "colmap/cameras.txt").read_text().splitlines()
    sizes = [line for line in text if line and not line.startswith("#")]
    number, _, width, height, *_ = sizes[0].split()
    (tmp_path / "m").mkdir()
    for name in ("images.txt", "points3D.txt"):
        (tmp_path / "m" / name).write_bytes((root / "colmap" / name).read_bytes())
    sphere = f"{number} EQUIRECTANGULAR {width} {height} {width} {height}"
    (tmp_path / "m/cameras.txt").write_text("\n".join([sphere, *sizes[1:]]) + "\n")
    says = (
        r"of the \d+ photos of .* are 360 degree photos .*church/0.*cut them into perspective views"
    )
    with pytest.raises(InputError, match=says):
        import_map(tmp_path / "m", root / "landmarks", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_scene_of_panoramas_is_refused(tmp_path, photo_factory):
    """As a map of an evaluation; as queries they are welcome."""
    for name in ("a.jpg", "b.jpg"):
        photo_factory(tmp_path / name, size=(400, 200))
    (tmp_path / "cameras.txt").write_text(
        "1 EQUIRECTANGULAR 400 200 400 200\n2 SIMPLE_PINHOLE 400 200 300 200 100\n"
    )
    (tmp_path / "images.txt").write_text("1 1 0 0 0 0 0 0 1 a.jpg\n\n2 1 0 0 0 1 0 0 2 b.jpg\n\n")
    with pytest.raises(InputError, match=r"1 of the 2 photos .* are 360 degree photos .*: a\.jpg;"):
        find_scenes(tmp_path)
    (tmp_path / "queries.txt").write_text("a.jpg\n")
    scene = find_scenes(tmp_path)[0]
    assert scene.queries == {"a.jpg"}


def test_a_map_leaves_panoramas_out(town_and_map, spheres, tmp_path):
    """Those that are tagged, and says why; the rest goes on."""
    import shutil

    map_ = tmp_path / "map"
    shutil.copytree(town_and_map[1], map_)
    folder = tmp_path / "new"
    folder.mkdir()
    shutil.copy(spheres["church", "seam"][0], folder / "sphere.jpg")
    shutil.copy(town_and_map[0].root / "queries/church.jpg", folder / "plain.jpg")
    report = add_to_map(map_, [folder], workers=1)
    reasons = dict(report.unregistered)
    assert "sphere.jpg" in reasons
    assert "is a panorama (XMP GPano:ProjectionType is equirectangular)" in reasons["sphere.jpg"]
    assert "plain.jpg" not in reasons
    with Catalog.create(map_ / "features") as catalog:
        before = len(catalog.images("ok"))
        leave_out_panoramas(catalog)
        assert len(catalog.images("ok")) == before


def test_a_rig_refuses_them(tmp_path, localizer, spheres):
    config = tmp_path / "rig.json"
    camera = {"image_prefix": "a/", "ref_sensor": True, "camera_model_name": "EQUIRECTANGULAR"}
    config.write_text(json.dumps([{"cameras": [{**camera, "camera_params": [4000, 2000]}]}]))
    with pytest.raises(InputError, match=r"rig cannot hold 360 degree photos .*without --rig"):
        read_rigs(config)
    from locate.localization.rig import Rig, RigCamera
    from pipelines.localization.rig_localizer import localize_rig

    rig = Rig((RigCamera("a/", np.eye(4)[:3]),))
    with pytest.raises(InputError, match=r"is a 360 degree photo, which a rig cannot hold"):
        localize_rig(localizer, [Path(spheres["church", "seam"][0])], rig)
