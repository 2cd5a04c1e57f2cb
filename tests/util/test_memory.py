"""Memory that was freed is kept, unless the user has other plans."""

import subprocess
import sys

import pytest

from pipelines.cli import main as cli

# 16 MB, ten times: pages that the system had to hand out anew.
SCRIPT = """
import resource
from locate.util.memory import keep_freed_memory
import numpy as np
told = {call}
np.ones(2 << 20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    np.ones(2 << 20)
print(told, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def run(call, **environment):
    found = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(call=call)],
        env={"PYTHONPATH": ":".join(sys.path), **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    told, pages = found.stdout.split()
    return told == "True", int(pages)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc is on Linux")
def test_freed_memory_is_used_again():
    told, pages = run("keep_freed_memory()")
    if not told:
        pytest.skip("this C library has no mallopt")
    plain = run("False")[1]
    assert plain > 10 * 16  # even of large pages
    assert pages < plain / 10


def test_the_users_environment_comes_first():
    assert not run("keep_freed_memory()", MALLOC_ARENA_MAX="2")[0]


def test_commands_keep_freed_memory(monkeypatch, capsys):
    called = []
    monkeypatch.setattr(cli, "keep_freed_memory", lambda: called.append(True))
    assert cli.main(["models", "--json"]) == 0
    assert called == [True]
    assert capsys.readouterr().out
