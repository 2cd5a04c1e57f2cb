"""A map learns where it lies on the earth: `georeference_map`, in Python."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

import locate
from index.maps.folder import MapFolder
from locate.errors import DatabaseMissingError, InputError
from locate.georef.georef import Georef
from tests.helpers.small_town import small_town


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    """The town, and a copy of its map that may be changed."""
    made, folder = small_town(tmp_path_factory)
    copy = tmp_path_factory.mktemp("georef") / "town.map"
    shutil.copytree(folder, copy)
    return made, copy


def test_by_the_gps_of_the_photos_and_the_map_remembers_it(town):
    before = MapFolder(town[1]).read_record()
    georef, warnings = locate.georeference_map(town[1])
    assert (georef.source, warnings) == ("gps", ())
    assert georef.scale == pytest.approx(1, abs=1e-3)
    after = MapFolder(town[1]).read_record()
    assert vars(after) == vars(before) | {"georef": georef.to_json()}


def test_values_are_as_good_as_a_file(town, tmp_path):
    """Twice the true centres, moved: the map is half as large as its metres say."""
    shots = {s.file.removeprefix("landmarks/"): s.centre for s in town[0].shots}
    shots = {name: c for name, c in shots.items() if not name.startswith("queries/")}
    values = {name: tuple(2 * c + [10, 20, 30]) for name, c in shots.items()}
    file = tmp_path / "centers.csv"
    rows = [f"{name},{x},{y},{z}" for name, (x, y, z) in values.items()]
    file.write_text("\n".join(["name,x,y,z", *rows]) + "\n")
    origin = (48.0, 9.0, 100.0)
    told = [
        locate.georeference_map(town[1], centers=centers, origin=origin)
        for centers in (values, file, str(file))
    ]
    for report in told:
        np.testing.assert_allclose(report.georef.scale, 2, rtol=1e-3)
        assert "1 unit of it is 2 m: one of the two is wrong" in report.warnings[0]
        assert report.to_json() == told[0].to_json()
    name, centre = next(iter(shots.items()))
    known = Georef.from_json(MapFolder(town[1]).read_record().georef)
    np.testing.assert_allclose(known.enu(centre[None])[0], values[name], atol=0.02)


def test_what_contradicts_itself_changes_nothing(town, tmp_path):
    before = MapFolder(town[1]).read_record()
    for options, says in (
        ({"gps": {}, "centers": {}}, "gps, centers or control points"),
        ({"origin": (1, 2, 3)}, "give both"),
        ({"control_points": "a.csv"}, "belong together"),
        ({"observations": "a.csv"}, "belong together"),
        ({"gps": tmp_path / "none.csv"}, "none.csv does not exist"),
        ({"gps": {"nobody.jpg": (1, 2, None)}}, "none of the 1 names"),
        ({"max_error": -1.0}, "must be positive"),
    ):
        with pytest.raises(InputError, match=says):
            locate.georeference_map(town[1], **options)
    with pytest.raises(DatabaseMissingError, match="no finished map"):
        locate.georeference_map(tmp_path / "none")
    assert not (tmp_path / "none").exists()
    assert MapFolder(town[1]).read_record() == before
