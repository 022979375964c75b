"""The pass of a frozen backbone: `python -m benchmarks backbone`.

The same images go through the backbone layer by layer, as a batch of a feature store, and with fused convolutions, as
features are written on processors. First the two results are compared; then they take turns. With
ONEDNN_MAX_CPU_ISA=AVX2 oneDNN, which does the work in both, computes as on a processor that has no more.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Sequence

import torch

from benchmarks.ops.machine import watch_others
from benchmarks.pages.results import BACKBONE, append_rows
from benchmarks.pages.scenario_rows import BackboneRow
from benchmarks.pages.targets import backbone_verdict
from benchmarks.scenarios.scenario import begin, columns, flags, in_turns
from protokern.backbones import build_backbone
from protokern.backbones.fusing import run_fused

TOLERANCE = 1e-4  # of the largest feature


def main(argv: Sequence[str] | None = None) -> int:
    parser = flags("backbone", __doc__, BACKBONE)
    parser.add_argument("--backbone", default="efficientnet_lite0")
    parser.add_argument("--weights", default="imagenet", help="imagenet, none, or a file")
    parser.add_argument("--image-size", type=int, default=224, help="pixels, square")
    parser.add_argument("--images", type=int, default=64, help="in a pass; 64 are a chunk of a feature store")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args(argv)
    machine = begin(arguments, "backbones/test_fusing.py")
    torch.manual_seed(0)
    net = build_backbone(arguments.backbone, weights=arguments.weights).eval()
    net = net.to(memory_format=torch.channels_last)
    images = torch.rand(arguments.images, 3, arguments.image_size, arguments.image_size)
    images = images.to(memory_format=torch.channels_last)
    with torch.no_grad():
        eager = net(images)
        error = float((run_fused(net, images) - eager).abs().max() / eager.abs().max())
        if not error <= TOLERANCE:
            raise SystemExit(f"backbone: the results differ by {error:.1e} of the largest feature; nothing was timed")
        with watch_others() as other_work:
            calls = {"eager": lambda: net(images), "fused": lambda: run_fused(net, images)}
            taken = in_turns(calls, arguments.rounds)
    speeds = {name: len(images) / statistics.median(times) for name, times in taken.items()}
    row = BackboneRow(
        **columns(machine, other_work),
        backbone=arguments.backbone,
        image_size=arguments.image_size,
        images=len(images),
        onednn=os.environ.get("ONEDNN_MAX_CPU_ISA", ""),
        rounds=arguments.rounds,
        eager_images_s=round(speeds["eager"], 2),
        fused_images_s=round(speeds["fused"], 2),
        ratio=round(statistics.median(a / b for a, b in zip(taken["eager"], taken["fused"], strict=True)), 3),
        error=float(f"{error:.3g}"),
    )
    print(f"{row.images} images of {row.image_size} pixels through {row.backbone}, {row.threads} threads")
    print(f"layer by layer {row.eager_images_s:.1f} images/s, fused {row.fused_images_s:.1f}: {backbone_verdict(row)}")
    print(f"largest difference {row.error:.1e} of the largest feature")
    append_rows(arguments.out, [row])
    return 0
