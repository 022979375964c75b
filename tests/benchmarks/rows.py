"""Rows as a run would store them, for the tests of what is made from rows."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.pages.rows import DeviceRow, MemoryRow, SpeedRow
from benchmarks.pages.scenario_rows import PoolRow, PushRow

MACHINE = {
    "date": "2026-11-21T10:00:00Z",
    "git_sha": "0123456789",
    "device": "A Processor",
    "cores": 2,
    "isa": "avx512",
    "torch_version": "2.15.0",
    "protokern_version": "0.1.0",
    "load": 0.1,
    "others": 0.02,
}
NATIVE = SpeedRow(
    **MACHINE,
    op="min_distance",
    provider="native",
    case="cub200",
    mode="fwd",
    dtype="float32",
    threads=2,
    rounds=51,
    p20_ms=4.9,
    p50_ms=5.0,
    p80_ms=5.2,
    gflops=401.4,
    peak_gflops=480.0,
    peak_source="fused multiply-adds in registers",
    peak_share=0.836,
    faster_than_original=10.0,
    faster_than_mm=2.34,
    precision="fp32",
    timer="eager",
    gbytes_per_s=24.0,
    floor_ms=4.18,
    floor_bound="arithmetic",
    versions="Python 3.11.7",
    flags="cudnn.allow_tf32=False matmul=highest",
    clocks="",
)
ORIGINAL = replace(NATIVE, provider="original", p50_ms=50.0, faster_than_original=1.0, faster_than_mm=0.234)
MM = replace(NATIVE, provider="mm", p50_ms=11.7, faster_than_original=4.27, faster_than_mm=1.0)
FULL = replace(NATIVE, mode="full", gflops=None, peak_share=None, faster_than_mm=None)
MATMUL = replace(NATIVE, provider="matmul", p50_ms=20.0, faster_than_original=2.5, faster_than_mm=0.585)
ON_GPU = replace(NATIVE, device="A GPU", isa="sm_90", cores=132, provider="triton", threads=8)
MEMORY = MemoryRow(
    **MACHINE, provider="native", case="grid14", extra_mb=4.2, map_mb=100.352, share=0.0419, precision="fp32"
)
PUSH = PushRow(
    **MACHINE,
    backbone="efficientnet_lite0",
    images=3068,
    image_size=160,
    prototypes=100,
    threads=2,
    rounds=3,
    backbone_s=60.0,
    push_s=62.1,
    ratio=1.035,
)
POOL = PoolRow(
    **MACHINE,
    provider="protokern",
    case="distance-soft",
    focal="distance",
    scale=182.6,
    images=80,
    depth=128,
    side=7,
    prototypes=202,
    classes=200,
    slots=10,
    threads=2,
    rounds=51,
    p20_ms=9.0,
    p50_ms=10.0,
    p80_ms=11.0,
    faster_than_original=3.0,
    extra_mb=1.584,
    map_mb=3.168,
)
DEVICE = DeviceRow(
    **{**MACHINE, "device": "A GPU", "isa": "sm_90", "cores": 132},
    task="train",
    backbone="resnet34",
    image_size=224,
    prototypes=2000,
    images=80,
    batch=80,
    backend="auto",
    precision="bf16",
    rounds=20,
    seconds=0.065,
    images_per_s=1234.0,
    peak_mb=5678.0,
    profile="a 50%; b 30%; c 9%; d 1%",
    versions="Python 3.12.3",
    clocks="",
)
