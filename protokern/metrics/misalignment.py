"""Spatial misalignment: can pixels outside of a prototype's box, by changes that nobody sees, move its match?"""

from __future__ import annotations

from array import array

import numpy as np
import torch
from torch import Tensor

from protokern.metrics.context import Box, Context, LeftOutError, Seen, draw
from protokern.metrics.duplicates import overlap
from protokern.metrics.maps import high_pixels, similarity_maps, upsampled
from protokern.metrics.patches import Match, best_matches, own_prototypes
from protokern.metrics.results import Means, MeasureResult, estimate
from protokern.models.base import PrototypeModel

NAME = "misalignment"
MOST = 8 / 255  # by which a pixel changes, of the range [0, 1]
STEPS = 20
STEP = 2.5 * MOST / STEPS  # so that the bound can be reached from any start, and be left again


def box_of(similarity: Tensor, size: tuple[int, int]) -> Box:
    """The smallest box around the highest twentieth of a map (H', W') that is upsampled to (Y, X) pixels."""
    high = high_pixels(upsampled(similarity[None], size).cpu().numpy())[0]
    rows, columns = (np.flatnonzero(high.any(axis=axis)) for axis in (1, 0))
    return int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1


def attacked(
    model: PrototypeModel, images: Tensor, prototypes: Tensor, free: Tensor, *, steps: int = STEPS, seed: int = 0
) -> Tensor:
    """Images whose pixels are changed, where they may be, so that the similarity of a prototype of each falls.

    Projected gradient descent on the highest similarity of the map: steps along the sign of the gradient, no pixel
    further than 8/255 from where it was, and all in [0, 1]. It starts at a place that is drawn within this bound.

    Args:
        model: in evaluation mode; its weights get no gradients.
        images: (B, C, Y, X) in [0, 1].
        prototypes: (B,) int64, the prototype of each image.
        free: (B, 1, Y, X) bool, which pixels may change.
        steps: at least 1.
        seed: of the start.

    Source: Madry et al. 2018, Towards Deep Learning Models Resistant to Adversarial Attacks.
    """
    generator = torch.Generator().manual_seed(seed)
    start = MOST * (2 * torch.rand(images.shape, generator=generator) - 1)
    shift = torch.where(free, start.to(images), torch.zeros_like(images))
    low, high = -images.clamp(max=MOST), (1 - images).clamp(max=MOST)
    shift = shift.clamp(low, high)
    row = torch.arange(len(images), device=images.device)
    layer = model.prototype_layer
    for _ in range(steps):
        with torch.inference_mode(False), torch.enable_grad():
            moving = shift.detach().clone().requires_grad_()
            nearest = layer.min_distance(model.features(images + moving), prototypes).value  # (B, B)
            (gradient,) = torch.autograd.grad(nearest[row, row].sum(), moving)
        shift = torch.where(free, shift + STEP * gradient.sign(), shift).clamp(low, high)
    return images + shift


class Misalignment:
    """The measure over a drawn part of a data set: the best prototype of each image's own class.

    Source: Sacha et al. 2024, Interpretability Benchmark for Evaluating Spatial Misalignment of Prototypical Parts
        Explanations. The numbers have their names; the bound, the steps and the choice of the prototype are ours.
    """

    needs_images = True

    def __init__(self, model: PrototypeModel, context: Context, num_images: int) -> None:
        if model.prototype_layer.activation == "linear" and not model.prototype_layer.is_projected:
            raise LeftOutError("a similarity that is the negative distance has no share that could change")
        self._model, self._context = model, context
        self._chosen = draw(num_images, context)
        self._own = own_prototypes(model)
        self._columns = {
            name: array("d")
            for name in (
                "place of the box (PLC)",
                "similarity lost (PAC)",
                "rank of the prototype (PRC)",
                "right answers before",
                "right answers after",
                "share of the image in the box",
            )
        }
        self._lost = Means(model.num_prototypes)
        self._without_prototypes = self._unknown = 0

    def see(self, seen: Seen) -> None:
        layer = self._model.prototype_layer
        matches, without = best_matches(seen, self._own, self._chosen, layer.prototype_size)
        self._without_prototypes += without
        for match in matches:
            values = self._attack(seen, match)
            if values is None:
                self._unknown += 1
                continue
            for column, value in zip(self._columns.values(), values, strict=True):
                column.append(value)
            self._lost.add(match.prototype, values[1])

    def _attack(self, seen: Seen, match: Match) -> tuple[float, ...] | None:
        """The numbers of an image, in the order of the columns; None if its similarity is not above 0."""
        layer, row = self._model.prototype_layer, match.row
        image, index = seen.images[row : row + 1], np.array([match.prototype])
        size = (image.shape[2], image.shape[3])
        before = similarity_maps(layer, seen.features[row], index)[0]
        if not float(before.max()) > 0:
            return None
        y0, x0, y1, x1 = box = box_of(before, size)
        free = torch.ones(1, 1, *size, dtype=torch.bool, device=image.device)
        free[..., y0:y1, x0:x1] = False
        seed = int(np.random.SeedSequence([self._context.seed, match.image_index]).generate_state(1)[0])
        changed = attacked(self._model, image, torch.from_numpy(index).to(image.device), free, seed=seed)
        features = self._model.features(changed)
        output = self._model.head(features)
        after = similarity_maps(layer, features[0], index)[0]
        label = int(seen.labels[row])
        ranks = [
            int((some > some[match.prototype]).sum()) for some in (seen.output.activations[row], output.activations[0])
        ]
        return (
            1 - overlap(box, box_of(after, size)),
            float(1 - after.max().double() / before.max().double()),
            float(abs(ranks[1] - ranks[0])),
            float(seen.output.logits[row].argmax() == label),
            float(output.logits[0].argmax() == label),
            (y1 - y0) * (x1 - x0) / (size[0] * size[1]),
        )

    def result(self) -> MeasureResult:
        return MeasureResult(
            name=NAME,
            estimates={
                name: estimate(values, seed=self._context.seed, unit="number" if "rank" in name else "share")
                for name, values in self._columns.items()
            },
            settings={
                "images": len(self._columns["similarity lost (PAC)"]),
                "most change of a pixel": "8/255",
                "steps of the attack": STEPS,
                "seed of the attack": self._context.seed,
            },
            skipped={
                "images whose class has no prototype": self._without_prototypes,
                "images whose best similarity is not above 0": self._unknown,
            },
            prototypes={"similarity lost": self._lost.values()},
        )
