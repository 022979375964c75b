"""The search by loops over everything, and models and loaders to try it on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from protokern.models import ProtoPNet

Entry = tuple[float, int, int]


def bare_model(prototypes: Tensor, num_classes: int) -> ProtoPNet:
    """A model whose features are its images."""
    depth, size = prototypes.shape[1], tuple(prototypes.shape[2:]) or (1, 1)
    per_class = len(prototypes) // num_classes
    model = ProtoPNet(
        nn.Identity(),
        num_classes,
        prototypes_per_class=per_class,
        prototype_dim=depth,
        prototype_size=size,
        in_channels=depth,
        image_size=8,
    )
    model.add_on_layers = nn.Sequential()
    model.to(prototypes.dtype)
    with torch.no_grad():
        model.prototype_layer.prototypes.copy_(prototypes)
    return model


def loader_of(images: Tensor, labels: Tensor, batch_size: int) -> DataLoader:
    return DataLoader(TensorDataset(images, labels), batch_size=batch_size)


def plain_search(
    prototypes: Tensor,
    images: Tensor,
    labels: Sequence[int],
    is_of_class: Tensor | None,
    k: int,
    *,
    all_patches: bool = False,
    distinct: bool = False,
) -> list[list[Entry]]:
    """For every prototype the sorted list of (distance, image, patch).

    `is_of_class` (P, K) restricts the prototypes to images of their classes.
    """
    if prototypes.ndim == 2:
        prototypes = prototypes[:, :, None, None]
    height, width = prototypes.shape[2:]
    columns = images.shape[3] - width + 1
    found = []
    for p, prototype in enumerate(prototypes):
        entries = []
        for i, image in enumerate(images):
            if is_of_class is not None and not is_of_class[p, labels[i]]:
                continue
            of_image = sorted(
                (float((vector - prototype).square().sum()), row * columns + col, vector)
                for row in range(images.shape[2] - height + 1)
                for col in range(columns)
                for vector in [image[:, row : row + height, col : col + width]]
            )
            for distance, patch, vector in of_image if all_patches else of_image[:1]:
                entries.append((distance, i, patch, vector.flatten().tolist()))
        entries.sort()
        if distinct:
            entries = [e for at, e in enumerate(entries) if all(e[3] != before[3] for before in entries[:at])]
        best = [entry[:3] for entry in entries[:k]]
        found.append(best + [(float("inf"), -1, -1)] * (k - len(entries)))
    return found
