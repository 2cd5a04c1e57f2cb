"""The commands about maps, from the command line: what they print, write and return."""

from __future__ import annotations

import io
import json
import re
import shutil

import numpy as np
import pycolmap
import pytest
from PIL import Image

from index.maps.folder import MapFolder, MapRecord
from locate.extractors import registry
from locate.formats.trajectories import read_poses
from locate.geometry.rigid import invert
from locate.georef.georef import Georef
from locate.images import reading as images
from pipelines.cli import exit_codes
from pipelines.cli.main import main
from pipelines.indexing.build import build_index
from pipelines.localization import localizer as localize
from pipelines.localization import matcher
from tests.helpers.small_town import errors, queries_of, small_town


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    return small_town(tmp_path_factory)


@pytest.fixture(scope="module")
def placed(town, tmp_path_factory):
    """The town's map, which knows by the GPS of its photos where on earth it is."""
    folder = tmp_path_factory.mktemp("placed") / "town.map"
    shutil.copytree(town[1], folder)
    assert main(["georef", "--map", str(folder)]) == exit_codes.OK
    return folder


@pytest.fixture(scope="module")
def extractor():
    return registry.create("gem+sift")


@pytest.fixture(autouse=True)
def loaded(monkeypatch, request):
    """The networks are loaded once for all calls."""
    if "town" in request.fixturenames or "placed" in request.fixturenames:
        made = request.getfixturevalue("extractor")
        monkeypatch.setattr(matcher, "load_extractor", lambda _: made)


@pytest.fixture(scope="module")
def queries(town):
    return queries_of(town[0])


@pytest.fixture
def ask(placed, queries, capsys):
    """ask(photos, *options) -> (exit code, standard output, standard error). A photo is a name among the
    queries or a path."""

    def run(photos, *options):
        named = [queries[p].path if p in queries else p for p in photos]
        words = [*map(str, named), "--map", str(placed), "--workers", "1", *map(str, options)]
        capsys.readouterr()
        code = main(["localize", *words])
        out = capsys.readouterr()
        return code, out.out, out.err

    return run


def parsed(text):
    """JSON as the standard has it: without NaN."""

    def refuse(word):
        raise AssertionError(f"{word} is no JSON")

    return json.loads(text, parse_constant=refuse)


def elsewhere(town):
    return town[0].root / "queries" / "elsewhere-1.jpg"


def uncertain(monkeypatch):
    monkeypatch.setattr("locate.localization.verdict.SURE_FACTOR", 1e3)


# --- wrong usage


@pytest.mark.parametrize(
    "words",
    [
        ["localize", "a.jpg"],
        ["localize", "--map", "m"],
        ["localize", "a.jpg", "--map", "m", "--format", "magic"],
        ["localize", "a.jpg", "--map", "m", "--workers", "0"],
        ["localize", "a.jpg", "--map", "m", "--workers", "-1"],
        ["localize", "a.jpg", "--map", "m", "--candidates", "0"],
        ["localize", "a.jpg", "--map", "m", "--seed", "-1"],
        ["localize", "a.jpg", "--map", "m", "--seed", "x"],
        ["build-map", "--images", "a"],
        ["build-map", "--images", "a", "--out", "m", "--workers", "-1"],
        ["import-map", "model", "--out", "m"],
        ["add-to-map", "a.jpg", "--map", "m", "--seed", "-2"],
    ],
)
def test_wrong_usage(words, capsys):
    assert main(words) == exit_codes.ERROR
    said = capsys.readouterr().err
    assert said.startswith(f"locate {words[0]}: ")
    assert len(said.splitlines()) == 1


def test_errors_say_what_to_do(ask, town, tmp_path, capsys):
    photo = str(queries_of(town[0])["church"].path)
    for words, says in (
        (["localize", photo, "--map", "nowhere"], "no finished map at nowhere; make one with"),
        (["add-to-map", photo, "--map", "nowhere"], "no finished map at nowhere"),
        (["georef", "--map", "nowhere"], "no finished map at nowhere"),
        (["build-map", "--images", "nowhere", "--out", "m"], "nowhere does not exist"),
        (["import-map", "nowhere", "--images", photo, "--out", "m"], "no COLMAP model"),
    ):
        assert main(words) == exit_codes.ERROR
        assert says in capsys.readouterr().err
    cameras = tmp_path / "cameras.txt"
    cameras.write_text("1 PINHOLE 800 600 700 700 400 300\n")
    for options, says in (
        (["--camera", "nonsense"], "'nonsense' is no camera; give f=PIXELS, MODEL,PARAMS"),
        (["--camera", "f=0"], "a focal length in pixels is a positive number, got 'f=0'"),
        (["--prior-pose", "1,2,3"], "--prior-pose is X,Y,Z,RADIUS, not '1,2,3'"),
        (["--prior-pose", "1,2,3,-4"], "a prior needs a positive radius"),
        (["--prior-pose", "nan,2,3,4"], "a prior position is 3 finite numbers"),
    ):
        code, out, err = ask(["church"], *options)
        assert (code, out) == (exit_codes.ERROR, "")
        assert says in err
    code, out, _ = ask(["church"], "--camera", cameras)
    assert code == exit_codes.ERROR
    assert "is 640 x 480 px, but its camera is 800 x 600" in out
    (tmp_path / "empty").mkdir()
    code, _, err = ask([tmp_path / "empty"])
    assert (code, "no photo found" in err) == (exit_codes.NOTHING_DONE, True)


# --- answers


def test_one_photo_in_full(ask, queries, placed):
    query = queries["church"]
    f, cx, cy = query.camera.params
    code, out, _ = ask(["church"], "--camera", f"SIMPLE_PINHOLE,{f},{cx},{cy}")
    assert code == exit_codes.OK
    assert re.match(r"localized .*church\.jpg: \d+ of \d+ 2D-3D matches", out)
    lines = dict(line.split("  ", 1) for line in out.splitlines()[1:])
    center = np.array([float(v) for v in re.findall(r"-?\d+\.\d{4}", lines["centre"])])
    truth = -query.truth[:, :3].T @ query.truth[:, 3]
    assert np.linalg.norm(center - truth) < 0.1  # metres
    assert re.search(r"\+- [\d.]+ m, \+- [\d.]+ degrees", lines["centre"])
    values = [float(v) for v in re.findall(r"-?\d+\.\d{4,6}", lines["cam_from_world"])]
    w, x, y, z = values[:4]
    turn = pycolmap.Rotation3d(np.array([x, y, z, w])).matrix()
    np.testing.assert_allclose(turn, query.truth[:, :3], atol=2e-3)
    np.testing.assert_allclose(values[4:], query.truth[:, 3], atol=0.3)
    assert "SIMPLE_PINHOLE 622.222, 320, 240 (given)" in lines["camera"]
    assert re.search(r"\d+ of \d+ matches, over \d+ % of the photo, \d\.\d+ px", lines["evidence"])
    # On earth: the photo's own GPS, which nothing has read.
    with Image.open(query.path) as image:
        gps = image.getexif().get_ifd(0x8825)
    place = [sum(float(v) / 60**k for k, v in enumerate(gps[tag])) for tag in (2, 4)]
    told = [float(v) for v in re.findall(r"\d+\.\d{7}", lines["on earth"])]
    np.testing.assert_allclose(told, place, atol=3e-6)  # degrees: a third of a metre
    heading = float(re.search(r"looks to ([\d.]+) degrees", lines["on earth"])[1])
    east, north, _ = query.truth[2, :3]
    assert heading == pytest.approx(np.degrees(np.arctan2(east, north)) % 360, abs=1)


def test_an_altitude_that_nobody_knows_is_not_told(ask, placed, town):
    assert " m; looks to" in ask(["church"])[1]
    folder = MapFolder(placed)
    record = folder.read_record()
    try:
        flat = record.georef | {"vertical": "none"}
        folder.write_record(MapRecord(**(vars(record) | {"georef": flat})))
        out = ask(["church"])[1]
    finally:
        folder.write_record(record)
    assert re.search(r"on earth +[\d.]+, [\d.]+; looks to", out)


def test_by_a_map_that_is_uncertain_nothing_is_localized(ask, placed):
    folder = MapFolder(placed)
    record = folder.read_record()
    try:
        folder.write_record(MapRecord(**(vars(record) | {"doubt": "nobody moved"})))
        code, out, _ = ask(["church"], "--json")
    finally:
        folder.write_record(record)
    (pose,) = parsed(out)["poses"]
    assert (code, pose["verdict"]) == (exit_codes.UNCERTAIN, "uncertain")
    assert pose["reason"].endswith("agree with one pose; but the map is uncertain: nobody moved")
    assert pose["center"] is not None


def test_several_photos_are_a_table(ask, town):
    code, out, _ = ask(["church", "town-hall", elsewhere(town)])
    assert code == exit_codes.NO_MATCH
    head, *rows = [line.split() for line in out.splitlines() if line.strip(" ─━-")]
    assert head[:5] == ["photo", "verdict", "x", "y", "z"]
    assert "latitude" in head
    text = " ".join(word for row in rows for word in row)
    assert "2 localized, 1 not localized; " in out
    assert re.search(r"\d+\.\d\d s a photo", out)
    assert re.search(r"48\.00\d{5}", text)


def test_a_folder_and_photos_that_cannot_be_read(ask, queries, tmp_path):
    for name in ("church", "town-hall"):
        shutil.copy(queries[name].path, tmp_path)
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    code, out, _ = ask([tmp_path])
    assert code == exit_codes.SOME_FAILED
    flat = " ".join(out.split())
    assert re.search(r"failed \S*broken\.jpg: is damaged", flat)
    assert "2 localized, 1 failed; " in flat
    code, out, _ = ask([tmp_path / "broken.jpg"])
    assert (code, "1 failed" in out.splitlines()) == (exit_codes.ERROR, True)
    code, out, _ = ask([tmp_path / "broken.jpg", tmp_path / "missing.jpg"])
    assert (code, "2 failed" in out) == (exit_codes.NOTHING_DONE, True)


def test_json_is_complete(ask, queries, town, tmp_path):
    (tmp_path / "text.jpg").write_text("no photo")
    code, out, _ = ask(["church", elsewhere(town), tmp_path / "text.jpg"], "--json")
    assert code == exit_codes.SOME_FAILED
    values = parsed(out)
    (failed,) = values["failed"]
    assert failed["photo"].endswith("text.jpg")
    assert "is text" in failed["reason"]
    church, other = values["poses"]
    assert church["photo"] == str(queries["church"].path)
    assert (church["verdict"], other["verdict"]) == ("localized", "not localized")
    assert other["cam_from_world"] is other["covariance"] is other["camera"] is None
    assert other["wgs84"] is other["enu"] is None
    assert other["reason"]
    w, x, y, z = church["cam_from_world"]["quaternion_wxyz"]
    turn = pycolmap.Rotation3d(np.array([x, y, z, w])).matrix()
    np.testing.assert_allclose(
        -turn.T @ church["cam_from_world"]["translation"], church["center"], atol=1e-9
    )
    assert np.shape(church["covariance"]) == (6, 6)
    assert church["inlier_ratio"] == church["inliers"] / church["matches"]
    assert {"decode", "extract", "match", "pose", "total"} <= set(church["seconds"])
    assert church["images"][0].startswith("church/")
    assert values["georef"]["origin"]
    assert church["wgs84"]["latitude"] == pytest.approx(48, abs=0.01)


def test_exit_codes(ask, queries, town, monkeypatch, tmp_path):
    assert ask(["church"])[0] == exit_codes.OK
    assert ask(["church", "town-hall"])[0] == exit_codes.OK
    code, out, _ = ask([elsewhere(town)])
    assert code == exit_codes.NO_MATCH
    assert out.startswith("not localized")
    assert "centre" not in out
    uncertain(monkeypatch)
    code, out, _ = ask(["church"])
    assert (code, out.split()[0]) == (exit_codes.UNCERTAIN, "uncertain")
    assert ask(["church", elsewhere(town)])[0] == exit_codes.NO_MATCH  # the weakest answer speaks


def test_from_standard_input_and_what_was_passed_over(ask, queries, tmp_path, monkeypatch):
    photo = queries["church"].path
    with photo.open("rb") as file:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(file))
        monkeypatch.setattr(images, "_held", {})
        code, out, _ = ask(["-"], "--save-matches", tmp_path / "p")
        assert (code, out.split(":")[0]) == (exit_codes.OK, "localized -")
    assert [drawn.name for drawn in (tmp_path / "p").iterdir()] == ["001--standard-input.jpg"]
    (tmp_path / "photos").mkdir()
    for name in ("a.jpg", "b.CR3"):
        shutil.copy(photo, tmp_path / "photos" / name)
    code, out, _ = ask([tmp_path / "photos"])
    assert code == exit_codes.SOME_FAILED
    assert "left out 1 file .cr3 (b.CR3): raw photos are not read" in out
    code, out, _ = ask([tmp_path / "photos"], "--json")
    assert [group["ending"] for group in json.loads(out)["left_out"]] == [".cr3"]


def test_a_prior_pose(ask, queries):
    truth = queries["church"].truth
    x, y, z = -truth[:, :3].T @ truth[:, 3]
    assert ask(["church"], "--prior-pose", f"{x},{y},{z},40")[0] == exit_codes.OK
    code, out, _ = ask(["church"], f"--prior-pose=-5000,{y},{z},40")
    assert code == exit_codes.NO_MATCH
    assert "no image of the map is near the prior pose" in out


def test_gravity_agrees_with_the_photo_or_makes_it_uncertain(ask, queries, placed, tmp_path):
    georef = Georef.from_json(MapFolder(placed).read_record().georef)
    up = queries["church"].truth[:, :3] @ georef.rotation[2]
    x, y, z = 9.81 * up  # an accelerometer at rest; the length does not matter
    assert ask(["church"], "--gravity", f"{x},{y},{z},0.5")[0] == exit_codes.OK
    code, out, _ = ask(["church"], f"--gravity={-x},{-y},{-z}")
    assert code == exit_codes.UNCERTAIN
    assert "direction of up" in out
    for wrong in ("1,2", "0,0,0", "1,2,3,400", "up"):
        code, _, err = ask(["church"], "--gravity", wrong)
        assert code == exit_codes.ERROR
        assert "--gravity is X,Y,Z" in err


def test_the_seed_and_candidates_reach_the_localizer(ask, monkeypatch):
    calls = []
    original = localize.Localizer.localize

    def spy(self, photo, camera=None, **options):
        calls.append(options)
        return original(self, photo, camera, **options)

    monkeypatch.setattr(localize.Localizer, "localize", spy)
    assert ask(["church"], "--seed", "3", "--candidates", "4")[0] == exit_codes.OK
    assert (calls[0]["seed"], calls[0]["candidates"]) == (3, 4)


# --- files


def test_every_form_of_file(ask, queries, placed, tmp_path, monkeypatch):
    """Each read back gives the pose that was found, in the direction of the form."""
    names = ["church", "town-hall"]
    with localize.Localizer(placed, workers=1) as localizer:
        poses = [localizer.localize(queries[name].path) for name in names]
    monkeypatch.setattr(localize.Localizer, "localize_many", lambda *_, **__: iter(poses))
    found = {pose.photo.name: pose.cam_from_world for pose in poses}
    for name, pose in zip(names, poses, strict=True):
        assert errors(pose, queries[name].truth)[1] < 0.2
    for form, file, more in (
        ("hloc", "poses.txt", ["--format", "hloc"]),
        ("colmap", "model", ["--format", "colmap"]),
        ("tum", "poses.tum", ["--numbered"]),
        ("kitti", "poses.kitti", []),
    ):
        out = tmp_path / "new" / file
        code, said, _ = ask(names, "--out", out, *more)
        assert code == exit_codes.OK
        assert f"wrote 2 poses to {out} ({form})" in said
        read = list(read_poses(out, form).values())
        for pose, expected in zip(read, found.values(), strict=True):
            np.testing.assert_allclose(pose, expected, atol=1e-9)
    first = (tmp_path / "new" / "poses.kitti").read_text().splitlines()
    row = np.array([float(v) for v in next(r for r in first if r[0] != "#").split()])
    np.testing.assert_allclose(row.reshape(3, 4), invert(found["church.jpg"]), atol=1e-9)
    ask(names, "--out", tmp_path / "poses.json")
    assert len(parsed((tmp_path / "poses.json").read_text())["poses"]) == 2
    ask(names, "--out", tmp_path / "poses.unknown")
    assert parsed((tmp_path / "poses.unknown").read_text())["poses"]
    ask(names, "--out", tmp_path / "k", "--format", "kapture")
    assert "church.jpg" in (tmp_path / "k" / "sensors" / "records_camera.txt").read_text()
    ask(names, "--out", tmp_path / "p.geojson")
    points = parsed((tmp_path / "p.geojson").read_text())["features"]
    longitude, latitude = points[0]["geometry"]["coordinates"][:2]
    assert (round(longitude), round(latitude)) == (9, 48)
    ask(names, "--out", tmp_path / "p.kml")
    assert (tmp_path / "p.kml").read_text().count("<Placemark>") == 2
    ask(names, "--out", tmp_path / "e.txt", "--format", "hloc", "--frame", "enu")
    assert "East-North-Up" in (tmp_path / "e.txt").read_text()


def test_uncertain_poses_are_written_on_demand(ask, tmp_path, monkeypatch):
    uncertain(monkeypatch)
    for more, count in (([], 0), (["--uncertain"], 1)):
        out = tmp_path / f"{count}.txt"
        assert f"wrote {count} poses" in ask(["church"], "--out", out, "--format", "hloc", *more)[1]
        assert len([r for r in out.read_text().splitlines() if r[0] != "#"]) == count


def test_a_file_that_cannot_be_written_does_not_cost_the_answer(ask, town, tmp_path):
    code, out, err = ask(["church"], "--out", tmp_path / "p.tum")  # no timestamps in the names
    assert code == exit_codes.ERROR
    assert out.startswith("localized")
    assert "number them" in err
    code, out, err = ask(["church"], "--out", tmp_path / "p.tum", "--json")
    assert (code, len(parsed(out)["poses"])) == (exit_codes.ERROR, 1)
    assert (
        main(
            [
                "localize",
                str(elsewhere(town)),
                "--map",
                str(town[1]),
                "--out",
                str(tmp_path / "p.kml"),
            ]
        )
        == exit_codes.ERROR
    )  # this map does not know where on earth it is


def test_a_page_and_pictures(ask, town, tmp_path):
    page, pictures = tmp_path / "pose.html", tmp_path / "a" / "pictures"
    code, out, _ = ask(
        ["church", elsewhere(town)], "--show", page, "--save-matches", pictures, "--json"
    )
    assert code == exit_codes.NO_MATCH
    assert len(parsed(out)["poses"]) == 2  # nothing else is printed
    text = page.read_text()
    assert text.lstrip().startswith("<!")
    assert "church.jpg" in text
    files = sorted(file.name for file in pictures.iterdir())
    assert files == ["001--church.jpg", "002--elsewhere-1.jpg"]
    for file in pictures.iterdir():
        with Image.open(file) as image:
            assert min(image.size) >= 480


# --- maps


def test_build_from_an_index_add_and_localize(town, tmp_path, capsys, monkeypatch):
    """Neither the index nor the photos are needed once the map is made."""
    root, query = town[0].root, queries_of(town[0])["church"]
    photos, out = tmp_path / "photos", tmp_path / "church.map"
    shutil.copytree(root / "landmarks" / "church", photos)
    build_index(photos, tmp_path / "index", extractor="sift", workers=1)
    words = ["build-map", "--index", str(tmp_path / "index"), "--out", str(out), "--workers", "1"]
    assert main(words) == exit_codes.OK
    told = capsys.readouterr().out
    assert re.search(r"church\.map: 5 of 5 photos registered, \d+ points \(features ", told)
    assert re.search(r"seen by \d\.\d photos, reprojection error 0\.\d\d px", told)
    assert main([*words, "--json"]) == exit_codes.OK
    report = parsed(capsys.readouterr().out)
    assert (report["registered"], report["seconds"], report["map"]) == (5, {}, str(out))
    shutil.rmtree(photos)
    shutil.rmtree(tmp_path / "index")
    monkeypatch.setattr(matcher, "load_extractor", lambda _: registry.create("sift"))
    assert main(["localize", str(query.path), "--map", str(out), "--json"]) == exit_codes.OK
    (pose,) = parsed(capsys.readouterr().out)["poses"]
    assert (pose["verdict"], pose["camera"]["source"]) == ("localized", "map")
    assert main(["localize", str(query.path), "--map", str(out)]) == exit_codes.OK
    assert not re.search(r"\+- [\d.e-]+ m,", capsys.readouterr().out)  # the map has no metres
    shutil.copy(query.path, tmp_path / "06.jpg")
    (tmp_path / "noise.png").write_bytes(b"no photo")
    add = ["add-to-map", str(tmp_path / "06.jpg"), "--map", str(out), "--workers", "1"]
    assert main(add) == exit_codes.OK
    told = capsys.readouterr().out
    assert "6 of 6 photos registered" in told
    assert "06.jpg: verified with 5 photos of the map" in told
    assert (
        main([*add[:2], str(tmp_path / "noise.png"), *add[2:], "--json"]) == exit_codes.SOME_FAILED
    )
    report = parsed(capsys.readouterr().out)
    assert [name for name, _ in report["unregistered"]] == ["noise.png"]


def test_import_and_georef(town, placed, tmp_path, capsys):
    root, out = town[0].root, tmp_path / "town.map"
    shutil.copytree(town[1], out)
    words = ["import-map", str(root / "colmap"), "--images", str(root / "landmarks"), "--out"]
    assert main([*words, str(out), "--metric", "--workers", "1"]) == exit_codes.OK
    assert "10 of 10 photos registered" in (told := " ".join(capsys.readouterr().out.split()))
    assert "(nothing to do)" in told
    before = MapFolder(out).read_record()
    assert main(["georef", "--map", str(out), "--json"]) == exit_codes.OK
    found = parsed(capsys.readouterr().out)
    assert found["source"] == "gps"
    assert found["scale"] == pytest.approx(1, abs=1e-3)
    assert found.pop("warnings") == []
    after = MapFolder(out).read_record()
    assert (after.systematic, after.units, after.summary) == (
        before.systematic, "metre", before.summary
    )  # fmt: skip
    assert after.georef == found
    centers = tmp_path / "centers.csv"
    rows = [",".join(map(str, (s.file.removeprefix("landmarks/"), *(2 * s.centre))))
            for s in town[0].shots if s.file.startswith("landmarks/")]  # fmt: skip
    main(["georef", "--help"])
    (header,) = re.findall(r"--centers CSV\s+(\S+) in metres", capsys.readouterr().out)
    centers.write_text(f"{header}\n" + "\n".join(rows) + "\n")
    assert main(["georef", "--map", str(out), "--centers", str(centers)]) == exit_codes.OK
    told = " ".join(capsys.readouterr().out.split())
    assert "1 unit of the map is 2 m; metres, north and up; no place on the earth" in told
    assert "10 of 10 agree" in told
    assert "warning the map was imported as metric (--metric), but by the centres 1 unit" in told
    assert main(["georef", "--map", str(out), "--centers", str(centers), "--json"]) == exit_codes.OK
    (warning,) = parsed(capsys.readouterr().out)["warnings"]
    assert "1 unit of it is 2 m: one of the two is wrong" in warning
    for options, says in (
        (["--origin", "1,2,3"], "--origin says where the metres of --centers begin"),
        (["--centers", str(centers), "--origin", "1,2"], "--origin is LAT,LON,ALT"),
        (["--control-points", str(centers)], "belong together"),
        (["--gps", "a", "--centers", "b"], "by gps, centers or control points; give one"),
        (["--centers", "nowhere.csv"], "nowhere.csv does not exist"),
    ):
        assert main(["georef", "--map", str(out), *options]) == exit_codes.ERROR
        assert says in capsys.readouterr().err
    assert MapFolder(out).read_record().georef["scale"] == pytest.approx(2)
