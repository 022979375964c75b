"""Randomisation: does a prototype's map change when what the net has learned is taken from it?"""

from __future__ import annotations

from array import array
from copy import deepcopy

import numpy as np
import torch
from torch import nn

from protokern.metrics.context import Context, Seen, draw
from protokern.metrics.maps import similarity_maps
from protokern.metrics.patches import best_matches, own_prototypes
from protokern.metrics.results import Means, MeasureResult, estimate
from protokern.models.base import PrototypeModel

NAME = "randomisation"
PARTS = {"add-on layers": ("add_on_layers",), "backbone and add-on layers": ("backbone", "add_on_layers")}


def shuffle_weights(module: nn.Module, seed: int = 0) -> None:
    """Shuffle the numbers of every parameter of a module, in place: it has the same numbers and has learned nothing.

    Args:
        module: whose parameters change; its buffers stay.
        seed: of the shuffling.

    Source: Adebayo et al. 2018, Sanity Checks for Saliency Maps, which draws new weights instead.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            order = torch.randperm(parameter.numel(), generator=generator).to(parameter.device)
            parameter.copy_(parameter.flatten()[order].reshape(parameter.shape))


def rank_correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Spearman's correlation of two maps of the same shape, in [-1, 1]; NaN if one of them is constant."""
    from scipy.stats import rankdata  # takes half of a second to import

    ranks = [rankdata(values.ravel()) for values in (one, other)]
    centred = [values - values.mean() for values in ranks]
    scale = np.sqrt((centred[0] ** 2).sum() * (centred[1] ** 2).sum())
    return float((centred[0] * centred[1]).sum() / scale) if scale > 0 else float("nan")


class Randomisation:
    """The measure over a drawn part of a data set: the best prototype of each image's own class."""

    needs_images = True

    def __init__(self, model: PrototypeModel, context: Context, num_images: int) -> None:
        self._seed = context.seed
        self._layer, self._own = model.prototype_layer, own_prototypes(model)
        self._chosen = draw(num_images, context)
        self._shuffled = {name: _copy_without(model, parts, context.seed) for name, parts in PARTS.items()}
        self._likeness = {name: array("d") for name in PARTS}
        self._same_patch = {name: array("d") for name in PARTS}
        self._by_prototype = {name: Means(model.num_prototypes) for name in PARTS}
        self._without_prototypes = 0

    def see(self, seen: Seen) -> None:
        matches, without = best_matches(seen, self._own, self._chosen, self._layer.prototype_size)
        self._without_prototypes += without
        if not matches:
            return
        images = seen.images[[match.row for match in matches]]
        for name, shuffled in self._shuffled.items():
            features = shuffled.features(images)
            for position, match in enumerate(matches):
                prototype = np.array([match.prototype])
                before = similarity_maps(self._layer, seen.features[match.row], prototype)[0]
                after = similarity_maps(self._layer, features[position], prototype)[0]
                likeness = rank_correlation(before.double().cpu().numpy(), after.double().cpu().numpy())
                self._likeness[name].append(likeness)
                self._same_patch[name].append(float(before.argmax() == after.argmax()))
                self._by_prototype[name].add(match.prototype, likeness)

    def result(self) -> MeasureResult:
        estimates = {}
        for name in PARTS:
            estimates[f"likeness of the map, {name} shuffled"] = estimate(self._likeness[name], seed=self._seed)
            estimates[f"same patch, {name} shuffled"] = estimate(self._same_patch[name], seed=self._seed)
        likeness = next(iter(self._likeness.values()))
        columns = {
            f"likeness of the map, {name} shuffled": means.values() for name, means in self._by_prototype.items()
        }
        return MeasureResult(
            name=NAME,
            estimates=estimates,
            settings={"images drawn": len(likeness) + self._without_prototypes, "seed of the shuffling": self._seed},
            skipped={
                "images whose class has no prototype": self._without_prototypes,
                "images with a constant map": int(np.isnan([*self._likeness.values()]).any(axis=0).sum()),
            },
            prototypes=columns,
        )


def _copy_without(model: PrototypeModel, parts: tuple[str, ...], seed: int) -> PrototypeModel:
    """A copy of the model in evaluation mode, in which some parts have shuffled weights."""
    copy = deepcopy(model).eval()
    for name in parts:
        shuffle_weights(getattr(copy, name), seed)
    return copy
