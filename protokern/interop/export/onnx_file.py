"""ONNX: the model from images to logits, similarities and patches, and a second file for heat maps.

Opset 18, no operator of our own. onnx, onnxruntime and onnxscript are optional and imported only here.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import protokern
from protokern.errors import ExportError, import_optional
from protokern.interop.export.agreement import TOLERANCE, check_agreement, check_images
from protokern.interop.export.plain_net import PlainMaps, PlainNet
from protokern.interop.export.same_padding import translations
from protokern.interop.export.side_files import prototype_entries
from protokern.interop.export.source import ExportOptions, ExportSource
from protokern.interop.export.trace import quiet, trace
from protokern.runs.checkpoints import size_in_bytes

MODEL, MAPS = "model.onnx", "heat_maps.onnx"
OPSET = 18
_LARGEST_FILE = 2**31 - 2**26  # bytes: a protobuf message has at most 2 GB
_OUTPUTS = ("logits", "similarity", "distance", "patch", "grid")


def files(source: ExportSource, options: ExportOptions) -> tuple[str, ...]:
    """The names of what `write` writes."""
    names = (MODEL, MAPS) if options.heat_maps else (MODEL,)
    if not _is_large(source):
        return names
    return (*names, *(f"{name}.data" for name in names))


def write(source: ExportSource, options: ExportOptions, folder: Path) -> list[str]:
    """Write the files into a folder, run them in onnxruntime, and say how they agree with the model.

    Raises:
        ExportError: torch cannot trace the model, or a file does not answer as the model does.
        MissingPackageError: a package of the extra `onnx` is not installed.
    """
    onnx, runtime = (_import(name) for name in ("onnx", "onnxruntime"))
    _import("onnxscript")
    net = PlainNet(source.model, options.repair).eval()
    _write_one(onnx, net, folder / MODEL, source, options)
    batches = check_images(source, any_size=options.any_size)
    session = _session(runtime, folder / MODEL)
    agreement = check_agreement(source, partial(run, session), batches, MODEL)
    lines = [f"{MODEL}: {agreement.in_words()}"]
    if options.heat_maps:
        _write_one(onnx, PlainMaps(source.model).eval(), folder / MAPS, source, options)
        difference = _check_maps(source, _session(runtime, folder / MAPS), batches)
        lines.append(f"{MAPS}: checked on the same images: similarities within {difference:.1g} of the run")
    return lines


def run(session: Any, images: Tensor) -> dict[str, np.ndarray]:
    """The answers of a session to images (B, C, Y, X), by name."""
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {"image": images.numpy()}), strict=True))


def _import(module: str) -> ModuleType:
    return import_optional(module, package=module, needed_for="the format onnx", install="'protokern[onnx]'")


def _is_large(source: ExportSource) -> bool:
    return size_in_bytes(source.model) > _LARGEST_FILE


def _session(runtime: ModuleType, path: Path) -> Any:
    settings = runtime.SessionOptions()
    settings.log_severity_level = 3  # errors
    settings.intra_op_num_threads = torch.get_num_threads()
    return runtime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])


def _write_one(
    onnx: ModuleType, net: PlainNet | PlainMaps, path: Path, source: ExportSource, options: ExportOptions
) -> None:
    program = trace(net, source.image_size, source.channels, any_size=options.any_size, for_onnx=True)
    sides = {2: "height", 3: "width"} if options.any_size else {}
    is_maps = isinstance(net, PlainMaps)
    names = ("map",) if is_maps else [name for name in _OUTPUTS if name != "distance" or _has_distance(source)]
    shapes: tuple[dict[int, str], ...] = ({0: "batch", **sides}, *([{0: "chosen"}] if is_maps else []))
    with quiet():
        exported = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=OPSET,
            input_names=["image", "prototype"] if is_maps else ["image"],
            output_names=names,
            dynamic_shapes=shapes,
            custom_translation_table=translations(),
            external_data=False,
            verbose=False,
        )
    assert exported is not None
    proto = exported.model_proto
    _join_squares(onnx, proto.graph)
    _strip(proto)
    if not is_maps:
        onnx.helper.set_model_props(proto, metadata(source, options))
    proto.producer_name, proto.producer_version = "protokern", protokern.__version__
    large = _is_large(source)
    onnx.save(proto, str(path), save_as_external_data=large, location=f"{path.name}.data" if large else None)
    onnx.checker.check_model(str(path), full_check=True)


def _has_distance(source: ExportSource) -> bool:
    return source.model.prototype_layer.vectors is not None


def _join_squares(onnx: ModuleType, graph: Any) -> None:
    """Make one node of a square and the sum of it: with thousands of prototypes the squares alone would take as long
    as the search."""
    values = {one.name: onnx.numpy_helper.to_array(one) for one in graph.initializer if not one.dims}
    uses = Counter(name for node in graph.node for name in node.input)
    uses.update(output.name for output in graph.output)
    squares = {
        node.output[0]: node
        for node in graph.node
        if node.op_type == "Pow" and values.get(node.input[1]) == 2 and uses[node.output[0]] == 1
    }
    sums = [node for node in graph.node if node.op_type == "ReduceSum" and node.input[0] in squares]
    for node in sums:
        square = squares[node.input[0]]
        node.op_type, node.input[0] = "ReduceSumSquare", square.input[0]
        graph.node.remove(square)
    used = {name for node in graph.node for name in node.input}.union(output.name for output in graph.output)
    for one in [one for one in graph.initializer if one.name not in used]:
        graph.initializer.remove(one)


def _strip(proto: Any) -> None:
    """Remove what torch says of the lines of Python: a third of a small file, with paths of this machine."""
    del proto.metadata_props[:]
    for part in (proto.graph, *proto.graph.node, *proto.graph.input, *proto.graph.output, *proto.graph.value_info):
        del part.metadata_props[:]
        part.doc_string = ""


def metadata(source: ExportSource, options: ExportOptions) -> dict[str, str]:
    """What the file says of itself, text by key. Keys without a prefix are those that other exporters use."""
    backbone, settings = source.model.backbone, source.settings["model"]
    entries: Mapping[str, object] = {
        "names": {str(index): name for index, name in enumerate(source.classes)},
        "imgsz": list(source.image_size),
        "channels": source.channels,
        "mean": _numbers(backbone, "mean"),
        "std": _numbers(backbone, "std"),
        "protokern.prototypes": prototype_entries(source),
        "protokern.prototype_size": list(source.model.prototype_layer.prototype_size),
    }
    texts = {
        "description": f"{type(source.model).__name__} {source.name}; images in [0, 1], normalised inside the file",
        "task": "classify",
        "author": "",
        "license": source.license,
        "version": protokern.__version__,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "protokern.model": source.model_name,
        "protokern.activation": str(settings["activation"]),
        "protokern.metric": str(settings.get("metric", "")),
        "protokern.epsilon": str(settings.get("epsilon", "")),
        "protokern.repair": options.repair,
        "protokern.sha256": source.checksum,
    }
    texts |= {key: json.dumps(value) for key, value in entries.items()}
    return {key: text for key, text in texts.items() if text}


def _numbers(backbone: nn.Module, name: str) -> list[float]:
    values = getattr(backbone, name, None)
    return [] if values is None else [round(float(one), 6) for one in values.flatten()]


def _check_maps(source: ExportSource, session: Any, batches: Sequence[Tensor]) -> float:
    """The largest difference of maps from those of the model.

    Raises:
        ExportError: it is too large.
    """
    layer = source.model.prototype_layer
    chosen = torch.arange(source.model.num_prototypes)[:: max(1, source.model.num_prototypes // 4)]
    largest = 0.0
    for images in batches:
        with torch.no_grad():
            wanted = layer.activate(layer.distance_map(source.model.features(images), chosen)).numpy()
        (got,) = session.run(None, {"image": images.numpy(), "prototype": chosen.numpy()})
        difference = float(np.abs(wanted - got).max()) if wanted.shape == got.shape else float("inf")
        bound = max(1.0, float(np.abs(wanted).max()))
        if not difference <= TOLERANCE * bound:
            raise ExportError(
                f"{MAPS}: must give the maps that the run gives; they differ by {difference:.2g}. It was not written."
            )
        largest = max(largest, difference)
    return largest
