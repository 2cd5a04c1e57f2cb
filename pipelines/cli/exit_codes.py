"""Exit codes of the command line; `locate --help` explains them."""

OK = 0
NO_MATCH = 1
ERROR = 2
SOME_FAILED = 3
NOTHING_DONE = 4
UNCERTAIN = 5
PROBLEMS = 6
INTERNAL = 70
INTERRUPTED = 130
