"""The layer table of CONTRIBUTING.md holds: a file imports only from below."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Top to bottom; the first prefix that fits a module says its layer.
LAYERS = [
    (5, "tests", "examples", "benchmarks"),
    (4, "locate.__init__", "locate.__main__"),
    (3, "pipelines"),
    (2, "index", "locate.extractors", "locate.training"),
    (1, "locate"),
]
FILES = sorted(
    p for folder in ("locate", "index", "pipelines") for p in (ROOT / folder).rglob("*.py")
)


def module_of(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts)


def layer_of(module: str) -> int:
    for layer, *prefixes in LAYERS:
        if any(module == p or module.startswith(p + ".") for p in prefixes):
            return layer
    raise AssertionError(f"{module} stands in no layer")


def imports_of(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            found.add(node.module or "")
            # `from locate import x` may name a module or something of locate/__init__.py
            found |= {
                f"{node.module}.{alias.name}"
                for alias in node.names
                if (ROOT / (node.module or "").replace(".", "/") / f"{alias.name}.py").exists()
            }
    return {name for name in found if name.split(".")[0] in ("locate", "index", "pipelines")}


@pytest.mark.parametrize("file", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_down(file):
    module = module_of(file)
    for name in imports_of(file):
        if name == "locate":  # the public face; `pipelines.cli.main` reads the version from it
            assert layer_of(module) >= 3, f"{module} imports locate/__init__.py"
            continue
        assert layer_of(name) <= layer_of(module), f"{module} imports {name} from above"
        if layer_of(module) == 2:
            pair = {module.split(".")[0], name.split(".")[0]}
            seen = name.startswith(("locate.extractors", "locate.training"))
            assert not (pair == {"index", "locate"} and seen), f"{module} knows {name}"


def test_no_import_upwards_goes_unnoticed(tmp_path):
    bad = tmp_path / "bad.py"
    bad.write_text("from pipelines.retrieval.database import Database\nimport index.catalog\n")
    assert imports_of(bad) == {"pipelines.retrieval.database", "index.catalog"}
    assert layer_of("pipelines.retrieval.database") > layer_of("locate.matching.descriptors")


@pytest.mark.parametrize("file", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_only_pipelines_print_and_read_arguments(file):
    if layer_of(module_of(file)) == 3 or file.name == "__main__.py":
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


def test_contributing_shows_the_same_table():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    for layer, *prefixes in LAYERS:
        row = re.search(rf"^\| {layer} \|.*$", text, re.M)
        assert row is not None, f"layer {layer} is not in CONTRIBUTING.md"
        for prefix in prefixes:
            shown = prefix.replace(".", "/").replace("/__", "/__")
            assert shown in row[0], f"{shown} is not in row {layer}"
