"""What is measured: the shapes by name, their tensors, and the default comparisons of a run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class Case:
    """One shape: B images of D channels on an H x W grid, against P prototypes of one cell.

    Attributes:
        layout: memory layout of the features; "channels_last" has D innermost.
        cut_of: the case whose number of images was cut to get this one, for processors that would need minutes.
    """

    name: str
    images: int
    depth: int
    height: int
    width: int
    prototypes: int
    layout: Literal["contiguous", "channels_last"] = "contiguous"
    cut_of: str | None = None

    @property
    def shape(self) -> str:
        return f"B{self.images} D{self.depth} {self.height}x{self.width} P{self.prototypes}"

    @property
    def title(self) -> str:
        """The shape with what is unusual about it."""
        cut = "" if self.cut_of is None else f", {self.images} of {CASES[self.cut_of].images} images"
        return self.shape + cut + ("" if self.layout == "contiguous" else f", {self.layout}")

    @property
    def forward_gflop(self) -> float:
        """Billions of operations that any exact search needs: one multiply-add per image, cell, prototype, channel."""
        return 2e-9 * self.images * self.height * self.width * self.prototypes * self.depth

    @property
    def forward_bytes(self) -> int:
        """Least traffic of a forward pass: features and prototypes read once, value and 64-bit patch written once."""
        cells = self.images * self.depth * self.height * self.width
        return 4 * (cells + self.prototypes * self.depth) + 12 * self.images * self.prototypes

    @property
    def map_bytes(self) -> int:
        """Size of one B x P x H x W tensor of float32, the thing the fused op never makes."""
        return 4 * self.images * self.prototypes * self.height * self.width


FULL = (
    # CUB-200 as published: 200 classes x 10 prototypes on the 7 x 7 grid of a 224-pixel ResNet.
    Case(name="cub200", images=80, depth=128, height=7, width=7, prototypes=2000),
    # The same prototypes on the last maps of a ResNet at stride 16, without a narrowing layer.
    Case(name="resnet14", images=128, depth=512, height=14, width=14, prototypes=2000),
    # ImageNet: a thousand classes x 10 prototypes.
    Case(name="imagenet14", images=256, depth=256, height=14, width=14, prototypes=10000),
    # Segmentation: 19 classes x 10 prototypes on a fine grid; bound by memory rather than by arithmetic.
    Case(name="segment190", images=16, depth=64, height=129, width=65, prototypes=190),
    # The tokens of a vision transformer.
    Case(name="vit16", images=64, depth=768, height=16, width=16, prototypes=2000),
    # ProtoPool: few shared prototypes, fine grid; bound by memory.
    Case(name="pool202", images=80, depth=256, height=28, width=28, prototypes=202),
)


def cut(case: Case, images: int) -> Case:
    """The case with fewer images, which its name tells."""
    return replace(case, name=f"{case.name}-b{images}", images=images, cut_of=case.name)


_BY_NAME = {case.name: case for case in FULL}
CASES = {
    case.name: case
    for case in (
        Case(name="tiny", images=2, depth=8, height=3, width=3, prototypes=5),
        _BY_NAME["cub200"],
        replace(_BY_NAME["cub200"], name="cub200-nhwc", layout="channels_last"),
        # The prototypes of CUB-200 on a grid of stride 16, where the unfused maps hurt.
        Case(name="grid14", images=64, depth=256, height=14, width=14, prototypes=2000),
        _BY_NAME["resnet14"],
        cut(_BY_NAME["resnet14"], 16),
        _BY_NAME["imagenet14"],
        cut(_BY_NAME["imagenet14"], 8),
        _BY_NAME["segment190"],
        _BY_NAME["vit16"],
        cut(_BY_NAME["vit16"], 8),
        _BY_NAME["pool202"],
        cut(_BY_NAME["pool202"], 16),
        # Ten classes at 160 pixels: a small net at training size.
        Case(name="small", images=64, depth=128, height=5, width=5, prototypes=100),
    )
}


@dataclass(frozen=True)
class Inputs:
    """What every provider is given.

    Attributes:
        features: (B, D, H, W) float32 in the case's memory layout; a leaf.
        prototypes: (P, D) float32; a leaf. Half of them are exact patches, as after a push.
        grad: (B, P) float32, the gradient that arrives from above.
    """

    features: Tensor
    prototypes: Tensor
    grad: Tensor

    @property
    def bytes(self) -> int:
        return sum(tensor.numel() * tensor.element_size() for tensor in (self.features, self.prototypes))


def make_inputs(case: Case, *, requires_grad: bool, seed: int = 0, device: torch.device = CPU) -> Inputs:
    """The tensors of a case; the numbers depend on the seed alone, not on the device.

    They are in the range that a sigmoid gives and never zeros: arithmetic on zeros is faster than real.
    """
    generator = torch.Generator().manual_seed(seed)
    features = torch.rand(case.images, case.depth, case.height, case.width, generator=generator)
    patches = features.permute(0, 2, 3, 1).reshape(-1, case.depth)  # (N, D)
    prototypes = torch.rand(case.prototypes, case.depth, generator=generator)
    pushed = torch.randint(patches.shape[0], (case.prototypes // 2,), generator=generator)
    prototypes[: len(pushed)] = patches[pushed]
    grad = torch.randn(case.images, case.prototypes, generator=generator)
    if case.layout == "channels_last":
        features = features.contiguous(memory_format=torch.channels_last)
    features, prototypes, grad = (tensor.to(device) for tensor in (features, prototypes, grad))
    return Inputs(features.requires_grad_(requires_grad), prototypes.requires_grad_(requires_grad), grad)


@dataclass(frozen=True)
class Point:
    """One comparison of all providers.

    Attributes:
        threads: for every provider; None for as many as torch has. Means nothing on CUDA.
        only: the peers that take part; None for all that are asked for.
        without: peers that do not.
    """

    op: str
    case: str
    mode: str
    threads: int | None = None
    only: tuple[str, ...] | None = None
    without: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        threads = "" if self.threads is None else f", {self.threads} thread{'s' if self.threads > 1 else ''}"
        return f"{self.op} {self.mode} {self.case}{threads}"

    def takes(self, peer: str) -> bool:
        return peer not in self.without and (self.only is None or peer in self.only)


def both_modes(op: str, *cases: str) -> tuple[Point, ...]:
    return tuple(Point(op, case, mode) for case in cases for mode in ("fwd", "full"))


# The shapes of the full cases, with fewer images where a processor would need minutes.
LARGE = ("cub200", "grid14", "resnet14-b16", "imagenet14-b8", "vit16-b8")
WIDE = ("segment190", "pool202-b16")
# Takes seconds a call on a processor, and half a minute to compile for each depth.
SLOW = ("pykeops",)

CPU_POINTS = (
    *both_modes("min_distance", "cub200"),
    *(Point("min_distance", "grid14", mode, without=SLOW) for mode in ("fwd", "full")),
    *(Point("min_distance", "cub200-nhwc", mode, without=SLOW) for mode in ("fwd", "full")),
    *both_modes("min_distance", "pool202-b16", "small", "segment190"),
    *(Point("min_distance", case, "fwd", without=SLOW) for case in ("resnet14-b16", "imagenet14-b8", "vit16-b8")),
    *(Point("min_distance", case, "fwd", 1, ("mm",)) for case in (*LARGE, *WIDE)),
    *both_modes("prototype_pool", "cub200"),
    *both_modes("mean_activation", "pool202-b16"),
    *both_modes("topk_pool", "cub200"),
)
CUDA_POINTS = (
    *both_modes("min_distance", *(case.name for case in FULL)),
    *both_modes("prototype_pool", "cub200"),
    *both_modes("mean_activation", "pool202"),
    *both_modes("topk_pool", "cub200"),
)
# Enough to hold one instruction set to its own peak: PROTOKERN_ISA=avx512 python -m benchmarks ops --set isa
ISA_POINTS = tuple(
    Point("min_distance", case, "fwd", threads, ("mm",)) for threads in (None, 1) for case in (*LARGE, *WIDE)
)
SETS = {"standard": CPU_POINTS, "isa": ISA_POINTS}
