"""Tables of means and differences, and how large chance is said to be."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks.common.differences import Row, difference_table, mean_table, noise


def rows(values, group="zoom"):
    return [
        Row((group, f"{group} {k % 2}"), f"{group}/{k}", f"photo{k}", {"MMA@3": float(v)})
        for k, v in enumerate(values)
    ]


def by_column(table, **wanted):
    found = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    (one,) = [f for f in found if all(f[key] == value for key, value in wanted.items())]
    return one


def test_a_difference_is_of_the_same_pairs():
    rng = np.random.default_rng(0)
    hard = rng.uniform(size=200)  # pairs differ much more than extractors do
    gain = rng.normal(0.03, 0.05, 200)
    found = {"sift": rows(hard), "new": rows(hard + gain)[::-1]}
    table = difference_table("warps", found, "sift", ())
    one = by_column(table, extractor="new")
    assert one["difference"] == pytest.approx(gain.mean())
    half = 1.96 * gain.std() / math.sqrt(200)
    assert one["from"] == pytest.approx(gain.mean() - half, abs=0.15 * half)
    assert one["to"] == pytest.approx(gain.mean() + half, abs=0.15 * half)
    assert f"{half:.3f}"[:4] in noise("warps", found, "sift")


def test_what_is_missing_counts_on_neither_side():
    found = {"sift": rows([0.1, math.nan, 0.3, 0.5]), "new": rows([0.2, 0.9, math.nan, 0.4])}
    one = by_column(difference_table("warps", found, "sift", ()), extractor="new")
    assert one["count"] == 2
    assert one["difference"] == pytest.approx(0.0)
    assert by_column(mean_table("x", found), extractor="sift")["MMA@3"] == pytest.approx(0.3)


def test_groups_and_steps_have_means_of_their_own():
    found = {"sift": [*rows([0, 1, 0, 1]), *rows([1, 1], "blur")]}
    table = mean_table("warps", found)
    assert [row[0] for row in table.rows] == ["all", "zoom", "blur"]
    assert by_column(table, group="all")["MMA@3"] == pytest.approx(4 / 6)
    fine = mean_table("warps", found, fine=True)
    assert by_column(fine, group="zoom 1")["MMA@3"] == 1
    assert by_column(fine, group="zoom 0")["count"] == 2


def test_a_row_survives_being_written():
    row = Row(("zoom",), "zoom/1", "photo1", {"MMA@3": 0.1 + 0.2, "error": math.nan})
    again = Row.from_json(row.to_json())
    assert again.values["MMA@3"] == 0.1 + 0.2
    assert math.isnan(again.values["error"])
    assert (again.groups, again.name, again.unit) == (row.groups, row.name, row.unit)
