"""Every published system that is ready, through all that a user does: index, query, map, pose."""

from __future__ import annotations

import pytest

import locate
from locate.errors import NoMapError
from tests.helpers.small_town import errors, queries_of, small_town

PUBLISHED = ("superpoint", "unsuperpoint", "sekd", "lift", "lfnet", "ur2kid", "delf", "d2net")
NO_MAPS = ("delf",)  # which `import-map` refuses: too few of its matches agree with true poses


@pytest.mark.parametrize("name", PUBLISHED)
def test_index_query_map_pose(name, tmp_path_factory, tmp_path):
    town, _ = small_town(tmp_path_factory)
    photos = town.root / "landmarks"
    query = queries_of(town)[sorted(queries_of(town))[0]]
    landmark = next(s.landmark for s in town.shots if s.file.endswith(query.path.name))
    extractor = name if name == "ur2kid" else f"gem+{name}"
    report = locate.build_index(photos, tmp_path / "db", extractor=extractor, label_from="parent")
    assert report.added == 10
    with locate.open(tmp_path / "db") as database:
        answer = database.query(query.path, top=3)
    assert answer.best.label == landmark
    assert answer.best.inliers > 20
    model = town.root / "colmap"
    if name in NO_MAPS:
        with pytest.raises(NoMapError, match="agree with the poses"):
            locate.import_map(model, photos, tmp_path / "map", extractor=extractor, metric=True)
        return
    locate.import_map(model, photos, tmp_path / "map", extractor=extractor, metric=True)
    with locate.Localizer(tmp_path / "map") as localizer:
        pose = localizer.localize(query.path, query.camera)
    assert pose.verdict == "localized"
    apart, degrees = errors(pose, query.truth)
    assert apart < 0.05
    assert degrees < 2
