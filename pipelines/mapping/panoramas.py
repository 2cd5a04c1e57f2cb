"""360 degree photos are no photos of a map: its points are triangulated in perspective photos. They are
refused by name, and the rest goes on where it can."""

from __future__ import annotations

from collections.abc import Collection

from index.catalog import Catalog
from index.records import Entry
from locate.geometry.panorama_camera import CUT_THEM
from locate.images.reading import projection_in
from pipelines.indexing.build import refresh_local, refresh_vectors
from pipelines.mapping.features import mapped_rows


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
                f"perspective photos; {CUT_THEM}"
            )
            found.append(Entry(row.root_id, row.path, row.label, row.file, row.info, error=error))
    if found:
        catalog.write(found)
        refresh_vectors(catalog)
        refresh_local(catalog)
