"""The network of SuperPoint: DeTone, Malisiewicz and Rabinovich, CVPR Workshops 2018, section 3.

One encoder of eight convolutions at stride 8, a detector head that says for each cell of 8 x 8 pixels
which of them is a point (or none: the 65th channel, the "dustbin"), and a descriptor head. MagicPoint is
the same without the descriptor head.

Parameters are called as in the authors' file, so that their weights load. Unlike theirs, ours are
trained with batch normalisation between convolution and ReLU; `fused` takes it into the convolutions, so
that what ships and runs is the published network of 1,300,865 parameters.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from locate.extractors.blocks.grids import Grid

SYSTEM = "superpoint"
CELL = 8  # pixels of its side
WIDTH = 256  # of a descriptor
GRID = Grid(CELL, (CELL - 1) / 2)  # a cell's centre lies between its pixels 3 and 4
_ENCODER = {"1a": (1, 64), "1b": (64, 64), "2a": (64, 64), "2b": (64, 64), "3a": (64, 128)}
_ENCODER |= {"3b": (128, 128), "4a": (128, 128), "4b": (128, 128)}
_POOLED = ("1b", "2b", "3b")  # a 2 x 2 maximum follows
_HEADS = {"P": CELL**2 + 1, "D": WIDTH}


class SuperPointNetwork(nn.Module):
    """Grey pixels in, logits of points and coarse descriptors out.

    Args:
        normalised: with batch normalisation, for training.
    """

    def __init__(self, *, normalised: bool = False) -> None:
        super().__init__()
        self.normalised = normalised
        for name, (inputs, outputs) in _ENCODER.items():
            self._add(name, inputs, outputs, 3)
        for head, outputs in _HEADS.items():
            self._add(f"{head}a", 128, 256, 3)
            self._add(f"{head}b", 256, outputs, 1)

    def _add(self, name: str, inputs: int, outputs: int, kernel: int) -> None:
        self.add_module(f"conv{name}", nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2))
        if self.normalised:
            self.add_module(f"norm{name}", nn.BatchNorm2d(outputs))

    def _apply_layer(self, x: Tensor, name: str) -> Tensor:
        x = self.get_submodule(f"conv{name}")(x)
        return self.get_submodule(f"norm{name}")(x) if self.normalised else x

    def encode(self, images: Tensor) -> Tensor:
        """B x 1 x H x W of 0 to 1, H and W multiples of 8 -> B x 128 x H / 8 x W / 8."""
        x = images
        for name in _ENCODER:
            x = functional.relu(self._apply_layer(x, name))
            if name in _POOLED:
                x = functional.max_pool2d(x, 2)
        return x

    def _head(self, encoded: Tensor, head: str) -> Tensor:
        hidden = functional.relu(self._apply_layer(encoded, f"{head}a"))
        return self._apply_layer(hidden, f"{head}b")

    def detect(self, encoded: Tensor) -> Tensor:
        """B x 128 x h x w -> logits, B x 65 x h x w."""
        return self._head(encoded, "P").float()

    def describe(self, encoded: Tensor) -> Tensor:
        """B x 128 x h x w -> B x 256 x h x w, of length 1 in each cell."""
        return functional.normalize(self._head(encoded, "D").float(), dim=1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """B x 1 x H x W of 0 to 1 -> logits B x 65 x H / 8 x W / 8, descriptors B x 256 x H / 8 x W / 8
        of length 1."""
        encoded = self.encode(images)
        return self.detect(encoded), self.describe(encoded)

    @torch.no_grad()
    def unfuse(self, plain: SuperPointNetwork, images: Tensor) -> None:
        """Become the function of `plain`, which has no normalisation, for training: by the statistics of
        what `images` make, B x 1 x H x W of 0 to 1, each normalisation changes nothing."""
        self.load_state_dict(plain.state_dict(), strict=False)

        def set_statistics(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            assert isinstance(norm, nn.BatchNorm2d)
            values = inputs[0].transpose(0, 1).flatten(1)
            norm.running_mean.copy_(values.mean(1))  # type: ignore[union-attr]
            norm.running_var.copy_(values.var(1))  # type: ignore[union-attr]
            norm.weight.copy_((values.var(1) + norm.eps).sqrt())
            norm.bias.copy_(values.mean(1))

        norms = [part for part in self.modules() if isinstance(part, nn.BatchNorm2d)]
        hooks = [norm.register_forward_pre_hook(set_statistics) for norm in norms]
        training = self.training
        self.eval()(images)
        self.train(training)
        for hook in hooks:
            hook.remove()

    def fused(self) -> SuperPointNetwork:
        """The same function, in evaluation mode, by the published network."""
        plain = SuperPointNetwork()
        state: dict[str, Tensor] = {}
        source = copy.deepcopy(self).eval()
        for name, layer in source.named_children():
            if isinstance(layer, nn.Conv2d):
                norm = getattr(source, name.replace("conv", "norm"), None)
                fused = layer if norm is None else fuse_conv_bn_eval(layer, norm)
                state |= {f"{name}.{key}": value for key, value in fused.state_dict().items()}
        plain.load_state_dict(state)
        return plain.eval()


def heat_map(logits: Tensor) -> Tensor:
    """Probability that each pixel is a point: softmax over 65 channels, the dustbin left out; channel c
    of a cell is its pixel (row c // 8, column c % 8). B x 65 x h x w -> B x 8 h x 8 w."""
    inside = torch.softmax(logits, dim=1)[:, :-1]
    return functional.pixel_shuffle(inside, CELL)[:, 0]
