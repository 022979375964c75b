"""Stage e: training, push and search of a whole network on the device: images per second, memory, profile."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu.plan import Records, Settings, Unit
from benchmarks.gpu.worker import Result
from benchmarks.ops.cuda import open_cuda
from benchmarks.ops.devices import Cpu, Device
from benchmarks.ops.memory import status_bytes
from benchmarks.pages.rows import DeviceRow
from protokern.backbones import build_backbone
from protokern.losses import Labels, LossCoefficients
from protokern.models import ProtoPNet
from protokern.push import push_prototypes
from protokern.search import find_nearest_patches

TOP = 10
WARM_STEPS = 3


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """A network and its images: CUB-200-2011 as the papers train it, or a tiny one."""

    backbone: str
    image_size: int
    classes: int
    prototypes_per_class: int
    batch: int
    steps: int
    images: int


CUB = Sizes(backbone="resnet34", image_size=224, classes=200, prototypes_per_class=10, batch=80, steps=20, images=1600)
TINY = Sizes(backbone="tiny", image_size=32, classes=2, prototypes_per_class=2, batch=4, steps=2, images=8)


def measure_units(settings: Settings, records: Records) -> list[Unit]:
    tasks = [("train", "bf16", "auto"), ("push", "tf32", "auto"), ("search", "tf32", "auto"), ("train", "tf32", "auto")]
    tasks += [("train", "bf16", "native"), ("train", "bf16", "triton")]
    if settings.rehearse:
        tasks = tasks[:3]
    return [
        {"name": f"{task} {precision} {backend}", "task": task, "precision": precision, "backend": backend}
        for task, precision, backend in tasks
    ]


def measure(unit: Unit, settings: Settings) -> Result:
    sizes = TINY if settings.rehearse else CUB
    device: Device = Cpu() if settings.rehearse else open_cuda()
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")
    backbone = build_backbone(sizes.backbone, weights="none")
    model = ProtoPNet(
        backbone,
        sizes.classes,
        prototypes_per_class=sizes.prototypes_per_class,
        image_size=sizes.image_size,
        backend=unit["backend"],
    ).to(device.place)
    model = model.to(memory_format=torch.channels_last)
    if unit["task"] == "train":
        step = training_step(model, sizes, unit["precision"], device.place)
        for _ in range(WARM_STEPS):
            step()
        start_memory(device)
        seconds = [timed(step, device) for _ in range(sizes.steps)]
        images, rounds, top = sizes.batch, sizes.steps, top_of(step, device)
    else:
        passes = search_pass(model, sizes, unit["task"], device.place)
        passes()
        start_memory(device)
        seconds = [timed(passes, device) for _ in range(2)]
        images, rounds, top = sizes.images, len(seconds), top_of(passes, device)
    middle = statistics.median(seconds)
    row = DeviceRow(
        **asdict(device.describe()), others=0.0, task=unit["task"], backbone=sizes.backbone,
        image_size=sizes.image_size, prototypes=model.num_prototypes, images=images, batch=sizes.batch,
        backend=unit["backend"], precision=unit["precision"], rounds=rounds, seconds=round(middle, 5),
        images_per_s=round(images / middle, 1), peak_mb=round(peak_bytes(device) / 1e6, 1), profile=top,
        versions=device.versions(), clocks=device.clocks(),
    )  # fmt: skip
    text = f"{row.images_per_s:.0f} images/s, {row.peak_mb:.0f} MB\n    {row.profile}"
    return Result(status="measured", text=text, tables={"device": [asdict(row)]})


def training_step(model: ProtoPNet, sizes: Sizes, precision: str, place: torch.device) -> Callable[[], object]:
    """One step as `protokern train` makes it: the backbone under autocast in bf16, the distances never."""
    images = torch.rand(sizes.batch, 3, sizes.image_size, sizes.image_size, device=place)
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.arange(sizes.batch, device=place) % sizes.classes
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    model.train()

    def step() -> Tensor:
        with torch.autocast(place.type, dtype=torch.bfloat16, enabled=precision == "bf16"):
            features = model.features(images)
        loss = model.loss(model.head(features.float()), Labels(labels), LossCoefficients())
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
        return loss.total

    return step


def search_pass(model: ProtoPNet, sizes: Sizes, task: str, place: torch.device) -> Callable[[], object]:
    """One pass over images on the device, in the order of their classes."""
    batch = torch.rand(sizes.batch, 3, sizes.image_size, sizes.image_size, device=place)
    batch = batch.contiguous(memory_format=torch.channels_last)
    labels = torch.arange(sizes.images) * sizes.classes // sizes.images
    loader = [(batch[: len(part)], part) for part in labels.split(sizes.batch)]
    model.eval()
    if task == "push":
        return lambda: push_prototypes(model, loader)
    return lambda: find_nearest_patches(model, loader, k=5)


def timed(call: Callable[[], object], device: Device) -> float:
    synchronize(device)
    begun = time.perf_counter()
    call()
    synchronize(device)
    return time.perf_counter() - begun


def synchronize(device: Device) -> None:
    if device.kind == "cuda":
        torch.cuda.synchronize()


def start_memory(device: Device) -> None:
    if device.kind == "cuda":
        torch.cuda.reset_peak_memory_stats()


def peak_bytes(device: Device) -> int:
    return torch.cuda.max_memory_allocated() if device.kind == "cuda" else status_bytes("VmHWM")


def top_of(call: Callable[[], object], device: Device) -> str:
    """The operations and kernels that took most of one call's time, with their shares."""
    on_cuda = device.kind == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_cuda else [])]
    with profile(activities=activities) as seen:
        timed(call, device)
    name = "self_device_time_total" if on_cuda else "self_cpu_time_total"
    events = [(float(getattr(event, name)), event.key) for event in seen.key_averages()]
    if on_cuda:
        # Of a kernel and the operator that launched it only the kernel counts.
        kernels = [
            (float(event.self_device_time_total), event.key)
            for event in seen.key_averages()
            if event.device_type == torch.autograd.DeviceType.CUDA
        ]
        events = kernels or events
    total = sum(spent for spent, _ in events) or 1.0
    return "; ".join(f"{key[:60]} {spent / total:.1%}" for spent, key in sorted(events, reverse=True)[:TOP])
