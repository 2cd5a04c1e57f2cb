"""360 degree photos are no photos of a map: its points are triangulated in perspective photos. They are
refused by name, and the rest goes on where it can."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from index.catalog import Catalog
from index.records import Entry
from locate.errors import InputError
from locate.images import projection_in
from pipelines.build import refresh_local, refresh_vectors
from pipelines.camera_models import is_spherical
from pipelines.map_features import mapped_rows
from pipelines.pose_models import PoseModel

_NAMED = 3  # of many photos in a message
_CURE = "cut them into perspective views, as COLMAP's panorama_sfm.py does"


def refuse_spheres(model: Path, posed: PoseModel) -> None:
    """
    Raises:
        InputError: cameras of the model see the whole sphere.
    """
    names = sorted(name for name, camera in posed.cameras.items() if is_spherical(camera))
    if names:
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        raise InputError(
            f"{len(names)} of the {len(posed.poses)} photos of {model} are 360 degree photos (camera "
            f"model EQUIRECTANGULAR): {', '.join(names[:_NAMED])}{more}; a map is made of perspective "
            f"photos: {_CURE}, and import the model of these, or take the photos out of the model"
        )


def leave_out_panoramas(catalog: Catalog, kept: Collection[int] = ()) -> None:
    """Mark the photos of a map's catalogue whose files are tagged as panoramas as failed, with the
    reason.

    Args:
        kept: ids of photos that the map has already.
    """
    roots, found = catalog.roots(), []
    for row in mapped_rows(catalog).values():
        if row.id in kept:
            continue
        projection = projection_in(roots[row.root_id] / row.path)
        if projection is not None:
            error = (
                f"is a panorama (XMP GPano:ProjectionType is {projection.kind}), and a map is made of "
                f"perspective photos; {_CURE}"
            )
            found.append(Entry(row.root_id, row.path, row.label, row.file, row.info, error=error))
    if found:
        catalog.write(found)
        refresh_vectors(catalog)
        refresh_local(catalog)
