"""Heat maps of pixels: which ones the similarity of a prototype to the patch that was nearest to it depends on.

This file has the table of methods and the two by gradients, which captum computes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from protokern.explain.masked_maps import occlusion_maps, rise_maps
from protokern.explain.packages import import_extra
from protokern.explain.relevance import check_layers, relevance_maps
from protokern.explain.similarity import Place
from protokern.models.base import PrototypeModel
from protokern.nn import evaluating

GRADIENTS = ("gradient", "smoothgrad")
SAMPLES, NOISE = 25, 0.15
_BATCH = 5


def gradient_heat_map(
    model: PrototypeModel,
    image: Tensor,
    prototype: int,
    patch: tuple[int, int],
    *,
    method: str = "gradient",
    samples: int = SAMPLES,
    noise: float = NOISE,
    seed: int = 0,
) -> np.ndarray:
    """How strongly each pixel changes the similarity of a prototype to one patch of an image.

    "gradient" is the absolute gradient, summed over channels; "smoothgrad" is the same of the mean gradient over copies
    of the image with normal noise. The similarity is the activation at the patch; for ProtoPool it is taken before the
    image's average is subtracted. A patch that is the prototype itself has the highest possible similarity, so its
    gradient is set to exactly zero instead of a rounding error.

    The result depends only on the arguments. Random generators, modes and weights are restored.

    Args:
        model: any prototype model, on a CPU or a CUDA device.
        image: (C, Y, X), as its loader gives them, on any device.
        prototype: its index.
        patch: (row, column) in the grid of patches.
        method: "gradient" or "smoothgrad".
        samples: noisy copies, at least 1.
        noise: standard deviation as a share of the image's range, at least 0.
        seed: of the noise, which is the same for all prototypes.

    Returns:
        (Y, X) float32, >= 0; zero outside of the receptive field of the patch, with two exceptions: rounding errors of
        some CUDA convolutions; and, with salience, the field of the patch with the longest vector, to whose length the
        salience relates.

    Raises:
        ValueError: an argument is out of range.
        MissingPackageError: captum is not installed.

    Source: Simonyan et al. 2014 (gradient); Smilkov et al. 2017 (SmoothGrad).
    """
    _check(model, prototype, method, samples, noise)
    attribution = import_extra("captum.attr", f"heat maps by '{method}'")
    with evaluating(model), torch.inference_mode(False), torch.enable_grad():
        pixels = image.detach().to(model.device, model.dtype, copy=True)[None].requires_grad_()
        similarity = _Similarity(model, prototype, patch)
        if method == "gradient":
            gradient = attribution.Saliency(similarity).attribute(pixels, abs=False)  # (1, C, Y, X)
            if similarity.is_at_copy:
                gradient = torch.zeros_like(gradient)
        else:
            with _seeded(pixels.device, seed):
                gradient = _mean_gradient(attribution, similarity, pixels, samples, noise)
    heat_map: np.ndarray = gradient[0].detach().abs().sum(dim=0).float().cpu().numpy()
    return heat_map


def _mean_gradient(
    attribution: ModuleType, similarity: _Similarity, pixels: Tensor, samples: int, noise: float
) -> Tensor:
    """The mean gradient (1, C, Y, X) over copies of `pixels` (1, C, Y, X) under normal noise."""
    values = pixels.detach()
    mean: Tensor = attribution.NoiseTunnel(attribution.Saliency(similarity)).attribute(
        pixels,
        nt_type="smoothgrad",
        nt_samples=samples,
        nt_samples_batch_size=min(samples, _BATCH),
        stdevs=noise * float(values.max() - values.min()),
        abs=False,
    )
    return mean


class _Similarity:
    """Similarity (B,) of images (B, C, Y, X) to one prototype at one patch."""

    def __init__(self, model: PrototypeModel, prototype: int, patch: tuple[int, int]) -> None:
        self.model = model
        self.prototype = torch.tensor([prototype], device=model.device)
        self.patch = patch
        self.is_at_copy = False

    def __call__(self, images: Tensor) -> Tensor:
        layer = self.model.prototype_layer
        features = self.model.features(images.to(layer.dtype))  # (B, D, H, W)
        patch = torch.full((len(images), 1), self._flat_patch(features), device=images.device)
        distance = layer.distance_at(features, patch, self.prototype)  # (B, 1)
        self.is_at_copy = layer.is_at_copy(distance, int(self.prototype))
        return layer.activate(distance)[:, 0]

    def _flat_patch(self, features: Tensor) -> int:
        height, width = self.model.prototype_layer.prototype_size
        rows, columns = features.shape[2] - height + 1, features.shape[3] - width + 1
        row, column = self.patch
        if not (0 <= row < rows and 0 <= column < columns):
            raise ValueError(f"patch: must be in the grid of {rows} x {columns} patches; got {self.patch}.")
        return row * columns + column


@contextmanager
def _seeded(device: torch.device, seed: int) -> Iterator[None]:
    """Within the block the device's generator starts at `seed`; afterwards its old state is restored.

    `torch.manual_seed` would set the generators of all devices.
    """
    is_cuda = device.type == "cuda"
    generator = torch.cuda.default_generators[device.index or 0] if is_cuda else torch.default_generator
    state = generator.get_state()
    generator.manual_seed(seed)
    try:
        yield
    finally:
        generator.set_state(state)


def _gradient_maps(method: str) -> Callable[[PrototypeModel, Tensor, Sequence[Place]], list[np.ndarray]]:
    def maps(model: PrototypeModel, image: Tensor, places: Sequence[Place]) -> list[np.ndarray]:
        return [gradient_heat_map(model, image, *place, method=method) for place in places]

    return maps


# From a model, an image (C, Y, X) and places to a map (Y, X) float32, >= 0, for each place.
METHODS = {
    **{method: _gradient_maps(method) for method in GRADIENTS},
    "occlusion": occlusion_maps,
    "rise": rise_maps,
    "prp": relevance_maps,
}
HEAT_MAPS = ("upsample", *METHODS)
_NEEDED = {"gradient": "captum.attr", "smoothgrad": "captum.attr", "prp": "zennit.attribution"}


def pixel_heat_maps(model: PrototypeModel, image: Tensor, places: Sequence[Place], method: str) -> list[np.ndarray]:
    """Which pixels the similarity of some prototypes to one patch each depends on.

    Args:
        model: any prototype model.
        image: (C, Y, X) in [0, 1].
        places: prototypes and their patches.
        method: "gradient" or "smoothgrad", see `gradient_heat_map`; "occlusion" or "rise", which hide parts of the
            image, see `protokern.explain.masked_maps`; "prp", see `protokern.explain.relevance`.

    Returns:
        For each place (Y, X) float32, >= 0.

    Raises:
        ValueError: the method is unknown, a patch is outside of the grid, or the method has no rule for a layer.
        MissingPackageError: the method's package is not installed.
    """
    check_heat_map(method)
    if method not in METHODS:
        raise ValueError(f"method: must be one of {', '.join(METHODS)}; got {method!r}. Choose one of them.")
    return METHODS[method](model, image, places)


def check_heat_map(heat_map: str, model: PrototypeModel | None = None) -> None:
    """Raise unless `heat_map` is one of HEAT_MAPS and can be computed here, and for `model` if one is given.

    Raises:
        ValueError: `heat_map` is unknown, or does not know a layer of the model.
        MissingPackageError: its package is not installed.
    """
    if heat_map not in HEAT_MAPS:
        raise ValueError(f"heat_map: must be one of {', '.join(HEAT_MAPS)}; got {heat_map!r}. Choose one of them.")
    if heat_map in _NEEDED:
        import_extra(_NEEDED[heat_map], f"heat maps by '{heat_map}'")
    if heat_map == "prp" and model is not None:
        check_layers(model)


def _check(model: PrototypeModel, prototype: int, method: str, samples: int, noise: float) -> None:
    if not 0 <= prototype < model.num_prototypes:
        raise ValueError(f"prototype: must be from 0 to {model.num_prototypes - 1}; got {prototype}.")
    if method not in GRADIENTS:
        raise ValueError(f"method: must be {' or '.join(GRADIENTS)}; got {method!r}. Choose one of them.")
    if samples < 1:
        raise ValueError(f"samples: must be at least 1; got {samples}.")
    if not (math.isfinite(noise) and noise >= 0):
        raise ValueError(f"noise: must be a finite number of at least 0; got {noise}.")
