"""Forbidden patches in a training: what prototypes like them cost, and which patches no prototype becomes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from protokern.config.train import TrainConfig
from protokern.errors import ConfigError
from protokern.inputs.loaders import LabelledImages, training_loader
from protokern.inputs.sources import compute_features, to_device
from protokern.kernels.metric import METRIC_TABLE
from protokern.losses import forbidden_cost
from protokern.models.base import PrototypeModel
from protokern.nn import PrototypeLayer
from protokern.results.stages import Stage
from protokern.runs.forbidden import Forbidden
from protokern.train.live import cut_patches, look_at, read_patches, without_noise

MOST_PLACES = 64  # that the loss sees: while the backbone learns, every one costs an image more in each step
# A patch is like a forbidden one if it is at most at this share of the distance of the middle patch of the image.
NEARNESS = 0.5


@dataclass(frozen=True, slots=True)
class ForbiddenPlaces:
    """Forbidden patches by their positions in the data.

    Attributes:
        image: (F,) int64, positions in the images of the push.
        patch: (F,) int64, flat index row * W' + column in `grid`.
        is_forbidden: (F, K) bool, to which classes.
        grid: (H', W').
    """

    image: Tensor
    patch: Tensor
    is_forbidden: Tensor
    grid: tuple[int, int]

    def spread(self, most: int) -> ForbiddenPlaces:
        """All places, or as many, evenly spaced in their order."""
        count = len(self.image)
        chosen = torch.arange(min(count, most)) * count // min(count, most)
        return ForbiddenPlaces(self.image[chosen], self.patch[chosen], self.is_forbidden[chosen], self.grid)


def find_places(
    forbidden: Forbidden, images: LabelledImages, classes: Sequence[str]
) -> tuple[ForbiddenPlaces | None, str]:
    """Where the forbidden places of a run are in its data, and a note on them; None: in none of its images.

    Args:
        forbidden: of the run.
        images: of the push.
        classes: names of the classes of the net.
    """
    positions = {images.sample_name(index): index for index in range(len(images))}
    known = [one for one in forbidden.places if one.image in positions]
    if not known:
        return None, f"forbidden places: {len(forbidden.places)}, without effect, because they are in no training image"
    places = ForbiddenPlaces(
        torch.tensor([positions[one.image] for one in known]),
        torch.tensor([one.patch[0] * forbidden.grid[1] + one.patch[1] for one in known]),
        torch.tensor([[name in one.classes for name in classes] for one in known]),
        forbidden.grid,
    )
    note = f"forbidden places: {len(known)}, and no prototype becomes a patch like one"
    if len(known) < len(forbidden.places):
        note += f"; {len(forbidden.places) - len(known)} more in no training image"
    return places, note


def check_grid(model: PrototypeModel, images: LabelledImages, places: ForbiddenPlaces) -> None:
    """Raise a ConfigError unless images have the grid of patches in which places were forbidden."""
    height, width = model.prototype_layer.prototype_size
    with torch.no_grad(), without_noise(model):
        image = images[0][0][None].to(model.device, model.dtype)
        rows, columns = model.features(image).shape[2:]
    grid = (rows - height + 1, columns - width + 1)
    if grid != places.grid:
        raise ConfigError(
            f"data.image_size: must give the {places.grid[0]} x {places.grid[1]} patches of forbidden.json; got "
            f"{grid[0]} x {grid[1]}. Leave it out."
        )


class ForbiddenPatches:
    """Forbidden patches as the present net sees them, for as long as the same parts of it learn.

    A backbone that does not learn meanwhile sees their images once, or its stored maps are read. One that learns sees
    them in every step, without augmentation and in evaluation mode, so that its batch norms do not learn from them.

    Args:
        model: its parts that learn require a gradient.
        images: un-augmented images of the push, or the backbone's maps of them.
        places: forbidden places, of which at most MOST_PLACES are seen, evenly spaced.
        stage: that learns.
        config: of the training.
        workers: processes that read images.
    """

    def __init__(
        self,
        model: PrototypeModel,
        images: LabelledImages,
        places: ForbiddenPlaces,
        stage: Stage,
        config: TrainConfig,
        workers: int,
    ) -> None:
        places = places.spread(MOST_PLACES)
        self._precision = config.precision
        self._images: Tensor | None = None
        if "backbone" in model.learning_rates(stage, config):
            chosen, number = places.image.unique(return_inverse=True)
            ((inputs, _),) = training_loader(images, [chosen.tolist()], workers, seed=0)
            self._images = to_device(inputs, model.device, config.channels_last)
            order = torch.arange(len(number))
            row, column = places.patch // places.grid[1], places.patch % places.grid[1]
            self._place = (number.to(model.device), row.to(model.device), column.to(model.device))
        else:
            with without_noise(model):
                order, self._maps, self._place = read_patches(
                    model,
                    images,
                    places.image,
                    places.patch,
                    places.grid,
                    batch_size=config.batch_size,
                    workers=workers,
                    channels_last=config.channels_last,
                )
        self._is_forbidden = places.is_forbidden[order].to(model.device)

    def cost(self, model: PrototypeModel) -> Tensor:
        """See `forbidden_cost`; the similarity is that of the layer."""
        layer = model.prototype_layer
        similarity = layer.activate(layer.min_distance(self._features(model)).value)  # (F, P)
        return forbidden_cost(similarity, model.class_identity, self._is_forbidden)

    def _features(self, model: PrototypeModel) -> Tensor:
        """(F, D, h, w)."""
        if self._images is None:
            return look_at(model, self._maps, self._place)
        device = self._images.device.type
        with (
            without_noise(model.backbone, model.add_on_layers),
            torch.autocast(device, dtype=torch.bfloat16, enabled=self._precision == "bf16"),
        ):
            features = model.features(self._images)
        return cut_patches(features.float(), self._place, model.prototype_layer.prototype_size)


class ForbiddenNeighbours:
    """Which patches no prototype may become: the forbidden places, and patches that are like one of them.

    A patch is like a forbidden one if it is at most half as far from it as the middle one, by distance, of the other
    patches of its image. Distances are squared differences of the features, or of their directions unless the metric of
    the layer is "sqeuclidean"; weights of patches do not count. What was forbidden to a class is left out in the images
    of that class, and of every class that shares a prototype with it.

    Args:
        model: in evaluation mode, as in the push.
        images: un-augmented images of the push, or the backbone's maps of them.
        places: all forbidden places.
        config: of the training.
        workers: processes that read images.
    """

    def __init__(
        self,
        model: PrototypeModel,
        images: LabelledImages,
        places: ForbiddenPlaces,
        config: TrainConfig,
        workers: int,
    ) -> None:
        layer = model.prototype_layer
        assert isinstance(layer, PrototypeLayer)
        self._size = layer.prototype_size
        self._is_unit = METRIC_TABLE[layer.metric].is_unit or METRIC_TABLE[layer.metric].is_product
        identity = (model.class_identity > 0).float()
        shares = identity.T @ identity + torch.eye(model.num_classes, device=identity.device)  # (K, K)
        self._is_excluded = (places.is_forbidden.float() @ shares.cpu()) > 0  # (F, K)
        chosen, number = places.image.unique(return_inverse=True)
        vectors, radii, order = [], [], []
        batches = [batch.tolist() for batch in chosen.split(config.batch_size)]
        loader = training_loader(images, batches, workers, seed=0)
        for start, (inputs, _) in zip(range(0, len(chosen), config.batch_size), loader, strict=True):
            features = compute_features(model, to_device(inputs, model.device, config.channels_last), loader.given)
            every = self._vectors(features)  # (B, N, L)
            here = ((number >= start) & (number < start + len(every))).nonzero().flatten()
            own = every[(number[here] - start).to(every.device)]  # (F', N, L)
            vector = own[torch.arange(len(here)), places.patch[here].to(every.device)]  # (F', L)
            distance = (own - vector[:, None]).square().sum(dim=2)  # (F', N)
            order.append(here)
            vectors.append(vector)
            radii.append(NEARNESS * _middle_of_others(distance))
        by_image = torch.cat(order)
        self._place_image, self._place_patch = places.image[by_image], places.patch[by_image]
        self._is_excluded = self._is_excluded[by_image]
        self._vector, self._radius = torch.cat(vectors), torch.cat(radii)

    def __call__(self, features: Tensor, labels: Tensor, index: Tensor) -> Tensor:
        """See `protokern.search.Excluded`."""
        every = self._vectors(features)  # (B, N, L)
        counts = self._is_excluded.T[labels]  # (B, F), on the CPU
        # Differences, not products: a copy of a forbidden patch is at distance 0.
        distance = torch.cdist(every, self._vector, compute_mode="donot_use_mm_for_euclid_dist")  # (B, N, F)
        near = distance.square() <= self._radius
        result = (near & counts[:, None].to(near.device)).any(dim=2)  # (B, N)
        row, place = ((index[:, None] == self._place_image) & counts).nonzero(as_tuple=True)
        result[row.to(result.device), self._place_patch[place].to(result.device)] = True
        height, width = self._size
        return result.unflatten(1, (features.shape[2] - height + 1, features.shape[3] - width + 1))

    def _vectors(self, features: Tensor) -> Tensor:
        """The patches of features (B, D, H, W) as they are compared, (B, N, L)."""
        vectors = F.unfold(features.float(), self._size).transpose(1, 2)
        return F.normalize(vectors, dim=2) if self._is_unit else vectors


def _middle_of_others(distance: Tensor) -> Tensor:
    """(F,), the median of the distances (F, N) to all patches of the image but the forbidden one, the nearest; 0 if it
    is the only one."""
    count = distance.shape[1]
    return distance.new_zeros(len(distance)) if count < 2 else distance.kthvalue(2 + (count - 2) // 2, dim=1).values
