"""Commands from typed functions: name, type and default of an option are written once, where it is used.

    @command("locate info --images")
    def info(images: Annotated[bool, option("list every image")], index: Index, as_json: Json) -> int:
        'Say what is in the database.'

A bool is a flag, a tuple may be repeated, a Literal is a choice; `**how: Unpack[SomeTypedDict]` are
options that are handed on to a stage as they are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    Union,
    Unpack,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

import click

from locate.errors import InputError

Make = Callable[[str, Any], click.Parameter]  # of the parameter's name and type
# No option of ours begins so.
_NUMBERS = re.compile(r"-(\.?\d|inf|nan)", re.IGNORECASE)


def option(
    text: str,
    metavar: str | None = None,
    default: Any = None,
    *,
    name: str | None = None,
    least: int | None = None,
    read: Callable[[Any], Any] | None = None,
    **more: Any,
) -> Make:
    """What an option has besides its type.

    Args:
        text: of the help.
        metavar: stands for the value there.
        name: "--name" if the parameter's does not do.
        least: a whole number must not be less.
        read: makes the value of its text, or of all texts if it may be repeated.
    """

    def make(parameter: str, hint: Any) -> click.Option:
        kind, many = (str, False) if read else _kind_of(hint)
        kind = kind if least is None else click.IntRange(min=least)
        values: dict[str, Any] = {"type": kind, "multiple": many, "metavar": metavar}
        if hint is bool:
            values = {"is_flag": True, "flag_value": not default}
        if default is not None:
            values["default"] = default
        if read:
            values["callback"] = lambda _, __, value: None if value is None else read(value)
        words = [name or f"--{parameter.replace('_', '-')}", parameter]
        return click.Option(words, help=text, **values | more)

    return make


def argument(text: str, metavar: str | None = None, *, required: bool = True) -> Make:
    """A word that is no option; see `option`."""

    def make(parameter: str, hint: Any) -> click.Argument:
        kind, many = _kind_of(hint)
        values: dict[str, Any] = {"type": kind, "metavar": metavar, "help": text}
        if many:
            shown = f"{metavar}..." if required else f"[{metavar}]..."
            values |= {"nargs": -1, "required": required, "metavar": shown}
        return click.Argument([parameter], **values)

    return make


def _kind_of(hint: Any) -> tuple[Any, bool]:
    """A value's type as click has it, and whether there may be several."""
    if get_origin(hint) in (Union, UnionType):
        (hint,) = (kind for kind in get_args(hint) if kind is not NoneType)
    if get_origin(hint) is tuple:
        return _kind_of(get_args(hint)[0])[0], True
    if get_origin(hint) is Literal:
        return click.Choice(get_args(hint)), False
    if hint is Path:  # whatever is named: the stages say what is wrong with it
        return click.Path(readable=False, path_type=Path), False
    return hint, False


def parameters_of(function: Any) -> Iterator[click.Parameter]:
    """What click must know of a function's parameters, or the fields of a class."""
    for name, hint in get_type_hints(function, include_extras=True).items():
        if get_origin(hint) is Unpack:
            yield from parameters_of(get_args(hint)[0])
        elif get_origin(hint) is Annotated:
            yield hint.__metadata__[0](name, hint.__origin__)


class _Plain(click.Command):
    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """As it was written."""
        formatter.write(f"\n{self.epilog}\n")


class Command(_Plain):
    """A command, for which "-1.5,2,3" is a value and no option."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        given = list(args)
        try:
            return super().parse_args(ctx, list(self._in_order(ctx, args)))
        except click.UsageError as error:
            # The way out for files whose names look like options.
            named = [word for word in given if word.startswith("-") and _is_file(word)]
            if not named:
                raise
            hint = f"{error.format_message()} (for the file of that name write ./{named[0]})"
            raise click.UsageError(hint, ctx) from error

    def _in_order(self, ctx: click.Context, args: Sequence[str]) -> Iterator[str]:
        """Options with their values, then "--" and all other words; options may be shortened."""
        takes = {
            name: not found.is_flag
            for found in self.get_params(ctx)
            if isinstance(found, click.Option)
            for name in found.opts
        }
        words = iter(args)
        others: list[str] = []
        for word in words:
            if word == "--":
                others += words
            elif word == "-" or not word.startswith("-") or _NUMBERS.match(word):
                others.append(word)
            else:
                name, equals, value = word.partition("=")
                full = [long for long in takes if long.startswith(name) and name[:2] == "--"]
                name = full[0] if len(full) == 1 else name
                yield name + equals + value
                if takes.get(name) and not equals:
                    value = next(words, "--")
                    if value[:1] == "-" != value and not _NUMBERS.match(value):
                        if ctx.resilient_parsing:  # a shell asks what the value may be
                            return
                        wanted = f"Option {name!r} requires an argument."
                        raise click.BadOptionUsage(name, wanted, ctx)
                    yield value
        yield from ("--", *others)


class Group(_Plain, click.Group):
    """Commands in their order; some by the file that is imported when they are asked for."""

    def __init__(self, name: str, files: Mapping[str, str] | None = None, **more: Any) -> None:
        super().__init__(name, **more)
        self._files = files or {}
        self.no_args_is_help = False

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return [*self._files, *self.commands]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self._files:
            return super().get_command(ctx, cmd_name)
        module = import_module(f"pipelines.cli.{self._files[cmd_name]}")
        return cast("click.Command", getattr(module, cmd_name.replace("-", "_")))

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        known = self.list_commands(ctx)
        if args[0] not in known and not args[0].startswith("-") and not ctx.resilient_parsing:
            near = get_close_matches(args[0], known)
            hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(known)}."
            ctx.fail(f"No such command {args[0]!r}; {hint}")
        return super().resolve_command(ctx, args)


def words_of(text: str, example: str, more: str = "") -> dict[str, Any]:
    """How a command says in one sentence what it does, and shows it."""
    return {
        "help": text,
        "short_help": f"{text[:1].lower()}{text[1:]}".removesuffix("."),
        "epilog": f"{more}example:\n  {example}",
    }


def command(example: str) -> Callable[[Callable[..., int]], Command]:
    """Make a command of a function that gives its exit code; its docstring is the help."""

    def add(function: Callable[..., int]) -> Command:
        name, words = function.__name__.replace("_", "-"), words_of(function.__doc__ or "", example)
        return Command(name, callback=function, params=[*parameters_of(function)], **words)

    return add


def settings_of(words: Sequence[str]) -> dict[str, str]:
    """What was given by --set, still as text."""
    settings = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not (name and equals):
            raise InputError(f"--set is NAME=VALUE, such as max_keypoints=8192, not {word!r}")
        settings[name] = value
    return settings


def weights_of(words: Sequence[str]) -> tuple[Path, ...]:
    """Files, of which one may be named as `locate models add` has it."""
    from index.model_store import find

    return tuple(map(find, words))


def numbers_of(text: str, counts: Sequence[int], form: str) -> list[float]:
    """Numbers "1,2,3", so many; an `InputError` that tells their form for anything else."""
    values: list[float] = []
    with suppress(ValueError):
        values = [float(part) for part in text.split(",")]
    if len(values) not in counts:
        raise InputError(f"{form}, not {text!r}")
    return values


def find_index(named: Path | None) -> Path:
    """--index or LOCATE_INDEX, then the nearest `.locate` from here upwards, then `./.locate`."""
    here = Path.cwd()
    near = (folder / ".locate" for folder in (here, *here.parents))
    return named or next((folder for folder in near if folder.is_dir()), Path(".locate"))


def _is_file(word: str) -> bool:
    try:
        return Path(word).is_file()
    except (OSError, ValueError):
        return False


# What several commands share.

Json = Annotated[bool, option("print JSON instead of a table", name="--json")]
Index = Annotated[
    Path | None,
    option(
        "the database folder (default: LOCATE_INDEX, else .locate)", "PATH", envvar="LOCATE_INDEX"
    ),
]
Map = Annotated[Path, option("folder of the map", "MAP", name="--map", required=True)]
Photos = Annotated[tuple[Path, ...], argument("photo or folder; - is standard input", "PHOTO")]
Search = Literal["global", "local", "both"]  # as locate.retrieval.search_mode has them
Workers = Annotated[int | None, option("threads (default: one a core)", "N", least=1)]
_MASKS = (
    "ignore what is black in the masks of the photos, as in COLMAP: of a/b.jpg DIR/a/b.jpg.png; "
    "DIR/mask.png is for all photos without their own"
)
Masks = Annotated[Path | None, option(_MASKS, "DIR")]
KeptMasks = Annotated[  # of a database or map that keeps it for later runs
    Path | None, option(f"{_MASKS} (default: as before; none: without any)", "DIR")
]
_WEIGHTS = (
    "what `locate train` made, for the part of the extractor that it names, or a name of `locate "
    "models add` (repeatable)"
)
Weights = Annotated[
    tuple[Path, ...], option(_WEIGHTS, "FILE", multiple=True, read=weights_of, name="--weights")
]
Settings = Annotated[
    dict[str, str],
    option(
        "a setting of the extractor, such as max_keypoints=8192, or sift.max_keypoints=8192 of one part "
        "of a pair (repeatable)",
        "NAME=VALUE",
        name="--set",
        multiple=True,
        read=settings_of,
    ),
]


KeptFeatures = Annotated[
    int | None,
    option("local features of a photo, the strongest: --set max_keypoints=N", "N", least=1),
]


def with_features(given: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a command, with the number of features as what it is, a setting of the extractor."""
    how = dict(given)
    features = how.pop("features")
    if features is not None:
        if "max_keypoints" in how["settings"]:
            raise InputError("--features and --set max_keypoints say the same; leave one out")
        how["settings"] = {**how["settings"], "max_keypoints": str(features)}
    return how
