"""What another network saw becomes the files that a training reads."""

from __future__ import annotations

import numpy as np
import pytest

from locate.training.data.correspondences import load_pairs
from locate.training.data.teacher import load_teacher
from locate.training.data.teacher_files import candidate_pairs, write_labels, write_pairs

SIZE = (640, 480)


def project(points, shift):
    seen = points - shift
    return (seen[:, :2] / seen[:, 2:] * 500 + np.array(SIZE) / 2).astype(np.float32)


@pytest.fixture
def seen(tmp_path):
    """Two photos of 120 points in space, which differ where the second is matched wrongly."""
    rng = np.random.default_rng(0)
    points = rng.uniform((-2, -1.5, 4), (2, 1.5, 9), (120, 3))
    made = {"model": "seer", "count": 2}
    (tmp_path / "data/scene").mkdir(parents=True)
    scores = np.full(120, 0.5, np.float32)
    scores[100:] = 0.01
    for i, shift in enumerate(((0, 0, 0), (0.6, 0.1, 0.2))):
        descriptors = rng.normal(size=(120, 8))
        descriptors /= np.linalg.norm(descriptors, axis=1, keepdims=True)
        (tmp_path / f"data/scene/{i}.jpg").touch()
        made |= {f"{i}|name": str(tmp_path / f"data/scene/{i}.jpg"), f"{i}|size": np.array(SIZE)}
        made |= {f"{i}|keypoints": project(points, np.array(shift)), f"{i}|scores": scores}
        made |= {f"{i}|descriptors": descriptors.astype(np.float32)}
    np.savez(tmp_path / "seen.npz", **made)
    return tmp_path / "seen.npz"


def test_labels_leave_out_what_the_teacher_hardly_believes(seen, tmp_path):
    assert write_labels(tmp_path / "labels.npz", [seen], tmp_path / "data") == (2, 200)
    teacher = load_teacher(tmp_path / "labels.npz", tmp_path / "data")
    assert (teacher.name, teacher.dim) == ("seer", 8)
    assert len(teacher.keypoints[tmp_path / "data/scene/0.jpg"]) == 100


def test_pairs_are_what_one_motion_explains(seen, tmp_path):
    same = np.repeat(np.arange(120)[:, None], 2, axis=1)
    same[:20, 1] = np.roll(same[:20, 1], 7)
    np.savez(tmp_path / "m.npz", **{"0|1": same, "0|1|scores": np.ones(120)})
    count, matches = write_pairs(tmp_path / "p.npz", seen, tmp_path / "m.npz", tmp_path / "data")
    (pair,) = load_pairs(tmp_path / "p.npz", tmp_path / "data")
    assert (count, matches) == (1, len(pair))
    assert 98 <= matches <= 104  # a wrong one may lie on its line
    np.savez(tmp_path / "m.npz", **{"0|1": same[:20]})
    assert write_pairs(tmp_path / "p.npz", seen, tmp_path / "m.npz", tmp_path / "data")[0] == 0


def test_candidates_are_neighbours_in_a_large_scene(tmp_path):
    names = [f"small/{i}.jpg" for i in range(4)] + [f"large/{i:02}.jpg" for i in range(50)]
    np.savez(tmp_path / "f.npz", count=len(names), **{f"{i}|name": n for i, n in enumerate(names)})

    def describe(path):
        angle = int(path.stem) / 10
        return np.array([np.cos(angle), np.sin(angle)])

    found = candidate_pairs(tmp_path / "f.npz", describe)
    small = {pair for pair in found if max(pair) < 4}
    assert small == {(a, b) for b in range(4) for a in range(b)}
    large = [pair for pair in found if min(pair) >= 4]
    assert len(small) + len(large) == len(found)
    assert {(30, 31), (30, 32)} < set(large)
    assert all(1 <= b - a <= 5 for a, b in large)
