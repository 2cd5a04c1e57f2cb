"""What an evaluation gives: tables and curves, as text for the terminal, Markdown, JSON and PNG."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from locate.errors import InputError
from locate.types import Array
from locate.util.files import atomic_write


@dataclass(frozen=True)
class Table:
    """One table: its title tells the unit, its first column names the row; values are text, numbers, or
    None where there is none (NaN counts as none); floats have so many decimals (`digits`)."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    digits: int = 3

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise InputError(f"{self.title}: {len(row)} values for {len(self.columns)} columns")

    @property
    def numbers(self) -> list[str]:
        """The columns without text."""
        cells = {n: [row[i] for row in self.rows] for i, n in enumerate(self.columns)}
        return [n for n, column in cells.items() if not any(isinstance(c, str) for c in column)]

    def text(self, value: Any) -> str:
        """One value as it is shown."""
        value = value.item() if hasattr(value, "item") else value
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return "-"
        if isinstance(value, float):
            return "inf" if math.isinf(value) else f"{value:.{self.digits}f}"
        return str(value)

    def to_json(self) -> dict[str, Any]:
        rows = [dict(zip(self.columns, map(_plain, row), strict=True)) for row in self.rows]
        return {"title": self.title, "columns": list(self.columns), "rows": rows}

    def to_markdown(self) -> str:
        lines = [self.columns, ["---:" if c in self.numbers else "---" for c in self.columns]]
        lines += [[self.text(value) for value in row] for row in self.rows]
        cells = ([cell.replace("|", "\\|") for cell in line] for line in lines)
        return f"**{self.title}**\n\n" + "".join(f"| {' | '.join(line)} |\n" for line in cells)


_BESIDE = 5  # names of curves stand beside the plot if they are more


@dataclass(frozen=True, eq=False)
class Curves:
    """One plot, `name`.png; series are (x, y) of equal length by the name in the legend; `y_range` None
    fits the data."""

    name: str
    title: str
    x_label: str
    y_label: str
    series: Mapping[str, tuple[Array, Array]]
    x_log: bool = False
    y_range: tuple[float, float] | None = (0.0, 1.0)

    def to_json(self) -> dict[str, Any]:
        series = {
            name: {"x": [*map(_plain, x)], "y": [*map(_plain, y)]}
            for name, (x, y) in self.series.items()
        }
        labels = {"name": self.name, "title": self.title, "x": self.x_label, "y": self.y_label}
        return {**labels, "series": series}

    def save(self, folder: Path) -> Path:
        """Draw it into `folder`; the path of the PNG."""
        # The object interface: pyplot would keep state and may want a display.
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        many = len(self.series) > _BESIDE
        figure = Figure(figsize=(9.5 if many else 7, 4.5), dpi=130, layout="constrained")
        canvas = FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        for name, (x, y) in self.series.items():
            axes.plot(x, y, label=name, marker="o" if len(x) <= 12 else None, markersize=3)
        axes.set(title=self.title, xlabel=self.x_label, ylabel=self.y_label)
        if self.x_log:
            axes.set_xscale("log")
        if self.y_range is not None:
            axes.set_ylim(*self.y_range)
        axes.grid(alpha=0.3)
        if many:  # they would hide the curves
            figure.legend(loc="outside right upper", fontsize="small")
        elif self.series:
            axes.legend()
        path = folder / f"{self.name}.png"
        with atomic_write(path) as file:
            canvas.print_png(file)
        return path


@dataclass(frozen=True, eq=False)
class Report:
    """An evaluation: tables and curves with all that they depend on.

    Attributes:
        name: what was evaluated ("matching", "retrieval", ...).
        settings: JSON-able: data, extractors with fingerprint and settings, protocol, seed.
        notes: sentences for the reader, such as what was skipped and why.
    """

    name: str
    settings: Mapping[str, Any]
    tables: tuple[Table, ...]
    curves: tuple[Curves, ...] = ()
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "settings": dict(self.settings),
            "tables": [table.to_json() for table in self.tables],
            "curves": [curves.to_json() for curves in self.curves],
            "notes": list(self.notes),
        }

    def to_markdown(self) -> str:
        parts = [f"# {self.name}\n", *(table.to_markdown() for table in self.tables)]
        parts += [f"![{curves.title}]({curves.name}.png)\n" for curves in self.curves]
        parts += [f"- {note}\n" for note in self.notes]
        return "\n".join(parts)

    def save(self, folder: Path) -> list[Path]:
        """Write report.json, report.md and a PNG a plot into `folder`, made if need be."""
        folder.mkdir(parents=True, exist_ok=True)
        written = [curves.save(folder) for curves in self.curves]
        values = json.dumps(self.to_json(), indent=1) + "\n"
        for name, text in (("report.md", self.to_markdown()), ("report.json", values)):
            with atomic_write(folder / name) as stream:
                stream.write(text.encode())
            written.append(folder / name)
        return written


def _plain(value: Any) -> Any:
    """A value that JSON knows: numpy scalars become Python's, NaN and infinity null and "inf"."""
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else ("inf" if value > 0 else "-inf")
    return value
