"""What the fused ops are compared with in torch, each as its users would write it.

A peer takes features (B, D, H, W), prototypes (P, D), an op and an activation, and returns (B, P). All of them but
`chunked` make at least one B x P x H x W tensor on the way. Other libraries are in libraries.py.

Lines are what no unfused method can pass: the matrix product alone, and the product with one reduction.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.ops.ops import Op

Call = Callable[[], Tensor]
Compute = Callable[[Tensor, Tensor], Tensor]
Peer = Callable[[Tensor, Tensor, Op, str], Tensor]
SCRATCH_BYTES = 64 << 20


def original(features: Tensor, prototypes: Tensor, op: Op, activation: str) -> Tensor:
    """The released programs: two convolutions, a clamp at zero, then the reduction of the map.

    Source: Chen et al. 2019, the authors' `_l2_convolution` and `forward`: ||x||^2 comes from a convolution of x^2 with
    ones of the prototypes' shape, so it is computed once for every prototype; the smallest distance comes from a
    max-pool of the negated map. Descendants (IAIA-BL) take the activation of the whole map, its top k and their mean;
    ProtoPool's paper subtracts the mean activation of the map.
    """
    kernels = prototypes[:, :, None, None]  # (P, D, 1, 1)
    squared_norm = F.conv2d(features**2, torch.ones_like(kernels))  # (B, P, H, W)
    product = F.conv2d(features, kernels)  # (B, P, H, W)
    prototype_norm = (kernels**2).sum(dim=(1, 2, 3))[:, None, None]  # (P, 1, 1)
    distances = F.relu(squared_norm + (prototype_norm - 2 * product))
    if op.of_smallest is None:
        return op.reduce(distances.flatten(2), activation)
    smallest = -F.max_pool2d(-distances, kernel_size=distances.shape[2:])  # (B, P, 1, 1)
    return op.of_smallest(smallest.flatten(1), activation)


def matmul(features: Tensor, prototypes: Tensor, op: Op, activation: str) -> Tensor:
    """The best eager version: one batched product with the norms added, then the reduction over the grid."""
    patches = features.flatten(2)  # (B, D, N)
    squared_norm = patches.square().sum(dim=1, keepdim=True)  # (B, 1, N)
    prototype_norm = prototypes.square().sum(dim=1)[:, None]  # (P, 1)
    weights = prototypes.expand(len(patches), -1, -1)  # (B, P, D)
    distances = torch.baddbmm(prototype_norm, weights, patches, alpha=-2).add_(squared_norm)  # (B, P, N)
    if op.of_smallest is None:
        return op.reduce(distances.clamp_min(0), activation)
    return op.of_smallest(distances.min(dim=2).values.clamp_min(0), activation)


def cdist(features: Tensor, prototypes: Tensor, op: Op, activation: str) -> Tensor:
    """`torch.cdist` of all patches with all prototypes, then the reduction; cdist takes a root that is undone here."""
    distances = torch.cdist(features.flatten(2).mT, prototypes)  # (B, N, P)
    if op.of_smallest is None:
        return op.reduce(distances.square().mT, activation)
    return op.of_smallest(distances.amin(dim=1).square(), activation)


def chunked(features: Tensor, prototypes: Tensor, op: Op, activation: str) -> Tensor:
    """Products of a few images at a time in at most 64 MB, each reduced at once; the backward pass gathers.

    Source: the chunking of Liger-Kernel's fused linear cross entropy, with a minimum for the loss.
    """
    if op.of_smallest is None:
        raise ValueError(f"op: must need the smallest distances alone; got {op.name!r}.")
    return op.of_smallest(_ChunkedSmallest.apply(features, prototypes), activation)


class _ChunkedSmallest(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, prototypes: Tensor) -> Tensor:
        patches = features.flatten(2)  # (B, D, N)
        images, cells, count = len(patches), patches.shape[2], len(prototypes)
        step = max(1, SCRATCH_BYTES // (4 * count * cells))
        prototype_norm = prototypes.square().sum(dim=1)[:, None]  # (P, 1)
        scratch = torch.empty((min(step, images), count, cells), device=features.device)
        smallest = features.new_empty((images, count))
        nearest = torch.empty((images, count), dtype=torch.int64, device=features.device)
        for start in range(0, images, step):
            block = patches[start : start + step]
            weights = prototypes.expand(len(block), -1, -1)
            distances = torch.baddbmm(prototype_norm, weights, block, alpha=-2, out=scratch[: len(block)])
            distances.add_(block.square().sum(dim=1, keepdim=True))
            rows = slice(start, start + len(block))
            torch.min(distances, dim=2, out=(smallest[rows], nearest[rows]))
        ctx.save_for_backward(features, prototypes, nearest)
        return smallest.clamp_min_(0)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        features, prototypes, nearest = ctx.saved_tensors
        patches = features.flatten(2).mT  # (B, N, D)
        depth = patches.shape[2]
        step = max(1, SCRATCH_BYTES // (4 * len(prototypes) * depth))
        grad_patches = torch.zeros_like(patches)
        grad_prototypes = torch.zeros_like(prototypes)
        for start in range(0, len(patches), step):
            rows = slice(start, start + step)
            index = nearest[rows, :, None].expand(-1, -1, depth)  # (b, P, D)
            difference = (patches[rows].gather(1, index) - prototypes) * (2 * grad[rows, :, None])  # (b, P, D)
            grad_patches[rows].scatter_add_(1, index, difference)
            grad_prototypes -= difference.sum(0)
        return grad_patches.mT.reshape_as(features), grad_prototypes


TORCH_PEERS: dict[str, Peer] = {"original": original, "matmul": matmul, "cdist": cdist, "chunked": chunked}
NEAREST_ONLY = ("chunked",)


def bare_product(features: Tensor, prototypes: Tensor, precision: str) -> Call:
    """`torch.mm` alone on operands that already have the right layout and rounding, into a kept output."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    patches = features.detach().permute(0, 2, 3, 1).reshape(-1, features.shape[1]).to(dtype).contiguous()  # (N, D)
    weights = prototypes.detach().t().to(dtype).contiguous()  # (D, P)
    product = output_buffer(len(patches), weights.shape[1], dtype, features.device)
    return lambda: torch.mm(patches, weights, out=product)


@lru_cache(maxsize=2)
def output_buffer(rows: int, columns: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Where products go. Nobody reads them, so all calls of one shape share it; it can take gigabytes."""
    return torch.empty(rows, columns, dtype=dtype, device=device)


def product_and_minimum(features: Tensor, prototypes: Tensor, precision: str) -> Call:
    """The bare product and one reduction over each image's patches: no norm, so no distance."""
    multiply = bare_product(features, prototypes, precision)
    images, cells = len(features), features.shape[2] * features.shape[3]
    return lambda: multiply().view(images, cells, -1).amin(dim=1)


LINES = {"mm": bare_product, "mm+min": product_and_minimum}
