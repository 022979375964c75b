"""The push and the search for k nearest images as the released ProtoPNet program does them, in words of our own.

Every batch's distances to all prototypes, (B, P, H, W), are computed by two convolutions and copied to the host; there
a Python loop over prototypes, or over images and prototypes with a heap for each, picks what is nearest.

Source: Chen et al. 2019, push.py and find_nearest.py of cfchen-duke/ProtoPNet, without their pictures and files.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Batches = Iterable[tuple[Tensor, Tensor]]


def distances_on_host(features: Tensor, prototypes: Tensor) -> np.ndarray:
    """Squared distances of features (B, D, H, W) to prototypes (P, D, 1, 1): (B, P, H, W)."""
    with torch.no_grad():
        length = F.conv2d(features**2, torch.ones_like(prototypes))
        product = F.conv2d(features, prototypes)
        norm = (prototypes**2).sum(dim=(1, 2, 3)).view(-1, 1, 1)
        distance = F.relu(length + (norm - 2 * product))
    return np.copy(distance.detach().cpu().numpy())


@dataclass
class Pushed:
    """For every prototype the nearest patch of its class: distance, image, and its vector (P, D, 1, 1)."""

    distance: np.ndarray
    image: np.ndarray
    vector: np.ndarray


def push(batches: Batches, prototypes: Tensor, class_of: list[int]) -> Pushed:
    """One pass over images in order; `class_of` is the class of every prototype."""
    count = len(prototypes)
    found = Pushed(np.full(count, np.inf), np.full(count, -1), np.zeros(tuple(prototypes.shape)))
    first = 0
    for features, labels in batches:
        of_class: dict[int, list[int]] = {}
        for position, label in enumerate(labels):
            of_class.setdefault(int(label), []).append(position)
        maps = np.copy(features.detach().cpu().numpy())
        distances = distances_on_host(features, prototypes)
        for j in range(count):
            images = of_class.get(class_of[j], [])
            if not images:
                continue
            own = distances[images][:, j, :, :]
            smallest = np.amin(own)
            if smallest < found.distance[j]:
                row, y, x = np.unravel_index(np.argmin(own), own.shape)
                image = images[row]
                found.distance[j] = smallest
                found.image[j] = first + image
                found.vector[j] = maps[image, :, y : y + 1, x : x + 1]
        first += len(labels)
    return found


class Nearby:
    """An image by its distance; a heap has the farthest at its top."""

    def __init__(self, distance: float, label: int) -> None:
        self.distance = distance
        self.label = label

    def __lt__(self, other: Nearby) -> bool:
        return self.distance > other.distance


def nearest_images(batches: Batches, prototypes: Tensor, k: int) -> np.ndarray:
    """Distances of the k nearest images of every prototype, ascending, (P, k)."""
    heaps: list[list[Nearby]] = [[] for _ in range(len(prototypes))]
    for features, labels in batches:
        distances = distances_on_host(features, prototypes)
        for position, of_image in enumerate(distances):
            for j in range(len(prototypes)):
                entry = Nearby(np.amin(of_image[j]), int(labels[position]))
                if len(heaps[j]) < k:
                    heapq.heappush(heaps[j], entry)
                else:
                    heapq.heappushpop(heaps[j], entry)
    return np.array([sorted(entry.distance for entry in heap) for heap in heaps])
