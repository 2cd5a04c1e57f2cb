"""`import locate` is the public API: lazy, complete, and typed the same as it runs."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import locate

FACE = Path(locate.__file__)


def test_every_public_name_resolves():
    for name in locate.__all__:
        assert getattr(locate, name) is not None
    assert set(dir(locate)) == set(locate.__all__)
    assert set(locate.__all__) == {*locate._PUBLIC, "__version__"}


def test_type_checkers_see_the_same_names():
    tree = ast.parse(FACE.read_text())
    block = next(
        node
        for node in tree.body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    )
    seen = {
        alias.asname or alias.name: (statement.module, alias.name)
        for statement in block.body
        for alias in statement.names
    }
    assert seen == locate._PUBLIC


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = locate.nothing


def test_a_hidden_package_is_one_clear_error(monkeypatch):
    monkeypatch.setitem(locate._PUBLIC, "Database", ("pipelines.no_such_module", "Database"))
    monkeypatch.delitem(locate.__dict__, "Database", raising=False)
    with pytest.raises(ImportError, match="hides them on"):
        _ = locate.Database


def test_version_stands_at_the_top_of_the_changelog():
    changelog = (FACE.parents[1] / "CHANGELOG.md").read_text()
    first = next(line for line in changelog.splitlines() if line.startswith("## "))
    assert locate.__version__ in first
