"""Markdown tables of what is made of the ops, one function for each kind of row, and the pages that they go to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.pages.page_rows import AppRow, ReportRow
from benchmarks.pages.results import (
    APP,
    BACKBONE,
    CHECKPOINTS,
    DEVICE,
    FRAMES,
    FROZEN,
    HEADS,
    IMPORTANCE,
    LAST_LAYER,
    METRICS,
    ONNX,
    POOL,
    PUSH,
    REPORT,
    SEARCH,
)
from benchmarks.pages.rows import DeviceRow, Measurement
from benchmarks.pages.scenario_rows import (
    BackboneRow,
    CheckpointRow,
    FramesRow,
    FrozenRow,
    HeadRow,
    ImportanceRow,
    LastLayerRow,
    MetricRow,
    OnnxRow,
    PoolRow,
    PushRow,
    SearchRow,
)
from benchmarks.pages.targets import (
    FROZEN_RATIO,
    app_verdict,
    backbone_verdict,
    checkpoint_verdict,
    frames_verdict,
    last_layer_verdict,
    onnx_verdict,
    search_verdict,
)

BUSY_MARK = " \\*"


def times(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.1f} x"


def push_table(rows: Sequence[PushRow]) -> str:
    lines = ["| push | bare backbone | push | ratio |", "| --- | ---: | ---: | ---: |"]
    for row in rows:
        what = f"{row.images} images, {row.backbone} at {row.image_size} pixels, {row.prototypes} prototypes"
        mark = "" if row.quiet else BUSY_MARK
        lines.append(f"| {what}{mark} | {row.backbone_s:.1f} s | {row.push_s:.1f} s | {row.ratio:.3f} |")
    return "\n".join(lines)


def device_table(rows: Sequence[DeviceRow]) -> str:
    lines = ["| network | images a second | MB | longest operations |", "| --- | ---: | ---: | --- |"]
    for row in rows:
        what = f"{row.task}, {row.backbone} at {row.image_size} pixels, {row.prototypes} prototypes, batch {row.batch}"
        mark = "" if row.quiet else BUSY_MARK
        longest = "; ".join(row.profile.split("; ")[:3]).replace("|", "\\|")
        cells = [f"{what}, {row.precision}, `{row.backend}`{mark}", f"{row.images_per_s:,.0f}", f"{row.peak_mb:,.0f}"]
        lines.append(f"| {' | '.join([*cells, longest])} |")
    return "\n".join(lines)


def search_table(rows: Sequence[SearchRow]) -> str:
    lines = ["| search | search | against | | target |", "| --- | ---: | --- | ---: | --- |"]
    for row in rows:
        what = (
            f"{row.images:,} images, {row.side} x {row.side} x {row.depth}, {row.prototypes:,} prototypes, k = {row.k}"
        )
        mark = "" if row.quiet else BUSY_MARK
        if row.baseline == "op":
            against = f"`min_distance` alone, in memory: {row.baseline_s:.1f} s (every eighth batch, scaled)"
        else:
            scaled = "" if row.baseline_images == row.images else f" ({row.baseline_images} images, scaled)"
            against = f"the released program's loops: {row.baseline_s:.1f} s{scaled}"
        cells = [f"{row.case}: {what}, {row.threads} threads{mark}", f"{row.search_s:.2f} s", against]
        cells += [f"{row.ratio:.0%}" if row.baseline == "op" else times(row.ratio), "; ".join(search_verdict(row))]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def frozen_table(rows: Sequence[FrozenRow]) -> str:
    """A step of training on features, the providers in the order they were stored."""
    names = {
        "store bf16": "**from the store, bf16**",
        "store fp32": "**from the store, fp32**",
        "eager": "plain eager head",
        "eager channels last": "plain eager head, channels last",
        "backbone": "backbone on every batch",
    }
    lines = [
        f"| a step of training, target >= {FROZEN_RATIO:g} x the eager head | | median | images/s | against the eager "
        "head | against the backbone |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        mark = "" if row.quiet else BUSY_MARK
        what = f"{row.backbone} at {row.image_size} pixels, {row.channels} x {row.side} x {row.side}, batch {row.batch}"
        cells = [f"{what}, {row.prototypes} prototypes, {row.threads} threads{mark}", names[row.provider]]
        cells += [f"{row.p50_ms:.4g} ms", f"{row.images_per_s:,.0f}"]
        cells += [times(row.faster_than_eager), times(row.faster_than_backbone)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def checkpoint_table(rows: Sequence[CheckpointRow]) -> str:
    lines = [
        "| training | an epoch without | a checkpoint | epochs with one / without | target |",
        "| --- | ---: | ---: | ---: | --- |",
    ]
    for row in rows:
        what = f"{row.images:,} images, {row.backbone} at {row.image_size} pixels, {row.prototypes} prototypes"
        mark = "" if row.quiet else BUSY_MARK
        cells = [f"{what}{mark}", f"{row.epoch_s:.1f} s", f"{row.checkpoint_s:.2f} s ({row.checkpoint_mb:.0f} MB)"]
        lines.append(f"| {' | '.join(cells)} | {row.ratio:.3f} | {checkpoint_verdict(row)} |")
    return "\n".join(lines)


def last_layer_table(rows: Sequence[LastLayerRow]) -> str:
    """Pairs of rows, solved and in small steps."""
    lines = [
        "| last layer | | seconds | gap | cross entropy + L1 | weights to other classes | test | target |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    pairs: dict[str, dict[str, LastLayerRow]] = {}
    for row in rows:
        pairs.setdefault(row.problem, {})[row.solver] = row
    for pair in pairs.values():
        for row in (pair["convex"], pair["compat"]):
            mark = "" if row.quiet else BUSY_MARK
            tried = f", {row.path} strengths of L1" if row.path > 1 else ""
            what = f"{row.problem}: {row.images:,} images, {row.inputs:,} inputs, {row.classes} classes{mark}"
            cells = [what, f"solved{tried}" if row.solver == "convex" else "small steps", f"{row.seconds:.2f}"]
            cells += ["" if row.gap is None else f"{row.gap:.1e}", f"{row.objective:.4g}", f"{row.nonzero:,}"]
            cells.append("" if row.test_accuracy is None else f"{row.test_accuracy:.1%}")
            cells.append(last_layer_verdict(pair["convex"], pair["compat"]) if row.solver == "convex" else "")
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def importance_table(rows: Sequence[ImportanceRow]) -> str:
    lines = ["| importance | bare backbone | modifications | all | ratio |", "| --- | ---: | ---: | ---: | ---: |"]
    for row in rows:
        what = f"{row.images} images, {row.backbone} at {row.image_size} pixels, {row.prototypes} prototypes"
        passes = f"{row.backbone_s:.1f} s ({row.modifications + 1} passes)"
        mark = "" if row.quiet else BUSY_MARK
        cells = [f"{what}{mark}", passes, f"{row.modifications_s:.1f} s", f"{row.importance_s:.1f} s"]
        lines.append(f"| {' | '.join(cells)} | {row.ratio:.3f} |")
    return "\n".join(lines)


def report_table(rows: Sequence[ReportRow]) -> str:
    lines = [
        "| report | built in | the page alone | page | pictures beside it | first paint | loaded | a prototype opens |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        mark = "" if row.quiet else BUSY_MARK
        what = f"{row.prototypes} prototypes, {row.classes} classes, {row.train_images + row.test_images} images{mark}"
        views = (f"{ms:.0f} ms" if ms is not None else "" for ms in (row.paint_ms, row.load_ms, row.open_ms))
        sizes = f"{row.page_mb:.1f} MB | {row.pictures}, {row.pictures_mb:.0f} MB"
        lines.append(f"| {what} | {row.build_s:.1f} s | {row.page_s:.1f} s | {sizes} | {' | '.join(views)} |")
    return "\n".join(lines)


def frames_table(rows: Sequence[FramesRow]) -> str:
    lines = [
        "| frames | a pass of the backbone | explanation without | with four frames | slowest | median area | |",
        "| --- | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for row in rows:
        mark = "" if row.quiet else BUSY_MARK
        what = (
            f"{row.data}: {row.images} images, {row.backbone} at {row.image_size} pixels, {row.threads} threads{mark}"
        )
        area = "" if row.area is None else f"{row.area:.0f} %"
        times = f"{row.backbone_s * 1e3:.0f} ms | {row.explained_s * 1e3:.0f} ms | {row.framed_s:.2f} s"
        lines.append(f"| {what} | {times} | {row.slowest_s:.2f} s | {area} | {frames_verdict(row)} |")
    return "\n".join(lines)


def backbone_table(rows: Sequence[BackboneRow]) -> str:
    lines = ["| images a second | layer by layer | fused | |", "| --- | ---: | ---: | --- |"]
    for row in rows:
        mark = "" if row.quiet else BUSY_MARK
        isa = f", {row.onednn}" if row.onednn else ""
        what = f"{row.backbone} at {row.image_size} pixels, {row.threads} threads{isa}{mark}"
        lines.append(f"| {what} | {row.eager_images_s:.1f} | {row.fused_images_s:.1f} | {backbone_verdict(row)} |")
    return "\n".join(lines)


def pool_table(rows: Sequence[PoolRow]) -> str:
    """Case by case, the providers in the order they were stored."""
    lines = [
        "| forward + backward | scale | threads | | median | against the original | extra MB, of B x P x H x W |",
        "| --- | ---: | ---: | --- | ---: | ---: | ---: |",
    ]
    for row in rows:
        scale = "final" if row.scale is None else f"{row.scale:.0f}"
        name = "**ours**" if row.provider == "protokern" else row.provider
        mark = "" if row.quiet else BUSY_MARK
        cells = [f"{row.case}{mark}", scale, str(row.threads), name, f"{row.p50_ms:.4g} ms"]
        cells += [times(row.faster_than_original), f"{row.extra_mb:.1f}, {row.extra_mb / row.map_mb:.0%}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def head_table(rows: Sequence[HeadRow]) -> str:
    """Case by case, the providers in the order they were stored."""
    lines = ["| forward + backward | threads | | median | against the original |", "| --- | ---: | --- | ---: | ---: |"]
    for row in rows:
        name = "**ours**" if row.provider == "protokern" else row.provider
        cells = [f"{row.case}, {row.size}{'' if row.quiet else BUSY_MARK}", str(row.threads), name]
        lines.append(f"| {' | '.join([*cells, f'{row.p50_ms:.4g} ms', times(row.faster_than_original)])} |")
    return "\n".join(lines)


def metric_table(rows: Sequence[MetricRow]) -> str:
    """Case by case, the metrics in the order they were stored."""
    lines = [
        "| `min_distance` | threads | metric | median | speed of the cosine |",
        "| --- | ---: | --- | ---: | ---: |",
    ]
    for row in rows:
        backward = "" if row.mode == "fwd" else " + backward"
        what = f"{row.case}, forward{backward}, {row.isa}{'' if row.quiet else BUSY_MARK}"
        cells = [what, str(row.threads), row.metric, f"{row.p50_ms:.4g} ms", f"{row.speed_of_cosine:.2f} x"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def onnx_table(rows: Sequence[OnnxRow]) -> str:
    """Case by case."""
    lines = [
        "| a pass in onnxruntime | `--repair` | threads | median | backbone alone | |",
        "| --- | --- | ---: | ---: | ---: | --- |",
    ]
    for row in rows:
        cells = [f"{row.case}, {row.size}{'' if row.quiet else BUSY_MARK}", row.repair, str(row.threads)]
        cells += [f"{row.p50_ms:.4g} ms", f"{row.backbone_ms:.4g} ms", onnx_verdict(row)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def app_table(rows: Sequence[AppRow]) -> str:
    lines = ["| run | opened | images read | |", "| --- | ---: | ---: | --- |"]
    for row in rows:
        what = f"{row.case}, {row.prototypes:,} prototypes, {row.train_images:,} training images, {row.backbone} at "
        what += f"{row.image_size} pixels, {row.threads} threads{'' if row.quiet else BUSY_MARK}"
        cells = [what, f"{row.open_s:.1f} s", f"{row.prepare_s:.1f} s", "; ".join(app_verdict(row))]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


@dataclass(frozen=True)
class Part:
    """A section of a page: one scenario.

    Attributes:
        path: of the stored rows.
        row: what each of them is.
        title: of the section.
        key: columns that say what was measured; of rows that agree in them the newest is shown.
        table: makes the table of those.
    """

    path: Path
    row: type[Measurement]
    title: str
    key: tuple[str, ...]
    table: Callable[[Any], str]


ON_BENCHMARKS = (
    Part(DEVICE, DeviceRow, "Networks on a CUDA device", ("device", "task", "precision", "backend"), device_table),
    Part(POOL, PoolRow, "The head of ProtoPool", ("device", "case", "threads", "provider"), pool_table),
    Part(HEADS, HeadRow, "The heads of TesNet and ProtoTree", ("device", "case", "threads", "provider"), head_table),
    Part(ONNX, OnnxRow, "Exported models in onnxruntime", ("device", "case", "repair", "threads"), onnx_table),
    Part(
        METRICS, MetricRow, "Metrics", ("device", "isa", "case", "mode", "backend", "metric", "threads"), metric_table
    ),
    Part(
        IMPORTANCE,
        ImportanceRow,
        "Importance of visible properties",
        ("backbone", "images", "image_size"),
        importance_table,
    ),
    Part(
        BACKBONE,
        BackboneRow,
        "The pass of a frozen backbone",
        ("device", "backbone", "image_size", "threads", "onednn"),
        backbone_table,
    ),
    Part(FRAMES, FramesRow, "Sufficient frames", ("device", "data", "backbone", "threads"), frames_table),
    Part(REPORT, ReportRow, "The report of a run", ("device", "prototypes", "classes"), report_table),
    Part(APP, AppRow, "The workbench", ("device", "case", "prototypes", "train_images", "threads"), app_table),
)
ON_RESULTS = (
    Part(PUSH, PushRow, "Push", ("backbone", "images", "image_size"), push_table),
    Part(SEARCH, SearchRow, "Search over stored features", ("device", "case", "threads"), search_table),
    Part(
        FROZEN,
        FrozenRow,
        "Training a head on stored features",
        ("device", "backbone", "side", "threads", "provider"),
        frozen_table,
    ),
    Part(LAST_LAYER, LastLayerRow, "The last layer", ("device", "problem", "threads", "solver"), last_layer_table),
    Part(
        CHECKPOINTS,
        CheckpointRow,
        "Checkpoints",
        ("device", "backbone", "images", "image_size"),
        checkpoint_table,
    ),
)
