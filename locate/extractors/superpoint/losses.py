"""The losses of SuperPoint (DeTone et al., CVPR Workshops 2018, section 3.4).

Points are (x, y) in pixels; cells are 8 x 8 pixels, row by row.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from locate.extractors.superpoint.network import CELL, GRID

DUSTBIN = CELL**2  # the class of a cell without a point
NEAR = 7.5  # pixels; the paper has 8, by which under the identity a cell matches its neighbours


def cell_labels(points: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """The class of each cell: which of its pixels is a point, one at random where several are, or
    `DUSTBIN`. B x H x W bool -> B x H / 8 x W / 8 int64."""
    cells = functional.pixel_unshuffle(points[:, None].float(), CELL)
    chance = torch.rand(cells.shape, generator=generator).to(cells.device)
    best, index = (cells * (1 + chance)).max(dim=1)
    return torch.where(best > 0, index, DUSTBIN)


def valid_cells(valid: Tensor) -> Tensor:
    """Cells whose pixels are all valid. B x H x W bool -> B x H / 8 x W / 8 bool."""
    return functional.pixel_unshuffle(valid[:, None].float(), CELL).amin(dim=1) > 0


def detector_loss(logits: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
    """L_p: the mean over valid cells of the cross-entropy over 65 classes.

    Args:
        logits: B x 65 x h x w.
        labels: B x h x w, see `cell_labels`.
        valid: B x h x w bool.
    """
    losses = functional.cross_entropy(logits, labels, reduction="none")
    return (losses * valid).sum() / valid.sum().clamp(min=1)


def correspondence(b_from_a: Tensor, shape: tuple[int, int], near: float = NEAR) -> Tensor:
    """s: whether the centre of a cell of a, brought into b, is at most `near` pixels from
    that of a cell of b. B x 3 x 3 -> B x h w x h w bool, rows for a.

    Args:
        shape: (h, w) cells.
    """
    rows, columns = torch.meshgrid(*(torch.arange(n) for n in shape), indexing="ij")
    cells = torch.stack((columns, rows), dim=-1).reshape(-1, 2).to(b_from_a)
    centres = GRID.to_image(cells)
    there, ahead = _brought(b_from_a, centres.expand(len(b_from_a), -1, -1))
    return (torch.cdist(there, centres.expand_as(there)) <= near) & ahead[..., None]


def drawn_pairs(
    b_from_a: Tensor, valid_a: Tensor, valid_b: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """A place in every cell of a, drawn evenly, P x M x 2 (x, y) in pixels; where it lies in b,
    P x M x 2; and whether both show something, P x M bool.

    Args:
        b_from_a: P x 3 x 3.
        valid_a, valid_b: P x H x W bool.
    """
    height, width = valid_a.shape[-2:]
    rows, columns = torch.meshgrid(
        *(torch.arange(side // CELL) for side in (height, width)), indexing="ij"
    )
    corners = torch.stack((columns, rows), dim=-1).reshape(1, -1, 2) * CELL - 0.5
    drawn = torch.rand((len(b_from_a), corners.shape[1], 2)) * CELL
    here = (corners + drawn).to(b_from_a)
    there, ahead = _brought(b_from_a, here)
    return here, there, _shown(valid_a, here) & _shown(valid_b, there) & ahead


def _brought(b_from_a: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """P x M x 2 points of a in b, and whether they lie before the horizon: what lies behind it
    corresponds to nothing."""
    there = torch.cat((points, torch.ones_like(points[..., :1])), dim=-1) @ b_from_a.mT
    ahead = there[..., 2:] > 0
    return there[..., :2] / torch.where(ahead, there[..., 2:], 1), ahead[..., 0]


def _shown(valid: Tensor, points: Tensor) -> Tensor:
    """Whether the pixel at each of P x M x 2 points is there and valid."""
    height, width = valid.shape[-2:]
    x, y = points.round().long().unbind(dim=-1)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    index = y.clamp(0, height - 1) * width + x.clamp(0, width - 1)
    return inside & valid.flatten(1).gather(1, index)


def hinge_loss(
    descriptors_a: Tensor,
    descriptors_b: Tensor,
    same: Tensor,
    valid_b: Tensor,
    positive_weight: float = 250.0,
    margins: tuple[float, float] = (1.0, 0.2),
) -> Tensor:
    """L_d: the mean over all pairs of cells, those of b valid, of
    lambda_d s max(0, m_p - d . d') + (1 - s) max(0, d . d' - m_n).

    Args:
        descriptors_a, descriptors_b: B x D x h x w of length 1.
        same: B x h w x h w bool, s.
        valid_b: B x h x w bool; of a all cells are.
        positive_weight: lambda_d.
        margins: m_p, m_n.
    """
    similarity = descriptors_a.flatten(2).mT @ descriptors_b.flatten(2)
    apart = functional.relu(margins[0] - similarity)
    alike = functional.relu(similarity - margins[1])
    losses = torch.where(same, positive_weight * apart, alike)
    weights = valid_b.flatten(1)[:, None].expand_as(losses)
    return (losses * weights).sum() / weights.sum().clamp(min=1)
