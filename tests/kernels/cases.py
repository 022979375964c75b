"""Shapes that every op and backend must get right: sizes of one, primes, and both sides of a block's border."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Case:
    """B images of D x H x W, P prototypes of h x w cells."""

    batch: int
    depth: int
    height: int
    width: int
    prototypes: int
    patch: tuple[int, int] | None = None

    def __str__(self) -> str:
        text = f"B{self.batch}-D{self.depth}-H{self.height}-W{self.width}-P{self.prototypes}"
        return text if self.patch is None else f"{text}-h{self.patch[0]}-w{self.patch[1]}"

    def inputs(self, dtype: torch.dtype = torch.float32, *, seed: int = 0) -> tuple[Tensor, Tensor]:
        """Features and prototypes from a normal distribution around 0.5, rounded to `dtype`."""
        generator = torch.Generator().manual_seed(seed)
        features = torch.randn(
            self.batch, self.depth, self.height, self.width, generator=generator, dtype=torch.float64
        )
        prototypes = torch.randn(
            self.prototypes, self.depth, *(self.patch or ()), generator=generator, dtype=torch.float64
        )
        return (features + 0.5).to(dtype), (prototypes + 0.5).to(dtype)


SMALL = Case(2, 5, 4, 3, 7)
SMALL_PATCHES = Case(2, 3, 4, 5, 6, (2, 3))

CASES = [
    Case(1, 1, 1, 1, 1),
    Case(1, 3, 1, 1, 1),
    SMALL,
    Case(3, 16, 7, 7, 50),
    Case(2, 17, 5, 13, 49),
    Case(1, 128, 2, 3, 97),
    Case(5, 8, 1, 31, 3),
    Case(2, 31, 9, 7, 33),
    Case(1, 64, 8, 8, 48),
    Case(4, 33, 3, 11, 130),
    Case(2, 2, 23, 23, 16),
    SMALL_PATCHES,
    Case(1, 4, 3, 3, 5, (3, 3)),
    Case(2, 2, 4, 6, 3, (1, 6)),
    Case(3, 7, 6, 5, 34, (3, 2)),
    Case(2, 5, 4, 3, 7, (1, 1)),
]
EMPTY_CASES = [
    Case(0, 5, 4, 3, 7),
    Case(2, 5, 4, 3, 0),
    Case(0, 5, 4, 3, 0),
    Case(0, 3, 4, 5, 6, (2, 3)),
    Case(2, 3, 4, 5, 0, (2, 3)),
]

# rtol and atol against the float64 oracle on the same (rounded) inputs. Sums of up to 128 products of float32 are off
# by some 128 * 6e-8 relative to their terms; half inputs are computed in float32 too. The reasons are in
# docs/decisions, and so is the place for a change of a row.
TOLERANCE = {
    torch.float64: (1e-11, 1e-12),
    torch.float32: (2e-5, 2e-6),
    torch.bfloat16: (2e-5, 2e-6),
    torch.float16: (2e-5, 2e-6),
}
DTYPES = list(TOLERANCE)


def gradient_tolerance(dtype: torch.dtype) -> tuple[float, float]:
    """Half gradients may differ by one rounding to their type, and by nothing else."""
    rtol, atol = TOLERANCE[dtype]
    if dtype in (torch.bfloat16, torch.float16):
        return torch.finfo(dtype).eps, torch.finfo(dtype).eps * 1e-2
    return rtol, 5 * atol


# Layouts of the same values. Each is a function of a contiguous tensor.
LAYOUTS = {
    "contiguous": lambda tensor: tensor.clone(),
    "channels_last": lambda tensor: (
        tensor.clone(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor.mT.contiguous().mT
    ),
    "sliced": lambda tensor: torch.cat([tensor, tensor + 9], -1)[..., : tensor.shape[-1]],
    "every_second": lambda tensor: torch.stack([tensor, tensor - 9], -1).flatten(-2)[..., ::2],
    "transposed": lambda tensor: tensor.transpose(-1, -2).contiguous().transpose(-1, -2),
    "offset": lambda tensor: torch.cat([tensor.new_full((3,), 9), tensor.flatten()])[3:].view(tensor.shape),
}
# Every layout on either side, and two of them at once.
LAYOUT_PAIRS = [
    *((layout, "contiguous") for layout in LAYOUTS),
    *(("channels_last", layout) for layout in LAYOUTS if layout != "contiguous"),
]
