"""What a run measures when it is not told: op, case, mode and threads, for each kind of device."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.ops.cases import FULL


@dataclass(frozen=True)
class Point:
    """One comparison of all providers.

    Attributes:
        threads: for every provider; None for as many as torch has. Means nothing on CUDA.
        only: the peers that take part; None for everyone asked for.
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
