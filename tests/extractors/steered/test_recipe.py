"""The recipe of the steered network: views in which the teacher's keypoints are where they should be,
a loss that falls, weights that extract; and the file of the teacher's features."""

from __future__ import annotations

import json
import math

import cv2
import numpy as np
import pytest
import torch

from locate.errors import InputError
from locate.extractors.recipes import create_recipe
from locate.extractors.sift import Sift
from locate.extractors.steered import recipe as module
from locate.extractors.steered.extractor import Steered
from locate.extractors.steered.recipe import SteeredRecipe
from locate.extractors.weights import Record, load_weights, save_weights
from locate.images.reading import read_photo
from locate.pixels import apply_homography
from locate.training.data.correspondences import MatchedPair, save_pairs
from locate.training.data.teacher import load_teacher, save_teacher
from locate.training.recipe import generator

SHIFT = 14  # pixels between the two photos of a scene


@pytest.fixture(scope="module")
def folder(tmp_path_factory, texture):
    """Thirty photos; the last five show one place. RootSIFT is the teacher."""
    root = tmp_path_factory.mktemp("train")
    (root / "photos").mkdir()
    place = texture((320, 240), seed=99)
    paths, keypoints, scores, descriptors = [], [], [], []
    for i in range(30):
        pixels = texture((240, 200), seed=i)
        if i >= 25:
            pixels = place[20:220, SHIFT * (i - 25) :][:, :240]
        paths.append(root / "photos" / f"{i:02}.png")
        cv2.imwrite(str(paths[-1]), pixels[..., ::-1])
        features = Sift(200).extract(np.ascontiguousarray(pixels)).features
        keypoints.append(features.keypoints)
        scores.append(np.minimum(1, 10 * features.scores))
        descriptors.append(features.descriptors)
    pairs = []
    for a in range(25, 29):
        b = a + 1
        apart = np.linalg.norm(keypoints[a][:, None] - (SHIFT, 0) - keypoints[b], axis=2)
        rows, same = apart.argmin(axis=1), apart.min(axis=1) < 0.3
        points = keypoints[a][same], keypoints[b][rows[same]]
        pairs.append(MatchedPair(paths[a], paths[b], *points, "by hand"))
        assert len(pairs[-1]) > 40
    save_teacher(root / "teacher.npz", paths, keypoints, scores, descriptors, "sift", root)
    save_pairs(root / "pairs.npz", pairs, root)
    return root


@pytest.fixture(scope="module")
def recipe(folder, tmp_path_factory):
    made = SteeredRecipe(
        folder / "teacher.npz", folder / "pairs.npz", crop=96, pairs=4, points=48, matched=0.5
    )
    made.prepare(folder, tmp_path_factory.mktemp("cache"))
    return made


def test_batches_depend_on_their_number_alone(recipe):
    stage = recipe.stages[0]
    a, b, other = (recipe.batch(stage, generator(0, 0, n)) for n in (3, 3, 4))
    for name in ("images", "points", "descriptors", "upright", "orientations"):
        assert torch.equal(a[name], b[name])
    assert not torch.equal(a["images"], other["images"])
    assert a["images"].shape == (8, 3, 96, 96)
    assert a["points"].shape == (8, 48, 2)
    assert a["descriptors"].shape == (8, 48, 128)
    assert all(8 < count <= 48 for count in a["counts"])
    held_out = recipe.batch(stage, generator(0, 0, 3), held_out=True)
    taught, known = held_out["descriptors"], (held_out["descriptors"] != 0).any(dim=-1)
    assert torch.equal(taught[0::2], taught[1::2])  # of one photo
    facing = held_out["orientations"][known]
    torch.testing.assert_close(facing.norm(dim=-1), torch.ones(len(facing)))


def test_points_show_the_same_spot(recipe, monkeypatch):
    """In views without changes of light the grey values at matched points agree, and the teacher's
    descriptors do: of one photo the same rows, of two those of its matches."""
    monkeypatch.setattr(module, "photometric_noise", lambda image, *_: image)
    right, wrong, shares, kinds = [], [], [], set()
    for n in range(12):
        batch = recipe.batch(recipe.stages[0], generator(0, 0, n))
        grey = cv2.blur(batch["images"].mean(dim=1).permute(1, 2, 0).numpy(), (3, 3))
        for p, count in enumerate(batch["counts"]):
            seen = [
                cv2.remap(
                    np.ascontiguousarray(grey[..., 2 * p + i]),
                    batch["points"][2 * p + i, :count].numpy()[None],
                    None,
                    cv2.INTER_LINEAR,
                )[0]
                for i in range(2)
            ]
            right.append(np.abs(seen[0] - seen[1]).mean())
            wrong.append(np.abs(seen[0] - seen[1][::-1]).mean())
            taught = batch["descriptors"][2 * p : 2 * p + 2, :count]
            known = (taught[0] != 0).any(dim=-1)
            one = torch.equal(taught[0], taught[1])
            kinds.add(one)
            shares.append(float(known.float().mean()) if one else math.nan)
            assert one or known.all()
            cosines = (taught[0] * taught[1]).sum(dim=-1)[known]
            assert cosines.min() > 0.7
    assert kinds == {True, False}
    assert 0.1 < np.nanmean(shares) < 0.9  # the other points are corners
    assert np.mean(right) < 0.3 * np.mean(wrong)


def test_keypoints_of_the_batch_face_along_the_gradient_there(recipe):
    """By an independent blur and central differences of the view itself, at its own points."""
    batch = recipe.batch(recipe.stages[0], generator(0, 0, 5))
    offsets = np.arange(-20, 21)
    weights = np.exp(-(offsets**2) / (2 * 5.0**2))
    weights /= weights.sum()
    cosines = []
    for v, image in enumerate(batch["images"].numpy()):
        grey = np.pad(np.tensordot((0.299, 0.587, 0.114), image, axes=1), 20, mode="edge")
        for axis in (0, 1):
            grey = np.apply_along_axis(np.convolve, axis, grey, weights, mode="valid")
        slopes = np.stack(np.gradient(grey)[::-1], axis=-1)
        count = batch["counts"][v // 2]
        x, y = np.round(batch["points"][v, :count].numpy()).astype(int).T
        slope = slopes[y, x]
        length = np.linalg.norm(slope, axis=1)
        along = (batch["orientations"][v, :count].numpy() * slope).sum(axis=1) / length
        cosines.append(along[length > 0.5])
    cosines = np.concatenate(cosines)
    assert len(cosines) > 100
    assert np.median(cosines) > 0.99
    assert np.percentile(cosines, 5) > 0.9


def test_upright_is_where_right_goes():
    rng = np.random.default_rng(0)
    h = np.eye(3) + rng.normal(scale=(0.2, 0.2, 0.002), size=(3, 3)).T
    h[:2, 2] *= 50
    points = rng.uniform(0, 90, (20, 2))
    ends = [apply_homography(h, points + np.array((sign * 1e-4, 0))) for sign in (1, -1)]
    expected = (ends[0] - ends[1]) / np.linalg.norm(ends[0] - ends[1], axis=1, keepdims=True)
    np.testing.assert_allclose(module._upright(h, points), expected, atol=1e-6)


def test_views_turn_all_round_and_tell_by_how_much(recipe):
    """`upright` is where right of the photo points in the view."""
    angles = []
    for n in range(40):
        batch = recipe.batch(recipe.stages[0], generator(1, 0, n))
        right = batch["upright"][:, 0].numpy()
        angles += np.degrees(np.arctan2(right[:, 1], right[:, 0])).tolist()
    counts, _ = np.histogram(angles, bins=8, range=(-180, 180))
    assert counts.sum() == 320
    assert counts.min() >= 8


def test_rivals_are_others(recipe):
    """Rows of one pair that lie near to each other in both views are not told apart."""
    points = torch.tensor([[(0.0, 0), (3, 0), (50, 0)], [(9.0, 9), (9, 10), (9, 60)]] * 2)
    mine = torch.tensor([[True, True, True]] * 2 + [[True, False, False]] * 2)
    found = module._apart(points, mine)
    assert found.tolist() == [
        [False, False, True, True],
        [False, False, True, True],
        [True, True, False, True],
        [True, True, True, False],
    ]


def test_it_learns_and_the_weights_extract(recipe, folder, tmp_path):
    torch.manual_seed(0)
    stage, network = recipe.stages[0], recipe.network()
    optimiser = torch.optim.AdamW(recipe.begin(network, stage), lr=2e-3)
    batches = [recipe.batch(stage, generator(0, 0, n)) for n in range(3)]
    seen = []
    for step in range(24):
        found = recipe.losses(network, batches[step % 3], stage)
        optimiser.zero_grad()
        found["loss"].backward()
        optimiser.step()
        seen.append({name: float(value.detach()) for name, value in found.items()})
    for name in ("loss", "contrast", "teacher"):
        first, last = (np.mean([s[name] for s in part]) for part in (seen[:3], seen[-3:]))
        assert last < 0.97 * first, name
    file = tmp_path / "w.safetensors"
    save_weights(file, recipe.tensors(network), Record("steered", recipe.settings()))
    extractor = Steered.from_pretrained(file)
    features = extractor.extract(read_photo(folder / "photos/03.png").pixels).features
    assert len(features) > 20
    again = recipe.network()
    recipe.start_from(again, load_weights(file, "steered")[0])
    assert torch.equal(again.describe[0].weight, network.describe[0].weight)


def test_frames_of_a_pair_are_turned_alike_and_by_any_angle(recipe):
    torch.manual_seed(0)
    given = torch.nn.functional.normalize(torch.randn(8, 48, 2), dim=-1)
    angles = []
    for _ in range(50):
        turned = torch.view_as_complex(recipe._rotated(given).contiguous())
        turn = torch.angle(turned / torch.view_as_complex(given))
        assert (turned.abs() - 1).abs().max() < 1e-5
        alike = torch.polar(torch.ones_like(turn), turn)
        for pair in alike.view(4, 2 * 48):
            assert (pair - pair[0]).abs().max() < 1e-4
        angles += turn[0::2, 0].tolist()
    assert np.histogram(angles, 4, (-np.pi, np.pi))[0].min() > 25  # of 200


def test_settings_come_from_the_command_line(folder):
    made = create_recipe(
        "steered",
        {"teacher": str(folder / "teacher.npz"), "widths": [2, 2, 2, 2, 2], "fields": 2},
    )
    assert made.network().widths == (2, 2, 2, 2, 2)
    expected = {"widths": [2] * 5, "fields": 2, "residuals": [1, 1, 2, 2], "hidden": 256}
    assert json.loads(json.dumps(made.settings())) == expected


@pytest.mark.parametrize(
    "settings",
    [
        {"widths": (1, 2)},
        {"widths": (1, 1, 1, 1, 0)},
        {"fields": 0},
        {"residuals": (1,)},
        {"hidden": 0},
    ],
)
def test_networks_that_make_no_sense(settings):
    with pytest.raises(InputError, match="steered: widths must be five"):
        SteeredRecipe(**settings)


def test_a_teacher_of_other_descriptors(folder, tmp_path):
    path = folder / "photos/05.png"
    one = [np.ones((3, n), np.float32) for n in (2, 64)]
    save_teacher(
        tmp_path / "t.npz", [path], one[:1], [np.ones(3, np.float32)], one[1:], "x", folder
    )
    with pytest.raises(InputError, match="have 64 numbers, the student's 128"):
        SteeredRecipe(tmp_path / "t.npz").prepare(folder, tmp_path)


@pytest.mark.parametrize("settings", [{"crop": 100}, {"pairs": 0}, {"matched": 1.5}])
def test_settings_that_make_no_sense(settings):
    with pytest.raises(InputError, match="steered: crop must be"):
        SteeredRecipe(**settings)


def test_without_a_teacher_it_says_how_to_name_one(tmp_path):
    with pytest.raises(InputError, match="--set teacher=FILE"):
        SteeredRecipe().prepare(tmp_path, tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        SteeredRecipe(tmp_path / "no.npz").prepare(tmp_path, tmp_path)


def test_photos_that_are_gone(folder, tmp_path):
    with pytest.raises(InputError, match="holds none of the photos"):
        SteeredRecipe(folder / "teacher.npz").prepare(tmp_path, tmp_path)


# --- the teacher's file


def test_what_a_teacher_found_is_read_as_it_was_written(folder):
    found = load_teacher(folder / "teacher.npz", folder)
    assert (found.name, found.dim, len(found.keypoints)) == ("sift", 128, 30)
    path = folder / "photos/05.png"
    features = Sift(200).extract(read_photo(path).pixels).features
    np.testing.assert_array_equal(found.keypoints[path], features.keypoints)
    np.testing.assert_allclose(found.descriptors[path], features.descriptors, atol=1e-3)


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("offsets", np.array([0, 5]), "`offsets` must be"),
        ("keypoints", np.full((6000, 2), np.nan, np.float32), "must be M x 2 float32 and finite"),
        ("scores", np.full(3, 0.5, np.float32), "must be M float32, 0 to 1"),
        ("descriptors", np.zeros((3, 128), np.float16), "must be M x D float16"),
        ("images", np.arange(30), "must be one or more strings"),
        ("images", np.array("05.png"), "must be one or more strings"),
        ("keypoints", np.array(1, np.float32), "must be M x 2 float32"),
        ("teacher", None, "lacks teacher"),
    ],
)
def test_damaged_files_of_a_teacher(name, value, rule, folder, tmp_path):
    with np.load(folder / "teacher.npz") as stored:
        values = dict(stored)
    values[name] = value
    np.savez(tmp_path / "bad.npz", **{k: v for k, v in values.items() if v is not None})
    with pytest.raises(InputError, match=rule):
        load_teacher(tmp_path / "bad.npz", folder)
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(InputError, match="is no file of a teacher's features"):
        load_teacher(tmp_path / "text.npz", folder)
