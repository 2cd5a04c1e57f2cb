"""Hard detection on a map of features, as in use. Dusmanu et al., CVPR 2019, section 3.1. The soft
one of training is in `locate.extractors.blocks.soft_detection`.

A map is C x h x w, not negative; D^k_ij of the paper is `maps[k, i, j]`. An index is (channel, y, x)
of N cells."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from locate.extractors.blocks.detection import Index, refine, select
from locate.extractors.blocks.grids import sample


def hard_detections(maps: Tensor) -> Index:
    """The index, row by row, of where the strongest channel of a cell has a local maximum of its own
    map, eq. 3. Never in the outermost row and column; ties count as maxima."""
    height, width = maps.shape[-2:]
    if height < 3 or width < 3:
        none = torch.zeros(0, dtype=torch.int64, device=maps.device)
        return none, none, none
    inner, channel = maps[:, 1:-1, 1:-1].max(dim=0)
    highest = inner > 0
    # Looking at the eight neighbours in one channel is far less work than pooling all the channels.
    for dy in range(3):
        for dx in range(3):
            if (dy, dx) != (1, 1):
                around = maps[:, dy : dy + height - 2, dx : dx + width - 2]
                highest &= inner >= around.gather(0, channel[None])[0]
    y, x = torch.nonzero(highest, as_tuple=True)
    return channel[y, x], y + 1, x + 1


def keypoints(maps: Tensor, banned: Tensor | None = None) -> tuple[Index, Tensor]:
    """The index of hard detections that pass the edge test and have a sub-pixel place, and N x 2 their
    places (x, y) in cells; nothing in cells that are `banned`, h x w bool."""
    index = hard_detections(maps)
    if banned is not None:
        index = select(index, ~banned[index[1], index[2]])
    kept, points = refine(maps, index)
    return select(index, kept), points


def distinctness(maps: Tensor, index: Index, radius: int = 2) -> Tensor:
    """How far the columns of N cells are from the mean column of the (2 radius + 1)^2 cells around,
    |D_ij - mean D|. Beyond the border of the map its last cells count again.

    Ours: keypoints are ranked by it. The paper's D^k_ij is large all over a textured area, where one
    cell is easily taken for the next."""
    height, width = maps.shape[-2:]
    _, y, x = index
    reach = torch.arange(-radius, radius + 1, device=maps.device)
    rows = (y[:, None] + reach).clamp(0, height - 1)
    columns = (x[:, None] + reach).clamp(0, width - 1)
    around = (rows[:, :, None] * width + columns[:, None, :]).flatten(1)
    flat = maps.permute(1, 2, 0).reshape(height * width, -1)
    # Where it is needed alone: pooling all of the map takes far longer.
    mean = functional.embedding_bag(around, flat, mode="mean")
    distance: Tensor = torch.linalg.vector_norm(flat[y * width + x] - mean, dim=1)
    return distance


def describe(maps: Tensor, points: Tensor) -> Tensor:
    """Descriptors N x C at N x 2 points (x, y) in cells, eq. 2: the bilinearly interpolated column of
    all channels, L2-normalised."""
    return functional.normalize(sample(maps[None], points[None])[0], dim=1)
