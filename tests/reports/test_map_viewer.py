"""The page to walk around in, run without a browser; and pictures of poses."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pycolmap
import pytest

from locate.formats.colmap import add_views
from locate.georef.georef import Georef
from locate.localization.pose import NOT_LOCALIZED, UNCERTAIN, Pose
from locate.util.printable import visible
from pipelines.reports.map_viewer import MAX_LINES, make_scene, write_pose_page
from tests.helpers.poses import by_hand, looking, pose_of

SIZE = (1000, 700)
FOCAL = 350 / np.tan(np.radians(25))  # 50 degrees from top to bottom
# The map's frame is East-North-Up already.
LEVEL = Georef(
    1.0, np.eye(3), np.zeros(3), (48.0, 11.0, 500.0), used=9, inliers=9, error=0.5, turn=1.0
)

# What a browser gives to the page, as far as the page asks for it; strokes and pixels are recorded.
HARNESS = r"""
const fs = require("fs"), vm = require("vm");
const page = fs.readFileSync(process.argv[2], "utf8");
const inside = (id) => page.match(new RegExp(`<script[^>]*id="${id}">([\\s\\S]*?)</script>`))[1];
const [width, height] = [1000, 700];
class Element {
  constructor(tag) {
    Object.assign(this, { tagName: tag.toUpperCase(), children: [], style: {}, listeners: {},
      attributes: {}, value: "0", textContent: "", classList: { add() {}, remove() {} },
      clientWidth: width, clientHeight: height });
  }
  append(...items) { this.children.push(...items); }
  replaceChildren(...items) { this.children = items; }
  get firstChild() { return this.children[0]; }
  setAttribute(name, value) { this.attributes[name] = value; }
  addEventListener(type, f) { (this.listeners[type] ||= []).push(f); }
  send(type, event = {}) {
    const whole = { type, preventDefault() {}, target: this, ...event };
    for (const f of this.listeners[type] || []) f(whole);
    while (queue.length) queue.shift()();
  }
  scrollIntoView() {}
  setPointerCapture() {}
}
let strokes = [], path = [], texts = [], shown = null;
const queue = [];
const context = {
  createImageData: (w, h) => ({ width: w, height: h, data: new Uint8ClampedArray(w * h * 4) }),
  putImageData(image) { shown = image; strokes = []; texts = []; },
  beginPath() { path = []; }, moveTo(x, y) { path.push([x, y]); }, lineTo(x, y) { path.push([x, y]); },
  stroke() { strokes.push({ color: this.strokeStyle, width: this.lineWidth, path }); },
  fillText(text, x, y) { texts.push({ text, x, y }); }, strokeText() {},
};
const elements = {};
const $ = (id) => elements[id] ||= new Element(id);
const document = new Element("document"), window = new Element("window");
Object.assign(document, { getElementById: $, createElement: (tag) => new Element(tag) });
$("scene").textContent = inside("scene");
$("canvas").getContext = () => context;
window.devicePixelRatio = 1;
const all = { document, window, atob, requestAnimationFrame: (f) => queue.push(f), $, result: null,
  frame: () => ({ strokes, texts, pixels: Buffer.from(shown.data.buffer).toString("base64") }) };
vm.createContext(all);
vm.runInContext(inside("program"), all);
while (queue.length) queue.shift()();
console.log(JSON.stringify(vm.runInContext(`(() => { ${process.argv[3]} })()`, all)));
"""


def run_page(page, script):
    """What `script` returns in the page `page`, after its first frame."""
    if shutil.which("node") is None:
        pytest.skip("node is not installed; the page is not run")
    harness = page.with_name("harness.js")
    harness.write_text(HARNESS)
    done = subprocess.run(
        ["node", harness, page, script], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def pixels_of(frame):
    raw = np.frombuffer(base64.b64decode(frame["pixels"]), np.uint8)
    return raw.reshape(SIZE[1], SIZE[0], 4)[..., :3]


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


def written(tmp_path, model, poses, **options):
    path = tmp_path / "out" / "page.html"
    write_pose_page(path, model, poses, **options)
    return path


def scene_json(page):
    text = page.read_text()
    return json.loads(re.search(r'id="scene">(.*?)</script>', text, re.S)[1])


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


@pytest.mark.parametrize(
    ("yaw", "pitch", "target"), [(0, 0, (0, 0, 0)), (30, 20, (1, 2, 3)), (200, 60, (-1, 0, 1))]
)
def test_the_page_projects_as_opencv(tmp_path, yaw, pitch, target):
    page = written(tmp_path, model_of(cloud()), [])
    points = cloud(20, 3)
    state = {
        "yaw": np.radians(yaw),
        "pitch": np.radians(pitch),
        "target": target,
        "distance": 30,
    }
    script = (
        f"const view = makeView({json.dumps(state)}, 1000, 700);"
        f"return {json.dumps(points.tolist())}.map((p) => project(view, p));"
    )
    found = np.array(run_page(page, script))
    np.testing.assert_allclose(found[:, :2], look_at(points, target, yaw, pitch, 30), atol=1e-6)


def test_what_is_east_is_right_and_what_is_high_is_above(tmp_path):
    page = written(tmp_path, model_of(cloud()), [])
    script = """
      const at = (yaw, pitch, p) => project(makeView({ target: [0, 0, 0], distance: 10, yaw, pitch },
        1000, 700), p).slice(0, 2).map((v) => Math.round(v));
      const down = Math.PI / 2;
      const north = makeView({ target: [0, 0, 0], distance: 10, yaw: 0, pitch: 0 }, 1000, 700);
      return { east: at(0, 0, [1, 0, 0]), high: at(0, 0, [0, 0, 1]), north_from_above: at(0, down,
        [0, 1, 0]), north_from_west: at(down, 0, [0, 1, 0]),
        behind: project(north, [0, -11, 0]),
        half: clipped(north, [0, 0, 0], [0, -20, 0]).map((p) => p.slice(0, 2).map(Math.round)),
        none: clipped(north, [0, -12, 0], [0, -20, 0]) };
    """
    step = round(FOCAL / 10)
    assert run_page(page, script) == {
        "east": [500 + step, 350],
        "high": [500, 350 - step],
        "north_from_above": [500, 350 - step],
        "north_from_west": [500 - step, 350],
        "behind": None,
        "half": [[500, 350], [500, 350]],
        "none": None,
    }


def test_the_first_frame_shows_points_cameras_and_queries(tmp_path):
    points = np.concatenate((cloud(), [[0.0, 0, 6]]))
    colors = np.full((len(points), 3), (200, 100, 50))
    colors[-1] = (10, 250, 30)
    model, pose = model_of(points, colors), pose_of()
    page = written(tmp_path, model, [pose], georef=LEVEL)
    frame = run_page(page, "return { ...frame(), facts: $('counts').textContent };")
    scene = make_scene(model, [pose], georef=LEVEL)
    middle = np.median(points, axis=0)
    view = ((0, 0, 0), 0, 25, 2.4 * scene.radius)  # mapping cameras look north
    x, y = look_at([points[-1] - middle], *view)[0]
    pixels = pixels_of(frame)
    assert tuple(pixels[int(y), int(x)]) == (10, 250, 30)
    rows, columns = np.nonzero((pixels == (10, 250, 30)).all(axis=2))
    assert np.hypot(rows - y, columns - x).max() < 3
    # The query's apex is where all five of its lines to the image begin.
    apex = look_at([np.array([1.0, -8, 0.5]) - middle], *view)[0]
    green = [s["path"] for s in frame["strokes"] if s["color"] == "#56d364"]
    assert any(np.allclose(path[0], apex, atol=1e-3) for path in green)
    assert [t["text"] for t in frame["texts"]] == ["q.jpg"]
    blue = [s for s in frame["strokes"] if s["color"] == "#8fb4e8"]
    assert len(blue) == 4 * 5
    assert frame["facts"] == "1 of 1 photos have a pose · 5 mapping photos · 301 points"


def test_near_points_hide_far_ones(tmp_path):
    script = """
      const view = makeView({ target: [0, 0, 0], distance: 10, yaw: 0, pitch: 0 }, 9, 9);
      const pixels = new Uint32Array(81), depths = new Float32Array(81);
      return [[0, 0, 0, 0, 5, 0], [0, 5, 0, 0, 0, 0]].map((points) => {
        drawPoints(pixels, depths, 9, 9, view, points, [255, 0, 0, 0, 255, 0], 1);
        return pixels[4 * 9 + 4].toString(16);
      });
    """
    page = written(tmp_path, model_of(cloud()), [])
    assert run_page(page, script) == ["ff0000ff", "ff00ff00"]  # alpha, blue, green, red


def test_frusta_enclose_what_the_photo_shows(tmp_path):
    page = written(tmp_path, model_of(cloud()), [pose_of()], georef=LEVEL)
    camera = scene_json(page)["queries"][0]["camera"]
    found = run_page(page, f"return frustum({json.dumps(camera)}, 2);")
    middle = np.median(cloud(), axis=0)
    np.testing.assert_allclose(np.array(found[0]) + middle, (1, -8, 0.5), atol=1e-9)
    # Carried back into the photo, the corners are its corners: -0.5 and size - 0.5 in our pixels.
    back = by_hand(pose_of().cam_from_world, np.array(found[1:]) + middle)
    corners = [(-0.5, -0.5), (639.5, -0.5), (639.5, 479.5), (-0.5, 479.5)]
    np.testing.assert_allclose(back, corners, atol=1e-3)


def test_ellipsoids_hold_95_percent(tmp_path):
    """Rings are 2.7955 sigma away times the factor shown; so many normal draws lie inside of them."""
    page = written(tmp_path, model_of(cloud()), [pose_of()], georef=LEVEL, units="metre")
    script = """
      $("blow").value = "1"; $("blow").send("input");
      const query = JSON.parse($("scene").textContent).queries[0];
      return { factor: $("blown").textContent, rings: rings(query.camera.center, query.ellipsoid, 10) };
    """
    found = run_page(page, script)
    assert found["factor"] == "\u00d7 10"
    away = np.array(found["rings"]).reshape(-1, 3) - np.array([1, -8, 0.5])
    away += np.median(cloud(), axis=0)
    np.testing.assert_allclose(np.abs(away).max(axis=0) / 10, 2.7955 * np.array([0.01, 0.02, 0.03]))
    draws = np.random.default_rng(0).normal(size=(20000, 3))
    assert (np.linalg.norm(draws, axis=1) < 2.7955).mean() == pytest.approx(0.95, abs=0.005)


# The page's behaviour


def test_choosing_looking_and_moving(tmp_path):
    poses = [
        pose_of("a.jpg"),
        Pose(Path("b.jpg"), NOT_LOCALIZED, "only 3 matches"),
        pose_of("c.jpg", (-3, -9, 0), 20, verdict=UNCERTAIN, covariance=None, error=float("nan")),
    ]
    page = written(tmp_path, model_of(cloud()), poses, georef=LEVEL)
    script = """
      const items = $("list").children.map((item) => item.firstChild);
      const told = (e) => e.children && e.children.length ? e.children.map(told).join("")
        : e.textContent ?? e;
      const green = (width) => frame().strokes.filter((s) => s.width === width
        && s.color === "#56d364").map((s) => s.path);
      const out = { list: items.map(told), before: green(1).length };
      items[0].send("click");
      out.after = green(1).length;
      out.facts = $("facts").children.map(told);
      out.pressed = items.map((item) => item.attributes["aria-pressed"]);
      document.send("keydown", { key: "v" });
      out.seen = green(3);
      for (const key of ["n", "n", "n", "p"]) document.send("keydown", { key });
      out.chosen = items.findIndex((item) => item.attributes["aria-pressed"] === "true");
      document.send("keydown", { key: "R" });
      out.none = items.every((item) => item.attributes["aria-pressed"] === "false");
      return out;
    """
    out = run_page(page, script)
    assert out["list"] == [
        "a.jpglocalized · 12 inliers · 0.75 px",
        "b.jpgnot localized · 0 inliers",
        "c.jpguncertain · 12 inliers",
    ]
    assert (out["before"], out["after"]) == (0, 12)
    assert out["pressed"] == ["true", "false", "false"]
    facts = "|".join(out["facts"])
    for text in ("a.jpg", "12 of 20 matches", "0.75 px", "0.0839 m", "10.0°, 0.0°", "47.99"):
        assert text in facts
    # Looked from its camera, the photo's edge is level, in the middle, and its top is above.
    corners = np.array([p for path in out["seen"] for p in path])
    corners = corners[np.abs(corners - (500, 350)).max(axis=1) < 2000]
    scale = FOCAL / 500
    # Eight pixels for the distortion of the photo
    assert corners.max(axis=0) == pytest.approx([500 + 320 * scale, 350 + 240 * scale], abs=8)
    assert corners[:, 0].min() == pytest.approx(500 - 320 * scale, abs=8)
    assert corners[:, 1].min() < 350 - 240 * scale - 20  # the mark on the top side
    assert out["chosen"] == 2
    assert out["none"]


def test_mouse_and_touch(tmp_path):
    page = written(tmp_path, model_of(cloud()), [pose_of("a.jpg")], georef=LEVEL)
    script = """
      const canvas = $("canvas"), out = {};
      const spot = () => {
        const found = frame().texts.find((one) => one.text === "a.jpg");
        return [found.x - 8, found.y + 6];
      };
      const off = (p) => Math.hypot(p[0] - 500, p[1] - 350);
      const at = (x, y, more) => ({ pointerId: 1, offsetX: x, offsetY: y, buttons: 1, ...more });
      const drag = (dx, dy, more) => {
        const from = spot();
        canvas.send("pointerdown", at(500, 350, more));
        canvas.send("pointermove", at(500 + dx, 350 + dy, more));
        canvas.send("pointerup", at(500 + dx, 350 + dy, more));
        return [spot()[0] - from[0], spot()[1] - from[1]];
      };
      out.panned = drag(40, -30, { shiftKey: true });
      out.turned = drag(50, 0);
      const before = spot();
      canvas.send("wheel", { deltaY: -500, deltaMode: 0 });
      out.away = [off(before), off(spot())];
      document.send("keydown", { key: "r" });
      const [x, y] = spot();
      canvas.send("pointermove", at(x + 3, y, { buttons: 0 }));
      out.tip = [$("tip").hidden, $("tip").textContent];
      canvas.send("pointermove", at(5, 5, { buttons: 0 }));
      out.gone = $("tip").hidden;
      canvas.send("pointerdown", at(x, y));
      canvas.send("pointerup", at(x, y));
      out.facts = $("facts").children[0].textContent;
      document.send("keydown", { key: "r" });
      const far = spot();
      const two = (id, x) => ({ pointerId: id, offsetX: x, offsetY: 350, buttons: 1 });
      canvas.send("pointerdown", two(1, 450));
      canvas.send("pointerdown", two(2, 550));
      canvas.send("pointermove", two(1, 400));
      canvas.send("pointermove", two(2, 600));
      out.pinched = [off(far), off(spot())];
      return out;
    """
    out = run_page(page, script)
    # What lies nearer than the middle moves a little more than the pointer.
    assert 40 < out["panned"][0] < 70
    assert -60 < out["panned"][1] < -30
    assert abs(out["turned"][0]) > 10
    assert out["away"][1] > 1.3 * out["away"][0]
    assert out["tip"] == [False, "a.jpg\nlocalized, 12 inliers"]
    assert out["gone"]
    assert out["facts"] == "a.jpg"
    assert out["pinched"][1] > 1.7 * out["pinched"][0]


def test_names_are_no_markup(tmp_path):
    name = "</script><script>alert(1)</script><!--{{title}}\u2028.jpg"
    page = written(
        tmp_path, model_of(cloud()), [pose_of(name)], title="<b>&{{scene}}", names=[name]
    )
    text = page.read_text()
    assert "alert(1)</script>" not in text
    assert len(re.findall(r"<script", text)) == 2
    assert text.count("&lt;b&gt;&amp;{{scene}}") == 2
    assert scene_json(page)["queries"][0]["name"] == visible(name)
    assert run_page(page, "return frame().texts[0].text;") == visible(name)


def test_the_page_asks_for_nothing_from_elsewhere(tmp_path):
    text = written(tmp_path, model_of(cloud()), [pose_of()]).read_text()
    assert not re.search(r"\b(src|href|import|fetch|url)\b\s*[=(]|https?:", text)


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


def test_limits_and_empty_scenes(tmp_path):
    rng = np.random.default_rng(0)
    world = rng.uniform(-1, 1, (2 * MAX_LINES, 3))
    pose = pose_of(world_points=world, points=by_hand(pose_of().cam_from_world, world))
    scene = make_scene(model_of(cloud()), [pose], max_points=50)
    assert (len(scene.points), scene.total) == (50, 300)
    assert len(scene.queries[0].seen) == MAX_LINES
    assert len(np.unique(make_scene(model_of(cloud(), np.zeros((300, 3))), []).colors)) > 20
    empty = pycolmap.Reconstruction()
    for poses in ([], [Pose(None, NOT_LOCALIZED, "dark")], [pose_of(camera=None)]):
        page = written(tmp_path, empty, poses)
        assert run_page(page, "return frame().strokes.length;") == (
            0 if not poses or poses[0].cam_from_world is None else 7
        )


def test_exaggeration_makes_ellipsoids_visible_in_round_steps():
    scene = make_scene(model_of(cloud()), [pose_of()])
    longest = 2.7955 * 0.03
    assert scene.exaggeration in (1, 2, 5, 10)
    assert 0.01 < scene.exaggeration * longest / scene.radius <= 0.03
    assert make_scene(model_of(cloud()), []).exaggeration == 1
