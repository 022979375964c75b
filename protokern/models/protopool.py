"""ProtoPool: one pool of prototypes, from which every class chooses some for its slots."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from protokern.kernels import mean_activation
from protokern.losses import Labels, LossCoefficients, ModelLoss, protopool_loss
from protokern.models.base import ModelOutput, PrototypeModel
from protokern.models.protopool_settings import FOCALS, LAST_LAYERS, ProtoPoolConfig
from protokern.models.settings import settings_of
from protokern.nn import EMPTY, PoolUse, PrototypeClassifier, PrototypeLayer, SlotAssignment, SlotSum
from protokern.nn.prototype_layer import Activation


@dataclass(frozen=True)
class ProtoPoolOutput(ModelOutput):
    """The output of a ProtoPool for a batch.

    Attributes:
        slot_similarities: (B, K, S), focal similarity in every slot; 0 in an empty one.
        assignment: (K, P, S), how much of each prototype was in each slot.
    """

    slot_similarities: Tensor
    assignment: Tensor


torch.export.register_dataclass(ProtoPoolOutput, serialized_type_name="protokern.models.protopool.ProtoPoolOutput")


class ProtoPool(PrototypeModel):
    """ProtoPool on any convolutional backbone.

    Each class has S slots, and each slot chooses one of P prototypes that all classes share. A slot adds the focal
    similarity: high if one part of the image is like the prototype, low if all of it is. While the choices are soft, a
    slot holds a mixture; `harden` makes them final, which training does before the push.

    `focal="distance"` mixes the smallest and the mean distance of the prototypes and takes the similarity of both, as
    the released program does. `focal="similarity"` mixes the prototypes' focal similarities, maximum minus mean of the
    similarity over the image, as in the paper. With final choices the mixing is the same, and they differ only in the
    mean: similarity of the mean distance, or mean of the similarity.

    Args:
        backbone, num_classes, image_size, in_channels, backend: see `PrototypeModel`.
        config: a `ProtoPoolConfig`, or its fields by name.
        activation: see `PrototypeModel`; a function with focal="distance" only.

    Attributes:
        assignment: the `SlotAssignment`; its `presence_logits` are (K, P, S).

    Raises:
        TypeError: `config` is not a ProtoPoolConfig, or a setting is not one of its fields.
        ValueError: an argument is out of range, the backbone gives no feature maps, or its grid is smaller than
            `prototype_size`.

    Source: Rymarczyk et al. 2022, "Interpretable Image Classification with Differentiable Prototypes Assignment".
    """

    Config = ProtoPoolConfig
    parts: ClassVar[tuple[str, ...]] = (*PrototypeModel.parts, "assignment")
    chooses = True
    mixup = 0.5
    is_focal = True

    prototype_layer: PrototypeLayer
    slot_identity: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        num_classes: int,
        config: ProtoPoolConfig | None = None,
        *,
        image_size: int | tuple[int, int] = 64,
        in_channels: int = 3,
        backend: str = "auto",
        activation: Activation | None = None,
        **settings: Any,
    ) -> None:
        super().__init__()
        config = settings_of(ProtoPoolConfig, config, settings, activation)
        _check_options(config, activation)
        num_slots = config.slots_per_class
        num_prototypes = config.num_prototypes or max(num_classes, 2 * num_slots)
        self.assignment = SlotAssignment(num_classes, num_prototypes, num_slots, schedule_epochs=config.schedule_epochs)
        self._make_parts(
            backbone,
            num_prototypes,
            config,
            image_size=image_size,
            in_channels=in_channels,
            backend=backend,
            activation=activation,
        )
        slot_class = torch.arange(num_classes).repeat_interleave(num_slots)
        self.register_buffer("slot_identity", F.one_hot(slot_class, num_classes).float())
        self.last_layer = (
            SlotSum(num_classes)
            if config.last_layer == "sum"
            else PrototypeClassifier(
                self.slot_identity,
                correct_class_weight=config.correct_class_weight,
                incorrect_class_weight=config.incorrect_class_weight,
            )
        )
        self.focal = config.focal
        self.compat = config.compat

    @property
    def num_classes(self) -> int:
        """K."""
        return self.slot_identity.shape[1]

    @property
    def slots(self) -> Tensor:
        """(K, S) int64, the prototype in every slot of every class, -1 where a slot is empty."""
        return self.assignment.choice

    @property
    def class_identity(self) -> Tensor:  # type: ignore[override]
        """(P, K), 1 where a slot of class k has prototype p."""
        is_chosen = self.slots[:, None, :] == torch.arange(self.num_prototypes, device=self.device)[:, None]
        return is_chosen.any(dim=2).T.to(self.slot_identity.dtype)

    @property
    def last_layer_identity(self) -> Tensor:
        """(K * S, K): the class of each slot."""
        return self.slot_identity

    @property
    def prototype_weight(self) -> Tensor:
        """(K, P): the sum of the weights of the slots that hold a prototype.

        Raises:
            ValueError: the choices are not final, so slots are mixtures and prototypes have no weights.
        """
        if not self.is_hard:
            raise ValueError(
                "model: must have made its choices final, so that each slot holds one prototype; they are soft. "
                "Call model.harden(), or take a checkpoint from after the hardening."
            )
        slots = self.slots.flatten()
        is_filled = slots != EMPTY
        weight: Tensor = self.last_layer.weight if isinstance(self.last_layer, nn.Linear) else self.slot_identity.T
        total = weight.new_zeros(self.num_classes, self.num_prototypes)
        return total.index_add(1, slots[is_filled], weight[:, is_filled])

    @property
    def is_hard(self) -> bool:
        """Whether the choices are final."""
        return self.assignment.is_hard

    def set_progress(self, epochs: float) -> None:
        """Raise the scale of the choices, see `SlotAssignment.set_progress`."""
        self.assignment.set_progress(epochs)

    def harden(self) -> dict[str, float | int]:
        """Make the choices final.

        Returns:
            How soft they were (largest entropy of a slot, nats), in how many classes two slots wanted the same
            prototype, and how many prototypes are shared and unused now. Empty if they were final.
        """
        if self.is_hard:
            return {}
        entropy, wanted = float(self.assignment.entropy().max()), self.pool_use()
        self.assignment.harden()
        use = self.pool_use()
        return {
            "largest_entropy": entropy,
            "repeated": len(wanted.repeated),
            "shared": len(use.shared),
            "unused": len(use.unused),
        }

    def pool_use(self) -> PoolUse:
        """Which prototypes each class uses, which are shared, which unused."""
        return self.assignment.use()

    def head(self, features: Tensor) -> ProtoPoolOutput:
        """Logits, distances, focal similarities and patches for feature maps (B, D, H, W)."""
        layer = self.prototype_layer
        assignment = self.assignment()
        pool = layer(features)
        # With weights the similarity is linear in the distance, so both ways are the same.
        if self.focal == "similarity" and not layer.norm_as_weight:
            assert isinstance(layer.activation, str)
            mean = mean_activation(
                features,
                layer.prototypes,
                activation=layer.activation,
                epsilon=layer.epsilon,
                metric=layer.metric,
                precision=layer.precision,
                backend=layer.backend,
            )
            activations = pool.activation - mean
            in_slots = self._in_slots(activations, assignment)
        else:
            mean = layer.mean_distance(features)
            activations = pool.activation - layer.activate(mean)
            if self.is_hard:
                in_slots = self._in_slots(activations, assignment)
            else:
                # Both are mixed by one matrix product.
                mixed = self._in_slots(torch.cat((pool.min_distance, mean)), assignment)
                nearest, average = layer.activate(mixed).chunk(2)
                in_slots = nearest - average
        logits = self.last_layer(in_slots.flatten(1))
        return ProtoPoolOutput(logits, pool.min_distance, activations, pool.patch, in_slots, assignment)

    def _in_slots(self, values: Tensor, assignment: Tensor) -> Tensor:
        """Mix values (B, P) of the prototypes into the slots, (B, K, S); with final choices, pick them."""
        num_classes, num_prototypes, num_slots = assignment.shape
        if self.is_hard:
            # Picked, not multiplied: a matrix product may round to TF32.
            padded = F.pad(values, (0, 1))  # an empty slot reads the zero at the end
            return padded[:, self.slots]
        shares = assignment.transpose(1, 2).reshape(num_classes * num_slots, num_prototypes)
        return (values @ shares.T.to(values.dtype)).view(-1, num_classes, num_slots)

    def last_layer_input(self, output: ModelOutput) -> Tensor:
        """(B, K * S), the focal similarities in all slots."""
        assert isinstance(output, ProtoPoolOutput)
        return output.slot_similarities.flatten(1)

    def loss(
        self, output: ModelOutput, labels: Labels, coefficients: LossCoefficients, *, label_smoothing: float = 0.0
    ) -> ModelLoss:
        """See `protopool_loss`."""
        assert isinstance(output, ProtoPoolOutput)
        return protopool_loss(
            output,
            labels,
            output.assignment,
            self.last_layer.weight if isinstance(self.last_layer, nn.Linear) else None,
            self.slot_identity,
            coefficients,
            presence_logits=self.assignment.presence_logits if self.compat else None,
            max_distance=self.max_distance,
            label_smoothing=label_smoothing,
        )

    def _keep(self, kept: Tensor) -> None:
        super()._keep(kept)
        self.assignment.keep_prototypes(kept)


def _check_options(config: ProtoPoolConfig, activation: Activation | None) -> None:
    for name, value, allowed in (("focal", config.focal, FOCALS), ("last_layer", config.last_layer, LAST_LAYERS)):
        if value not in allowed:
            raise ValueError(f"{name}: must be one of {', '.join(allowed)}; got {value!r}. Check the spelling.")
    if config.focal != "similarity":
        return
    if callable(activation):
        raise ValueError(
            'activation: must be a name with focal="similarity", whose mean is taken inside the op; got a function. '
            'Use focal="distance", or a named activation.'
        )
    if config.salience and config.activation not in ("cosine", "linear"):
        raise ValueError(
            f'activation: must be "cosine" or "linear" with salience and focal="similarity"; got '
            f'{config.activation!r}. Choose one of these, or use focal="distance".'
        )
