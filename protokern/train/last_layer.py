"""The last-layer stage: a convex problem over activations that do not change, so they are computed once."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from protokern.errors import TrainingError
from protokern.losses import last_layer_l1
from protokern.models.base import PrototypeModel
from protokern.train.evaluate import Evaluation
from protokern.train.settings import TrainConfig


@dataclass(frozen=True, slots=True)
class LastLayerInputs:
    """What the last layer is given for a data set, (N, E), and its labels (N,)."""

    values: Tensor
    labels: Tensor

    @torch.no_grad()
    def evaluate(self, last_layer: nn.Module) -> Evaluation:
        """Accuracy and cross entropy with this last layer."""
        logits = last_layer(self.values)  # (N, K)
        correct = (logits.argmax(dim=1) == self.labels).sum()
        return Evaluation(
            int(correct) / max(len(self.labels), 1),
            float(F.cross_entropy(logits.double(), self.labels)),
            len(self.labels),
        )


@torch.no_grad()
def collect_inputs(model: PrototypeModel, features: Iterable[tuple[Tensor, Tensor]]) -> LastLayerInputs:
    """What the last layer is given for a data set, itself given as (features (B, D, H, W), labels (B,)) batches."""
    device = model.device
    values, labels = [], []
    for batch, batch_labels in features:
        values.append(model.last_layer_input(model.head(batch)))
        labels.append(batch_labels.to(device))
    if not values:
        inputs = len(model.last_layer_identity)
        return LastLayerInputs(torch.zeros(0, inputs, device=device), torch.zeros(0, dtype=torch.int64))
    return LastLayerInputs(torch.cat(values), torch.cat(labels))


@dataclass(frozen=True, slots=True)
class LastLayerResult:
    """What the stage did: the epoch whose weights were kept (0: those from before), and the training loss around it."""

    best_epoch: int
    loss_before: float
    loss_after: float


def train_last_layer(
    model: PrototypeModel,
    train: LastLayerInputs,
    val: LastLayerInputs,
    config: TrainConfig,
    optimizer: torch.optim.Optimizer,
) -> LastLayerResult:
    """Learn `model.last_layer` on fixed activations and keep the weights that are best on `val`.

    The loss is cross entropy plus L1 of the weights to other classes than an input's own. The weights from before the
    stage take part in the choice.

    Raises:
        TrainingError: the loss is no longer finite.

    Source: Chen et al. 2019 (ProtoPNet), section 2.2, "convex optimization of last layer"; the released program runs
        the whole net for each of the 20 epochs.
    """
    layer = model.last_layer
    best, best_epoch, best_weights = val.evaluate(layer), 0, copy.deepcopy(layer.state_dict())
    loss_before = float(_loss(model, train.values, train.labels, config).detach())
    for epoch in range(1, config.last_layer_epochs + 1):
        order = np.random.default_rng([config.seed, epoch]).permutation(len(train.labels))
        for batch in torch.from_numpy(order).to(train.labels.device).split(config.batch_size):
            loss = _loss(model, train.values[batch], train.labels[batch], config)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        result = val.evaluate(layer)
        if not np.isfinite(result.loss):
            raise TrainingError(
                f"last_layer, epoch {epoch}: the loss is no longer finite. Lower train.last_layer_lr and --resume."
            )
        if (result.accuracy, -result.loss) > (best.accuracy, -best.loss):
            best, best_epoch, best_weights = result, epoch, copy.deepcopy(layer.state_dict())
    layer.load_state_dict(best_weights)
    return LastLayerResult(best_epoch, loss_before, float(_loss(model, train.values, train.labels, config).detach()))


def _loss(model: PrototypeModel, inputs: Tensor, labels: Tensor, config: TrainConfig) -> Tensor:
    logits = model.last_layer(inputs)  # (B, K)
    weight = model.last_layer.weight
    assert isinstance(weight, Tensor)
    cross_entropy = F.cross_entropy(logits, labels, label_smoothing=config.label_smoothing)
    return config.cross_entropy * cross_entropy + config.l1 * last_layer_l1(weight, model.last_layer_identity)
