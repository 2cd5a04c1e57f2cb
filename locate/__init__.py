"""Image retrieval and visual localization.

    import locate
    db = locate.open(".locate")
    answer = db.query("photo.jpg")
    print(answer.verdict, answer.label)

Everything public is named here; the modules behind are loaded when a name is first used, so that
`import locate` is instant.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from locate.errors import (
        DatabaseCorruptError as DatabaseCorruptError,
    )
    from locate.errors import (
        DatabaseError as DatabaseError,
    )
    from locate.errors import (
        DatabaseLockedError as DatabaseLockedError,
    )
    from locate.errors import (
        DatabaseMismatchError as DatabaseMismatchError,
    )
    from locate.errors import (
        DatabaseMissingError as DatabaseMissingError,
    )
    from locate.errors import (
        ImageError as ImageError,
    )
    from locate.errors import (
        InputError as InputError,
    )
    from locate.errors import (
        LocateError as LocateError,
    )
    from locate.errors import (
        UnknownNameError as UnknownNameError,
    )
    from locate.extractors.registry import create as create_extractor
    from locate.images import read_photo as read_photo
    from locate.types import (
        Answer as Answer,
    )
    from locate.types import (
        Candidate as Candidate,
    )
    from locate.types import (
        Features as Features,
    )
    from locate.types import (
        Photo as Photo,
    )
    from locate.types import (
        PhotoInfo as PhotoInfo,
    )
    from locate.types import (
        Verification as Verification,
    )
    from pipelines.build import BuildReport as BuildReport
    from pipelines.build import add_photos as add_photos
    from pipelines.build import build_index as build_index
    from pipelines.build import remove_images as remove_images
    from pipelines.retrieve import Database as Database
    from pipelines.retrieve import Database as open  # noqa: A004

# name: (module, attribute)
_PUBLIC = {
    "open": ("pipelines.retrieve", "Database"),
    "Database": ("pipelines.retrieve", "Database"),
    "build_index": ("pipelines.build", "build_index"),
    "add_photos": ("pipelines.build", "add_photos"),
    "remove_images": ("pipelines.build", "remove_images"),
    "BuildReport": ("pipelines.build", "BuildReport"),
    "create_extractor": ("locate.extractors.registry", "create"),
    "read_photo": ("locate.images", "read_photo"),
    **{
        name: ("locate.types", name)
        for name in ("Answer", "Candidate", "Features", "Photo", "PhotoInfo", "Verification")
    },
    **{
        name: ("locate.errors", name)
        for name in (
            "LocateError",
            "InputError",
            "ImageError",
            "UnknownNameError",
            "DatabaseError",
            "DatabaseMissingError",
            "DatabaseLockedError",
            "DatabaseMismatchError",
            "DatabaseCorruptError",
        )
    },
}
__all__ = sorted((*_PUBLIC, "__version__"))  # noqa: PLE0604, PLE0605


def __getattr__(name: str) -> Any:
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
