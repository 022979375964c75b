"""The numbers the kernels have to reach, and whether a set of rows reaches them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.ops.cases import CASES, FULL, LARGE, WIDE
from benchmarks.pages.groups import Comparison, newest, quickest
from benchmarks.pages.page_rows import AppRow
from benchmarks.pages.rows import MemoryRow, SpeedRow
from benchmarks.pages.scenario_rows import (
    BackboneRow,
    CheckpointRow,
    FramesRow,
    LastLayerRow,
    OnnxRow,
    SearchRow,
)

Read = Callable[[Comparison], float | None]

# Datasheet rates of an H200, in 1e9 a second, and the bytes that a copy moves on it: stricter than what it reaches.
H200_GFLOPS = {"tf32": 494e3, "bf16": 990e3}
H200_GBYTES = 4300.0

NOT_MEASURED = "not measured"
# Instruction sets that are not held to the targets of processors with AVX-512 or more.
NOT_HELD = ("avx2", "base")


@dataclass(frozen=True)
class Target:
    """A bound for one quantity of one op, case and mode.

    Attributes:
        device: "cpu" or "cuda".
        where: which rows count, for people: "" for all threads, "one core".
        quantity: what is compared, for people.
        read: takes the quantity from a comparison; None where its rows do not tell.
        bound: at least so much; with `below`, less than so much.
        isa: the one instruction set that is held to it; "": all but `NOT_HELD`.
    """

    device: str
    case: str
    mode: str
    quantity: str
    read: Read
    bound: float
    where: str = ""
    below: bool = False
    isa: str = ""

    def fits(self, comparison: Comparison) -> bool:
        row = comparison.first
        one_core = row.threads == 1
        return (
            (row.op, row.case, row.mode) == ("min_distance", self.case, self.mode)
            and (row.isa == self.isa if self.isa else row.isa not in NOT_HELD)
            and row.on_cuda == (self.device == "cuda")
            and (row.on_cuda or one_core == (self.where == "one core") or row.cores == 1)
        )

    def verdicts(self, comparisons: Sequence[Comparison]) -> list[str]:
        """A line for each comparison that tells: what was wanted, what was measured, reached or missed."""
        place = f", {self.where}" if self.where else ""
        wanted = f"{self.quantity} {'<' if self.below else '>='} {self.bound:g}"
        lines = []
        for comparison in comparisons:
            measured = self.read(comparison) if self.fits(comparison) else None
            if measured is None:
                continue
            reached = measured < self.bound if self.below else measured >= self.bound
            where = f"{self.case} {self.mode}{place}, {comparison.first.isa}"
            lines.append(f"{where}: {wanted}: {measured:.3g}, {'reached' if reached else 'MISSED'}")
        isa = f", {self.isa}" if self.isa else ""
        return lines or [f"{self.case} {self.mode}{place}{isa}: {wanted}: {NOT_MEASURED}"]


def peak_share(comparison: Comparison) -> float | None:
    row = comparison.ours("fp32")
    return None if row is None else row.peak_share


def against(provider: str, ours: str, theirs: str | None = None) -> Read:
    """Time of a provider over ours, in the given precisions."""

    def read(comparison: Comparison) -> float | None:
        mine, other = comparison.ours(ours), comparison.find(provider, theirs or ours)
        return None if mine is None or other is None else other.p50_ms / mine.p50_ms

    return read


def against_quickest_peer(comparison: Comparison) -> float | None:
    ours, peer = comparison.ours("fp32"), quickest(comparison.peers("fp32"))
    return None if ours is None or peer is None else peer.p50_ms / ours.p50_ms


def bf16_gain(comparison: Comparison) -> float | None:
    exact, rounded = comparison.find("native", "fp32"), comparison.find("native", "bf16")
    return None if exact is None or rounded is None else exact.p50_ms / rounded.p50_ms


def against_compile(comparison: Comparison) -> float | None:
    """The smaller ratio where both precisions were compiled."""
    ratios = [against("compile", precision)(comparison) for precision in ("tf32", "bf16")]
    return min((ratio for ratio in ratios if ratio is not None), default=None)


def datasheet_share(precision: str) -> Read:
    """Share of the arithmetic floor of an H200."""

    def read(comparison: Comparison) -> float | None:
        row = comparison.ours(precision)
        if row is None:
            return None
        return CASES[row.case].forward_gflop / H200_GFLOPS[precision] * 1e3 / row.p50_ms

    return read


def memory_share(comparison: Comparison) -> float | None:
    """Share of the memory floor of an H200, in whichever precision is quickest."""
    row = comparison.ours()
    return None if row is None else CASES[row.case].forward_bytes / H200_GBYTES * 1e-6 / row.p50_ms


def milliseconds(timer: str) -> Read:
    def read(comparison: Comparison) -> float | None:
        row = comparison.ours(timer=timer)
        return None if row is None else row.p50_ms

    return read


def cpu_targets() -> list[Target]:
    peak, ahead = "share of the FMA peak", "times faster than the quickest peer"
    targets = []
    for case in LARGE:
        targets += [
            Target("cpu", case, "fwd", peak, peak_share, 0.85, where="one core"),
            Target("cpu", case, "fwd", peak, peak_share, 0.80),
            Target("cpu", case, "fwd", "times faster than torch.mm alone", against("mm", "fp32"), 2.0),
            Target("cpu", case, "fwd", ahead, against_quickest_peer, 1.0),
            Target("cpu", case, "fwd", "times faster in bf16 than in fp32", bf16_gain, 1.6),
        ]
    targets += [Target("cpu", case, "fwd", peak, peak_share, 0.65) for case in WIDE]
    original = "times faster than the original formula"
    targets += [
        Target("cpu", "cub200", "full", original, against("original", "fp32"), 4.0),
        Target("cpu", "grid14", "full", original, against("original", "fp32"), 12.0),
    ]
    for case, ratio in (("cub200", 10.0), ("grid14", 20.0)):
        targets += [
            Target("cpu", case, "fwd", peak, peak_share, 0.85, where="one core", isa="avx2"),
            Target("cpu", case, "fwd", peak, peak_share, 0.80, isa="avx2"),
            Target("cpu", case, "fwd", "times faster than torch.mm alone", against("mm", "fp32"), 1.0, isa="avx2"),
            Target("cpu", case, "full", original, against("original", "fp32"), ratio, isa="avx2"),
        ]
    return targets


def cuda_targets() -> list[Target]:
    targets = []
    for case in ("resnet14", "imagenet14", "vit16"):
        for precision in ("tf32", "bf16"):
            quantity = f"share of the {precision} floor"
            targets.append(Target("cuda", case, "fwd", quantity, datasheet_share(precision), 0.5))
    for case in ("segment190", "pool202"):
        targets.append(Target("cuda", case, "fwd", "share of the memory floor", memory_share, 0.6))
    targets += [
        Target("cuda", "cub200", "fwd", "milliseconds, eager", milliseconds("eager"), 0.030, below=True),
        Target("cuda", "cub200", "fwd", "milliseconds, in a graph", milliseconds("graph"), 0.015, below=True),
    ]
    for full in FULL:
        name = full.name
        targets += [
            Target("cuda", name, "full", "times faster than the original, both TF32", against("original", "tf32"), 5.0),
            Target("cuda", name, "full", "times faster than torch.compile", against_compile, 1.5),
            Target("cuda", name, "full", "times faster than product and reduction", against("matmul", "tf32"), 1.0),
        ]
    return targets


TARGETS = [*cpu_targets(), *cuda_targets()]
# On the CPU: of one B x P x H x W float32 tensor, beyond inputs, outputs and gradients.
MEMORY_SHARE = 0.10
# On CUDA, imagenet14: of what the original formula needs beyond the same.
CUDA_MEMORY_CASE = "imagenet14"
CUDA_MEMORY_SHARE = 0.02
# Push over a folder of photographs against the bare backbone over the same images.
PUSH_RATIO = 1.05
# Searches over stored features: times faster than the released program's loops, and seconds of a push at CUB's size.
SEARCH_RATIO = {"push": 30.0, "prune": 20.0}
CHECKPOINT_SHARE = 0.02  # of an epoch
PUSH_S = 2.0
# A stream from the disk: of the op's own speed, and memory of the process in 1e6 bytes.
STREAM_SHARE = 0.6
STREAM_MB = 1500.0
# Importance of six modifications against seven passes of the bare backbone and the modifications alone.
IMPORTANCE_RATIO = 1.15
# The page of a run with 2,000 prototypes: building it, and the first view of it in Chromium.
REPORT_BUILD_S = 180.0
REPORT_VIEW_MS = 2000.0
# The workbench: its first page in Chromium, an answer, and an edit with up to so many prototypes.
APP_VIEW_MS = 2000.0
APP_ASK_MS = 1000.0
APP_EDIT_MS = {100: 2000.0, 1000: 10_000.0}
# An explanation of one image with four sufficient frames.
FRAMES_S = 1.0
BACKBONE_RATIO = 2.0
# Forward and backward of ProtoPool's head: times faster than the released formula.
POOL_RATIO = 2.0
# The same of TesNet's, and of a ProtoTree's with the update of its leaves.
TESNET_RATIO = 5.0
PROTOTREE_RATIO = 20.0
# An exported model in onnxruntime: what the head may take of the time.
ONNX_SHARE = 0.15
# The last layer of 200 classes and 2,000 prototypes on 5,994 images.
MADE_UP = "made up"
LAST_LAYER_S = 10.0
LAST_LAYER_GAP = 1e-4
# Training of a head from a feature store: times the images a second of the plain eager head.
FROZEN_RATIO = 3.0


def verdicts(rows: Sequence[SpeedRow], device: str | None = None) -> list[str]:
    """What the newest rows say about every target, of one device or of both."""
    comparisons = newest(rows)
    chosen = [target for target in TARGETS if device in (None, target.device)]
    return [line for target in chosen for line in target.verdicts(comparisons)]


def summary(rows: Sequence[SpeedRow], device: str) -> list[str]:
    """The targets that a run has something to say about, and how many it has not."""
    lines = verdicts(rows, device)
    measured = [line for line in lines if not line.endswith(NOT_MEASURED)]
    rest = len(lines) - len(measured)
    return [*measured, f"{rest} more: {NOT_MEASURED} in this run"] if rest else measured


def memory_verdict(row: MemoryRow, original: MemoryRow | None) -> str:
    """What a row of ours says about the bound on memory; empty where there is none for its case."""
    if row.isa.startswith("sm_"):
        if row.case != CUDA_MEMORY_CASE or original is None:
            return ""
        share = row.extra_mb / original.extra_mb
        reached = "reached" if share < CUDA_MEMORY_SHARE else "MISSED"
        return f"{share:.1%} of the original's, target < {CUDA_MEMORY_SHARE:.0%}: {reached}"
    if row.case != "grid14":
        return ""
    return f"target < {MEMORY_SHARE:.0%}: {'reached' if row.share < MEMORY_SHARE else 'MISSED'}"


def search_verdict(row: SearchRow) -> list[str]:
    """What a search over stored features had to reach, and whether it did."""
    if row.case == "stream":
        assert row.peak_mb is not None
        return [
            judged(f"{row.ratio:.0%} of the op's own speed", f">= {STREAM_SHARE:.0%}", row.ratio >= STREAM_SHARE),
            judged(f"{row.peak_mb:.0f} MB", f"< {STREAM_MB:.0f} MB", row.peak_mb < STREAM_MB),
        ]
    bound = SEARCH_RATIO[row.case]
    lines = [judged(f"{row.ratio:.1f} x the original", f">= {bound:g} x", row.ratio >= bound)]
    if row.case == "push":
        lines.append(judged(f"{row.search_s:.2f} s", f"<= {PUSH_S:g} s", row.search_s <= PUSH_S))
    return lines


def judged(measured: str, wanted: str, is_reached: bool) -> str:
    return f"{measured}, target {wanted}: {'reached' if is_reached else 'MISSED'}"


def last_layer_verdict(solved: LastLayerRow, stepped: LastLayerRow) -> str:
    """What the solver had to reach on the made-up problem, and whether it did; nothing was asked of trained runs."""
    if solved.problem != MADE_UP:
        return ""
    assert solved.gap is not None
    is_below = solved.objective <= stepped.objective
    lines = [
        judged(f"{solved.seconds:.1f} s", f"<= {LAST_LAYER_S:g} s", solved.seconds <= LAST_LAYER_S),
        judged(f"gap {solved.gap:.1e}", f"<= {LAST_LAYER_GAP:g}", solved.gap <= LAST_LAYER_GAP),
        judged(f"objective {solved.objective:.3g}", f"<= {stepped.objective:.3g} of the small steps", is_below),
    ]
    return "; ".join(lines)


def frames_verdict(row: FramesRow) -> str:
    """What an explanation with four frames may take, and whether it does."""
    return judged(f"{row.framed_s:.2f} s", f"<= {FRAMES_S:g} s", row.framed_s <= FRAMES_S)


def app_verdict(row: AppRow) -> list[str]:
    """What the workbench may take, and whether it does; of more prototypes than are asked for, the times alone."""
    lines = [judged(f"answer {row.ask_ms:.0f} ms", f"<= {APP_ASK_MS:g} ms", row.ask_ms <= APP_ASK_MS)]
    if row.forbid_ms is not None and row.undo_ms is not None:
        edit = f"forbid {row.forbid_ms:.0f} ms, undo {row.undo_ms:.0f} ms"
        most = next((bound for count, bound in APP_EDIT_MS.items() if row.prototypes <= count), None)
        is_reached = most is not None and max(row.forbid_ms, row.undo_ms) <= most
        lines.append(edit if most is None else judged(edit, f"<= {most:g} ms", is_reached))
    if row.paint_ms is not None and row.load_ms is not None:
        seen = f"first view {row.paint_ms:.0f} ms, loaded {row.load_ms:.0f} ms"
        lines.append(judged(seen, f"<= {APP_VIEW_MS:g} ms", max(row.paint_ms, row.load_ms) <= APP_VIEW_MS))
    return lines


def onnx_verdict(row: OnnxRow) -> str:
    """What of the time the head of an exported model may take, and whether it does."""
    return judged(f"head {row.head_share:.1%} of the time", f"<= {ONNX_SHARE:.0%}", row.head_share <= ONNX_SHARE)


def backbone_verdict(row: BackboneRow) -> str:
    """How many times faster a fused pass must be, and whether it is."""
    return judged(f"{row.ratio:.2f}x", f">= {BACKBONE_RATIO:g}x", row.ratio >= BACKBONE_RATIO)


def checkpoint_verdict(row: CheckpointRow) -> str:
    """What a checkpoint may cost, and whether it does."""
    return judged(f"{row.share:.2%} of an epoch", f"<= {CHECKPOINT_SHARE:.0%}", row.share <= CHECKPOINT_SHARE)
