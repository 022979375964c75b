"""Does a file answer as the model does? It is run on images of several sizes before anybody gets it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from protokern.errors import ExportError
from protokern.interop.export.source import ExportSource
from protokern.models.base import ModelOutput, PrototypeModel

# Of logits, relative to the largest one where that is above 1: convolutions of two runtimes round differently.
TOLERANCE = 1e-4
_MOST_PICTURES = 4
# Another image size, which is no multiple of anything and not square: what depends on sizes shows.
_MORE = (37, 64)

Answer = Callable[[Tensor], Mapping[str, np.ndarray]]


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far the answers of a file are from those of the model.

    Attributes:
        logits: largest difference.
        similarity: largest difference.
        patches: how many nearest patches were compared.
        near_ties: how many of them differ, each between patches that are equally near up to rounding.
        sizes: (B, Y, X) of the batches.
    """

    logits: float
    similarity: float
    patches: int
    near_ties: int
    sizes: tuple[tuple[int, int, int], ...]

    def in_words(self) -> str:
        """One line for people."""
        sizes = ", ".join(f"{batch} of {height} x {width}" for batch, height, width in self.sizes)
        ties = f"{self.near_ties} differ, all near ties" if self.near_ties else "equal"
        return (
            f"checked on images ({sizes}): logits within {self.logits:.1g} of the run, similarities within "
            f"{self.similarity:.1g}, {self.patches:,} nearest patches {ties}"
        )


def check_images(source: ExportSource, *, any_size: bool) -> list[Tensor]:
    """Batches (B, C, Y, X) of two numbers of images and, with `any_size`, of two sizes.

    The first holds source images of prototypes, where some are known, so that exact copies are among the patches.
    """
    height, width = source.image_size
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, height, width), (3, height + _MORE[0], width + _MORE[1]) if any_size else (1, height, width)]
    batches = [torch.rand(batch, source.channels, *size, generator=generator) for batch, *size in shapes]
    pictures = list(_pictures(source)) if source.channels == 3 else []
    batches[0] = torch.cat([*pictures, batches[0]])
    return batches


def check_agreement(source: ExportSource, answer: Answer, batches: Sequence[Tensor], file: str) -> Agreement:
    """Compare the answers of a file with those of the model.

    Args:
        source: what was exported.
        answer: runs the file on images.
        batches: of images.
        file: its name, for the message.

    Raises:
        ExportError: logits differ, or a patch does that is no near tie.
    """
    logits = similarity = 0.0
    patches = ties = 0
    for images in batches:
        with torch.no_grad():
            features = source.model.features(images)
            wanted = source.model.head(features)
        got = answer(images)
        size = f"{len(images)} images of {images.shape[2]} x {images.shape[3]} pixels"
        logits = max(logits, _check_logits(wanted.logits, got["logits"], file, size))
        similarity = max(similarity, _largest(wanted.activations, got["similarity"]))
        ties += _check_patches(source.model, features, wanted, torch.from_numpy(got["patch"]), file, size)
        patches += wanted.patches.numel()
    sizes = tuple((len(images), images.shape[2], images.shape[3]) for images in batches)
    return Agreement(logits, similarity, patches, ties, sizes)


def _check_logits(wanted: Tensor, got: np.ndarray, file: str, size: str) -> float:
    difference = _largest(wanted, got)
    if not difference <= TOLERANCE * max(1.0, float(wanted.abs().max())):
        raise ExportError(
            f"{file}: must answer as the run does; its logits differ by {difference:.2g} for {size}. It was not "
            "written. Try --repair topk, or another version of torch and onnxruntime."
        )
    return difference


def _check_patches(
    model: PrototypeModel, features: Tensor, wanted: ModelOutput, got: Tensor, file: str, size: str
) -> int:
    """How many patches differ, if all of those are near ties."""
    differ = wanted.patches != got
    if not bool(differ.any()):
        return 0
    layer = model.prototype_layer
    with torch.no_grad():
        there, least = layer.distance_at(features, got), layer.distance_at(features, wanted.patches)
    gap = (there - least).abs()[differ]
    if not bool((gap <= TOLERANCE * least.abs().clamp_min(1)[differ]).all()):
        raise ExportError(
            f"{file}: must find the nearest patches that the run finds; one is farther away by {float(gap.max()):.2g} "
            f"for {size}. It was not written. Try --repair topk."
        )
    return int(differ.sum())


def _largest(wanted: Tensor, got: np.ndarray) -> float:
    """The largest difference; infinite where one has another shape or is not finite alone."""
    ours, theirs = wanted.detach().double().numpy(), np.asarray(got, dtype=np.float64)
    if ours.shape != theirs.shape or (np.isfinite(ours) != np.isfinite(theirs)).any():
        return float("inf")
    return float(np.abs(np.where(np.isfinite(ours), ours - theirs, 0)).max(initial=0))


def _pictures(source: ExportSource) -> Iterator[Tensor]:
    """Images (1, 3, Y, X) that prototypes are patches of."""
    shown = [card.picture.image for card in source.prototypes if card.picture is not None]
    seen: list[np.ndarray] = []
    for picture in shown[:: max(1, len(shown) // _MOST_PICTURES)][:_MOST_PICTURES]:
        pixels = np.asarray(picture)
        if pixels.shape[:2] == source.image_size and not any(np.array_equal(pixels, one) for one in seen):
            seen.append(pixels)
            yield torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255
