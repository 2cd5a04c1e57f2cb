"""Georeferencing: a map learns where it lies on the earth, its metres, north and up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from index import lock
from index.catalog import Catalog
from index.maps.folder import MapFolder
from locate.errors import InputError
from locate.georef import fitting
from locate.georef.fitting import Place
from locate.georef.georef import (
    Georef,
    georef_from_centers,
    georef_from_control_points,
    georef_from_gps,
    metric_contradiction,
)
from pipelines.mapping.features import gps_of


class GeorefReport(NamedTuple):
    """The similarity from the map to metres East-North-Up with its origin, and what contradicts it."""

    georef: Georef
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """JSON-able values."""
        return {**self.georef.to_json(), "warnings": list(self.warnings)}


def georeference_map(
    map_folder: Path | str,
    *,
    gps: Path | str | Mapping[str, Place] | None = None,
    centers: Path | str | Mapping[str, Sequence[float]] | None = None,
    control_points: Path | str | None = None,
    observations: Path | str | None = None,
    origin: tuple[float, float, float] | None = None,
    max_error: float | None = None,
) -> GeorefReport:
    """Fit the similarity from a map to the earth, and remember it in the map.

    Args:
        gps: WGS84 (latitude, longitude, altitude or None) by the image's name, which may lack folders;
            or a CSV file of them. By default what the photos' EXIF says.
        centers: instead, (x, y, z) of the cameras in local metres: east, north, up; or a CSV file.
        control_points: instead, a CSV file of surveyed points, which `observations` shows in the photos.
        observations: a CSV file of point, image, x, y in pixels.
        origin: WGS84 (latitude, longitude, altitude) where the metres of `centers` begin; without it
            the map has metres, but no place on the earth.
        max_error: metres up to which a place agrees; by default as `locate.georef.georef` has it for
            each source.

    Raises:
        InputError: a file cannot be read, sources contradict each other, or the places do not tell
            where the map is (see `fit_georef`).
        DatabaseMissingError: there is no map.
        DatabaseLockedError: another process writes to it.
    """
    if sum(source is not None for source in (gps, centers, control_points)) > 1:
        raise InputError("a map is placed by gps, centers or control points; give one of them")
    if (control_points is None) != (observations is None):
        raise InputError("--control-points and --observations belong together; give both")
    if origin is not None and centers is None:
        raise InputError("--origin says where the metres of --centers begin; give both")
    folder = MapFolder(Path(map_folder))
    folder.read_record()  # a clear error before a lock is made in a folder that is no map
    with lock.writer(folder.folder):
        model = folder.read_model()
        within: dict[str, Any] = {} if max_error is None else {"max_error": max_error}
        if control_points is not None and observations is not None:
            points, geographic = fitting.read_control_points(Path(control_points))
            seen = fitting.read_observations(Path(observations))
            found = georef_from_control_points(model, points, seen, geographic=geographic, **within)
        elif centers is not None:
            known = centers if isinstance(centers, Mapping) else fitting.read_centers(Path(centers))
            found = georef_from_centers(model, known, origin=origin, **within)
        else:
            found = georef_from_gps(model, _places(gps, folder), **within)
        record = folder.read_record()
        folder.write_record(replace(record, georef=found.to_json()))
    contradiction = metric_contradiction(found) if record.units == "metre" else None
    return GeorefReport(found, (contradiction,) if contradiction else ())


def _places(gps: Path | str | Mapping[str, Place] | None, folder: MapFolder) -> Mapping[str, Place]:
    if gps is not None:
        return gps if isinstance(gps, Mapping) else fitting.read_places(Path(gps))
    with Catalog.open(folder.features) as catalog:
        places = gps_of(catalog)
    if len(places) < 3:
        raise InputError(
            f"{len(places)} photos of the map have GPS in their EXIF, 3 are needed; give places by "
            "--gps, --centers or --control-points"
        )
    return places
