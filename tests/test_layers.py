"""The table of rooms in CONTRIBUTING.md holds: a file imports only from below."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MOST_FILES = 16  # of a room

# Top to bottom. A room imports from the floors below and from itself; rooms of one floor do not know
# each other. The longest prefix that fits a module says its room.
FLOORS = [
    (16, "tests", "examples", "benchmarks"),
    (15, "locate.__init__", "locate.__main__"),
    (14, "pipelines.cli"),
    (13, "pipelines.evaluation", "pipelines.town"),
    (12, "pipelines.mapping"),
    (11, "pipelines.localization", "pipelines.training"),
    (10, "pipelines.retrieval"),
    (9, "pipelines.indexing", "pipelines.reports"),
    (8, "index"),
    (7, "locate.retrieval", "locate.mapping"),
    (6, "locate.extractors", "locate.datasets", "locate.localization", "locate.georef"),
    (5, "locate.training", "locate.metrics"),
    (4, "locate.formats"),
    (3, "locate.images", "locate.geometry", "locate.matching"),
    (2, "locate.pixels", "locate.precision"),
    (1, "locate.types"),
    (0, "locate.errors", "locate.util"),
]
FLOOR_OF = {room: floor for floor, *rooms in FLOORS for room in rooms}
# What is remembered knows records, not what is seen.
KNOWN_TO_INDEX = {"locate.errors", "locate.types", "locate.util"}
FILES = sorted(
    p for folder in ("locate", "index", "pipelines") for p in (ROOT / folder).rglob("*.py")
)


def module_of(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts)


def room_of(module: str) -> str:
    fitting = [room for room in FLOOR_OF if module == room or module.startswith(room + ".")]
    if not fitting:
        raise AssertionError(f"{module} stands in no room")
    return max(fitting, key=len)


def imports_of(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            base = node.module or ""
            for alias in node.names:  # `from room import x` may name a module
                file_of = ROOT / base.replace(".", "/") / f"{alias.name}.py"
                found.add(f"{base}.{alias.name}" if file_of.exists() else base)
    return {name for name in found if name.split(".")[0] in ("locate", "index", "pipelines")}


@pytest.mark.parametrize("file", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_down(file):
    if file.name == "__init__.py" and not file.read_text():
        return
    room = room_of(module_of(file))
    for name in imports_of(file):
        if name == "locate":  # the public face; `pipelines.cli` reads the version from it
            assert room.startswith("pipelines"), f"{file} imports locate/__init__.py"
            continue
        other = room_of(name)
        if other != room:
            assert FLOOR_OF[other] < FLOOR_OF[room], f"{file} imports {name}, which is not below it"
        if room == "index" and other != room:
            assert other in KNOWN_TO_INDEX, f"{file} knows {name}"


def test_no_import_upwards_goes_unnoticed(tmp_path):
    bad = tmp_path / "bad.py"
    bad.write_text("from pipelines.retrieval.database import Database\nimport index.catalog\n")
    assert imports_of(bad) == {"pipelines.retrieval.database", "index.catalog"}
    assert room_of("pipelines.retrieval.database") == "pipelines.retrieval"
    assert FLOOR_OF["pipelines.retrieval"] > FLOOR_OF[room_of("locate.matching.two_view")]
    with pytest.raises(AssertionError, match="no room"):
        room_of("pipelines.retrieve")


def test_no_circle_of_files():
    graph = {}
    for file in FILES:
        name = module_of(file).removesuffix(".__init__")
        # What is imported within a function is a circle too, only later.
        graph[name] = imports_of(file) - {"locate", name}
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join((*path[path.index(name) :], name))
        if name in done:
            return
        for other in sorted(graph.get(name, ())):
            visit(other, (*path, name))
        done.add(name)

    for name in sorted(graph):
        if name != "locate":
            visit(name, ())


def test_no_room_is_too_full():
    assert not list((ROOT / "pipelines").glob("*.py")), "a file in pipelines/ itself"
    folders = {file.parent for file in FILES}
    sizes = {f: len([p for p in f.glob("*.py") if p.name != "__init__.py"]) for f in folders}
    assert {f.name: n for f, n in sizes.items() if n > MOST_FILES} == {}


@pytest.mark.parametrize("file", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_only_faces_print_and_read_arguments(file):
    if module_of(file).startswith("pipelines.cli") or file.name == "__main__.py":
        return
    text = file.read_text()
    for call in ast.walk(ast.parse(text)):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name):
            assert call.func.id != "print", f"{file} prints"
    assert "sys.argv" not in text
    assert "import socket" not in text


def test_importing_does_nothing_heavy():
    code = (
        "import sys, threading, locate, pipelines.cli.main;"
        "heavy = {'torch', 'cv2', 'faiss', 'PIL', 'numpy'} & set(sys.modules);"
        "assert not heavy, heavy; assert threading.active_count() == 1"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.parametrize(
    ("words", "without"),
    [
        (["models"], {"faiss", "cv2", "PIL", "torch"}),
        (["--help"], {"faiss", "cv2", "PIL", "torch", "rich"}),
    ],
)
def test_a_command_loads_what_it_needs(words, without):
    code = (
        f"import sys; from pipelines.cli.main import main; code = main({words!r});"
        f"heavy = {without!r} & set(sys.modules); assert not heavy, heavy; sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert "context" in done.stdout or "Usage: locate" in done.stdout


def test_contributing_shows_the_same_table():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    for floor, *rooms in FLOORS:
        row = re.search(rf"^\| {floor} \|([^|]*)\|", text, re.M)
        assert row is not None, f"floor {floor} is not in CONTRIBUTING.md"
        shown = re.findall(r"`([\w./]+?)/?`", row[1])
        assert [name.replace("/", ".") for name in shown] == rooms
