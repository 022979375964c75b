"""What one measurement is, column by column."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.machine import QUIET_LOAD, QUIET_OTHERS, Machine


@dataclass(frozen=True)
class Measurement(Machine):
    """A machine and how quiet it was.

    Attributes:
        others: cores that other work kept busy while this was measured.
    """

    others: float

    @property
    def quiet(self) -> bool:
        return self.load <= QUIET_LOAD and self.others <= QUIET_OTHERS


@dataclass(frozen=True)
class SpeedRow(Measurement):
    """Time of one op by one provider.

    Attributes:
        mode: "fwd", or "full" for forward and backward with both gradients.
        threads: threads that torch and the native backend used.
        gflops: forward operations of an exact search (cases.py) over the median time; forward only.
        peak_gflops: the machine's multiply-add rate measured between the same rounds, `peak_source` says how.
        faster_than_original: median of the original formula over this median, from the same rounds.
        faster_than_mm: the same for `torch.mm` alone.
    """

    op: str
    provider: str
    case: str
    mode: str
    dtype: str
    threads: int
    rounds: int
    p20_ms: float
    p50_ms: float
    p80_ms: float
    gflops: float | None
    peak_gflops: float
    peak_source: str
    peak_share: float | None
    faster_than_original: float | None
    faster_than_mm: float | None


@dataclass(frozen=True)
class MemoryRow(Measurement):
    """Memory of one forward and backward beyond inputs, outputs and gradients.

    Attributes:
        extra_mb: peak of the resident memory less what the results need, in 1e6 bytes.
        map_mb: one B x P x H x W float32 tensor of the case.
        share: the first over the second.
    """

    provider: str
    case: str
    extra_mb: float
    map_mb: float
    share: float


@dataclass(frozen=True)
class PushRow(Measurement):
    """A push over a folder of images against the bare backbone over the same images.

    Attributes:
        rounds: passes of each kind; they alternate.
        ratio: median over rounds of push time over backbone time of the same round.
    """

    backbone: str
    images: int
    image_size: int
    prototypes: int
    threads: int
    rounds: int
    backbone_s: float
    push_s: float
    ratio: float
