"""Image retrieval and visual localization.

    import locate
    db = locate.open(".locate")
    answer = db.query("photo.jpg")
    print(answer.verdict, answer.label)

Everything public is named here; the modules behind are loaded when a name is first used, so that
`import locate` is instant.
"""

from __future__ import annotations

import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:  # for type checkers and editors; `__getattr__` below does it at run time
    from locate.errors import (
        DatabaseCorruptError,
        DatabaseError,
        DatabaseLockedError,
        DatabaseMismatchError,
        DatabaseMissingError,
        ImageError,
        InputError,
        LocateError,
        UnknownNameError,
    )
    from locate.extractors.base import Extractor, ExtractorInfo
    from locate.extractors.registry import create as create_extractor
    from locate.geometry.cameras import Camera
    from locate.images.reading import read_photo
    from locate.localization.gravity import GravityPrior
    from locate.localization.pose import Pose, PosePrior
    from locate.types import Answer, Candidate, Extraction, Features, Photo, PhotoInfo, Verification
    from pipelines.evaluation.localization import evaluate_localization
    from pipelines.evaluation.retrieval import evaluate_retrieval
    from pipelines.indexing.build import BuildReport, add_photos, build_index, remove_images
    from pipelines.localization.localizer import Localizer
    from pipelines.localization.rig_localizer import RigPose, localize_rigs
    from pipelines.mapping.add import add_to_map
    from pipelines.mapping.build import build_map
    from pipelines.mapping.georef import GeorefReport, georeference_map
    from pipelines.mapping.import_model import import_map
    from pipelines.mapping.summary import MapReport
    from pipelines.reports.pose_export import write_poses_as as write_poses
    from pipelines.retrieval.database import Database
    from pipelines.retrieval.database import Database as open  # noqa: A004, N813
    from pipelines.retrieval.query import QueryOptions

# module: its public names
_MODULES = {
    "pipelines.retrieval.database": "Database",
    "pipelines.retrieval.query": "QueryOptions",
    "pipelines.indexing.build": "BuildReport add_photos build_index remove_images",
    "pipelines.mapping.build": "build_map",
    "pipelines.mapping.import_model": "import_map",
    "pipelines.mapping.add": "add_to_map",
    "pipelines.mapping.georef": "GeorefReport georeference_map",
    "pipelines.mapping.summary": "MapReport",
    "pipelines.localization.localizer": "Localizer",
    "pipelines.localization.rig_localizer": "RigPose localize_rigs",
    "pipelines.evaluation.retrieval": "evaluate_retrieval",
    "pipelines.evaluation.localization": "evaluate_localization",
    "locate.extractors.base": "Extractor ExtractorInfo",
    "locate.localization.gravity": "GravityPrior",
    "locate.localization.pose": "Pose PosePrior",
    "locate.geometry.cameras": "Camera",
    "locate.images.reading": "read_photo",
    "locate.types": "Answer Candidate Extraction Features Photo PhotoInfo Verification",
    "locate.errors": "LocateError InputError ImageError UnknownNameError DatabaseError "
    "DatabaseMissingError DatabaseLockedError DatabaseMismatchError DatabaseCorruptError",
}
# name: (module, attribute)
_PUBLIC = {name: (module, name) for module, names in _MODULES.items() for name in names.split()} | {
    "open": ("pipelines.retrieval.database", "Database"),
    "create_extractor": ("locate.extractors.registry", "create"),
    "write_poses": ("pipelines.reports.pose_export", "write_poses_as"),
}
# Old names, for one version: old -> new.
_RENAMED = {"PriorPose": "PosePrior"}
# Spelled out, since type checkers read no other form.
__all__ = ["Answer", "BuildReport", "Camera", "Candidate", "Database", "DatabaseCorruptError"]
__all__ += ["DatabaseError", "DatabaseLockedError", "DatabaseMismatchError", "DatabaseMissingError"]
__all__ += ["Extraction", "Extractor", "ExtractorInfo", "Features", "GeorefReport", "GravityPrior"]
__all__ += ["ImageError", "InputError", "Localizer", "LocateError", "MapReport", "Photo"]
__all__ += ["PhotoInfo", "Pose", "PosePrior", "QueryOptions", "RigPose", "UnknownNameError"]
__all__ += ["Verification", "__version__", "add_photos", "add_to_map", "build_index", "build_map"]
__all__ += ["create_extractor", "evaluate_localization", "evaluate_retrieval", "georeference_map"]
__all__ += ["import_map", "localize_rigs", "open", "read_photo", "remove_images", "write_poses"]


def __getattr__(name: str) -> Any:
    if name in _RENAMED:
        new = _RENAMED[name]
        warnings.warn(f"locate.{name} is called locate.{new} now", DeprecationWarning, stacklevel=2)
        return __getattr__(new)
    if name not in _PUBLIC:
        raise AttributeError(f"module 'locate' has no attribute {name!r}")
    module, attribute = _PUBLIC[name]
    try:
        value = getattr(import_module(module), attribute)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] in ("index", "pipelines"):
            raise ImportError(
                f"locate needs its own packages index/ and pipelines/, but {error.name} was not "
                "found: another package or folder of that name hides them on sys.path"
            ) from error
        raise
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)
