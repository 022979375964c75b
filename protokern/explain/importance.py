"""How much each visible property matters to every prototype: "this looks like that, because of its colour".

An image is changed in one property. The similarity that is lost at the patch where the prototype was found says how
much the property mattered there. Images are streamed; only sums are kept.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from protokern.backbones.fusing import fused_layers
from protokern.explain.importance_sums import ImportanceSums
from protokern.explain.modifications import Modification, check_image, choose_modifications, modify
from protokern.models.base import PrototypeModel
from protokern.nn import evaluating
from protokern.results.importance import GlobalImportance, ImportanceBatch, LocalImportance

BATCH_SIZE = 32
REPLICATES = 500
_MOST_THREADS = 8

Prepare = Callable[[Tensor], Tensor]
_Changed = Sequence[Iterable[np.ndarray]]  # for each modification the images of a batch


def local_importance(
    model: PrototypeModel,
    image: np.ndarray,
    modifications: Mapping[str, Modification] | None = None,
    *,
    prepare: Prepare | None = None,
) -> LocalImportance:
    """How much each property of one image matters to every prototype.

    Args:
        model: any prototype model.
        image: (Y, X, 3) uint8 RGB, of any size that the backbone takes.
        modifications: as in `importance`.
        prepare: as in `importance`.

    Raises:
        ValueError: as `importance`.
        MissingPackageError: as `importance`.

    Source: Nauta et al. 2020, section 3, "local importance".
    """
    (batch,) = stream_importance(model, [image], modifications, prepare=prepare)
    return LocalImportance(
        names=batch.names,
        delta=batch.delta[0],
        similarity=batch.similarity[0],
        distance=batch.distance[0],
        modified_distance=batch.modified_distance[0],
        patch=batch.patch[0],
    )


def importance(
    model: PrototypeModel,
    images: Iterable[np.ndarray],
    modifications: Mapping[str, Modification] | None = None,
    *,
    prepare: Prepare | None = None,
    batch_size: int = BATCH_SIZE,
    replicates: int = REPLICATES,
    seed: int = 0,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> GlobalImportance:
    """How much each property matters to every prototype, on average over images.

    One pass over the images, with one run of the backbone for the original and one for each modification of a batch.
    Without `prepare`, the layers of the backbone are fused, see `fused_layers` of `protokern.backbones.fusing`. Memory
    is that of two batches and of the sums. The weight of an image is its similarity. Negative similarities, which
    the activations "cosine" and "linear" have, count as 0; if a prototype has no positive one, all images have the same
    weight. The interval comes from a Poisson bootstrap over images, which also needs only sums.

    Args:
        model: any prototype model.
        images: (Y, X, 3) uint8 RGB, all of one size, un-augmented; read once, in order.
        modifications: callables by name that map such an image to a new one of the same size; None: those of the
            paper. Several threads call them at once.
        prepare: from images (B, 3, Y, X) in [0, 1] to the inputs of the backbone, if these differ, such as normalised
            or grey images. Backbones by name need none.
        batch_size: images that go through the backbone at once, at least 1; changes results by rounding only.
        replicates: bootstrap samples, at least 100.
        seed: of the bootstrap.
        memory_format: of the images; `torch.channels_last` if the convolutions of the model use it.

    Raises:
        ValueError: an image is not (Y, X, 3) uint8, sizes differ, there is no image, a modification does
            not return an image of the same size, or a distance is not finite.
        MissingPackageError: a modification needs a package that is not installed.

    Source: Nauta et al. 2020, section 3, "global importance".
    """
    batches = stream_importance(
        model, images, modifications, prepare=prepare, batch_size=batch_size, memory_format=memory_format
    )
    return summarise_importance(batches, replicates=replicates, seed=seed)


def summarise_importance(
    batches: Iterable[ImportanceBatch], *, replicates: int = REPLICATES, seed: int = 0
) -> GlobalImportance:
    """Global scores from local ones, which are read once; arguments as in `importance`.

    Raises:
        ValueError: there is no image.
    """
    sums: ImportanceSums | None = None
    names: tuple[str, ...] = ()
    for batch in batches:
        if sums is None:
            names = batch.names
            sums = ImportanceSums(*batch.delta.shape[1:], replicates=replicates, seed=seed)
        sums.add(batch.delta, batch.similarity)
    if sums is None:
        raise ValueError("images: must be at least one; got none. Check the data set.")
    low, high = sums.interval()
    return GlobalImportance(
        names=names,
        score=sums.score(),
        low=low,
        high=high,
        similarity=sums.mean_similarity(),
        num_images=sums.num_images,
    )


def stream_importance(
    model: PrototypeModel,
    images: Iterable[np.ndarray],
    modifications: Mapping[str, Modification] | None = None,
    *,
    prepare: Prepare | None = None,
    batch_size: int = BATCH_SIZE,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> Iterator[ImportanceBatch]:
    """The local importance of all images, batch by batch; arguments as in `importance`."""
    chosen = choose_modifications() if modifications is None else dict(modifications)
    if not chosen:
        raise ValueError("modifications: must hold at least one; got none. Give None for those of the paper.")
    if batch_size < 1:
        raise ValueError(f"batch_size: must be at least 1; got {batch_size}.")
    measure = _Measure(model, chosen, prepare, memory_format)
    return measure.batches(iter(images), batch_size)


def modification_threads() -> ThreadPoolExecutor:
    """The threads that modify images: Pillow and OpenCV release Python's lock."""
    return ThreadPoolExecutor(min(os.cpu_count() or 1, _MOST_THREADS))


class _Measure:
    """Measures batches of images with one model."""

    def __init__(
        self,
        model: PrototypeModel,
        modifications: Mapping[str, Modification],
        prepare: Prepare | None,
        memory_format: torch.memory_format,
    ) -> None:
        self.model = model
        self.modifications = modifications
        self.prepare = prepare
        self.memory_format = memory_format

    def batches(self, images: Iterator[np.ndarray], batch_size: int) -> Iterator[ImportanceBatch]:
        first = 0
        with modification_threads() as pool:
            for batch, changed in _changed_batches(images, batch_size, self.modifications, pool):
                # What `prepare` gives may be NaN, which fused layers could hide.
                fused = fused_layers(self.model.backbone) if self.prepare is None else nullcontext()
                with evaluating(self.model), fused:
                    measured = self.measure(batch, changed, first)
                yield measured
                first += len(batch)

    def measure(self, images: list[np.ndarray], changed: _Changed, first: int) -> ImportanceBatch:
        layer = self.model.prototype_layer
        distance, patch = layer.min_distance(self.features(images))
        similarity = layer.activate(distance)
        lost, distances = [], []
        for modified in changed:
            modified_distance = layer.distance_at(self.features(list(modified)), patch)
            distances.append(modified_distance)
            lost.append(similarity.double() - layer.activate(modified_distance).double())
        everything = torch.stack([distance, *distances], dim=1).double().cpu().numpy()  # (B, 1 + M, P)
        self.check_finite(everything, first)
        return ImportanceBatch(
            first=first,
            names=tuple(self.modifications),
            delta=torch.stack(lost, dim=1).cpu().numpy(),
            similarity=similarity.double().cpu().numpy(),
            distance=everything[:, 0],
            modified_distance=everything[:, 1:],
            patch=patch.cpu().numpy(),
        )

    def features(self, images: list[np.ndarray]) -> Tensor:
        """Features (B, D, H, W) of uint8 images, scaled as the data sets of this package scale them."""
        pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).to(self.model.device)
        scaled = pixels.to(torch.float32, memory_format=self.memory_format).div_(255).to(self.model.dtype)
        return self.model.features(scaled if self.prepare is None else self.prepare(scaled))

    def check_finite(self, distances: np.ndarray, first: int) -> None:
        bad = np.argwhere(~np.isfinite(distances).all(axis=2))
        if len(bad):
            image, number = bad[0].tolist()
            which = "" if number == 0 else f" changed in {list(self.modifications)[number - 1]}"
            raise ValueError(
                f"model: must give finite distances; got NaN or inf at image {first + image}{which}. "
                "Check that image, and the weights for NaN."
            )


def _changed_batches(
    images: Iterator[np.ndarray], batch_size: int, modifications: Mapping[str, Modification], pool: Executor
) -> Iterator[tuple[list[np.ndarray], _Changed]]:
    """The batches with their modified images. While the threads modify a batch, the next one is read."""
    size: tuple[int, ...] | None = None
    batch = list(islice(images, batch_size))
    while batch:
        for image in batch:
            check_image(image)
            size = size or image.shape
            if image.shape != size:
                raise ValueError(
                    f"images: must all be of one size; got {size[:2]} and {image.shape[:2]}. Resize them first."
                )
        changed = [
            pool.map(partial(modify, name=name, modification=modification), batch)
            for name, modification in modifications.items()
        ]
        following = list(islice(images, batch_size))
        yield batch, changed
        batch = following
