"""The town is a ground truth, so it is held to arithmetic done by hand, not to its own code."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from pipelines.town.files import CONVENTION, ORIGIN, geodetic
from pipelines.town.model import Camera, Face, Light, Paint, Sky, mipmaps
from pipelines.town.render import Rendering, render
from pipelines.town.scene import Site, build_site, horizon, meadow
from pipelines.town.town import Town, make_town
from pipelines.town.view import camera_at, photograph_one, plan_view

SMALL = (160, 120)


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Town:
    """One landmark, two views, small."""
    out = tmp_path_factory.mktemp("town") / "small"
    return make_town(out, landmarks=1, views=2, size=SMALL)


@pytest.fixture(scope="module")
def places() -> dict[str, Site]:
    return {name: build_site(0, name) for name in ("town-hall", "villa")}


@pytest.fixture(scope="module")
def pictures(places: dict[str, Site]) -> dict[tuple[str, int], tuple[Camera, Rendering]]:
    """Neighbouring views at full size."""
    sky, ground = horizon(0), meadow(0)
    faces = [ground, *(f for p in places.values() for f in p.faces)]
    wanted = [("town-hall", 1), ("town-hall", 2), ("villa", 1), ("villa", 2)]
    return {
        (name, i): photograph_one(faces, places[name], sky, 0, i, 6, (800, 600))
        for name, i in wanted
    }


def rotation(q: np.ndarray) -> np.ndarray:
    """(w, x, y, z) to (3, 3), the textbook formula: a second opinion on town.quaternion."""
    w, x, y, z = q
    return np.array([
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ])  # fmt: skip


# ------------------------------------------------------------------------------- the renderer


def depth_of(picture: Rendering) -> np.ndarray:
    """(h, w) z in the camera frame at the pixel centres, metres, inf for sky.

    No sub-pixel lies on a pixel centre, so of the four around it the second nearest names the
    face (it covers half of the pixel or more) and its plane is evaluated at the centre itself.
    """
    h, w = picture.image.shape[:2]
    four, names = (
        part.reshape(h, 2, w, 2).transpose(0, 2, 1, 3).reshape(h, w, 4)
        for part in (picture.inverse, picture.owner)
    )
    second = np.argsort(-four, axis=-1, kind="stable")[..., 1:2]
    name = np.take_along_axis(names, second, axis=-1)[..., 0]
    plane = picture.planes[name]
    # pixel x of the small picture is 2 x + 1/2 of the large one
    x, y = np.arange(w) * 2 + 0.5, np.arange(h) * 2 + 0.5
    inv = plane[..., 0] * x[None, :] + plane[..., 1] * y[:, None] + plane[..., 2]
    with np.errstate(divide="ignore"):
        return np.where((name > 0) & (inv > 0), 1.0 / inv, np.inf)


NEUTRAL = Light(
    sun=np.array([0.0, 0.0, 1.0]),
    sun_rgb=np.zeros(3),
    ambient_rgb=np.ones(3),
    zenith_rgb=np.full(3, 0.5),
    horizon_rgb=np.full(3, 0.5),
    haze_m=1e9,
    grain=0.0,
)
EMPTY = Sky(np.zeros((4, 8), np.float32), np.full((1, 8), -1, np.float32), np.zeros((1, 3)))


def checkerboard(cells: int, cell_m: float, per_cell: int) -> Face:
    """An upright board in the plane y = 0, lower left corner at the origin, facing -y."""
    n = cells * per_cell
    i = np.arange(n) // per_cell
    px = np.zeros((n, n, 4), np.uint8)
    px[..., :3] = np.where((i[:, None] + i[None]) % 2, 235, 20)[..., None]
    side, step = cells * cell_m, cell_m / per_cell
    points = np.array([(0, 0, 0), (side, 0, 0), (side, 0, side), (0, 0, side)], float)
    corner = np.array([0, 0, side])
    paint = Paint(mipmaps(px), corner, np.array([step, 0.0, 0.0]), np.array([0.0, 0.0, -step]))
    return Face(points, paint)


@pytest.mark.parametrize("per_cell", [16, 63, 256])
@pytest.mark.parametrize("eye", [(1.1, -4.0, 1.3), (3.2, -3.5, 2.1), (-0.6, -6.0, 0.2)])
def test_convention_pixel_centres_on_a_checkerboard(
    eye: tuple[float, float, float], per_cell: int
) -> None:
    """Corners found in the picture are where K (R X + t) says: a half-pixel slip is 0.25 or more.

    Coarse, odd and much minified textures: magnification, mip levels and supersampling alike.
    """
    camera = camera_at(np.array(eye), np.array([1.0, 0.0, 1.05]), 0.05, 330.0, (320, 240))
    board = checkerboard(8, 0.25, per_cell)
    picture = render([board], camera, NEUTRAL, EMPTY, np.random.default_rng(0), focus=np.zeros(3))
    inner = np.array([(0.25 * i, 0.0, 0.25 * j) for i in range(1, 8) for j in range(1, 8)])
    k = np.array([[330.0, 0, 159.5], [0, 330.0, 119.5], [0, 0, 1]])
    x = (camera.rotation @ inner.T).T + camera.translation
    expected = (x @ k.T)[:, :2] / x[:, 2:]
    inside = ((expected > 12) & (expected < (307, 227))).all(axis=1)
    expected = expected[inside]
    assert len(expected) >= 20
    gray = cv2.cvtColor(picture.image, cv2.COLOR_RGB2GRAY)
    start = np.ascontiguousarray(np.rint(expected)[:, None], np.float32)
    criteria = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 60, 1e-4)
    found = cv2.cornerSubPix(gray, start, (4, 4), (-1, -1), criteria)[:, 0]
    error = found - expected
    assert np.abs(error.mean(axis=0)).max() < 0.03, "a shift all over the picture"
    # two samples across a pixel place a hard edge to a quarter of it, so single corners scatter
    assert np.sqrt((error**2).sum(axis=1).mean()) < 0.1
    assert np.linalg.norm(error, axis=1).max() < 0.22


def test_depth_is_the_plane_at_the_pixel_centre() -> None:
    camera = camera_at(np.array([2.5, -3.0, 1.5]), np.array([1.0, 0, 1.0]), 0.1, 200.0, (200, 150))
    board = checkerboard(8, 0.25, 8)
    picture = render([board], camera, NEUTRAL, EMPTY, np.random.default_rng(0), focus=np.zeros(3))
    depth, hits = depth_of(picture), 0
    for y in range(0, 150, 7):
        for x in range(0, 200, 7):
            ray = camera.rotation.T @ np.array([(x - 99.5) / 200, (y - 74.5) / 200, 1.0])
            z = -camera.centre[1] / ray[1]  # the board is y = 0 and rays have unit depth
            p = camera.centre + z * ray
            margin = 0.05
            if z > 0 and margin < p[0] < 2 - margin and margin < p[2] < 2 - margin:
                assert depth[y, x] == pytest.approx(z, rel=1e-6)
                hits += 1
            elif z < 0 or not (-margin < p[0] < 2 + margin and -margin < p[2] < 2 + margin):
                assert np.isinf(depth[y, x])
    assert hits > 100


def test_ground_under_the_camera_is_clipped_not_lost() -> None:
    """The meadow passes below and behind the camera; half of a level view is ground."""
    camera = camera_at(np.array([0.0, 0, 1.6]), np.array([0.0, 10, 1.6]), 0.0, 150.0, (160, 120))
    picture = render(
        [meadow(0)], camera, NEUTRAL, EMPTY, np.random.default_rng(0), focus=np.zeros(3)
    )
    depth = depth_of(picture)
    assert np.isfinite(depth[62:]).all()
    assert np.isinf(depth[:59]).all()
    # the lowest row looks down by atan(59.5 / 150) from 1.63 m
    assert depth[-1, 80] == pytest.approx(1.63 * 150 / 59.5, rel=1e-6)


# ----------------------------------------------------------------------------- what it depicts


def test_landmark_corners_lie_on_the_depth_map(
    places: dict[str, Site], pictures: dict[tuple[str, int], tuple[Camera, Rendering]]
) -> None:
    """Points of the facade, projected by hand, are at the depth the picture has there."""
    hall = places["town-hall"]
    camera, picture = pictures["town-hall", 1]
    depth = depth_of(picture)
    front = hall.faces[0].points  # the first wall of the first box
    middle = front.mean(axis=0)
    agreed = 0
    targets = [middle + s * (p - middle) for p in front for s in (0.2, 0.5, 0.9)]
    for target in targets:
        x = camera.rotation @ target + camera.translation
        u, v = camera.focal * x[:2] / x[2] + ((800 - 1) / 2, (600 - 1) / 2)
        column, row = round(u), round(v)
        if not (0 <= column < 800 and 0 <= row < 600):
            continue
        # the facade's plane at the centre of that pixel
        ray = np.array([(column - 399.5) / camera.focal, (row - 299.5) / camera.focal, 1.0])
        normal = camera.rotation @ np.cross(front[1] - front[0], front[3] - front[0])
        z = (normal @ x) / (normal @ ray)
        assert depth[row, column] < z + 1e-6  # nothing but clutter is nearer
        agreed += bool(abs(depth[row, column] - z) < 1e-6)
    assert agreed >= 6


def test_one_view_warped_into_another_looks_like_it(
    pictures: dict[tuple[str, int], tuple[Camera, Rendering]],
) -> None:
    """Through depth and poses one view's detail follows the other's; shifted, it does not."""
    (cam_a, a), (cam_b, b) = pictures["villa", 1], pictures["villa", 2]
    v, u = np.mgrid[0:600:3, 0:800:3].astype(float)
    z = depth_of(a)[::3, ::3]
    near = np.isfinite(z) & (z < 60)
    ray = np.stack([(u - 399.5) / cam_a.focal, (v - 299.5) / cam_a.focal, np.ones_like(u)], -1)
    world = (ray[near] * z[near][:, None] - cam_a.translation) @ cam_a.rotation
    x = world @ cam_b.rotation.T + cam_b.translation
    p = x[:, :2] * cam_b.focal / x[:, 2:] + (399.5, 299.5)
    ok = (x[:, 2] > 0) & (p > 8).all(axis=1) & (p < (791, 591)).all(axis=1)
    there = np.rint(p[ok]).astype(int)
    # unoccluded: b sees something at the depth a predicts
    open_ = np.abs(depth_of(b)[there[:, 1], there[:, 0]] - x[ok, 2]) < 0.15
    assert open_.sum() > 8_000

    def detail(image: np.ndarray, q: np.ndarray) -> np.ndarray:
        soft = cv2.GaussianBlur(
            cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32), (0, 0), 1
        )
        # light differs from view to view, so compare what is left of its neighbourhood
        soft -= cv2.GaussianBlur(soft, (0, 0), 8)
        m = q.astype(np.float32).T[:, None]
        return cv2.remap(soft, m[0], m[1], cv2.INTER_LINEAR).ravel()

    here = np.stack([u[near], v[near]], axis=1)[ok][open_]
    exact = np.corrcoef(detail(a.image, here), detail(b.image, p[ok][open_]))[0, 1]
    shifted = np.corrcoef(detail(a.image, here), detail(b.image, p[ok][open_] + (5, 3)))[0, 1]
    assert exact > 0.6
    assert shifted < exact - 0.3


def verified(first: np.ndarray, second: np.ndarray) -> int:
    """Distinct matches that survive the ratio test, the way back and RANSAC for F at 1 px."""
    sift = cv2.SIFT_create(2000)
    (ka, da), (kb, db) = (
        sift.detectAndCompute(cv2.cvtColor(i, cv2.COLOR_RGB2GRAY), None) for i in (first, second)
    )
    matcher = cv2.BFMatcher()
    back = {m.queryIdx: m.trainIdx for m in matcher.match(db, da)}
    good = [
        m
        for m, other in matcher.knnMatch(da, db, k=2)
        if m.distance < 0.75 * other.distance and back[m.trainIdx] == m.queryIdx
    ]
    if len(good) < 8:
        return 0
    pa = np.array([ka[m.queryIdx].pt for m in good])
    pb = np.array([kb[m.trainIdx].pt for m in good])
    cv2.setRNGSeed(0)
    _, mask = cv2.findFundamentalMat(pa, pb, cv2.USAC_MAGSAC, 1.0, 0.999, 5000)
    return 0 if mask is None else len({tuple(q) for q in pb[mask.ravel() > 0]})


def test_views_of_one_landmark_verify_and_views_of_two_do_not(
    pictures: dict[tuple[str, int], tuple[Camera, Rendering]],
) -> None:
    image = {key: picture.image for key, (_, picture) in pictures.items()}
    assert verified(image["town-hall", 1], image["town-hall", 2]) >= 50
    assert verified(image["villa", 1], image["villa", 2]) >= 50
    assert verified(image["town-hall", 1], image["villa", 1]) <= 16
    assert verified(image["town-hall", 2], image["villa", 2]) <= 16


def test_a_view_is_planned_on_the_arc_in_front(places: dict[str, Site]) -> None:
    for where in places.values():
        front = where.heading - np.pi / 2
        far = []
        for i in range(7):
            camera, _ = plan_view(where, 0, i, 6, (800, 600))
            offset = camera.centre - where.centre
            turn = np.arctan2(offset[1], offset[0]) - front
            assert abs((turn + np.pi) % (2 * np.pi) - np.pi) < np.radians(36)
            assert 1.5 < offset[2] < 7
            assert np.allclose(camera.rotation @ camera.rotation.T, np.eye(3))
            assert np.linalg.det(camera.rotation) == pytest.approx(1)
            far.append(float(np.linalg.norm(offset[:2])))
        assert 1.4 < max(far) / min(far) < 1.8


# ------------------------------------------------------------------------------- the files


def test_files_of_a_town(town: Town) -> None:
    assert town.created
    files = {p.relative_to(town.root).as_posix() for p in town.root.rglob("*") if p.is_file()}
    assert files == {
        "landmarks/church/01.jpg",
        "landmarks/church/02.jpg",
        "queries/church.jpg",
        "queries/church-turned.jpg",
        "queries/elsewhere-1.jpg",
        "queries/elsewhere-2.jpg",
        "truth.json",
        "colmap/cameras.txt",
        "colmap/images.txt",
        "colmap/points3D.txt",
    }
    assert {s.landmark for s in town.shots if "elsewhere" in s.file} == {None}
    assert [p.name for p in town.root.parent.iterdir()] == [town.root.name]  # nothing left over


def test_same_seed_same_bytes_other_seed_other_picture(town: Town, tmp_path: Path) -> None:
    again = make_town(tmp_path / "again", landmarks=1, views=2, size=SMALL)
    for path in sorted(p for p in town.root.rglob("*") if p.is_file()):
        assert path.read_bytes() == (again.root / path.relative_to(town.root)).read_bytes(), path
    other, _ = plan_view(build_site(1, "church"), 1, 0, 2, SMALL)
    assert not np.allclose(other.centre, town.shots[0].centre)


def test_a_complete_town_is_left_alone(town: Town) -> None:
    before = {p: p.stat().st_mtime_ns for p in town.root.rglob("*")}
    again = make_town(town.root, landmarks=1, views=2, size=SMALL)
    assert not again.created
    assert {p: p.stat().st_mtime_ns for p in town.root.rglob("*")} == before
    assert again.landmarks == town.landmarks
    for s, t in zip(again.shots, town.shots, strict=True):
        assert (s.file, s.landmark, s.width, s.height) == (t.file, t.landmark, t.width, t.height)
        assert np.array_equal(s.k, t.k)
        assert np.array_equal(s.quaternion, t.quaternion)
        assert np.array_equal(s.translation, t.translation)


def test_a_folder_of_something_else_is_refused(town: Town, tmp_path: Path) -> None:
    (tmp_path / "diary.txt").write_text("dear diary")
    with pytest.raises(ValueError, match="is no town"):
        make_town(tmp_path)
    with pytest.raises(ValueError, match="is a file"):
        make_town(tmp_path / "diary.txt")
    with pytest.raises(ValueError, match="holds a town made with"):
        make_town(town.root, landmarks=2, views=2, size=SMALL)
    with pytest.raises(ValueError, match="1 to 8"):
        make_town(tmp_path / "new", landmarks=9)
    assert not (tmp_path / "new").exists()


def test_exif_comes_back_as_written(town: Town) -> None:
    for shot in town.shots:
        with Image.open(town.root / shot.file) as image:
            assert image.size == (shot.width, shot.height)
            exif = image.getexif()
        assert (exif[0x010F], exif[0x0110]) == ("locate", "town camera")
        assert 0x0112 not in exif  # no orientation
        detail, gps = exif.get_ifd(0x8769), exif.get_ifd(0x8825)
        assert detail[0x9003].startswith("2024:06:")
        long_side = max(shot.width, shot.height)
        assert detail[0xA405] / 36 * long_side == pytest.approx(shot.k[0, 0], abs=1e-9)
        assert float(detail[0x920A]) / 6.4 == pytest.approx(detail[0xA405] / 36, rel=1e-3)
        lat, lon = (float(d) + float(m) / 60 + float(s) / 3600 for d, m, s in (gps[2], gps[4]))
        assert (gps[1], gps[3]) == ("N", "E")
        # back to the world by Earth-centred coordinates, not by the formula that wrote it
        enu = local_enu(lat, lon, float(gps[6]))
        assert np.abs(enu - shot.centre).max() < 0.02


def local_enu(lat: float, lon: float, height: float) -> np.ndarray:
    """WGS84 to east, north, up (3,) metres at ORIGIN, through ECEF."""

    def ecef(latitude: float, longitude: float, h: float) -> np.ndarray:
        p, q = np.radians(latitude), np.radians(longitude)
        f = 1 / 298.257223563
        e2 = f * (2 - f)
        n = 6378137.0 / np.sqrt(1 - e2 * np.sin(p) ** 2)
        return np.array([
            (n + h) * np.cos(p) * np.cos(q),
            (n + h) * np.cos(p) * np.sin(q),
            (n * (1 - e2) + h) * np.sin(p),
        ])  # fmt: skip

    p, q = np.radians(ORIGIN[0]), np.radians(ORIGIN[1])
    axes = np.array([
        [-np.sin(q), np.cos(q), 0],
        [-np.sin(p) * np.cos(q), -np.sin(p) * np.sin(q), np.cos(p)],
        [np.cos(p) * np.cos(q), np.cos(p) * np.sin(q), np.sin(p)],
    ])  # fmt: skip
    return axes @ (ecef(lat, lon, height) - ecef(*ORIGIN))


def test_the_gps_frame_is_east_north_up() -> None:
    assert geodetic(np.zeros(3)) == ORIGIN
    for point in np.array([(200.0, 0, 0), (0, -200.0, 0), (0, 0, 12.0), (150.0, 150.0, 3.0)]):
        assert np.abs(local_enu(*geodetic(point)) - point).max() < 0.02


def test_convention_truth_and_colmap_agree_but_for_half_a_pixel(town: Town) -> None:
    truth = json.loads((town.root / "truth.json").read_text())
    assert truth["convention"] == CONVENTION
    by_file = {i["file"]: i for i in truth["images"]}
    rows = (town.root / "colmap/cameras.txt").read_text().splitlines()
    cameras = {int(r.split()[0]): r.split()[1:] for r in rows if not r.startswith("#")}
    lines = [
        r
        for r in (town.root / "colmap/images.txt").read_text().splitlines()
        if not r.startswith("#")
    ]
    assert lines[1::2] == ["", ""]  # two lines per image, the second one empty
    names = []
    for fields in (r.split() for r in lines[::2]):
        name = fields[9]
        names.append(name)
        image = by_file[f"landmarks/{name}"]
        model, width, height, f, cx, cy = cameras[int(fields[8])]
        assert model == "SIMPLE_PINHOLE"
        assert (float(cx), float(cy)) == (image["K"]["cx"] + 0.5, image["K"]["cy"] + 0.5)
        assert (float(cx), float(cy)) == (int(width) / 2, int(height) / 2)
        assert float(f) == image["K"]["fx"] == image["K"]["fy"]
        q, t = np.array(fields[1:5], float), np.array(fields[5:8], float)
        assert np.array_equal(q, image["cam_from_world"]["quaternion"])
        assert np.allclose(-rotation(q).T @ t, image["centre"], atol=1e-9)
    assert names == ["church/01.jpg", "church/02.jpg"]


def test_the_pose_of_every_picture_is_a_rotation_and_looks_at_its_square(town: Town) -> None:
    church = build_site(0, "church")
    for shot in town.shots:
        r = rotation(shot.quaternion)
        assert np.allclose(r @ shot.centre + shot.translation, 0, atol=1e-9)
        if shot.landmark == "church":
            x = r @ church.target + shot.translation
            u, v = (shot.k @ x)[:2] / x[2]
            assert 0.2 * shot.width < u < 0.8 * shot.width
            assert 0.2 * shot.height < v < 0.8 * shot.height
            up = r @ (0.0, 0.0, 1.0)  # in the turned picture up is to the left
            left = "turned" in shot.file
            assert (up[0] if left else up[1]) < -0.9
