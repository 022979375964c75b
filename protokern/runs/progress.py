"""What a run needs to resume with the same bits: its progress as a table, the states of the optimizer and the random
number generators as named tensors, and seeds."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from protokern.errors import CheckpointError, TrainingError
from protokern.features import fingerprint_of_files
from protokern.inputs.loaders import DataSplits
from protokern.results.stages import Stage


@dataclass(frozen=True, kw_only=True, slots=True)
class Best:
    """The best weights so far by the validation split: accuracy, then cross entropy."""

    checkpoint: str
    epoch: int
    accuracy: float
    loss: float

    def is_beaten_by(self, accuracy: float, loss: float) -> bool:
        """Whether an epoch with this accuracy and cross entropy is better."""
        return (accuracy, -loss) > (self.accuracy, -self.loss)


@dataclass(kw_only=True, slots=True)
class EpochSums:
    """Sums over the batches of an unfinished epoch; empty between epochs.

    Attributes:
        loss: sum over the images.
        terms: of the loss by name, before their coefficients, summed over the images.
        correct: number of right answers.
        images: number of images in these batches.
        seconds: time that the epoch had taken when it was stopped.
    """

    loss: float = 0.0
    terms: dict[str, float] = field(default_factory=dict)
    correct: float = 0.0
    images: float = 0.0
    seconds: float = 0.0

    def add(self, loss: float, terms: Mapping[str, float], correct: float, images: float) -> None:
        """Count a batch.

        Args:
            loss: mean over its images.
            terms: of the loss by name, means over its images.
            correct: number of right answers.
            images: number of images of the batch.

        Raises:
            TrainingError: a term has the name of another entry of a checkpoint.
        """
        taken = _OWN_SUMS & terms.keys()
        if taken:
            raise TrainingError(
                f"loss: must name its terms other than {', '.join(sorted(_OWN_SUMS))}; got {', '.join(sorted(taken))}. "
                "Rename them in the model's loss."
            )
        self.loss += loss * images
        for name, term in terms.items():
            self.terms[name] = self.terms.get(name, 0.0) + term * images
        self.correct += correct
        self.images += images

    def to_table(self) -> dict[str, float]:
        """As plain JSON values: the terms beside the other sums."""
        if not self.images:
            return {}
        sums = {"loss": self.loss, **self.terms, "correct": self.correct, "images": self.images}
        return {**sums, "seconds": self.seconds} if self.seconds else sums

    @classmethod
    def from_table(cls, table: Mapping[str, float]) -> EpochSums:
        """From a table of `to_table`."""
        return cls(
            loss=table.get("loss", 0.0),
            terms={name: value for name, value in table.items() if name not in _OWN_SUMS},
            correct=table.get("correct", 0.0),
            images=table.get("images", 0.0),
            seconds=table.get("seconds", 0.0),
        )


_OWN_SUMS = {one.name for one in fields(EpochSums)} - {"terms"}


@dataclass(kw_only=True, slots=True)
class Progress:
    """How far a run is; saved with every checkpoint, so that a resumed run gives the same bits.

    Attributes:
        position: index of the next step in the plan.
        batch: number of batches of that step that are already done.
        epoch: training epoch that the present weights come from; -1 before the first.
        optimizer_stage: stage of the optimizer in use.
        images: number of images in each split, to notice other data.
        names: fingerprints of the images' names and classes in each split, to notice other data with as many images.
        sums: of an epoch that is not finished.
        best_joint: best joint epoch since the last push; from the hardening on, best hardening epoch. With forbidden
            patches it is the last one.
        best_live: best epoch of the current live stage, counted from 1; 0: the push before it.
        best_pushed: best last-layer stage.
        waited: number of joint or hardening epochs since `best_joint` changed.
        seconds: time spent in each stage.
        results: StageRecords as tables, one list entry each, in order.
        log_lines: lines of the log when the checkpoint was written.
    """

    position: int = 0
    batch: int = 0
    epoch: int = -1
    optimizer_stage: Stage | None = None
    images: dict[str, int] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    sums: EpochSums = field(default_factory=EpochSums)
    best_joint: Best | None = None
    best_live: Best | None = None
    best_pushed: Best | None = None
    waited: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    results: list[dict[str, Any]] = field(default_factory=list)
    log_lines: int = 0

    def note_data(self, splits: DataSplits) -> None:
        """Record which images the run began with."""
        self.images, self.names = _count_images(splits), _name_images(splits)

    def check_data(self, splits: DataSplits, classes: Sequence[str], own_classes: Sequence[str]) -> None:
        """Refuse images or classes other than those that the run began with.

        Args:
            splits: the data now.
            classes: names of their classes.
            own_classes: names of the classes of the run.

        Raises:
            CheckpointError: images or classes differ.
        """
        images = _count_images(splits)
        if self.images and (tuple(own_classes) != tuple(classes) or self.images != images):
            raise CheckpointError(
                f"data: must be that of the run to resume it, {self.images} images of {len(own_classes)} classes; "
                f"got {images} of {len(classes)}. Give the same folder, or start a new run."
            )
        other = [split for split, name in _name_images(splits).items() if self.names.get(split, name) != name]
        if other:
            raise CheckpointError(
                f"data: must be that of the run to resume it; got as many images, but of other names or classes in "
                f"{', '.join(other)}. Give the same folder, or start a new run."
            )

    def finish_step(self, stage: Stage, seconds: float, results: Sequence[dict[str, Any]], next_position: int) -> None:
        """Move on to the step at `next_position`; `results` are those of the finished step, as tables."""
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds
        self.results += results
        self.position, self.batch, self.sums = next_position, 0, EpochSums()

    def note_joint(self, result: Best) -> None:
        """Keep the best joint or hardening epoch since the last push; count the epochs since it."""
        if self.best_joint is None or self.best_joint.is_beaten_by(result.accuracy, result.loss):
            self.best_joint, self.waited = result, 0
        else:
            self.waited += 1

    def note_last_joint(self, result: Best) -> None:
        """Keep the last joint or hardening epoch, whatever its result."""
        self.best_joint, self.waited = result, 0

    def forget_joint(self) -> None:
        """Forget the best joint or hardening epoch: the next one is the first to compare."""
        self.best_joint, self.waited = None, 0

    def note_live(self, result: Best) -> None:
        """Keep the best epoch of the current live stage."""
        if self.best_live is None or self.best_live.is_beaten_by(result.accuracy, result.loss):
            self.best_live = result

    def note_pushed(self, result: Best) -> None:
        """Keep the best last-layer stage."""
        if self.best_pushed is None or self.best_pushed.is_beaten_by(result.accuracy, result.loss):
            self.best_pushed = result

    def to_table(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {**asdict(self), "sums": self.sums.to_table()}

    @classmethod
    def from_table(cls, table: dict[str, Any]) -> Progress:
        """From a table of `to_table`."""
        values = {**table, "names": dict(table.get("names", {})), "sums": EpochSums.from_table(table.get("sums", {}))}
        for name in ("best_joint", "best_live", "best_pushed"):
            values[name] = Best(**values[name]) if values.get(name) else None  # older files lack the second
        return cls(**values)


def _count_images(splits: DataSplits) -> dict[str, int]:
    return {"train": len(splits.train), "val": len(splits.val), "test": len(splits.test)}


def _name_images(splits: DataSplits) -> dict[str, str]:
    """A fingerprint of the names and classes of each split's images, not of their folder or pixels."""
    return {
        split: fingerprint_of_files((images.sample_name(one), images.labels[one], None) for one in range(len(images)))
        for split, images in (("train", splits.train), ("val", splits.val), ("test", splits.test))
    }


def set_seed(seed: int, position: int) -> None:
    """Seed Python, NumPy and torch for one step of a run, the same whether the run was resumed or not."""
    words = np.random.SeedSequence([seed, position]).generate_state(3)
    random.seed(int(words[0]))
    np.random.seed(words[1])
    torch.manual_seed(int(words[2]))


def optimizer_tensors(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """The optimizer's state, each tensor named after its parameter."""
    return {
        f"optimizer/{key}/{name}": value
        for name, parameter in _parameters_of(optimizer, model)
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def load_optimizer(optimizer: torch.optim.Optimizer, model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Restore the state that `optimizer_tensors` returned.

    Raises:
        CheckpointError: a tensor does not fit its parameter.
    """
    optimizer.state.clear()
    parameters = dict(_parameters_of(optimizer, model))
    for full_name, value in tensors.items():
        if not full_name.startswith("optimizer/"):
            continue
        _, key, name = full_name.split("/", 2)
        parameter = parameters.get(name)
        if parameter is None or (value.dim() and value.shape != parameter.shape):
            raise CheckpointError(f"{full_name}: the optimizer state does not fit the model.")
        if value.dim():  # in the memory format of the parameter, where the update is fastest
            value = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
        optimizer.state[parameter][key] = value


def _parameters_of(optimizer: torch.optim.Optimizer, model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    learnt = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    return ((name, parameter) for name, parameter in model.named_parameters() if id(parameter) in learnt)


def random_tensors(device: torch.device) -> dict[str, Tensor]:
    """The states of the random number generators of Python, NumPy and torch, and of `device` if it is a GPU."""
    _, python_words, python_gauss = random.getstate()
    numpy_state = np.random.get_state(legacy=False)
    assert isinstance(numpy_state, dict)
    words, position = numpy_state["state"]["key"].tolist(), numpy_state["state"]["pos"]
    tensors = {
        "random/python": torch.tensor(python_words, dtype=torch.int64),
        # Python draws normal numbers in pairs; this is the second one, if it was not used yet.
        "random/python_gauss": torch.tensor([] if python_gauss is None else [python_gauss], dtype=torch.float64),
        "random/numpy": torch.tensor([*words, position, numpy_state["has_gauss"]], dtype=torch.int64),
        "random/numpy_gauss": torch.tensor(numpy_state["gauss"], dtype=torch.float64),
        "random/torch": torch.get_rng_state(),
    }
    if device.type == "cuda":
        tensors["random/cuda"] = torch.cuda.get_rng_state(device)
    return tensors


def load_random(tensors: Mapping[str, Tensor], device: torch.device) -> None:
    """Restore the states that `random_tensors` returned."""
    python_gauss = tensors["random/python_gauss"].tolist() if "random/python_gauss" in tensors else []  # older files
    random.setstate((3, tuple(tensors["random/python"].tolist()), python_gauss[0] if python_gauss else None))
    *words, position, has_gauss = tensors["random/numpy"].tolist()
    gauss = float(tensors["random/numpy_gauss"])
    np.random.set_state(("MT19937", np.array(words, dtype=np.uint32), position, has_gauss, gauss))
    torch.set_rng_state(tensors["random/torch"])
    if "random/cuda" in tensors and device.type == "cuda":
        torch.cuda.set_rng_state(tensors["random/cuda"], device)
