"""A folder of photos that a rig took, localized frame by frame: the stage of `locate localize --rig`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from locate.errors import ImageError
from locate.georef.georef import Georef
from locate.localization.gravity import GravityPrior
from locate.localization.rig import find_frames, read_rigs
from pipelines.localization.localizer import Localizer
from pipelines.localization.matcher import CANDIDATES, PosePrior
from pipelines.localization.rig_localizer import RigPose, localize_frames


def localize_rigs(
    localizer: Localizer,
    rig_config: Path,
    photos: Path,
    *,
    prior: PosePrior | None = None,
    gravity: GravityPrior | None = None,
    candidates: int = CANDIDATES,
    seed: int = 0,
) -> Iterator[RigPose | ImageError]:
    """One rig pose a frame (photos of one instant), in the order of their names.

    Args:
        localizer: a map. If it is georeferenced, the rig's distances are metres and are brought to the
            units of the map; otherwise they are those units.
        rig_config: COLMAP's rig_config.json.
        photos: the folder that its image prefixes are relative to.
        prior, gravity, candidates, seed: see `pipelines.localization.rig_localizer.localize_rig`.

    Yields:
        The pose, whose `poses` are those of the photos; the error of a frame of which no photo can be
        used.

    Raises:
        InputError: what is wrong with the rigs, or that no photo belongs to one.
    """
    rigs, stored = read_rigs(rig_config), localizer.map.record.georef
    if stored is not None:
        metres = Georef.from_json(stored).scale
        rigs = [rig.scaled(1 / metres) for rig in rigs]
    return localize_frames(
        localizer,
        find_frames(photos, rigs),
        prior=prior,
        gravity=gravity,
        candidates=candidates,
        seed=seed,
    )
