"""Exit codes of the command line; `locate --help` explains them."""

from __future__ import annotations

from collections.abc import Collection

OK = 0
NO_MATCH = 1
ERROR = 2
SOME_FAILED = 3
NOTHING_DONE = 4
UNCERTAIN = 5
PROBLEMS = 6
INTERNAL = 70
INTERRUPTED = 130


def of_answers(verdicts: Collection[str], failed: int, left_out: bool) -> int:
    """Of a command that was asked for photos: of several answers the weakest speaks."""
    if not verdicts:
        return NOTHING_DONE if failed > 1 else ERROR
    if failed or left_out:
        return SOME_FAILED
    if "no match" in verdicts or "not localized" in verdicts:
        return NO_MATCH
    return UNCERTAIN if "uncertain" in verdicts else OK
