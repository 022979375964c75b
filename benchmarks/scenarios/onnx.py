"""Exported models in onnxruntime: how much of the time the head takes: `python -m benchmarks onnx`.

A model is exported as a user would do it, which compares its answers with those of the model. The file and its part up
to the backbone's map then take turns in onnxruntime, on the processor.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch

from benchmarks.ops.machine import Machine, watch_others
from benchmarks.ops.timing import Call, Timed, measure
from benchmarks.pages.results import ONNX, append_rows
from benchmarks.pages.scenario_rows import OnnxRow
from benchmarks.pages.show import not_quiet
from benchmarks.pages.targets import onnx_verdict
from benchmarks.scenarios.scenario import begin, columns, flags, time_columns
from protokern.backbones import build_backbone
from protokern.interop.export import onnx_file
from protokern.interop.export.source import ExportOptions, ExportSource
from protokern.models import ProtoPNet

RECIPE = {"metric": "cosine", "activation": "cosine", "add_on_layers": "linear", "salience": 1.0}


@dataclass(frozen=True)
class Case:
    """A model and a batch.

    Attributes:
        name: whose settings they are.
        settings: of a ProtoPNet.
        salience_stage: of its backbone.
    """

    name: str
    classes: int
    per_class: int
    depth: int
    settings: dict[str, Any]
    salience_stage: int | None = None
    backbone: str = "efficientnet_lite0"
    weights: str = "imagenet"
    images: int = 16
    side: int = 224

    @property
    def size(self) -> str:
        return f"{self.backbone} B{self.images} {self.side} D{self.depth} P{self.classes * self.per_class}"

    def model(self) -> ProtoPNet:
        torch.manual_seed(0)
        backbone = build_backbone(self.backbone, weights=self.weights, salience_stage=self.salience_stage)
        return ProtoPNet(
            backbone,
            self.classes,
            prototypes_per_class=self.per_class,
            prototype_dim=self.depth,
            image_size=self.side,
            **self.settings,
        ).eval()


CASES = {
    case.name: case
    for case in (
        Case("recipe quick, 10 classes", 10, 3, 512, RECIPE, -2),
        Case("paper, 10 classes", 10, 10, 128, {}),
        Case("paper, 200 classes", 200, 10, 128, {}),
    )
}


def export(case: Case, repair: str, folder: Path) -> Path:
    """Write and check the file of a case."""
    model = case.model()
    settings = {"name": "protopnet", "activation": "log", "metric": "sqeuclidean", **case.settings}
    source = ExportSource(
        model=model,
        name=case.name,
        classes=tuple(map(str, range(case.classes))),
        image_size=(case.side, case.side),
        channels=3,
        settings={"model": settings},
        prototypes=(),
    )
    print(*onnx_file.write(source, ExportOptions(repair=repair), folder), sep="\n")  # type: ignore[arg-type]
    return folder / onnx_file.MODEL


def cut_at_backbone(path: Path) -> Path:
    """The part of a file up to the map that the add-on layers take."""
    graph = onnx.load(str(path)).graph
    (place,) = {node.input[0] for node in graph.node if "add_on_layers.0.weight" in node.input}
    part = path.with_name("backbone.onnx")
    onnx.utils.extract_model(str(path), str(part), ["image"], [place], check_model=False)
    return part


def call_of(path: Path, images: np.ndarray) -> Call:
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"image": images})


def run_case(machine: Machine, case: Case, repair: str, seconds: float) -> OnnxRow:
    with tempfile.TemporaryDirectory() as folder:
        whole = export(case, repair, Path(folder))
        images = np.random.default_rng(0).random((case.images, 3, case.side, case.side), dtype=np.float32)
        calls = {"whole": call_of(whole, images), "backbone": call_of(cut_at_backbone(whole), images)}
        with watch_others() as others:
            timings = measure({name: Timed(call=call, pool=name) for name, call in calls.items()}, seconds=seconds)
    backbone = timings["backbone"]
    return OnnxRow(
        **columns(machine, others),
        **time_columns(timings["whole"]),
        case=case.name,
        size=case.size,
        repair=repair,
        runtime=onnxruntime.__version__,
        backbone_ms=round(backbone.p50, 4),
        head_share=round(1 - backbone.p20 / timings["whole"].p20, 4),
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = flags("onnx", __doc__, ONNX)
    parser.add_argument("--cases", default=";".join(CASES), help=f"separated by semicolons, of {'; '.join(CASES)}")
    parser.add_argument("--repair", choices=("topk", "argmin"), default="topk")
    parser.add_argument("--seconds", type=float, default=20.0, help="about how long a case is timed")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    cases = [CASES[name.strip()] for name in arguments.cases.split(";")]
    machine = begin(arguments, "interop/export/test_plain_net.py")
    for case in cases:
        row = run_case(machine, case, arguments.repair, arguments.seconds)
        print(f"{row.case}, {row.size}, {row.threads} threads{not_quiet(row)}")
        print(f"{row.p50_ms:.1f} ms, the backbone alone {row.backbone_ms:.1f} ms; {onnx_verdict(row)}")
        append_rows(arguments.out, [row])
    return 0
