"""Drawings whose corners are known."""

from __future__ import annotations

import math

import cv2
import numpy as np


def squares(shift=(0.0, 0.0), size=(96, 80), turn=0.0):
    """A soft grey image of a few turned squares, and where their corners are; drawn eight times as large
    and averaged down, so that edges lie between pixels."""
    big = np.full((8 * size[1], 8 * size[0]), 60, np.uint8)
    places = []
    for x, y, half, angle in ((24, 22, 9, 0.3), (66, 30, 11, 1.0), (40, 58, 8, 0.6)):
        around = np.arange(4) * math.pi / 2 + angle + turn
        points = np.stack((x + half * np.cos(around), y + half * np.sin(around)), 1) + shift
        places.append(points)
        cv2.fillPoly(big, [np.round((points + 0.5) * 8 - 0.5).astype(np.int32)], 200)
    return cv2.resize(big, size, interpolation=cv2.INTER_AREA), np.concatenate(places)
