"""How long a training will take, from a few images and steps that are timed before it begins.

What is timed is thrown away: the model, its random numbers and its files stay as they are. Times are for one process.
"""

from __future__ import annotations

import copy
import io
import time
from collections import Counter
from dataclasses import dataclass, replace

import torch
from PIL import Image
from torch import Tensor

from protokern.backbones.fusing import can_fuse, run_fused
from protokern.features import FeatureStore
from protokern.inputs.loaders import training_loader
from protokern.inputs.sources import to_device
from protokern.inputs.stores import by_store
from protokern.nn import evaluating
from protokern.ranks import SINGLE
from protokern.results.stages import Stage
from protokern.train.optimizers import freeze
from protokern.train.stages import LEARNING, Step
from protokern.train.state import Job, plan_of
from protokern.train.step import learn_from, make_forward

TIMED_IMAGES = 8
TIMED_ROWS = 256
# What frames, explanations and measured images cost in the report, in images that the backbone could see meanwhile on a
# processor. Measured in one run: 30 prototypes, 12 explained and 12 measured images, 224 pixels, an EfficientNet-Lite0.
IMAGES_A_FRAME, IMAGES_AN_EXPLANATION, IMAGES_A_MEASUREMENT = 9, 50, 28
MOST_FRAMED, MOST_EXPLAINED, MOST_MEASURED = 120, 12, 12  # about as many as the report has, see `protokern.explain`
# What else a prototype costs: in pictures that could be saved meanwhile, and in seconds. Measured in that run, and in
# one with 1,000 prototypes and 48 pixels.
PICTURES_A_PROTOTYPE, SECONDS_A_PROTOTYPE = 5, 0.006
SECONDS_TO_BEGIN_REPORT = 2.0  # importing what draws it, and opening the run
EVALUATIONS = 200  # of the loss of the last layer; 37, 118, 232 and 426 in four runs
_FORWARD = 1 / 3  # share of a step that is not its backward pass


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a training.

    Attributes:
        name: what happens.
        seconds: how long it will take, as measured on a few images.
    """

    name: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a training will take.

    Attributes:
        parts: those that can be known, in order.
        seconds_an_image: of the backbone as the training runs it, with the reading of the image.
    """

    parts: tuple[Part, ...]
    seconds_an_image: float


def forecast(job: Job) -> Forecast | None:
    """Time a few images and steps; None with fewer than four training images, or in several processes."""
    if job.ranks.size > 1 or len(job.splits.push) < 4:
        return None
    with torch.random.fork_rng(devices=[job.model.device] if job.model.device.type == "cuda" else []):
        maps, images, labels, seconds_an_image = _time_backbone(job)
        steps = plan_of(job)
        is_frozen = job.train.backbone == "frozen"
        seconds_a_step = {
            stage: _time_step(job, stage, maps if is_frozen else images, labels)
            for stage in {step.stage for step in steps if step.stage in LEARNING}
        }
        report = _report(job, images)
    return Forecast((*_parts(job, steps, seconds_an_image, seconds_a_step), *report), seconds_an_image)


def _time_backbone(job: Job) -> tuple[Tensor, Tensor, Tensor, float]:
    """Maps, images and labels of a few training images, and the time for an image. The first batch only warms up."""
    backbone = job.model.backbone
    is_fused = job.train.backbone == "frozen" and can_fuse(backbone)
    count = min(TIMED_IMAGES, len(job.splits.push) // 2)
    batches = [list(range(count)), list(range(count, 2 * count))]
    started = 0.0
    for batch in training_loader(job.splits.push, batches, 0, seed=0):
        images = to_device(batch[0], job.model.device, job.train.channels_last)
        with evaluating(backbone):
            maps = run_fused(backbone, images) if is_fused else backbone(images)
        _finish(images)
        before, started = started, time.perf_counter()
    return maps, images, batch[1], (started - before) / count


def _report(job: Job, images: Tensor) -> tuple[Part, ...]:
    """Pictures and report, which are made on the processor; nothing if the images are elsewhere."""
    if images.device.type != "cpu":
        return ()
    with evaluating(job.model.backbone):
        for _ in range(2):  # the first one warms up
            started = time.perf_counter()
            job.model.backbone(images)
        seconds_an_image = (time.perf_counter() - started) / len(images)
    classes, count, tested = len(job.classes), job.model.num_prototypes, len(job.splits.test)
    measured = min(MOST_MEASURED, tested)
    seen = IMAGES_A_FRAME * min(count, MOST_FRAMED) + IMAGES_AN_EXPLANATION * min(MOST_EXPLAINED, 2 * classes, tested)
    # Each class has a training image from which random prototypes are drawn.
    seen += IMAGES_A_MEASUREMENT * measured + (max(0, classes - MOST_MEASURED) if measured else 0)
    drawn = count * (PICTURES_A_PROTOTYPE * _time_picture(images[0]) + SECONDS_A_PROTOTYPE)
    return (Part("pictures and report", SECONDS_TO_BEGIN_REPORT + seen * seconds_an_image + drawn),)


def _time_picture(image: Tensor) -> float:
    """The time to save an image (C, Y, X) as a picture in colour."""
    colours = image[:3] if len(image) >= 3 else image[:1].expand(3, -1, -1)
    picture = Image.fromarray((255 * colours).clamp(0, 255).byte().permute(1, 2, 0).numpy())
    for _ in range(2):  # the first one warms up
        started = time.perf_counter()
        picture.save(io.BytesIO(), "PNG")
    return time.perf_counter() - started


def _time_last_layer(job: Job) -> float:
    """The time for an image of one evaluation of the loss and its gradient in the weights of the last layer."""
    rows = min(TIMED_ROWS, len(job.splits.push))
    inputs = torch.ones(rows, len(job.model.last_layer_identity), device=job.model.device)  # (N, E)
    weight = torch.ones(len(job.classes), inputs.shape[1], device=job.model.device)  # (K, E)
    for _ in range(2):  # the first one warms up
        started = time.perf_counter()
        (inputs @ weight.T).softmax(dim=1).T @ inputs
        _finish(inputs)
    return (time.perf_counter() - started) / rows


def _time_step(job: Job, stage: Stage, inputs: Tensor, labels: Tensor) -> float:
    """The time of a step for an image, with a copy of the model."""
    twin = copy.deepcopy(job.model)
    config = replace(job.train, compile=False, accumulation=1)
    freeze(twin, stage, config)
    is_frozen = config.backbone == "frozen"
    wanted = max(2, min(config.batch_size, len(job.splits.push))) if is_frozen else len(inputs)
    order = torch.arange(wanted) % len(inputs)
    inputs, labels = inputs[order.to(inputs.device)], labels[order]
    if twin.views > 1:
        inputs = inputs[:, None].expand(-1, twin.views, -1, -1, -1)
    forward = make_forward(twin, config, "maps" if is_frozen else "images")
    for _ in range(2):  # the first one warms up
        started = time.perf_counter()
        learn_from(twin, forward, inputs, labels, wanted, config, SINGLE)
        _finish(inputs)
    return (time.perf_counter() - started) / wanted


def _finish(tensor: Tensor) -> None:
    """Wait for a GPU."""
    if tensor.device.type == "cuda":
        torch.cuda.synchronize(tensor.device)


def _parts(
    job: Job, steps: tuple[Step, ...], seconds_an_image: float, seconds_a_step: dict[Stage, float]
) -> tuple[Part, ...]:
    splits = job.splits
    train, others = len(splits.push), len(splits.val) + len(splits.test)
    epochs = Counter(step.stage for step in steps if step.stage in LEARNING)
    learning = sum(count * train * seconds_a_step[stage] for stage, count in epochs.items())
    told = f"{epochs.total()} epoch{'' if epochs.total() == 1 else 's'}"
    solved = sum(step.stage in ("last_layer", "pruned_last_layer") for step in steps)
    evaluations = EVALUATIONS if job.train.last_layer_solver == "convex" else job.train.last_layer_epochs
    solving = solved * evaluations * train * _time_last_layer(job)
    if job.train.backbone == "frozen":
        missing = sum(
            len(images)
            for name, images in by_store(splits).items()
            if not FeatureStore.is_complete(job.feature_folder / name)
        )
        backbone = Part(f"backbone over {missing:,} images", missing * seconds_an_image)
        forward = solved * _FORWARD * (train + others) * max(seconds_a_step.values(), default=0.0)
        last_layer = Part("last layer", forward + solving)
        return *((backbone,) if missing else ()), Part(f"{told} of the head", learning), last_layer
    learning += epochs.total() * len(splits.val) * seconds_an_image
    # Their features serve the last layer too.
    passes = sum(step.stage in ("start", "push", "exemplars") for step in steps)
    rest = passes * (train + others) * seconds_an_image
    return Part(f"{told} of {train:,} images", learning), Part("push and last layer", rest + solving)
