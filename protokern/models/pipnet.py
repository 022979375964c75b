"""PIP-Net: prototypes are channels that mean the same under every change of view, and a sparse sheet scores them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from protokern.losses import Labels, LossCoefficients, ModelLoss, pipnet_loss
from protokern.models.base import ModelOutput, PrototypeModel
from protokern.models.feature_shape import check_grid, find_feature_shape
from protokern.models.pipnet_settings import PIPNetConfig
from protokern.models.plan import PruneSettings, Step, TrainSettings
from protokern.models.settings import check_num_classes, settings_of
from protokern.nn import ChannelLayer, ScoringSheet
from protokern.nn.patch_layer import Activation
from protokern.results.stages import Stage

LEAST_WEIGHT = 1e-3  # a smaller one counts as none
_LEAST_RATE = 1e-3  # of the scoring sheet, where its schedule begins again
_SHORT, _CYCLE, _SHORT_CYCLE = 30, 10, 5  # epochs: up to how many are few, and from one beginning to the next


@dataclass(frozen=True)
class PIPNetOutput(ModelOutput):
    """The output of a PIP-Net for a batch; `activations` are presences, `logits` are log(1 + scores ** power).

    Attributes:
        scores: (B, K), presences times the weights of the sheet, >= 0.
        maps: (B, P, H, W), the shares of the prototypes at every cell; None in evaluation.
    """

    scores: Tensor
    maps: Tensor | None


torch.export.register_dataclass(PIPNetOutput, serialized_type_name="protokern.models.pipnet.PIPNetOutput")


class PIPNet(PrototypeModel):
    """PIP-Net on any convolutional backbone.

    At every cell a softmax shares 1 among the channels. The largest share of a channel over the cells is the presence
    of the prototype that it is, and the score of a class is a sum of presences with weights that are never negative.
    In evaluation presences below `smallest_presence` count as 0, so an image in which no class finds anything has no
    score at all: the net abstains. Two views of each image teach the channels to agree before labels are used.

    Args:
        backbone, num_classes, image_size, in_channels: see `PrototypeModel`.
        config: a `PIPNetConfig`, or its fields by name.
        backend: taken as by all models, and not used: there is no distance to compute.
        activation: None or "exp".

    Attributes:
        last_layer: the `ScoringSheet`, from presences to scores.

    Raises:
        TypeError: `config` is not a PIPNetConfig, or a setting is not one of its fields.
        ValueError: an argument is out of range, or the backbone gives no feature maps.

    Source: Nauta, Schlötterer, van Keulen, Seifert 2023, "PIP-Net: Patch-Based Intuitive Prototypes for Interpretable
        Image Classification".
    """

    Config = PIPNetConfig
    pushes: ClassVar[bool] = False
    views: ClassVar[int] = 2
    whole_batch_loss: ClassVar[bool] = True
    prototype_layer: ChannelLayer
    last_layer: ScoringSheet

    def __init__(
        self,
        backbone: nn.Module,
        num_classes: int,
        config: PIPNetConfig | None = None,
        *,
        image_size: int | tuple[int, int] = 64,
        in_channels: int = 3,
        backend: str = "auto",
        activation: Activation | None = None,
        **settings: Any,
    ) -> None:
        super().__init__()
        if callable(activation):
            raise ValueError('activation: must be "exp" for a PIP-Net; got a function. Leave it out.')
        check_num_classes(num_classes)
        self.config = config = settings_of(PIPNetConfig, config, settings, activation)
        size = (image_size, image_size) if isinstance(image_size, int) else image_size
        channels, height, width = find_feature_shape(backbone, in_channels, size)
        check_grid((height, width), size, config)
        self.backbone = backbone
        self.add_on_layers = _make_add_on(channels, config.num_prototypes)
        self.prototype_layer = ChannelLayer(config.num_prototypes or channels)
        self.last_layer = ScoringSheet(self.num_prototypes, num_classes, bias=config.bias)
        self._has_bounded_features = False
        self._stage: Stage = "joint"
        self._pretrained = 1.0  # share of the epochs of the pre-training

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.last_layer.weight)

    @property
    def prototype_weight(self) -> Tensor:
        """(K, P), >= 0: `scores = activations @ prototype_weight.T`, plus the bias of the class if there is one."""
        return self.last_layer.points

    @property
    def class_identity(self) -> Tensor:  # type: ignore[override]
        """(P, K), 1 where the prototype has a weight above 1e-3 for class k. It changes in training."""
        return (self.last_layer.points.detach().T > LEAST_WEIGHT).to(self.dtype)

    def head(self, features: Tensor) -> PIPNetOutput:
        """Logits, scores, presences and where they are for features (B, D, H, W)."""
        pool = self.prototype_layer(features)
        if self.training:
            maps = features.softmax(dim=1)[:, self.prototype_layer.channels]
            presence = maps.flatten(2).gather(2, pool.patch[..., None])[..., 0]
        else:
            maps = None
            presence = torch.where(pool.activation < self.config.smallest_presence, 0, pool.activation)
        scores = self.last_layer(presence)
        return PIPNetOutput(
            torch.log1p(scores**self.config.power), pool.min_distance, presence, pool.patch, scores, maps
        )

    def scores(self, output: ModelOutput) -> Tensor:
        """(B, K), what the points add up to."""
        assert isinstance(output, PIPNetOutput)
        return output.scores

    def abstains(self, output: ModelOutput) -> Tensor:
        """Whether all scores are 0, so that there is nothing in the image that any class is scored by; (B,) bool."""
        return ~(self.scores(output) > 0).any(dim=1)

    @property
    def score_bias(self) -> Tensor | None:
        """(K,), the bias of the sheet."""
        return self.last_layer.bias

    @property
    def smallest_similarity(self) -> float:
        """`smallest_presence`."""
        return self.config.smallest_presence

    def describe_sizes(self) -> dict[str, float | int]:
        """How many prototypes some class scores by, what share of the weights is none, and how many classes have none.

        Source: what the released `test.py` logs.
        """
        is_weight = self.last_layer.points.detach() > LEAST_WEIGHT  # (K, P)
        return {
            "relevant": int(is_weight.any(dim=0).sum()),
            "sparsity": float(1 - is_weight.double().mean()),
            "classes_without": int((~is_weight.any(dim=1)).sum()),
        }

    @property
    def coefficients(self) -> dict[str, float]:
        """The coefficients of the loss terms in the present epoch."""
        config = self.config
        if self._stage == "pretrain":
            rising = config.pretrain_alignment * self._pretrained
            return {"alignment": rising, "presence": config.pretrain_presence, "cross_entropy": 0.0}
        is_sheet = self._stage == "sheet"
        return {
            "alignment": 0.0 if is_sheet else config.alignment,
            "presence": 0.0 if is_sheet else config.presence,
            "cross_entropy": config.classification,
        }

    def loss(
        self, output: ModelOutput, labels: Labels, coefficients: LossCoefficients, *, label_smoothing: float = 0.0
    ) -> ModelLoss:
        """See `pipnet_loss`; the output is that of training, for two views of each labelled image."""
        assert isinstance(output, PIPNetOutput)
        if output.maps is None:
            raise ValueError("output: must be of a model in training; got one of evaluation. Call model.train() first.")
        own = self.coefficients
        own["cross_entropy"] *= coefficients.cross_entropy
        return pipnet_loss(output.logits, output.maps, output.activations, labels, own, label_smoothing=label_smoothing)

    def stages(self, train: TrainSettings, prune: PruneSettings) -> tuple[Step, ...]:
        """Pre-training, sheet, warm, joint; then exemplars, and pruning if it is asked for."""
        epochs = [stage for stage, count in self._epochs_of(train).items() for _ in range(count)]
        steps = [Step(stage, epoch) for epoch, stage in enumerate(epochs)]
        last = max(len(epochs) - 1, 0)
        return (*steps, Step("exemplars", last), *([Step("prune", last)] if prune.enabled else []))

    def _epochs_of(self, train: TrainSettings) -> dict[Stage, int]:
        config = self.config
        return {
            "pretrain": config.pretrain_epochs,
            "sheet": config.sheet_epochs if config.pretrain_epochs else 0,
            "warm": train.warm_epochs,
            "joint": train.joint_epochs,
        }

    def learning_rates(self, stage: Stage, train: TrainSettings) -> dict[str, float]:
        """Backbone and add-on layers learn in the pre-training, the sheet after it, and then all do."""
        net = {"backbone": train.backbone_lr, "add_on_layers": train.add_on_lr}
        sheet = {"last_layer": self.config.sheet_lr}
        by_stage: dict[Stage, dict[str, float]] = {
            "pretrain": net,
            "sheet": sheet,
            "warm": net | sheet,
            "joint": net | sheet,
        }
        return by_stage.get(stage, {})

    def waiting_layers(self, stage: Stage) -> tuple[str, ...]:
        """The early layers, until the joint stage."""
        return self.config.early_layers if stage in ("pretrain", "warm") else ()

    def rate_factors(self, step: Step, share: float, train: TrainSettings) -> dict[str, float] | None:
        """Cosines, batch by batch: of the net to a hundredth, and again after the pre-training; of the sheet with
        restarts.

        Source: `main.py` of the released program; its cosine of the net counts the epochs of the sheet in its length,
            and does not move in them.
        """
        epochs = self._epochs_of(train)
        first, in_sheet = epochs["pretrain"], epochs["sheet"]
        if step.stage == "pretrain":
            return dict.fromkeys(("backbone", "add_on_layers"), _cosine((step.epoch + share) / first, 0.01))
        length = sum(epochs.values()) - first
        done = step.epoch - first + share
        net = _cosine(max(done - in_sheet, 0.0) / length, 0.01)
        cycle = _SHORT_CYCLE if length <= _SHORT else _CYCLE
        least = min(_LEAST_RATE / self.config.sheet_lr, 1.0) if self.config.sheet_lr else 1.0
        return {"backbone": net, "add_on_layers": net, "last_layer": _cosine(done % cycle / cycle, least)}

    def set_step(self, step: Step) -> None:
        """Take the coefficients of the loss in that epoch."""
        self._stage = step.stage
        if step.stage == "pretrain":
            self._pretrained = min((step.epoch + 1) / max(self.config.pretrain_epochs, 1), 1.0)

    def after_step(
        self,
        output: ModelOutput,
        labels: Tensor,
        *,
        sum_over_ranks: Callable[[Tensor], Tensor] = lambda total: total,
    ) -> None:
        """Shrink the scoring sheet, see `ScoringSheet.shrink`; not in the pre-training."""
        if self._stage != "pretrain":
            self.last_layer.shrink(self.config.shrink)

    def prune_own(self, distance: Tensor | None = None) -> Tensor:
        """Drop the prototypes that no class scores by, or that are in no training image; one stays in any case.

        Args:
            distance: (P,), of every prototype to its nearest patch in the training images; None: unknown.

        Returns:
            Those that are left by their old numbers, (P',) int64.
        """
        weight = self.last_layer.points.detach().amax(dim=0)  # (P,)
        is_kept = weight > LEAST_WEIGHT
        if distance is not None:
            is_kept &= (-distance.to(weight)).exp() > self.config.smallest_presence
        if not is_kept.any():
            is_kept[weight.argmax()] = True
        kept = is_kept.nonzero().flatten()
        if len(kept) < self.num_prototypes:
            self._keep(kept)
        return kept

    def fit_sizes(self, weights: dict[str, Tensor]) -> None:
        """Take on the sizes of a pruned model whose `weights` are loaded next."""
        channels = weights.get("prototype_layer.channels")
        if channels is not None and channels.ndim == 1 and 0 < len(channels) < self.num_prototypes:
            self._keep(torch.arange(len(channels), device=self.device))

    def _keep(self, kept: Tensor) -> None:
        super()._keep(kept)
        self.last_layer.keep_prototypes(kept)


def _make_add_on(channels: int, num_prototypes: int) -> nn.Sequential:
    """From the backbone's channels to those of the prototypes; nothing where these are the same."""
    if not num_prototypes:
        return nn.Sequential()
    layer = nn.Conv2d(channels, num_prototypes, 1)
    nn.init.xavier_uniform_(layer.weight)
    return nn.Sequential(layer)


def _cosine(share: float, least: float) -> float:
    """From 1 at a share of 0 to `least` at 1."""
    return least + (1 - least) * (1 + math.cos(math.pi * share)) / 2
