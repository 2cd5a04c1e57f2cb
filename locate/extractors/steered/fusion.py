"""The same network as ordinary convolutions, for use: kernels written out, normalisation fused in."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor, nn

from locate.extractors.blocks.layers import Pointwise
from locate.extractors.steered.equivariant import TURNS, FieldNorm, GroupConv, steered
from locate.extractors.steered.network import Block, Residual, SteeredNetwork


def fused(network: SteeredNetwork, precision: torch.dtype = torch.float32) -> SteeredNetwork:
    """A copy in evaluation mode that gives the same maps, faster, and that cannot be trained. Its layers
    compute in `precision`, what reads places off the maps in float32."""
    copy = deepcopy(network).eval()
    copy.describe_upright = _upright(copy)
    _fuse_children(copy)
    for child in copy.children():
        child.to(precision)
    return copy.requires_grad_(False)


def _upright(network: SteeredNetwork) -> nn.Sequential:
    """`describe` of fields as they are: what `steered` makes of them for (1, 0), which is linear, is
    part of the first layer."""
    first, relu, second = network.describe
    assert isinstance(first, nn.Linear)
    fields = network.fields
    with torch.no_grad():
        each = torch.eye(TURNS * fields).view(-1, fields, TURNS)
        seen = steered(each, torch.tensor((1.0, 0.0)).expand(len(each), 2))  # 4 F x 5 F
        kernel = first.weight.view(first.out_features, -1, seen.shape[1]) @ seen.T
        plain = nn.Linear(kernel[0].numel(), first.out_features)
        plain.weight.copy_(kernel.flatten(1))
        plain.bias.copy_(first.bias)
    return nn.Sequential(plain, relu, second)


def _fuse_children(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, Block):
            convolution, norm, activation = child
            assert isinstance(convolution, GroupConv)
            assert isinstance(norm, FieldNorm)
            setattr(module, name, nn.Sequential(_plain(convolution, norm), activation))
        elif isinstance(child, Residual):
            child.second = _plain(child.second, child.norm)  # type: ignore[assignment]
            child.norm = nn.Identity()  # type: ignore[assignment]
            _fuse_children(child)
        elif isinstance(child, GroupConv):
            setattr(module, name, _plain(child, None))
        elif isinstance(child, nn.Linear):
            setattr(module, name, Pointwise(child))
        else:
            _fuse_children(child)


def _plain(convolution: GroupConv, norm: FieldNorm | None) -> nn.Conv2d:
    with torch.no_grad():
        kernel, bias = convolution.kernel(), None
        if norm is not None:
            scale, shift = _scale_and_shift(norm)
            kernel, bias = kernel * scale.view(-1, 1, 1, 1), shift
        outputs, inputs, size, _ = kernel.shape
        stride, padding = convolution.stride, convolution.padding
        plain = nn.Conv2d(inputs, outputs, size, stride, padding, bias=norm is not None)
        plain.weight.copy_(kernel)
        if bias is not None and plain.bias is not None:
            plain.bias.copy_(bias)
    return plain


def _scale_and_shift(norm: FieldNorm) -> tuple[Tensor, Tensor]:
    """Of every channel: y = scale x + shift."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    shift = norm.bias - norm.running_mean * scale
    return scale.repeat_interleave(TURNS), shift.repeat_interleave(TURNS)
