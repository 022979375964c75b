"""What one measurement is, column by column; those of the scenarios are in scenario_rows.py."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.ops.machine import QUIET_LOAD, QUIET_OTHERS, Machine


@dataclass(frozen=True)
class Measurement(Machine):
    """A machine and how quiet it was.

    Attributes:
        others: cores that other work kept busy while this was measured.
    """

    others: float

    @property
    def on_cuda(self) -> bool:
        return self.isa.startswith("sm_")

    @property
    def quiet(self) -> bool:
        """On CUDA the load before counts for nothing: it is the average of a minute, and of the host."""
        return (self.on_cuda or self.load <= QUIET_LOAD) and self.others <= QUIET_OTHERS


@dataclass(frozen=True)
class SpeedRow(Measurement):
    """Time of one op by one provider.

    Attributes:
        mode: "fwd", or "full" for forward and backward with both gradients.
        threads: threads that torch and the native backend used.
        dtype: of the inputs.
        gflops: forward operations of an exact search (cases.py) over the median time; forward only.
        peak_gflops: the machine's rate in this precision, measured between the same rounds; `peak_source` says how.
        peak_share: the first over the second.
        faster_than_original: median of the original formula over this median, from the same rounds. On CUDA the
            original multiplies in TF32, as it does unless told otherwise.
        faster_than_mm: the same for `torch.mm` alone in the same precision.
        precision: how it multiplies, "fp32", "tf32" or "bf16".
        timer: "eager" for single calls, with a cold L2 cache on CUDA; "graph" for calls within the replay of a CUDA
            graph that goes round several inputs.
        gbytes_per_s: bytes read and written by a large copy, measured between the same rounds.
        floor_ms: the time that arithmetic or traffic needs at least, at the two measured rates; forward only.
        floor_bound: which of the two it is, "arithmetic" or "memory".
        versions: of Python, and on CUDA of Triton, CUDA and the driver.
        flags: torch's settings for products of float32 while this ran.
        clocks: of the GPU, read after the case.
        tiles: of the search, where a table gives them, and where that row of the table comes from.
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
    precision: str
    timer: str
    gbytes_per_s: float | None
    floor_ms: float | None
    floor_bound: str
    versions: str
    flags: str
    clocks: str
    tiles: str = ""

    @property
    def floor_share(self) -> float | None:
        """The floor over the median: 1 is the limit of the machine."""
        return None if self.floor_ms is None else self.floor_ms / self.p50_ms


@dataclass(frozen=True)
class MemoryRow(Measurement):
    """Memory of one forward and backward beyond inputs, outputs and gradients.

    Attributes:
        extra_mb: peak of the resident memory, on CUDA of torch's allocations, less what the results need, in 1e6 bytes.
        map_mb: one B x P x H x W float32 tensor of the case.
        share: the first over the second.
        precision: how the provider multiplies.
    """

    provider: str
    case: str
    extra_mb: float
    map_mb: float
    share: float
    precision: str


@dataclass(frozen=True)
class DeviceRow(Measurement):
    """Training, push or search of a network on a CUDA device.

    Attributes:
        task: "train", "push" or "search".
        backend: of the ops.
        precision: "tf32" where torch may multiply float32 so, "bf16" with the backbone under autocast besides.
        batch: images of a step.
        seconds: median of the steps, or of one pass over all images.
        peak_mb: the most that torch's allocator handed out, in 1e6 bytes.
        profile: the ten operations that took most of the device's time, with their shares; empty where none was made.
    """

    task: str
    backbone: str
    image_size: int
    prototypes: int
    images: int
    batch: int
    backend: str
    precision: str
    rounds: int
    seconds: float
    images_per_s: float
    peak_mb: float
    profile: str
    versions: str
    clocks: str
