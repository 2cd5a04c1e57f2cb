"""Where the cells of a feature map lie in the image that the network was given.

Cell (i, j) of a map is centred on image pixel (stride * j + offset, stride * i + offset). The offset
differs from network to network: 0 for ResNet (odd kernels, padded on both sides), (stride - 1) / 2 for
VGG (2 x 2 pooling) and for EfficientNet-Lite0. Maps that are added, and keypoints that are to be right
to the pixel, must take it into account; `tests/extractors/backbones/test_backbones.py` measures it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Grid:
    """Both in pixels of the image the network was given."""

    stride: float
    offset: float

    def to_image(self, points: Tensor) -> Tensor:
        """Points (..., 2) as (x, y) in cells -> pixels."""
        return points * self.stride + self.offset

    def to_map(self, points: Tensor) -> Tensor:
        """Points (..., 2) as (x, y) in pixels -> cells."""
        return (points - self.offset) / self.stride

    def cells(self, size: tuple[int, int]) -> tuple[int, int]:
        """How many (columns, rows) of cells have their centre in an image of `size` (width, height);
        those beyond lie on what the image was padded with."""
        columns, rows = (max(0, int((s - 0.5 - self.offset) // self.stride) + 1) for s in size)
        return columns, rows

    def crop(self, maps: Tensor, size: tuple[int, int]) -> Tensor:
        """Of maps ... x H x W those `cells`, one at least: what lies on padding is left out."""
        columns, rows = self.cells(size)
        return maps[..., : max(rows, 1), : max(columns, 1)]


def sample(maps: Tensor, points: Tensor) -> Tensor:
    """Bilinear interpolation of feature maps B x C x H x W at points B x N x 2, (x, y) in cells: (0, 0)
    is the centre of the first one, and beyond the border is the border's value. B x N x C."""
    height, width = maps.shape[-2:]
    if len(maps) == 1 and maps.device.type == "cpu" and not torch.is_grad_enabled():
        return _sample_one(maps[0], points[0])[None]
    # align_corners=True maps -1..1 onto 0..size - 1, cell centres; a map of one cell has no extent.
    extent = points.new_tensor((max(width - 1, 1), max(height - 1, 1)))
    grid = (points * (2 / extent) - 1)[:, None]
    return _grid_sample(maps, grid.to(maps.dtype))[:, :, 0].transpose(1, 2)


def _sample_one(maps: Tensor, points: Tensor) -> Tensor:
    """`sample` of C x H x W at N x 2, in a quarter of the time where the channels come last."""
    height, width = maps.shape[-2:]
    x, y = points[:, 0].clamp(0, width - 1), points[:, 1].clamp(0, height - 1)
    left, top = x.long(), y.long()
    u, v = x - left, y - top
    right = (left + 1).clamp(max=width - 1)
    above, below = top * width, (top + 1).clamp(max=height - 1) * width
    cells = torch.stack((above + left, above + right, below + left, below + right), dim=1)
    weights = torch.stack(((1 - u) * (1 - v), u * (1 - v), (1 - u) * v, u * v), dim=1)
    rows = maps.permute(1, 2, 0).reshape(height * width, -1)
    return functional.embedding_bag(
        cells, rows, mode="sum", per_sample_weights=weights.to(rows.dtype)
    )


def resample(maps: Tensor, grid: Grid, to_grid: Grid, size: tuple[int, int]) -> Tensor:
    """The same map on another grid, bilinearly: for every cell of `to_grid` the value of `maps`,
    B x C x h x w, at its place in the image. B x C x H x W, `size` being (H, W)."""
    y, x = (
        grid.to_map(to_grid.to_image(torch.arange(n, device=maps.device, dtype=torch.float32)))
        * (2 / max(known - 1, 1))
        - 1
        for n, known in zip(size, maps.shape[-2:], strict=True)
    )
    where = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).to(maps.dtype)
    return _grid_sample(maps, where.expand(len(maps), -1, -1, -1))


def _grid_sample(maps: Tensor, where: Tensor) -> Tensor:
    return functional.grid_sample(
        maps, where, mode="bilinear", padding_mode="border", align_corners=True
    )
