"""The shapes that are measured, by name. Every provider gets the same tensors for a case (inputs.py)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Case:
    """One shape: B images of D channels on an H x W grid, against P prototypes of one cell.

    Attributes:
        layout: how the features lie in memory; "channels_last" has D innermost.
    """

    name: str
    images: int
    depth: int
    height: int
    width: int
    prototypes: int
    layout: Literal["contiguous", "channels_last"] = "contiguous"

    @property
    def shape(self) -> str:
        return f"B{self.images} D{self.depth} {self.height}x{self.width} P{self.prototypes}"

    @property
    def forward_gflop(self) -> float:
        """Billions of operations that any exact search needs: one multiply-add per image, cell, prototype, channel."""
        return 2e-9 * self.images * self.height * self.width * self.prototypes * self.depth

    @property
    def map_bytes(self) -> int:
        """Size of one B x P x H x W tensor of float32, the thing the fused op never makes."""
        return 4 * self.images * self.prototypes * self.height * self.width


CASES = {
    case.name: case
    for case in (
        Case(name="tiny", images=2, depth=8, height=3, width=3, prototypes=5),
        # CUB-200 as published: 200 classes x 10 prototypes on the 7 x 7 grid of a 224-pixel ResNet.
        Case(name="cub200", images=80, depth=128, height=7, width=7, prototypes=2000),
        Case(name="cub200-nhwc", images=80, depth=128, height=7, width=7, prototypes=2000, layout="channels_last"),
        # The same number of prototypes on a grid of stride 16, where the unfused maps hurt.
        Case(name="grid14", images=64, depth=256, height=14, width=14, prototypes=2000),
        # ProtoPool: few shared prototypes, fine grid; bound by memory rather than by arithmetic.
        Case(name="pool202", images=16, depth=256, height=28, width=28, prototypes=202),
        # Ten classes at 160 pixels: a small net at training size.
        Case(name="small", images=64, depth=128, height=5, width=5, prototypes=100),
    )
}

STANDARD = ("cub200", "grid14", "cub200-nhwc", "pool202", "small")
