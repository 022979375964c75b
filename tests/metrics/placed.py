"""A net that finds its prototypes where it is told, so that the truth of a measure is known."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from protokern.models import ProtoPNet


class _Show(nn.Module):
    """Feature maps (B, 2, H, W) of images that are full of their number: (1, 0) at the image's place, else (0, 1)."""

    places: torch.Tensor

    def __init__(self, places: Sequence[tuple[int, int]], cells: tuple[int, int]) -> None:
        super().__init__()
        self.register_buffer("places", torch.tensor([(int(row), int(column)) for row, column in places]))
        self.cells = cells

    def forward(self, images: Tensor) -> Tensor:
        maps = torch.zeros(len(images), 2, *self.cells)
        maps[:, 1] = 1
        for row, number in enumerate(images[:, 0, 0, 0].long().clamp(0, len(self.places) - 1).tolist()):
            at = tuple(self.places[number].tolist())
            maps[row, :, at[0], at[1]] = torch.tensor([1.0, 0.0])
        return maps


class PlacedNet(ProtoPNet):
    """Two prototypes a class, all of which match best at the place of each image.

    Args:
        places: (row, column) of image 0, 1, ...
        cells: (H, W) of the feature map.
        num_classes: K.
    """

    def __init__(self, places: Sequence[tuple[int, int]], cells: tuple[int, int], num_classes: int) -> None:
        super().__init__(
            _Show(places, cells),
            num_classes,
            prototypes_per_class=2,
            prototype_dim=2,
            add_on_layers="linear",
            image_size=8,
        )
        self.add_on_layers = nn.Sequential()
        with torch.no_grad():
            self.prototype_layer.prototypes.copy_(torch.tensor([1.0, 0.0]).expand(2 * num_classes, 2))


def batches(labels: Sequence[int], size: int = 3, pixels: tuple[int, int] = (8, 8)) -> Iterator[tuple[Tensor, Tensor]]:
    """Images of (Y, X) `pixels` that are full of their number, in batches of `size`."""
    for start in range(0, len(labels), size):
        numbers = torch.arange(start, min(start + size, len(labels)))
        images = numbers.float()[:, None, None, None].expand(-1, 3, *pixels)
        yield images, torch.tensor(list(labels[start : start + size]))
