"""Indexes from before the default of a setting changed, or there was such a setting, still open."""

from __future__ import annotations

import json

import pytest

import locate
from index.catalog import Catalog
from pipelines.indexing.build import build_index


@pytest.mark.parametrize("settings", [{}, {"max_keypoints": 300}])
@pytest.mark.parametrize("name", ["superpoint", "unsuperpoint", "lfnet", "sekd"])
def test_an_index_of_one_size(name, settings, tmp_path, photo_factory):
    for k in range(2):
        photo_factory(tmp_path / f"photos/{k}.png", size=(400, 300), seed=k)
    index = tmp_path / "new.locate"
    how = {"pyramid": False, **settings}
    build_index(tmp_path / "photos", index, extractor=f"gem+{name}", settings=how)
    with Catalog.create(index) as catalog, catalog.transaction():  # nobody had to say so then
        catalog.set_meta(
            "extractor settings", json.dumps({"gem": {}, name: settings} if settings else {})
        )
        stored = json.loads(catalog.meta("extractor"))["settings"][name]
        assert stored.get("pyramid", False) is False
        assert ("pyramid" in stored) == (name == "sekd")
    with locate.open(index) as db:
        assert db.query(tmp_path / "photos/0.png").best.image == "0.png"
