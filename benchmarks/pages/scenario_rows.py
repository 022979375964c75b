"""What one measurement of a scenario is, column by column."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.pages.rows import Measurement


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


@dataclass(frozen=True)
class SearchRow(Measurement):
    """A search over stored features against what it replaces.

    Attributes:
        case: "push", "prune" or "stream".
        baseline: "original" for the released program's loops, "op" for `min_distance` alone on batches in memory.
        rounds: passes of each kind; they alternate.
        search_s: one pass over all images, reading included.
        baseline_images: how many images the baseline ran over; `baseline_s` is scaled to all.
        ratio: median over rounds of baseline time over search time of the same round.
        peak_mb: the most memory that the process of a stream held, Python and torch included, in 1e6 bytes.
    """

    case: str
    baseline: str
    images: int
    side: int
    depth: int
    prototypes: int
    classes: int
    k: int
    batch_size: int
    threads: int
    rounds: int
    search_s: float
    baseline_images: int
    baseline_s: float
    ratio: float
    peak_mb: float | None


@dataclass(frozen=True)
class CheckpointRow(Measurement):
    """Epochs of a training with a checkpoint at the end, and without.

    Attributes:
        rounds: epochs of each kind; they alternate.
        epoch_s: one without, validation included.
        checkpoint_s: writing one, until it is on the disk.
        checkpoint_mb: its size, in 1e6 bytes.
        share: `checkpoint_s` over `epoch_s`.
        ratio: median over rounds of an epoch with one over an epoch without of the same round.
    """

    backbone: str
    images: int
    image_size: int
    prototypes: int
    threads: int
    rounds: int
    epoch_s: float
    checkpoint_s: float
    checkpoint_mb: float
    share: float
    ratio: float


@dataclass(frozen=True)
class LastLayerRow(Measurement):
    """The last-layer stage in one of the two ways.

    Attributes:
        problem: "made up", or the folder of a run.
        solver: "convex" or "compat".
        inputs: of the last layer: prototypes, or a pool's slots.
        path: strengths of L1 that were tried.
        seconds: median over the rounds, of the whole stage but the activations.
        gap: relative distance to the minimum, at most; None where nobody knows.
        l1: strength that was kept.
        objective: cross entropy and L1 as the paper has them, at the run's own strength.
        nonzero: weights to other classes that are not zero.
        test_accuracy: in [0, 1]; None where there are no test images.
    """

    problem: str
    solver: str
    images: int
    inputs: int
    classes: int
    path: int
    threads: int
    rounds: int
    seconds: float
    gap: float | None
    l1: float
    evaluations: int | None
    objective: float
    nonzero: int
    test_accuracy: float | None


@dataclass(frozen=True)
class ImportanceRow(Measurement):
    """The importance of modifications against what it cannot do without.

    Attributes:
        modifications: how many.
        rounds: of each kind; they alternate.
        backbone_s: the bare backbone over the images, once for the originals and once for each modification.
        modifications_s: all modifications of all images, with the same threads.
        ratio: median over rounds of importance time over the sum of these two of the same round.
    """

    backbone: str
    images: int
    image_size: int
    prototypes: int
    modifications: int
    batch_size: int
    threads: int
    rounds: int
    backbone_s: float
    modifications_s: float
    importance_s: float
    ratio: float


@dataclass(frozen=True)
class FramesRow(Measurement):
    """Explanations of test images of a trained run, one after the other, with and without sufficient frames.

    Attributes:
        data: name of the folder.
        frames: that were found, of four an image.
        backbone_s: median of its pass over one image.
        explained_s: median of an explanation without frames.
        framed_s: median of one with four frames; slowest_s: the longest.
        area: median of the frames' share of the image, percent; None: none was found.
    """

    data: str
    backbone: str
    image_size: int
    images: int
    frames: int
    threads: int
    backbone_s: float
    explained_s: float
    framed_s: float
    slowest_s: float
    area: float | None


@dataclass(frozen=True)
class BackboneRow(Measurement):
    """The pass of a frozen backbone over a chunk of images, layer by layer and with fused convolutions.

    Attributes:
        onednn: the largest instruction set that oneDNN might use; empty: what the processor has.
        eager_images_s: images a second layer by layer, from the median of the rounds; fused_images_s: fused.
        ratio: median over the rounds of how many times faster the fused pass was.
        error: the largest difference of the two results, as a share of the largest feature.
    """

    threads: int
    backbone: str
    image_size: int
    images: int
    onednn: str
    rounds: int
    eager_images_s: float
    fused_images_s: float
    ratio: float
    error: float


@dataclass(frozen=True)
class FrozenRow(Measurement):
    """A step of training of a head on the features of a frozen backbone, by one provider.

    Attributes:
        provider: "store bf16", "store fp32", "eager", "eager channels last", or "backbone", which runs on every batch.
        channels: of the features.
        side: rows and columns of the features.
        batch: images in a step.
        faster_than_eager: median of "eager" over this median, from the same rounds.
        faster_than_backbone: median of "backbone" over this median.
    """

    provider: str
    backbone: str
    image_size: int
    channels: int
    side: int
    prototypes: int
    batch: int
    threads: int
    rounds: int
    p20_ms: float
    p50_ms: float
    p80_ms: float
    images_per_s: float
    faster_than_eager: float
    faster_than_backbone: float


@dataclass(frozen=True)
class PoolRow(Measurement):
    """Forward and backward of ProtoPool's head by one provider.

    Attributes:
        provider: "protokern", "original" or "eager".
        scale: of the logits of the choices; None: the choices are final.
        faster_than_original: median of the released formula over this median, from the same rounds.
        extra_mb: peak of the resident memory less what the results need, in 1e6 bytes.
        map_mb: one B x P x H x W float32 tensor of the case.
    """

    provider: str
    case: str
    focal: str
    scale: float | None
    images: int
    depth: int
    side: int
    prototypes: int
    classes: int
    slots: int
    threads: int
    rounds: int
    p20_ms: float
    p50_ms: float
    p80_ms: float
    faster_than_original: float | None
    extra_mb: float
    map_mb: float


@dataclass(frozen=True)
class HeadRow(Measurement):
    """Forward and backward of the head of a model by one provider.

    Attributes:
        provider: "protokern" or "original".
        case: the model, and what of it is computed.
        size: of features and prototypes.
        faster_than_original: median of the released formula over this median, from the same rounds.
    """

    provider: str
    case: str
    size: str
    threads: int
    rounds: int
    p20_ms: float
    p50_ms: float
    p80_ms: float
    faster_than_original: float


@dataclass(frozen=True)
class OnnxRow(Measurement):
    """A pass of an exported model in onnxruntime, and of its part up to the backbone's map.

    Attributes:
        case: whose settings the model has.
        size: of backbone, images and prototypes.
        repair: how distances are computed again.
        runtime: version of onnxruntime.
        backbone_ms: median of the backbone alone, from the same rounds.
        head_share: of the time, what the rest takes; by 20th percentiles, since whatever else a machine does only adds
            to times.
    """

    case: str
    size: str
    repair: str
    runtime: str
    threads: int
    rounds: int
    p20_ms: float
    p50_ms: float
    p80_ms: float
    backbone_ms: float
    head_share: float


@dataclass(frozen=True)
class WeightRow(Measurement):
    """`prototype_pool` with weights of the patches, or without.

    Attributes:
        mode: "fwd", or "full" for forward and backward with all gradients.
        weights: "none", "numbers" (random ones) or "mask".
        slower_than_none: 20th percentile over that of the call without weights, from the same rounds. Whatever else a
            machine does only adds to times, so quick rounds tell calls apart best.
    """

    case: str
    metric: str
    mode: str
    backend: str
    weights: str
    threads: int
    rounds: int
    p20_ms: float
    p50_ms: float
    p80_ms: float
    slower_than_none: float


@dataclass(frozen=True)
class MetricRow(Measurement):
    """`min_distance` with one metric.

    Attributes:
        mode: "fwd", or "full" for forward and backward with both gradients.
        speed_of_cosine: 20th percentile of the cosine over that of this metric, from the same rounds.
    """

    case: str
    mode: str
    backend: str
    metric: str
    threads: int
    rounds: int
    p20_ms: float
    p50_ms: float
    p80_ms: float
    speed_of_cosine: float
