"""What settings are chosen by is seen by no training: photos and places that their names hold out."""

from __future__ import annotations

import pytest

from locate.extractors.recipes import create_recipe
from locate.training.data.photos import PhotoPool, never_trained_on, of_place_held_out
from locate.training.recipe import generator

RECIPES = {
    "d2net": {"matched": 0, "crop": 64, "pairs": 8},
    "delf": {"batch_size": 16, "crop": 64},
    "unsuperpoint": {},
    "ur2kid": {"crop": 64, "tuples": 8, "single_share": 0.3},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, photo_factory):
    root = tmp_path_factory.mktemp("train")
    for k in range(40):
        photo_factory(root / f"photos/{k}.png", (120, 90), k)
    for k in range(30):
        for i in range(3):
            photo_factory(root / f"scenes/p{k}/{i}.png", (120, 90), 100 + k)
    return root


@pytest.mark.parametrize("name", RECIPES)
def test_no_batch_shows_what_is_held_out(name, folder, tmp_path, monkeypatch):
    recipe = create_recipe(name, RECIPES[name])
    recipe.prepare(folder, tmp_path)
    seen, read = set(), PhotoPool.read

    def noted(pool, index, side):
        seen.add(pool.paths[index])
        return read(pool, index, side)

    monkeypatch.setattr(PhotoPool, "read", noted)
    for step in range(12):
        recipe.batch(recipe.stages[0], generator(0, 0, step))
    assert len(seen) > 20
    singles = {path for path in folder.glob("photos/*.png") if never_trained_on(path, folder)}
    scenes = {
        path
        for path in folder.glob("scenes/*/*.png")
        if of_place_held_out(path.relative_to(folder).as_posix())
    }
    assert singles
    assert scenes
    assert not seen & (singles | scenes)
