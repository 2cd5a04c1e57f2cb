"""How DELF is trained: first the descriptors, then, with those frozen, the attention; then the PCA.

Noh et al., ICCV 2017, section 3. What differs is our choice, made for small collections and short
trainings:

- Classes are the scenes (folders of photos of one place) and, since these are few, single photos too:
  each is a class of its own that has to be recognised in any view of it (crop, tilt, light).
- A classifier that starts at random would first of all have to learn the classes. Ours starts with each
  class's mean feature (weight imprinting: Qi, Brown, Lowe, CVPR 2018), so that the first steps already
  teach the network.
- Stage "descriptors" compares by cosine, times `SCALE`; stage "attention" has the paper's plain W y.
- In the stage "attention" nothing before it changes, so some cells of many views are kept and serve
  several steps, which are much faster for that. New views join them all the time, or attention learns
  them by heart.
- Descriptors have 128 numbers, of features whitened and turned at random; `projection=pca` and `dim=40`
  for the paper's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from locate.errors import ImageError, InputError, UnknownNameError
from locate.extractors.blocks.detection import resize_image, to_input
from locate.extractors.delf import losses as loss
from locate.extractors.delf.extractor import SYSTEM, start
from locate.extractors.delf.network import DelfNetwork, fixed_rotation
from locate.pixels import fit_size
from locate.training.data.homographies import HomographySettings, random_view
from locate.training.data.photometric import PhotometricSettings, photometric_noise
from locate.training.data.photos import PhotoPool, never_trained_on
from locate.training.data.scenes import scenes_of, singles_of
from locate.training.recipe import (
    Batch,
    Parameters,
    Recipe,
    Stage,
    generator,
    images_to_tensor,
    set_tensors,
)
from locate.types import Array

SCALE = 16.0  # of cosines before the softmax
_READ_SIDE = 480  # photos are kept in memory at this size
_VIEWS, _VIEW_STEPS = 640, 50  # views that are added after so many steps of stage "attention"
_BLOCKS = 10  # of so many views are kept
_SCENE_EVERY = 2  # view shows a scene, as many as in stage "descriptors"
_SEED = 0  # of the views; the training's own seed decides about their order
_PER_CLASS = 6  # photos that a class's mean feature is taken of
_PCA_PHOTOS, _PCA_FEATURES = 300, 200  # and the best-attended features of each
_KEPT = 0.5  # share of all cells that the attention threshold lets pass

_WARP = HomographySettings(rotation=15, perspective=0.15, scale=(0.8, 1.25), crop=(0.4, 1.0))
_LIGHT = PhotometricSettings()

DESCRIPTORS, ATTENTION = "descriptors", "attention"
WHITENED, PCA = "whitened", "pca"


class TrainingNetwork(nn.Module):
    """The network with the classifiers of both stages, which serve training alone."""

    def __init__(self, delf: DelfNetwork, classes: int) -> None:
        super().__init__()
        self.delf = delf
        channels = len(delf.mean)
        self.classes = nn.ModuleDict(
            {s: nn.Linear(channels, classes, bias=False) for s in (DESCRIPTORS, ATTENTION)}
        )

    def classifier(self, stage: Stage) -> nn.Linear:
        found = self.classes[stage.name]
        assert isinstance(found, nn.Linear)
        return found


@dataclass(eq=False)
class DelfRecipe(Recipe[TrainingNetwork]):
    """DELF's recipe: the descriptors first, then the attention alone."""

    system = SYSTEM
    stages = (
        Stage(DESCRIPTORS, steps=300, learning_rate=1e-3, warmup=0.1),
        Stage(ATTENTION, steps=600, learning_rate=1e-3),
    )

    backbone: str = "lite0"  # see `locate.extractors.backbones.registry.load_backbone`
    backbone_weights: Path | None = None
    _: KW_ONLY
    dim: int = 128  # length of the descriptors; the paper's is 40
    projection: str = WHITENED  # to that length (`losses.fit_whitening`), or "pca", as in the paper
    batch_size: int = 24  # crops a step in stage "descriptors"
    views: int = 64  # the same in stage "attention"
    crop: int = 224  # their side in pixels; stage "attention" shrinks it by up to a half at random
    singles: int = 1000  # at most so many single photos become classes

    def __post_init__(self) -> None:
        if self.projection not in (WHITENED, PCA):
            raise UnknownNameError("projection of delf", self.projection, (WHITENED, PCA))
        self._blocks: dict[int, tuple[Tensor, Tensor]] = {}
        self._kept: tuple[Tensor, Tensor] | None = None
        self._last = 0  # the number of the newest block

    def prepare(self, data: Path, cache: Path) -> None:  # noqa: ARG002  nothing takes long
        found = {n: self._to_learn(photos, data) for n, photos in scenes_of(data).items()}
        scenes = {name: photos for name, photos in found.items() if len(photos) > 1}
        singles = self._to_learn(singles_of(data), data)
        if len(scenes) + len(singles) < 2:
            raise InputError(
                f"{data} must hold at least two scenes (folders of photos of one place) or single "
                "photos in a folder `photos`"
            )
        chosen = singles[:: max(1, -(-len(singles) // self.singles))]
        files = [*(p for photos in scenes.values() for p in photos), *chosen]
        self._pool = PhotoPool(files, data, held_out=0.1)
        aside = set(self._pool.held_out.tolist())
        of_scenes = [[self._pool.index[path] for path in photos] for photos in scenes.values()]
        self._aside = [[i for i in group if i in aside] for group in of_scenes]
        self._train = [[i for i in group if i not in aside] for group in of_scenes]
        # A single photo held out would be a class nobody learned.
        self._train += [[self._pool.index[path]] for path in chosen]
        self._scenes = len(scenes)
        self.data_words = (
            f"{sum(map(len, of_scenes))} photos of {len(scenes)} scenes and {len(chosen)} single photos "
            f"in {data.name}"
        )

    @staticmethod
    def _to_learn(photos: Sequence[Path], data: Path) -> list[Path]:
        return [path for path in photos if not never_trained_on(path, data)]

    def network(self) -> TrainingNetwork:
        delf, _ = start(self.backbone, self.backbone_weights, self.dim)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return TrainingNetwork(delf, len(self._train))

    def start_from(self, network: TrainingNetwork, tensors: Mapping[str, Tensor]) -> None:
        """The classifiers, which no weights file holds, start anew."""
        set_tensors(network.delf, tensors, self.tensors(network))

    def begin(self, network: TrainingNetwork, stage: Stage) -> Parameters:
        network.requires_grad_(False)
        network.eval()  # batches of a few crops would spoil the statistics of batch normalisation
        trained, rate = list(network.delf.attention.parameters()), stage.learning_rate
        if stage.name == DESCRIPTORS:
            trained, rate = network.delf.fine_tuned(), 0.1 * stage.learning_rate
        classes = list(network.classifier(stage).parameters())
        for parameter in (*trained, *classes):
            parameter.requires_grad_(True)
        return [{"params": trained, "lr": rate}, {"params": classes, "lr": stage.learning_rate}]

    def batch(self, stage: Stage, rng: np.random.Generator, *, held_out: bool = False) -> Batch:
        """ "images", "labels" and the "side" that the images are to be shrunk to; in training of the
        attention "views", indices of the views that are kept."""
        if stage.name == ATTENTION and not held_out:
            kept = _VIEWS * len(self._numbers(self._last))
            return {"views": torch.from_numpy(rng.integers(kept, size=self.views))}
        # Half of the crops show scenes, which are few but hold real changes of view.
        images, labels = self._draw(rng, self.batch_size, held_out)
        side = self._some_side(rng) if stage.name == ATTENTION else self.crop
        return {"images": images, "labels": labels, "side": side}

    def _draw(
        self, rng: np.random.Generator, count: int, held_out: bool, every: int = 2
    ) -> tuple[Tensor, Tensor]:
        """`count` x 3 x S x S crops and their classes; one of `every` shows a scene."""
        groups = self._aside if held_out else self._train
        crops: list[Array] = []
        labels: list[int] = []
        while len(crops) < count:
            turn = held_out or len(labels) % every == 0 or self._scenes == len(groups)
            scene = self._scenes and turn
            low, high = (0, self._scenes) if scene else (self._scenes, len(groups))
            label = int(rng.integers(low, high))
            if not groups[label] and any(groups[low:high]):
                continue
            image = self._read(int(rng.choice(groups[label] or self._train[label])))
            if image is None:
                continue
            view, _ = random_view(image, rng, (self.crop, self.crop), _WARP)
            crops.append(photometric_noise(view, rng, _LIGHT))
            labels.append(label)
        return images_to_tensor(crops), torch.tensor(labels)

    def _some_side(self, rng: np.random.Generator) -> int:
        return round(self.crop * rng.uniform(0.5, 1.0))

    def losses(self, network: TrainingNetwork, batch: Batch, stage: Stage) -> dict[str, Tensor]:
        delf, classes, labels = network.delf, network.classifier(stage), batch.get("labels")
        if stage.name == DESCRIPTORS:
            pooled = functional.normalize(
                loss.pooled_feature(delf.features(batch["images"])), dim=1
            )
            logits = SCALE * pooled @ functional.normalize(classes.weight, dim=1).T
        else:
            if "views" in batch:
                kept, known = self._kept or self._keep_views(delf, self._last)
                chosen, device = batch["views"].cpu(), delf.mean.device
                features, labels = kept[chosen].float().to(device), known[chosen].to(device)
            else:
                features = _shrunk_features(delf, batch["images"], batch["side"])
            logits = classes(loss.attended_feature(features, delf.attention(features)))
        assert labels is not None
        return {
            "loss": loss.classification_loss(logits, labels),
            "accuracy": (logits.argmax(dim=1) == labels).float().mean(),
        }

    def _keep_views(self, delf: DelfNetwork, last: int) -> tuple[Tensor, Tensor]:
        """Of the views of all blocks up to `last` that are kept some cells, N x C x n x 1 float16, and
        their classes."""
        self._blocks = {n: self._blocks.get(n) or self._block(delf, n) for n in self._numbers(last)}
        cells, labels = zip(*self._blocks.values(), strict=True)
        self._kept, self._last = (torch.cat(cells), torch.cat(labels)), last
        return self._kept

    def _numbers(self, last: int) -> range:
        return range(max(0, last + 1 - _BLOCKS), last + 1)

    @torch.no_grad()
    def _block(self, delf: DelfNetwork, number: int) -> tuple[Tensor, Tensor]:
        rng = generator(_SEED, number)
        kept: list[Tensor] = []
        known: list[Tensor] = []
        while sum(map(len, known)) < _VIEWS:
            images, labels = self._draw(rng, 20, False, _SCENE_EVERY)
            images = images.to(delf.mean.device)
            cells = _shrunk_features(delf, images, self._some_side(rng)).flatten(2)
            fewest = (self.crop // 32) ** 2  # as many as the smallest view has
            some = torch.from_numpy(rng.permutation(cells.shape[2])[:fewest])
            kept.append(cells[:, :, some, None].cpu().half())
            known.append(labels)
        return torch.cat(kept), torch.cat(known)

    def refresh_every(self, stage: Stage) -> int:
        return _VIEW_STEPS if stage.name == ATTENTION else 0

    def state(self) -> dict[str, Any]:
        return {"views": self._last}

    def set_state(self, state: dict[str, Any]) -> None:
        self._blocks, self._kept = {}, None  # made again when needed
        self._last = int(state.get("views", 0))

    @torch.no_grad()
    def refresh(self, network: TrainingNetwork, stage: Stage, step: int) -> None:
        """Before the first step the classifier is set to the classes' mean features; views are kept anew
        now and then."""
        if stage.name == ATTENTION:
            if step == 0:
                self._blocks = {}
            self._keep_views(network.delf, step // _VIEW_STEPS)
        if step > 0:
            return
        weight = network.classifier(stage).weight
        for label, photos in enumerate(self._train):
            images = [i for i in map(self._read, photos[:_PER_CLASS]) if i is not None]
            small = [resize_image(i, fit_size(i.shape[1::-1], self.crop)) for i in images]
            features = [network.delf.features(to_input(i, weight.device)) for i in small]
            if stage.name == ATTENTION:
                features = [functional.normalize(f, dim=1) for f in features]
            if features:
                mean = torch.stack([loss.pooled_feature(f)[0] for f in features]).mean(dim=0)
                weight[label] = functional.normalize(mean, dim=0)
        if stage.name == ATTENTION:
            # What all classes share tells none of them apart, and would only make all logits large.
            weight -= weight.mean(dim=0)
            weight *= SCALE / weight.norm(dim=1).mean()

    @torch.no_grad()
    def finish(self, network: TrainingNetwork, stage: Stage) -> None:
        """After the attention: the projection of the features that it chooses, and the threshold."""
        if stage.name != ATTENTION:
            return
        delf = network.delf
        photos = [i for group in self._train for i in group]
        features, scores = [], []
        for index in photos[:: max(1, len(photos) // _PCA_PHOTOS)]:
            image = self._read(index)
            if image is None:
                continue
            found, attention = delf(to_input(image, delf.mean.device))
            best = attention.flatten().argsort(descending=True)[:_PCA_FEATURES]
            features.append(found[0].flatten(1).T[best])
            scores.append(attention.flatten())
        every = torch.cat(features)
        if self.projection == PCA:
            mean, components, _ = loss.fit_pca(every, self.dim)
        else:
            rotation = fixed_rotation(every.shape[1])
            mean, components = loss.fit_whitening(every, self.dim, rotation)
        delf.mean.copy_(mean)
        delf.components.copy_(components)
        delf.threshold.copy_(torch.cat(scores).quantile(1 - _KEPT))

    def tensors(self, network: TrainingNetwork) -> dict[str, Tensor]:
        return dict(network.delf.state_dict())

    def settings(self) -> dict[str, Any]:
        return {"backbone": self.backbone, "dim": self.dim}

    def _read(self, index: int) -> Array | None:
        """None for a file that cannot be decoded; the pool has said so."""
        try:
            return self._pool.read(index, _READ_SIDE)
        except ImageError:
            return None


def _shrunk_features(delf: DelfNetwork, images: Tensor, side: int) -> Tensor:
    """The features of images shrunk to `side`; the backbone learns nothing by them."""
    if side != images.shape[-1]:
        images = functional.interpolate(images, (side, side), mode="bilinear", antialias=True)
    with torch.no_grad():
        return delf.features(images)
