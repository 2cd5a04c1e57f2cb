"""The network of UR2KiD: a backbone, feature pyramids, few local numbers from many, a global vector.

Yang et al., arXiv 2001.07252. The paper takes ResNet-101. Where its text leaves a choice, it is ours:

- On EfficientNet-Lite0 the map F joins stages 2, 3, 5 and 7 (strides 4, 8, 16, 32), on a ResNet its four
  layers.
- Keypoints are looked for on a pyramid of its own, of the finest taps alone (stages 1 and 2, at stride
  2), in training (M^det) as in use. Responses of F itself are dominated by its coarse levels and repeat
  less well.
- GeM wants maps that are not negative, as those of the paper's ResNet. Lite0's stages end in a linear
  projection: of them the negative values are dropped.
- Before any training a pyramid has to give what ImageNet's features give. So a lateral 1 x 1 convolution
  starts as an isometry, and if the channels suffice for all levels side by side, as with Lite0, inner
  products are sums of those of the levels, as if these were concatenated.
- All between the levels and a descriptor is linear, so resampling and projecting may change places.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from locate.errors import InputError, UnknownNameError
from locate.extractors.backbones.base import Backbone
from locate.extractors.blocks.grids import Grid, resample, sample
from locate.extractors.blocks.layers import GeM

STRIDES = (4, 8)  # of F that there may be
LOCAL = "local"  # F among the maps that are pooled

_Layer = TypeVar("_Layer", nn.Conv2d, nn.Linear)


@dataclass(frozen=True)
class Plan:
    """What is taken of a backbone."""

    # Taps of F, from fine to coarse, with the length that a level's features have at the start,
    # relative to one another: the fine ones are told apart by few pixels, the coarse ones by what they
    # show.
    levels: Mapping[str, float]
    width: int  # K, the channels of F; 0 for as many as the levels have together
    fine: Mapping[str, float]  # as `levels`, for the map that keypoints are looked for on
    pooled: Mapping[str, float]  # taps of the global vector, with the length of their part of it
    exponent: float  # that their GeM starts with


_RESNET = Plan(
    levels={"layer1": 1.0, "layer2": 1.0, "layer3": 0.8, "layer4": 0.5},
    width=1024,
    fine={"stem": 3.0, "layer1": 1.0},
    pooled={"layer2": 0.3, "layer3": 0.5, "layer4": 1.0},
    exponent=3.0,
)
PLANS: Mapping[str, Plan] = {
    "lite0": Plan(
        levels={"stage2": 1.0, "stage3": 1.0, "stage5": 0.8, "stage7": 0.5},
        width=0,
        fine={"stage1": 3.0, "stage2": 1.0},
        pooled={"stage3": 0.3, "stage5": 0.5, "stage7": 0.5, "head": 1.0},
        exponent=2.0,
    ),
    "resnet50": _RESNET,
    "resnet101": _RESNET,
}


class Pyramid(nn.Module):
    """Maps of several strides joined on the grid of the finest: a lateral 1 x 1 convolution each, then
    from the coarsest down resampled to the next finer grid and added.

    `lengths` are those of the taps' features at the start, see `balance`, from fine to coarse; the
    result has `width` channels, 0 for as many as the taps have together, and every group of them gets
    its share of every level, as far as there is room for the levels side by side."""

    gains: Tensor

    def __init__(
        self, backbone: Backbone, lengths: Mapping[str, float], width: int, groups: int
    ) -> None:
        super().__init__()
        self.names = tuple(lengths)
        self.grids = [backbone.grid(name) for name in self.names]
        self.grid = self.grids[0]
        self._lengths = tuple(lengths.values())
        widths = [backbone.widths[name] for name in self.names]
        self.width = width or sum(widths)
        if not 1 <= groups <= self.width:
            raise InputError(f"there must be 1 to {self.width} groups of channels, got {groups}")
        self.register_buffer("gains", torch.ones(len(widths)))
        self.laterals = nn.ModuleList(nn.Conv2d(w, self.width, 1) for w in widths)
        generator = torch.Generator().manual_seed(0)
        places = _places(widths, self.width, groups, generator)
        with torch.no_grad():
            for lateral, count, at in zip(self.laterals, widths, places, strict=True):
                assert isinstance(lateral, nn.Conv2d)
                assert lateral.bias is not None
                lateral.bias.zero_()
                weight = torch.zeros(self.width, count)
                if at is None:  # more channels than the result has: the nearest to an isometry
                    weight = orthonormal(self.width, count, generator)
                else:
                    weight[at, torch.arange(count)] = 1.0
                lateral.weight.copy_(weight[:, :, None, None])

    def forward(self, taps: Mapping[str, Tensor], weight: Tensor | None = None) -> Tensor:
        """B x C x h x w maps by name -> B x `width` x h x w on `grid`, or of that only a projection by
        `weight`, D x `width` x 1 x 1. It is made at each level's own resolution, which spares
        `width` / D of the resampling."""
        maps = []
        for name, gain, lateral in zip(self.names, self.gains, self.laterals, strict=True):
            level = lateral(taps[name] * gain)
            maps.append(level if weight is None else functional.conv2d(level, weight))
        total = maps[-1]
        for k in range(len(maps) - 2, -1, -1):
            total = self._added(maps[k], total, k)
        return total

    def _added(self, level: Tensor, coarser: Tensor, k: int) -> Tensor:
        """Level k with the sum of all coarser ones resampled to its grid."""
        size = (level.shape[-2], level.shape[-1])
        return level + resample(coarser, self.grids[k + 1], self.grids[k], size)

    def at(self, taps: Mapping[str, Tensor], points: Tensor, weight: Tensor) -> Tensor:
        """The result at N x 2 points (x, y) in pixels of one image, projected by `weight`, D x `width`:
        N x D, `sample` of what `forward` gives, without that: on the finest grid, which has most of
        the cells, only those around the points are made."""
        total = None
        for k in range(len(self.names) - 1, -1, -1):
            lateral = self.laterals[k]
            assert isinstance(lateral, nn.Conv2d)
            assert lateral.bias is not None
            short, bias = weight @ lateral.weight[:, :, 0, 0], weight @ lateral.bias
            level = taps[self.names[k]] * self.gains[k]
            if k == 0:
                here = sample(level, self.grid.to_map(points)[None])[0]
                found = functional.linear(here, short, bias)
                return found if total is None else found + self._between(total, level, points)
            level = functional.conv2d(level, short[:, :, None, None], bias)
            total = level if total is None else self._added(level, total, k)
        raise AssertionError("a pyramid has levels")

    def _between(self, coarse: Tensor, finest: Tensor, points: Tensor) -> Tensor:
        """`coarse`, of the second level, at N x 2 points in pixels, as if resampled to the grid of
        `finest` before."""
        last = points.new_tensor((finest.shape[-1] - 1, finest.shape[-2] - 1))
        at = self.grid.to_map(points).clamp(min=0).minimum(last)
        low = at.floor()
        corners = torch.stack((low, (low + 1).minimum(last)))  # 2 x N x 2: left top, right bottom
        shares = torch.stack((1 - (at - low), at - low))
        total = torch.zeros((), device=points.device)
        for row in range(2):
            for column in range(2):
                cells = torch.stack((corners[column, :, 0], corners[row, :, 1]), dim=1)
                places = self.grids[1].to_map(self.grid.to_image(cells))
                share = shares[column, :, :1] * shares[row, :, 1:]
                total = total + share * sample(coarse, places[None])[0]
        return total

    def balance(self, taps: Mapping[str, Tensor]) -> None:
        """Set the gains so that the features of each level have the length that it should have."""
        for k, (name, length) in enumerate(zip(self.names, self._lengths, strict=True)):
            self.gains[k] = length / taps[name].norm(dim=1).mean().clamp(min=1e-6)


class UR2KiDNetwork(nn.Module):
    """The pyramid gives F, of K channels, the fine one the map to detect on. The paper pools a part of
    the global vector from F; at the start that repeats what the levels give, and F is work."""

    def __init__(
        self,
        backbone: Backbone,
        *,
        dim: int = 128,  # D, the length of a local descriptor
        groups: int = 8,  # G, of the channels that detect, see `detection`
        stride: int = 4,  # of F in pixels, 4 or 8
        global_dim: int = 0,  # of the pooled levels a linear layer ("whitening") makes; 0 for these
        local_share: float = 0.0,  # length of the part that is pooled from F; 0 for none
        dropout: float = 0.5,  # chance that training leaves a channel of F, a "concept", out
    ) -> None:
        super().__init__()
        if backbone.name not in PLANS:
            raise UnknownNameError("backbone of ur2kid", backbone.name, PLANS)
        if stride not in STRIDES:
            raise InputError(f"the stride of ur2kid must be one of {STRIDES}, got {stride}")
        if not 0 <= dropout < 1:
            raise InputError(f"dropout must be 0 to below 1, got {dropout}")
        plan = PLANS[backbone.name]
        levels = {t: n for t, n in plan.levels.items() if backbone.strides[t] >= stride}
        self.backbone = backbone
        self.dim, self.groups, self.stride = dim, groups, stride
        self.local_share, self.dropout = local_share, dropout
        self.pyramid = Pyramid(backbone, levels, plan.width, 1)
        self.fine = Pyramid(backbone, plan.fine, 0, groups)
        if not 1 <= dim <= self.pyramid.width:
            raise InputError(
                f"descriptors can have 1 to {self.pyramid.width} dimensions, got {dim}"
            )
        generator = torch.Generator().manual_seed(1)
        self.reduce = _projection(nn.Conv2d(self.pyramid.width, dim, 1), generator)
        self.shares = dict(plan.pooled) | ({LOCAL: local_share} if local_share else {})
        self.pools = nn.ModuleDict({name: GeM(plan.exponent) for name in self.shares})
        widths = {**backbone.widths, LOCAL: self.pyramid.width}
        self.pooled_width = sum(widths[name] for name in self.shares)
        self.global_dim = global_dim or self.pooled_width
        self.whiten: nn.Linear | None = None
        if global_dim:
            self.whiten = _projection(nn.Linear(self.pooled_width, global_dim), generator)

    def taps(self, pixels: Tensor) -> dict[str, Tensor]:
        """RGB of 0 to 255, B x 3 x H x W, sides multiples of 32 -> all maps that are needed."""
        wanted = {*self.pyramid.names, *self.fine.names, *self.shares} - {LOCAL}
        return self.backbone.maps(pixels, wanted)

    def low(self, taps: Mapping[str, Tensor], kept: Tensor | None = None) -> Tensor:
        """The low-dimensional map, Conv1x1(Dropout2D(F)), B x D x h x w, not normalised; of the channels
        of F that `concepts` drew, by default of all."""
        weight = self.reduce.weight
        if kept is not None:
            weight = weight * kept[:, None, None]
        assert self.reduce.bias is not None
        maps: Tensor = self.pyramid(taps, weight)
        return maps + self.reduce.bias[:, None, None]

    def concepts(self) -> Tensor:
        """Dropout2D's factor for each channel, (K,): 0 with the chance `dropout`, else such that the
        mean stays. One draw serves all images of a step: only then do two descriptors hold the same
        concepts."""
        chances = torch.rand(self.pyramid.width, device=self.reduce.weight.device)
        return (chances >= self.dropout).to(self.reduce.weight.dtype) / (1 - self.dropout)

    def describe(self, taps: Mapping[str, Tensor], points: Tensor) -> Tensor:
        """Local descriptors of one image at N x 2 points (x, y) in its pixels: what `low` gives there,
        N x D, L2-normalised."""
        assert self.reduce.bias is not None
        found = self.pyramid.at(taps, points, self.reduce.weight[:, :, 0, 0])
        return functional.normalize(found + self.reduce.bias, dim=1)

    def to_pool(self, taps: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The maps that the global vector is made of."""
        return {name: self.pyramid(taps) if name == LOCAL else taps[name] for name in self.shares}

    def grid_of(self, name: str) -> Grid:
        """Where the cells of one of `to_pool` lie."""
        return self.pyramid.grid if name == LOCAL else self.backbone.grid(name)

    def pooled(self, maps: Mapping[str, Tensor]) -> Tensor:
        """The GeM of each of `to_pool`, L2-normalised, times its share, side by side: B x
        `pooled_width`, L2-normalised."""
        parts = [
            share * functional.normalize(self.pools[name](maps[name]), dim=1)
            for name, share in self.shares.items()
        ]
        return functional.normalize(torch.cat(parts, dim=1), dim=1)

    def global_vector(self, maps: Mapping[str, Tensor]) -> Tensor:
        """From the maps `to_pool`: B x `global_dim`, L2-normalised."""
        joined = self.pooled(maps)
        return joined if self.whiten is None else functional.normalize(self.whiten(joined), dim=1)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """RGB of 0 to 255, B x 3 x H x W -> low-dimensional maps and global vectors."""
        taps = self.taps(pixels)
        return self.low(taps), self.global_vector(self.to_pool(taps))

    def balance(self) -> None:
        """Set the gains of the pyramids, on an image that no data are needed for: noise with the
        spectrum of natural images."""
        with torch.no_grad():
            taps = deepcopy(self).eval().taps(natural_noise().to(self.reduce.weight.device))
            self.pyramid.balance(taps)
            self.fine.balance(taps)


def _places(
    widths: Sequence[int], total: int, groups: int, generator: torch.Generator
) -> list[Tensor | None]:
    """For each level, to which channels its channels go; None if they are too many. Side by side if
    there is room for all levels, and dealt out like cards to the groups. Else each at random, and
    levels overlap."""
    if sum(widths) > total:
        return [
            torch.randperm(total, generator=generator)[:width] if width <= total else None
            for width in widths
        ]
    size = total // groups  # of a group; what is left over belongs to none
    card = torch.arange(total)
    dealt = torch.where(card < size * groups, card % groups * size + card // groups, card)
    ends = np.cumsum([0, *widths]).tolist()
    return [dealt[first:last] for first, last in pairwise(ends)]


def _projection(layer: _Layer, generator: torch.Generator) -> _Layer:
    """`layer` with orthonormal rows and no bias."""
    assert layer.bias is not None
    with torch.no_grad():
        rows, columns = layer.weight.shape[:2]
        layer.weight.copy_(orthonormal(rows, columns, generator).reshape(layer.weight.shape))
        layer.bias.zero_()
    return layer


def orthonormal(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    """A random matrix whose rows, or whose columns if they are fewer, are orthonormal."""
    tall = torch.randn(max(rows, columns), min(rows, columns), generator=generator)
    q: Tensor = torch.linalg.qr(tall)[0]
    return q if rows >= columns else q.T


def natural_noise(side: int = 256) -> Tensor:
    """Noise whose amplitude falls with the frequency as in natural images (Field, JOSA A 1987), mostly
    without colour; always the same. 1 x 3 x side x side, RGB 0..255."""
    rng = np.random.default_rng(0)
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.fftfreq(side))
    frequency[0, 0] = np.inf
    white = rng.normal(size=(3, side, side))
    white = np.sqrt(0.9) * white[:1] + np.sqrt(0.1) * white
    pink = np.fft.ifft2(np.fft.fft2(white) / frequency).real
    return torch.from_numpy(np.clip(118 + 60 * pink / pink.std(), 0, 255)).float()[None]
