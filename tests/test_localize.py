"""Localization in a map: the rendered town, whose cameras are exact, and maps that are damaged."""

from __future__ import annotations
