"""The command line: arguments -> stage -> output. No algorithm lives here."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import click
from click.shell_completion import shell_complete

from locate import __version__
from locate.util.memory import keep_freed_memory
from pipelines.cli import last_resort, streams
from pipelines.cli.options import Group

_EPILOG = """\
exit codes:
  0  all good; for a query: match; for localize: localized
  1  the query's answer is "no match", or a photo is "not localized"
  2  wrong usage, or an error that stopped the command
  3  some files could not be used, were passed over (raw photos, videos, ...), or are not in the
     map; the rest was done
  4  nothing was done: no usable photo
  5  the answer is "uncertain"
  6  `locate check` found problems
 70  a fault of locate itself; a line on standard error says where its traceback is
130  interrupted; everything committed until then is kept

The database is the folder .locate in the current directory or above it;
--index PATH or the environment variable LOCATE_INDEX name another.

example:
  locate query photo.jpg"""


# Each command by the file that has it, where it is called as here.
_FILES = {
    **dict.fromkeys(("build-index", "add", "remove", "info", "check"), "index"),
    "query": "query",
    "calibrate": "index",
    "make-town": "town",
    **dict.fromkeys(("build-map", "import-map", "add-to-map", "georef"), "maps"),
    **{name: name for name in ("localize", "models", "train", "evaluate")},
}
cli = Group(
    "locate",
    _FILES,
    help="Which of my photos shows the same place, and where was the camera.",
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
click.version_option(__version__, prog_name="locate", message="%(prog)s %(version)s")(cli)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    if argv is None:
        streams.prepare()
    return last_resort.run(lambda: _command(argv), own_process=argv is None)


def _command(argv: Sequence[str] | None) -> int:
    for name in ("locate", "vlocate") if argv is None else ():  # a shell asks what may follow
        variable = f"_{name.upper()}_COMPLETE"
        if asked := os.environ.get(variable):
            return shell_complete(cli, {}, name, variable, asked)
    keep_freed_memory()
    try:
        with cli.make_context("locate", list(sys.argv[1:] if argv is None else argv)) as context:
            code: int = cli.invoke(context)
            return code
    except click.exceptions.Exit as end:  # after --help
        return end.exit_code


if __name__ == "__main__":
    sys.exit(main())
