"""What ImageNet would take: `python -m benchmarks scaling` prints tables, `--write` puts them into docs/scaling.md.

No time of a GPU is measured here. The tables hold floors, from counted operations and bytes and the rates of a
datasheet, and what stored rows of a processor come to by proportion.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.commit import ROOT
from benchmarks.pages.groups import newest
from benchmarks.pages.results import PUSH, SPEED, Place, read_rows
from benchmarks.pages.rows import SpeedRow
from benchmarks.pages.scenario_rows import PushRow
from benchmarks.pages.targets import H200_GBYTES, H200_GFLOPS

PAGE = ROOT / "docs" / "scaling.md"
PLACE = Place("scaling", "scaling")

IMAGES = 1_281_167  # of ImageNet's training split
SIZE, DEPTH, PROTOTYPES = 224, 128, 10_000
WARM, JOINT = 5, 20
GPUS = 8
# The least that an output of a convolution is moved: written and read forwards; backwards it is read again, and its
# gradient is written, and read for the gradients of the input and of the weights.
MOVES_FORWARD, MOVES_TRAINING = 2, 6
HALF, SINGLE = 2, 4  # bytes of a number in bfloat16 and in float32
EXAMPLE_SHARE = 0.25


@dataclass(frozen=True)
class Cost:
    """What one image costs a backbone with a head: operations in 1e9, and numbers that its convolutions give."""

    forward: float
    training: float
    distances: float
    outputs: int


@dataclass(frozen=True)
class Floor:
    """The least seconds that one GPU needs for a pass over all images."""

    arithmetic: float
    memory: float

    @property
    def seconds(self) -> float:
        return max(self.arithmetic, self.memory)

    @property
    def bound(self) -> str:
        return "arithmetic" if self.arithmetic >= self.memory else "memory"


def count_cost() -> Cost:
    """Counted on torchvision's ResNet-50 without its last layer; nothing is computed."""
    from torchvision.models import resnet50

    with torch.device("meta"):
        net = resnet50(weights=None)
        net.fc = nn.Identity()
        image = torch.empty(1, 3, SIZE, SIZE)
    outputs: list[int] = []
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(lambda module, inputs, output: outputs.append(output.numel()))
    with FlopCounterMode(display=False) as forward:
        result = net(image)
    given = sum(outputs)
    with FlopCounterMode(display=False) as backward:
        result.sum().backward()
    patches = (SIZE // 32) ** 2
    flops = forward.get_total_flops() / 1e9
    return Cost(flops, flops + backward.get_total_flops() / 1e9, 2 * patches * DEPTH * PROTOTYPES / 1e9, given)


def floors(cost: Cost) -> dict[str, Floor]:
    """For every kind of pass. Warm and joint run in bfloat16; push and prune in float32, multiplied as TF32."""

    def floor(gflop: float, precision: str, moves: int, size: int) -> Floor:
        moved = cost.outputs * moves * size / 1e9
        return Floor(IMAGES * gflop / H200_GFLOPS[precision], IMAGES * moved / H200_GBYTES)

    return {
        "a warm epoch, bf16": floor(cost.forward + cost.distances, "bf16", MOVES_FORWARD, HALF),
        "a joint epoch, bf16": floor(cost.training + cost.distances, "bf16", MOVES_TRAINING, HALF),
        "push, TF32": floor(cost.forward, "tf32", MOVES_FORWARD, SINGLE),
        "prune, TF32": floor(cost.forward + cost.distances, "tf32", MOVES_FORWARD, SINGLE),
    }


def plan_seconds(passes: dict[str, Floor]) -> float:
    """Of the whole plan on one GPU: warm and joint epochs, a push, a pruning."""
    warm, joint, push, prune = (floor.seconds for floor in passes.values())
    return WARM * warm + JOINT * joint + push + prune


def floor_table(cost: Cost) -> str:
    passes = floors(cost)
    per_image = (
        f"{cost.forward:.2f} GFLOP forward and {cost.training:.1f} GFLOP forward and backward in the backbone",
        f"{cost.distances:.3f} GFLOP for the distances to all prototypes",
        f"and {cost.outputs / 1e6:.1f} million numbers from its convolutions",
    )
    rates = {name: f"{gflops / 1e3:.0f}" for name, gflops in H200_GFLOPS.items()}
    lines = [
        f"Per image: {', '.join(per_image)}. "
        f"A GPU: {rates['bf16']} TFLOP/s in bf16, {rates['tf32']} in TF32, {H200_GBYTES:.0f} GB/s.",
        "",
        f"| {IMAGES:,} images | arithmetic alone | memory alone | floor, one GPU | floor, {GPUS} GPUs |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {name} | {one.arithmetic:.0f} s | {one.memory:.0f} s | {one.seconds:.0f} s ({one.bound}) | "
        f"{one.seconds / GPUS:.1f} s |"
        for name, one in passes.items()
    ]
    minutes = plan_seconds(passes) / 60
    plan = f"{WARM} warm and {JOINT} joint epochs, push, prune"
    lines.append(f"| {plan} | | | {minutes:.0f} min | {minutes / GPUS:.1f} min |")
    asked = IMAGES / passes["a joint epoch, bf16"].seconds * EXAMPLE_SHARE
    slower = minutes / EXAMPLE_SHARE
    lines += [
        "",
        f"A run that reaches the share u of these rates takes {minutes:.1f} minutes / (GPUs x u). Which u a run "
        f"reaches is not known. As an example of the formula alone, with u = {EXAMPLE_SHARE}: {slower:.0f} minutes on "
        f"one GPU and {slower / GPUS:.0f} on {GPUS}, if images came fast enough: a joint epoch would then ask for "
        f"{round(asked, -2):,.0f} images a second on one GPU and {round(asked * GPUS, -3):,.0f} on {GPUS}.",
    ]
    return "\n".join(lines)


def measured_table(pushes: Sequence[PushRow], speeds: Sequence[SpeedRow]) -> str:
    """What stored rows of a processor come to, by proportion."""
    lines = [
        "| measured on a processor | time | images/s | all of ImageNet, by proportion |",
        "| --- | ---: | ---: | ---: |",
    ]
    for push in pushes[-1:]:
        what = f"over {push.images:,} photographs of {push.image_size} pixels, decoded before, {push.backbone}"
        threads = f"{push.threads} threads"
        lines.append(_measured(f"backbone {what}, {threads}", push.backbone_s, push.images))
        lines.append(_measured(f"push of {push.prototypes} prototypes {what}, {threads}", push.push_s, push.images))
    wanted = ("min_distance", "imagenet14-b8", "fwd", False, "amx")
    for comparison in newest(speeds):  # with the most threads first
        first = comparison.first
        if (first.op, first.case, first.mode, first.on_cuda, first.isa) != wanted:
            continue
        ours, original = comparison.ours("fp32"), comparison.find("original", "fp32")
        for row, name in ((ours, "`min_distance`"), (original, "the original formula")):
            if row is not None:
                what = f"distances to {PROTOTYPES:,} prototypes of 256 numbers, 14 x 14 patches, {name}"
                lines.append(_measured(f"{what}, {row.threads} threads", row.p50_ms / 1e3, 8))
        break
    return "\n".join(lines)


def _measured(what: str, seconds: float, images: int) -> str:
    hours = seconds / images * IMAGES / 3600
    time = f"{seconds:.1f} s" if seconds >= 1 else f"{seconds * 1e3:.1f} ms"
    return f"| {what} | {time} | {images / seconds:,.0f} | {hours:.1f} h |"


def page() -> str:
    return f"{floor_table(count_cost())}\n\n{measured_table(read_rows(PUSH, PushRow), read_rows(SPEED, SpeedRow))}"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks scaling", description=__doc__)
    parser.add_argument("--write", action="store_true", help="put the tables into docs/scaling.md")
    arguments = parser.parse_args(argv)
    content = page()
    if arguments.write:
        PLACE.write(PAGE, content)
    else:
        print(content)
    return 0
