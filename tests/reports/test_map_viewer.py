"""The page to walk around in, opened in a browser, and the scene that it shows."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
import pycolmap
import pytest
from PIL import Image

from locate.formats.colmap import add_views
from locate.georef.georef import Georef
from locate.localization.pose import NOT_LOCALIZED, UNCERTAIN, Pose
from locate.util.printable import visible
from pipelines.reports.map_viewer import MAX_LINES, make_scene, write_map_viewer
from tests.helpers.poses import by_hand, looking, pose_of

GREEN, BLUE, PINK = (86, 211, 100), (98, 123, 159), (255, 155, 206)  # blue is see-through
SCENE = 'JSON.parse(document.getElementById("scene").textContent)'
FOCAL = 350 / np.tan(np.radians(25))  # 50 degrees from top to bottom
# The map's frame is East-North-Up already.
LEVEL = Georef(
    1.0, np.eye(3), np.zeros(3), (48.0, 11.0, 500.0), used=9, inliers=9, error=0.5, turn=1.0
)


def model_of(points, colors=None, cameras=5):
    """Cameras in a row south of the points that look north."""
    model = pycolmap.Reconstruction()
    camera = pycolmap.Camera(
        model="SIMPLE_RADIAL", width=640, height=480, params=[500, 320, 240, 0.02]
    )
    add_views(
        model,
        [
            (f"{i}.jpg", camera, looking(np.array([2.0 * i - 4, -10, 0]), 0), None)
            for i in range(cameras)
        ],
    )
    for k, point in enumerate(points):
        color = np.array([200, 100, 50] if colors is None else colors[k], np.uint8)
        model.add_point3D(np.array(point, float), pycolmap.Track(), color)
    return model


def cloud(count=300, seed=1):
    return np.random.default_rng(seed).normal(size=(count, 3)) * (4, 2, 2)


def written(tmp_path, model, poses, title="Where were these photos taken?", **options):
    path = tmp_path / "out" / "page.html"
    write_map_viewer(path, make_scene(model, poses, **options), title=title)
    return path


def frame(page):
    """The canvas as it is shown: H x W x 3 int, RGB."""
    with Image.open(io.BytesIO(page.locator("#canvas").screenshot())) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def spot(page, name="a.jpg"):
    """Where the camera of this label is drawn, after the next frame."""
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    x, y = page.evaluate("labels")[name]
    return np.array([x - 8, y + 6])


def near(pixels, color, tolerance=40):
    """(rows, columns) of this color."""
    return np.nonzero(np.abs(pixels - color).max(axis=2) <= tolerance)


def look_at(points, target, yaw, pitch, distance):
    """OpenCV's projection of a camera that was turned by hand: yaw clockwise from north, then pitch."""
    y, p = np.radians([yaw, pitch])
    # A camera that looks north has the axes (east, down, north) = (x, -z, y) ...
    level = np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]], float)
    spin = np.array([[np.cos(y), -np.sin(y), 0], [np.sin(y), np.cos(y), 0], [0, 0, 1]])
    # ... and nods by a turn about its own x axis.
    nod = np.array([[1, 0, 0], [0, np.cos(p), -np.sin(p)], [0, np.sin(p), np.cos(p)]])
    rotation = nod @ level @ spin
    center = np.array(target) - distance * rotation[2]
    k = np.array([[FOCAL, 0, 500], [0, FOCAL, 350], [0, 0, 1]])
    rvec, _ = cv2.Rodrigues(rotation)
    flat, _ = cv2.projectPoints(np.array(points, float), rvec, -rotation @ center, k, None)
    return flat.reshape(-1, 2)


# The page's geometry


def test_the_page_projects_as_opencv(tmp_path, open_page):
    page, points = open_page(written(tmp_path, model_of(cloud()), [])), cloud(20, 3)
    for yaw, pitch, target in ((0, 0, (0, 0, 0)), (30, 20, (1, 2, 3)), (200, 60, (-1, 0, 1))):
        turn = {"yaw": np.radians(yaw), "pitch": np.radians(pitch)}
        found = page.evaluate(
            "([state, points]) => points.map((p) => project(makeView(state, 1000, 700), p))",
            [{**turn, "target": target, "distance": 30}, points.tolist()],
        )
        expected = look_at(points, target, yaw, pitch, 30)
        np.testing.assert_allclose(np.array(found)[:, :2], expected, atol=1e-6)


def test_what_is_east_is_right_and_what_is_high_is_above(tmp_path, open_page):
    script = """() => {
      const at = (yaw, pitch, p) => project(makeView({ target: [0, 0, 0], distance: 10, yaw, pitch },
        1000, 700), p).slice(0, 2).map((v) => Math.round(v));
      const down = Math.PI / 2;
      const north = makeView({ target: [0, 0, 0], distance: 10, yaw: 0, pitch: 0 }, 1000, 700);
      return { east: at(0, 0, [1, 0, 0]), high: at(0, 0, [0, 0, 1]), north_from_above: at(0, down,
        [0, 1, 0]), north_from_west: at(down, 0, [0, 1, 0]),
        behind: project(north, [0, -11, 0]),
        half: clipped(north, [0, 0, 0], [0, -20, 0]).map((p) => p.slice(0, 2).map(Math.round)),
        none: clipped(north, [0, -12, 0], [0, -20, 0]) };
    }"""
    step = round(FOCAL / 10)
    assert open_page(written(tmp_path, model_of(cloud()), [])).evaluate(script) == {
        "east": [500 + step, 350],
        "high": [500, 350 - step],
        "north_from_above": [500, 350 - step],
        "north_from_west": [500 - step, 350],
        "behind": None,
        "half": [[500, 350], [500, 350]],
        "none": None,
    }


def test_the_first_frame_shows_points_cameras_and_queries(tmp_path, open_page):
    points = np.concatenate((cloud(), [[0.0, 0, 6]]))
    colors = np.full((len(points), 3), (200, 100, 50))
    colors[-1] = (10, 250, 230)
    model, pose = model_of(points, colors), pose_of()
    page = open_page(written(tmp_path, model, [pose], georef=LEVEL))
    pixels = frame(page)
    assert pixels.shape == (700, 1000, 3)
    scene = make_scene(model, [pose], georef=LEVEL)
    middle = np.median(points, axis=0)
    view = ((0, 0, 0), 0, 25, 2.4 * scene.radius)  # mapping cameras look north
    x, y = look_at([points[-1] - middle], *view)[0]
    rows, columns = near(pixels, colors[-1], 0)
    assert len(rows) == 4  # two by two pixels
    assert np.hypot(rows - y, columns - x).max() < 3
    # At the query's apex five lines meet; mapping cameras are blue, their apexes in a row.
    green, blue = (np.array(near(pixels, color)) for color in (GREEN, BLUE))
    apex = look_at([np.array([1.0, -8, 0.5]) - middle], *view)[0]
    assert np.hypot(green[0] - apex[1], green[1] - apex[0]).min() < 3
    np.testing.assert_allclose(spot(page, "q.jpg"), apex, atol=0.01)
    for x, y in look_at(np.array([(2.0 * i - 4, -10, 0) for i in range(5)]) - middle, *view):
        assert np.hypot(blue[0] - y, blue[1] - x).min() < 3
    assert len(near(pixels, PINK)[0]) > 10
    told = "1 of 1 photos have a pose · 5 mapping photos · 301 points"
    assert page.locator("#counts").inner_text() == told


def test_near_points_hide_far_ones(tmp_path, open_page):
    script = """() => {
      const view = makeView({ target: [0, 0, 0], distance: 10, yaw: 0, pitch: 0 }, 9, 9);
      const pixels = new Uint32Array(81), depths = new Float32Array(81);
      return [[0, 0, 0, 0, 5, 0], [0, 5, 0, 0, 0, 0]].map((points) => {
        drawPoints(pixels, depths, 9, 9, view, points, [255, 0, 0, 0, 255, 0], 1);
        return pixels[4 * 9 + 4].toString(16);
      });
    }"""
    page = open_page(written(tmp_path, model_of(cloud()), []))
    assert page.evaluate(script) == ["ff0000ff", "ff00ff00"]  # alpha, blue, green, red


def test_frusta_enclose_what_the_photo_shows(tmp_path, open_page):
    page = open_page(written(tmp_path, model_of(cloud()), [pose_of()], georef=LEVEL))
    found = np.array(page.evaluate(f"frustum({SCENE}.queries[0].camera, 2)"))
    middle = np.median(cloud(), axis=0)
    np.testing.assert_allclose(found[0] + middle, (1, -8, 0.5), atol=1e-9)
    # Carried back into the photo, the corners are its corners: -0.5 and size - 0.5 in our pixels.
    back = by_hand(pose_of().cam_from_world, found[1:] + middle)
    corners = [(-0.5, -0.5), (639.5, -0.5), (639.5, 479.5), (-0.5, 479.5)]
    np.testing.assert_allclose(back, corners, atol=1e-3)


def test_ellipsoids_hold_95_percent(tmp_path, open_page):
    """Rings are 2.7955 sigma away times the factor shown; so many normal draws lie inside of them."""
    path = written(tmp_path, model_of(cloud()), [pose_of()], georef=LEVEL, units="metre")
    page = open_page(path)
    page.locator("#blow").fill("1")
    spot(page, "q.jpg")
    assert page.locator("#blown").inner_text() == "\u00d7 10"
    script = "(query) => rings(query.camera.center, query.ellipsoid, 10)"
    found = page.evaluate(f"({script})({SCENE}.queries[0])")
    away = np.array(found).reshape(-1, 3) - np.array([1, -8, 0.5]) + np.median(cloud(), axis=0)
    np.testing.assert_allclose(np.abs(away).max(axis=0) / 10, 2.7955 * np.array([0.01, 0.02, 0.03]))
    draws = np.random.default_rng(0).normal(size=(20000, 3))
    assert (np.linalg.norm(draws, axis=1) < 2.7955).mean() == pytest.approx(0.95, abs=0.005)


# The page's behavior


def test_choosing_looking_and_moving(tmp_path, open_page):
    poses = [
        pose_of("a.jpg"),
        Pose(Path("b.jpg"), NOT_LOCALIZED, "only 3 matches"),
        pose_of("c.jpg", (-3, -9, 0), 20, verdict=UNCERTAIN, covariance=None, error=float("nan")),
    ]
    page = open_page(written(tmp_path, model_of(cloud()), poses, georef=LEVEL))
    items = page.locator("#list button")

    def pressed():
        return [item.get_attribute("aria-pressed") for item in items.all()]

    assert items.all_inner_texts() == [
        "a.jpg\nlocalized · 12 inliers · 0.75 px",
        "b.jpg\nnot localized · 0 inliers",
        "c.jpg\nuncertain · 12 inliers",
    ]
    first = frame(page)
    items.nth(0).click()
    assert pressed() == ["true", "false", "false"]
    facts = page.locator("#facts").inner_text()
    for text in ("a.jpg", "12 of 20 matches", "0.75 px", "0.0839 m", "10.0°, 0.0°", "47.99"):
        assert text in facts
    # Looked from its camera, the photo's edge is level, in the middle, and its top is above.
    page.keyboard.press("v")
    rows, columns = near(frame(page), GREEN)
    scale = FOCAL / 500
    # Eight pixels for the distortion of the photo
    assert columns.min() == pytest.approx(500 - 320 * scale, abs=8)
    assert columns.max() == pytest.approx(500 + 320 * scale, abs=8)
    assert rows.min() < 20
    for key in ("n", "n", "n", "p"):
        page.keyboard.press(key)
    assert pressed() == ["false", "false", "true"]
    page.get_by_role("button", name="Look from this camera").click()
    assert np.abs(frame(page) - first).max() > 100
    page.keyboard.press("R")
    assert pressed() == ["false"] * 3
    assert page.locator("#facts").inner_text() == ""
    assert (frame(page) == first).all()
    page.locator("#dots").fill("0")  # points off
    assert len(near(frame(page), (200, 100, 50))[0]) < 0.1 * len(near(first, (200, 100, 50))[0])
    page.get_by_role("button", name="Reset view").click()


def test_a_click_joins_a_query_with_what_it_sees(tmp_path, open_page):
    model, pose = model_of(cloud()), pose_of("a.jpg")
    page = open_page(written(tmp_path, model, [pose], georef=LEVEL))
    apex, before = spot(page), frame(page)
    page.mouse.click(*apex)
    page.mouse.move(5, 5)
    after = frame(page)
    scene = make_scene(model, [pose], georef=LEVEL)
    seen = pose.world_points - np.median(cloud(), axis=0)
    ends = look_at(seen, (0, 0, 0), 0, 25, 2.4 * scene.radius)
    x, y = np.rint(0.2 * apex + 0.8 * ends).astype(int).T  # clear of the camera and its name
    greener = (after[y, x] - before[y, x])[:, 1]
    assert (greener > 20).sum() >= 9  # some lie behind points
    assert page.locator("#facts b").inner_text() == "a.jpg"
    page.mouse.click(5, 600)  # nothing is there; the choice stays
    assert page.locator("#facts b").inner_text() == "a.jpg"


def test_mouse_and_wheel(tmp_path, open_page):
    page = open_page(written(tmp_path, model_of(cloud()), [pose_of("a.jpg")], georef=LEVEL))
    middle = np.array([500, 350])

    def drag(dx, dy, button="left"):
        start = spot(page)
        page.mouse.move(500, 350)
        page.mouse.down(button=button)
        page.mouse.move(500 + dx, 350 + dy, steps=3)
        page.mouse.up(button=button)
        return spot(page) - start

    first = spot(page)
    page.keyboard.down("Shift")
    moves = [drag(40, -30)]
    page.keyboard.up("Shift")
    moves.append(drag(40, -30, "right"))
    for x, y in moves:  # what lies nearer than the middle moves a little more than the pointer
        assert 40 < x < 70
        assert -60 < y < -30
    assert abs(drag(50, 0)[0]) > 10
    away = np.linalg.norm(spot(page) - middle)
    page.mouse.wheel(0, -500)
    assert np.linalg.norm(spot(page) - middle) > 1.3 * away
    page.keyboard.press("r")
    np.testing.assert_allclose(spot(page), first, atol=1e-6)
    x, y = first
    page.mouse.move(x + 3, y)
    assert page.locator("#tip").inner_text() == "a.jpg\nlocalized, 12 inliers"
    page.mouse.move(5, 600)
    assert page.locator("#tip").is_hidden()
    page.mouse.dblclick(x, y)
    np.testing.assert_allclose(spot(page), middle, atol=1e-3)
    for key, axis, sign in (("ArrowLeft", 0, 1), ("ArrowUp", 1, 1), ("ArrowDown", 1, -1)):
        before = spot(page)
        page.keyboard.press(f"Shift+{key}")
        assert sign * (spot(page) - before)[axis] > 20
    page.keyboard.press("r")
    page.keyboard.press("+")
    assert np.linalg.norm(spot(page) - middle) > 1.1 * np.linalg.norm(first - middle)


def test_touch(tmp_path, open_page):
    path = written(tmp_path, model_of(cloud()), [pose_of("a.jpg")], georef=LEVEL)
    page = open_page(path, has_touch=True)
    far = spot(page) - (500, 350)
    send = page.context.new_cdp_session(page).send

    def touch(kind, *columns):
        points = [{"x": x, "y": 350, "id": i} for i, x in enumerate(columns)]
        send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    touch("touchStart", 450, 550)
    touch("touchMove", 400, 600)
    touch("touchEnd")
    assert np.linalg.norm(spot(page) - (500, 350)) > 1.7 * np.linalg.norm(far)
    page.keyboard.press("r")
    page.touchscreen.tap(*spot(page))
    assert page.locator("#facts b").inner_text() == "a.jpg"


def test_the_canvas_follows_the_window(tmp_path, open_page):
    page = open_page(
        written(tmp_path, model_of(cloud()), [pose_of("a.jpg")]), device_scale_factor=2
    )
    size = "[canvas.width, canvas.height]"
    assert page.evaluate(f"canvas => {size}", page.query_selector("#canvas")) == [2000, 1400]
    page.set_viewport_size({"width": 600, "height": 800})  # the list goes below
    spot(page)
    assert page.evaluate(f"canvas => {size}", page.query_selector("#canvas")) == [1200, 880]


def test_names_are_no_markup(tmp_path, open_page):
    name = (
        "</script><script>harm = 1</script><img src=x onerror='harm = 2'>{{ title }}\u2028\x1b.jpg"
    )
    camera = "</script><script>harm = 3</script><!--"
    title = "<b onclick=harm>&'\"{{ scene }}\u202e"
    model = model_of(cloud())
    model.images[model.reg_image_ids()[0]].name = camera
    page = open_page(written(tmp_path, model, [pose_of(name)], title=title, names=[name]))
    assert page.title() == page.locator("h1").inner_text() == visible(title)
    assert page.locator("#list span").first.inner_text() == visible(name)
    page.locator("#list button").click()
    assert page.locator("#facts b").inner_text() == visible(name)
    spot(page, visible(name))
    assert page.evaluate(f"{SCENE}.cameras[0].name") == camera
    assert page.evaluate("typeof harm") == "undefined"
    assert page.locator("script").count() == 2


# The scene


def test_far_points_do_not_shrink_the_scene():
    near = make_scene(model_of(cloud()), [])
    far = np.concatenate((cloud(), np.random.default_rng(2).normal(size=(40, 3)) * 1e4))
    assert make_scene(model_of(far), []).radius < 1.5 * near.radius
    assert near.radius < 15


def test_a_map_is_turned_upright():
    """Without a georeference the scene's z axis is where the tops of the photos point."""
    turn, _ = np.linalg.qr(np.random.default_rng(5).normal(size=(3, 3)))
    turn *= np.linalg.det(turn)
    points = cloud()
    model = model_of(points)
    model.transform(pycolmap.Sim3d(3.0, pycolmap.Rotation3d(turn), np.array([5.0, 6, 7])))
    scene = make_scene(model, [])
    heights = (points[:, 2] - np.median(points[:, 2])) * 3
    np.testing.assert_allclose(
        scene.points[:, 2] - np.median(scene.points[:, 2]), heights, atol=1e-6
    )
    np.testing.assert_allclose(scene.forward[2], 0, atol=1e-6)
    # A turn, no reflection: handedness of three points stays.
    a, b = (p[1:4] - p[0] for p in (scene.points, points))
    assert np.linalg.det(a) == pytest.approx(27 * np.linalg.det(b))


def test_limits():
    rng = np.random.default_rng(0)
    world = rng.uniform(-1, 1, (2 * MAX_LINES, 3))
    pose = pose_of(world_points=world, points=by_hand(pose_of().cam_from_world, world))
    scene = make_scene(model_of(cloud()), [pose], max_points=50)
    assert (len(scene.points), scene.total) == (50, 300)
    assert len(scene.queries[0]["seen"]) == MAX_LINES
    assert len(np.unique(make_scene(model_of(cloud(), np.zeros((300, 3))), []).colors)) > 20


def test_empty_scenes_open(tmp_path, open_page):
    for poses in ([], [Pose(None, NOT_LOCALIZED, "dark")], [pose_of(camera=None)]):
        page = open_page(written(tmp_path, pycolmap.Reconstruction(), poses))
        for key in "prvn":
            page.keyboard.press(key)
        there = any(pose.cam_from_world is not None for pose in poses)
        assert (len(near(frame(page), GREEN)[0]) > 20) == there


def test_exaggeration_makes_ellipsoids_visible_in_round_steps():
    scene = make_scene(model_of(cloud()), [pose_of()])
    longest = 2.7955 * 0.03
    assert scene.exaggeration in (1, 2, 5, 10)
    assert 0.01 < scene.exaggeration * longest / scene.radius <= 0.03
    assert make_scene(model_of(cloud()), []).exaggeration == 1
