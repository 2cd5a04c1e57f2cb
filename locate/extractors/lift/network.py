"""The three networks of LIFT (Yi et al., ECCV 2016, section 3) and the transformer between them.

A detector scores the places of a patch, an orientation estimator says how a window there is turned, and
a descriptor describes the window turned back. Patches are grey, 0 to 255; their support is 12 scales to
each side of a keypoint, a window's is 6 (as SIFT's).

The authors published two implementations, which differ. Here the detector is that of both; of the
orientation estimator and the descriptor either can be built. Their descriptor (1.1 MB) has the layout of
`published` and loads into it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

SYSTEM = "lift"
WIDTH = 128  # of a descriptor
REACH, WINDOW_REACH = 12.0, 6.0  # scales: half a side of a patch, and of a window
PATCH, SMALL, WINDOW = 128, 48, 64  # pixels: of a patch, of the detector's copy of it, of a window
KERNEL = 25  # pixels of the detector's filters
CROP = 5  # scores at each border of a training patch whose window would reach beyond it
_TILE = 192  # pixels
_BLOB, _GAIN = (
    2.2,
    3.0,
)  # pixels, of the Gaussian whose blobs agree best; sum of a filter's magnitudes
_TINY = 1e-12
# Mean and deviation of grey levels that the authors' files bring; those of the detector serve the
# orientation estimator, too.
_DETECTOR_LEVELS, _DESCRIPTOR_LEVELS = (116.4368, 88.0831), (110.7539, 61.5369)


def ghh(x: Tensor, sums: int = 4, most: int = 4) -> Tensor:
    """Generalised Hinging Hyperplanes (Wang and Sun 2005; LIFT eq. 8): of each group of sums x most
    channels sum_m delta_m max_n x_mn, delta = 1, -1, 1, -1. B x (K sums most) x ... -> B x K x ..."""
    grouped = x.view(len(x), -1, sums, most, *x.shape[2:]).amax(dim=3)
    found: Tensor = grouped[:, :, 0::2].sum(dim=2) - grouped[:, :, 1::2].sum(dim=2)
    return found


class Detector(nn.Module):
    """f: one filter bank of 25 x 25 and GHH."""

    def __init__(self) -> None:
        super().__init__()
        self.filters = nn.Conv2d(1, 16, KERNEL)

    def start_with_blobs(self) -> None:
        """Where a short training sets out from: the magnitude of a Laplacian of a Gaussian, as SIFT's
        keypoints have it, and a little of everything else; what is flat has no score. From random
        filters a short training learns nothing."""
        offsets = torch.arange(KERNEL) - KERNEL // 2
        squares = offsets[:, None] ** 2 + offsets**2
        ratio = squares / (2 * _BLOB**2)
        blob = (1 - ratio) * torch.exp(-ratio)
        with torch.no_grad():
            weights, bias = self.filters.weight, self.filters.bias
            weights *= 0.1
            weights[:2, 0] += torch.stack((blob, -blob)) * _GAIN / blob.abs().sum()
            weights -= weights.mean(dim=(2, 3), keepdim=True)
            bias.zero_()  # type: ignore[union-attr]

    def forward(self, images: Tensor) -> Tensor:
        """B x 1 x H x W -> scores B x H - 24 x W - 24; (0, 0) is the pixel (12, 12)."""
        return ghh(self.filters(_levelled(images, _DETECTOR_LEVELS)))[:, 0]

    def scores(self, image: Tensor) -> Tensor:
        """The same of one image H x W, by Fourier's transform of tiles: in two thirds of the time."""
        height, width = (n - KERNEL + 1 for n in image.shape)
        if min(image.shape) < _TILE:
            return self(image[None, None])[0]  # type: ignore[no-any-return]
        step = _TILE - KERNEL + 1
        rows, columns = -(-height // step), -(-width // step)
        beyond = (0, columns * step - width, 0, rows * step - height)
        x = functional.pad(_levelled(image, _DETECTOR_LEVELS), beyond)
        tiles = x.unfold(0, _TILE, step).unfold(1, _TILE, step)
        size = (_TILE, _TILE)
        kernels = torch.fft.rfft2(self.filters.weight[:, 0], s=size).conj()  # it correlates
        found = []
        for row in tiles:  # what goes around the edge of a tile is cut off
            maps = torch.fft.irfft2(torch.fft.rfft2(row)[:, None] * kernels, s=size)
            maps = maps[..., :step, :step] + self.filters.bias[:, None, None]  # type: ignore[index]
            found.append(ghh(maps)[:, 0].transpose(0, 1).flatten(1))
        return torch.cat(found)[:height, :width]


class Orientation(nn.Module):
    """g: how a window is turned.

    Args:
        pooled: with a third pooling, as in the second implementation, which has 2,019,162 parameters
            for 9,699,162.
        by_patch: each patch is brought to mean 0 and deviation 1, whatever its light.
    """

    def __init__(self, *, pooled: bool = True, by_patch: bool = True) -> None:
        super().__init__()
        self.pooled, self.by_patch = pooled, by_patch
        self.conv1, self.conv2 = nn.Conv2d(1, 10, 5), nn.Conv2d(10, 20, 5)
        self.conv3 = nn.Conv2d(20, 50, 3)
        self.hidden = nn.Linear(50 * (5 if pooled else 11) ** 2, 100 * 16)
        self.dropout = nn.Dropout(0.3)
        self.out = nn.Linear(100, 2 * 16)

    def forward(self, windows: Tensor) -> Tensor:
        """B x 1 x 64 x 64 -> (cos, sin) of the angle, B x 2; the network gives the sine first."""
        x = _by_patch(windows) if self.by_patch else _levelled(windows, _DETECTOR_LEVELS)
        x = functional.max_pool2d(functional.relu(self.conv1(x)), 2)
        x = functional.max_pool2d(functional.relu(self.conv2(x)), 2)
        x = functional.relu(self.conv3(x))
        if self.pooled:
            x = functional.max_pool2d(x, 2)
        x = self.dropout(ghh(self.hidden(x.flatten(1))))
        found = ghh(self.out(x)).float()
        return functional.normalize(found.flip(1), dim=1, eps=1e-6)


class Descriptor(nn.Module):
    """h: 128 numbers that tell a window.

    Args:
        published: tanh, root of the sum of squares as pooling and subtractive normalisation, as in the
            authors' file; else batch normalisation, ReLU and averages, as in the second implementation.
        by_patch: see `Orientation`.
    """

    def __init__(self, *, published: bool = False, by_patch: bool = True) -> None:
        super().__init__()
        self.published, self.by_patch = published, by_patch
        self.conv1, self.conv2 = nn.Conv2d(1, 32, 7), nn.Conv2d(32, 64, 6)
        self.conv3 = nn.Conv2d(64, WIDTH, 5)
        norms = (nn.Identity() if published else nn.BatchNorm2d(c) for c in (32, 64, WIDTH))
        self.norm1, self.norm2, self.norm3 = norms
        # Cosines need numbers that spread around 0; the paper's distances do without.
        self.spread = nn.BatchNorm1d(WIDTH, affine=False)

    def forward(self, windows: Tensor) -> Tensor:
        """B x 1 x 64 x 64 -> the paper's descriptors, B x 128, of any length."""
        x = _by_patch(windows) if self.by_patch else _levelled(windows, _DESCRIPTOR_LEVELS)
        x = self._pool(self.norm1(self.conv1(x)), 2)  # 58, 29
        x = self._pool(self.norm2(self.conv2(x)), 3)  # 24, 8
        x = self._pool(self.norm3(self.conv3(x)), 4, last=True)  # 4, 1
        return x.flatten(1)

    def unit(self, windows: Tensor) -> Tensor:
        """Of length 1, for cosines: B x 128."""
        return functional.normalize(self.spread(self(windows).float()), dim=1)

    def _pool(self, x: Tensor, side: int, *, last: bool = False) -> Tensor:
        if not self.published:
            return functional.avg_pool2d(functional.relu(x), side)
        x = l2_pool(torch.tanh(x), side)
        return x if last else subtract_mean(x)


class LiftNetwork(nn.Module):
    """Detector, orientation estimator and descriptor.

    Args:
        pooled: of `Orientation`.
        published: of `Descriptor`.
        by_patch: of both.
    """

    def __init__(
        self, *, pooled: bool = True, published: bool = False, by_patch: bool = True
    ) -> None:
        super().__init__()
        self.detector = Detector()
        self.orientation = Orientation(pooled=pooled, by_patch=by_patch)
        self.descriptor = Descriptor(published=published, by_patch=by_patch)

    def direction(self, patches: Tensor, shift: Tensor | None = None) -> Tensor:
        """What `orientation` says of the windows of patches B x 1 x 128 x 128, see `crop`: B x 2."""
        upright = patches.new_tensor((1.0, 0.0)).expand(len(patches), 2)
        found: Tensor = self.orientation(crop(patches, upright, shift))
        return found


def build(settings: Mapping[str, Any]) -> LiftNetwork:
    """The network of a weights file's settings, with random weights."""
    return LiftNetwork(**{name: settings[name] for name in ("pooled", "published", "by_patch")})


def crop(patches: Tensor, direction: Tensor, shift: Tensor | None = None) -> Tensor:
    """The spatial transformer (Jaderberg et al. 2015): windows of 64 pixels out of patches
    B x 1 x S x S, in the patches' own pixels, around their middles plus `shift`, bilinearly. A step u
    in a window is R(angle) u in the patch.

    Args:
        direction: (cos, sin) of the angles, B x 2.
        shift: B x 2 (x, y) in pixels; none if None.
    """
    side = patches.shape[-1]
    c, s = direction.to(patches.dtype).unbind(1)
    x, y = (torch.zeros_like(c), torch.zeros_like(c)) if shift is None else shift.unbind(1)
    # Coordinates run from -1 to 1 between the corners: 2 pixels / side.
    share = WINDOW / side
    rows = (c * share, -s * share, 2 * x / side, s * share, c * share, 2 * y / side)
    matrix = torch.stack(rows, dim=1).view(-1, 2, 3)
    with torch.autocast(patches.device.type, enabled=False):  # places need the digits
        size = [len(patches), 1, WINDOW, WINDOW]
        grid = functional.affine_grid(matrix, size, align_corners=False)
    return functional.grid_sample(
        patches, grid, mode="bilinear", padding_mode="border", align_corners=False
    )


def l2_pool(x: Tensor, side: int) -> Tensor:
    """The root of the sum of squares of each side x side pixels."""
    return torch.sqrt(functional.avg_pool2d(x * x, side) * side**2 + _TINY)


def subtract_mean(x: Tensor) -> Tensor:
    """Subtractive normalisation: from all channels the same mean, over the channels and a Gaussian
    window of 5 x 5 pixels (Torch's: deviation 1.25), of those alone that there are."""
    row = torch.exp(-((torch.arange(5, device=x.device) - 2.0) ** 2) / (2 * 1.25**2)).to(x.dtype)
    kernel = torch.outer(row, row) / row.sum() ** 2
    mean = functional.conv2d(x.mean(dim=1, keepdim=True), kernel[None, None], padding=2)
    there = functional.conv2d(torch.ones_like(x[:1, :1]), kernel[None, None], padding=2)
    return x - mean / there


def _levelled(x: Tensor, levels: tuple[float, float]) -> Tensor:
    return (x - levels[0]) / levels[1]


def _by_patch(x: Tensor) -> Tensor:
    """Mean 0, deviation 1; what is flat stays so."""
    centred = x - x.mean(dim=(2, 3), keepdim=True)
    return centred / (centred.square().mean(dim=(2, 3), keepdim=True) + 1.0).sqrt()
