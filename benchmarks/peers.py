"""What the fused op is compared with, each as its users would write it.

A peer takes features (B, D, H, W) and prototypes (P, D) and returns the smallest squared distances (B, P). All of
them but `mm` make at least one B x P x H x W tensor on the way; `mm` is the bare matrix product, and no distance.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Distance = Callable[[Tensor, Tensor], Tensor]


def original(features: Tensor, prototypes: Tensor) -> Tensor:
    """ProtoPNet as published: two convolutions, a clamp at zero and a max-pool of the negated map.

    Source: Chen et al. 2019, the authors' `_l2_convolution` and `forward`: ||x||^2 comes from a convolution of x^2 with
    ones of the prototypes' shape, so it is computed once for every prototype.
    """
    kernels = prototypes[:, :, None, None]  # (P, D, 1, 1)
    squared_norm = F.conv2d(features**2, torch.ones_like(kernels))  # (B, P, H, W)
    product = F.conv2d(features, kernels)  # (B, P, H, W)
    prototype_norm = (kernels**2).sum(dim=(1, 2, 3))[:, None, None]  # (P, 1, 1)
    distances = F.relu(squared_norm + (prototype_norm - 2 * product))
    smallest = -F.max_pool2d(-distances, kernel_size=distances.shape[2:])  # (B, P, 1, 1)
    return smallest.flatten(1)


def matmul(features: Tensor, prototypes: Tensor) -> Tensor:
    """The honest eager version: one batched product with the norms added, then the smallest over the grid."""
    patches = features.flatten(2)  # (B, D, N)
    squared_norm = patches.square().sum(dim=1, keepdim=True)  # (B, 1, N)
    prototype_norm = prototypes.square().sum(dim=1)[:, None]  # (P, 1)
    weights = prototypes.expand(len(patches), -1, -1)  # (B, P, D)
    distances = torch.baddbmm(prototype_norm, weights, patches, alpha=-2).add_(squared_norm)  # (B, P, N)
    return distances.min(dim=2).values.clamp_min(0)


def cdist(features: Tensor, prototypes: Tensor) -> Tensor:
    """`torch.cdist` of all patches with all prototypes, then the smallest; cdist takes a root that is undone here."""
    distances = torch.cdist(features.flatten(2).mT, prototypes)  # (B, N, P)
    return distances.amin(dim=1).square()


PEERS: dict[str, Distance] = {"original": original, "matmul": matmul, "cdist": cdist}


def log_activation(distance: Tensor) -> Tensor:
    """log((d + 1) / (d + 1e-4)), what the original computes from the smallest distances."""
    return torch.log((distance + 1) / (distance + 1e-4))


def bare_product(features: Tensor, prototypes: Tensor) -> Callable[[], Tensor]:
    """`torch.mm` alone on operands that already lie right, into a kept output: the least any unfused method does."""
    patches = features.detach().permute(0, 2, 3, 1).reshape(-1, features.shape[1]).contiguous()  # (N, D)
    weights = prototypes.detach().t().contiguous()  # (D, P)
    product = torch.empty(len(patches), weights.shape[1])

    def multiply() -> Tensor:
        return torch.mm(patches, weights, out=product)

    return multiply
