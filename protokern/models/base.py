"""What every prototype net has in common. Trainer, search, push, pruning and explanations rely only on this."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from protokern.kernels.metric import METRIC_TABLE
from protokern.losses import Labels, LossCoefficients, ModelLoss
from protokern.models.feature_shape import check_grid, find_feature_shape, in_channels_of
from protokern.models.output import Decision as Decision
from protokern.models.output import Leaf as Leaf
from protokern.models.output import ModelOutput as ModelOutput
from protokern.models.output import Node as Node
from protokern.models.plan import PruneSettings, Step, TrainSettings, learning_rates, plan
from protokern.models.settings import ModelConfig
from protokern.nn import PatchLayer, PrototypeLayer, apply_to_rows, make_add_on_layers
from protokern.nn.patch_layer import Activation
from protokern.results.stages import Stage

# What a model is given: images, what its backbone gave for them, or what the add-on layers made of that.
Given = Literal["images", "maps", "features"]


class PrototypeModel(nn.Module):
    """Backbone, add-on layers, prototypes, last layer; the contract of all models.

    A model defines its constructor, `class_identity`, `head` and `loss`, and overrides the rest where it differs from
    ProtoPNet. All constructors take the same arguments:

        backbone: maps images (B, in_channels, Y, X) to (B, C, H, W). It is run once on a black image, in eval mode and
            without gradients, to find C, H and W. num_classes: K, >= 1. config: an instance of `Config`; None: made
            from the settings given by name. image_size: side or (Y, X) of that image, in pixels; the model takes other
            sizes too. in_channels: channels of the images. backend: see `protokern.min_distance`. activation: a name,
            as in `Config`, or a function as in `PrototypeLayer`, which no configuration can hold. settings: fields of
            `Config`, instead of `config`; see `settings_of`.

    `docs/adding-a-model.md` shows a model from top to bottom.

    Attributes:
        Config: its settings in a configuration file.
        parts: names of the submodules that can learn, in the order of the optimizer's groups. A part that is not one
            of these four learns together with the prototypes.
        chooses: whether the model makes choices that are soft in training and final (`harden`) before the push.
        mixup: parameter of the mixup that its paper trains with; 0: none.
        reasons: what an answer is made of. "points": `logits = activations @ prototype_weight.T`. "path": decisions
            from a root to a leaf, see `decision_path`; there is no `prototype_weight` then.
        prunes_before_push: whether the training prunes with the rule of the model, `prune_own`, before its one push.
        is_focal: whether `ModelOutput.activations` are focal similarities: that of the best patch minus the average
            over the image. Explanations say so.
        pushes: whether a push makes every prototype a patch; False: the prototypes are no vectors.
        views: V, how many changed copies of each image the training sees at once. `loss` then has an output of B V
            images, view by view, and labels of B.
        whole_batch_loss: whether the loss is no mean over the images, so that a batch cannot be taken in parts.
        backbone: from images to (B, C, H, W).
        add_on_layers: from there to features (B, D, H, W).
        prototype_layer: compares patches with prototypes: a `PrototypeLayer`, which holds `prototypes` (P, D) or
            (P, D, h, w), or another `PatchLayer`.
        class_identity: (P, K), 1 if prototype p belongs to class k, else 0. A prototype may have one class, several, or
            none.
        last_layer: from its input (B, E) to logits (B, K).
    """

    Config: ClassVar[type[ModelConfig]] = ModelConfig
    parts: ClassVar[tuple[str, ...]] = ("backbone", "add_on_layers", "prototype_layer", "last_layer")
    chooses: ClassVar[bool] = False
    mixup: ClassVar[float] = 0.0
    reasons: ClassVar[Literal["points", "path"]] = "points"
    prunes_before_push: ClassVar[bool] = False
    is_focal: ClassVar[bool] = False
    pushes: ClassVar[bool] = True
    views: ClassVar[int] = 1
    whole_batch_loss: ClassVar[bool] = False

    backbone: nn.Module
    add_on_layers: nn.Sequential
    prototype_layer: PatchLayer
    class_identity: Tensor
    last_layer: nn.Module
    _has_bounded_features: bool

    @classmethod
    def from_config(cls, config: Any, backbone: nn.Module, num_classes: int, image_size: int | tuple[int, int]) -> Self:
        """The model that `config`, an instance of `Config`, describes, on the given backbone.

        Raises:
            ValueError: the parts do not fit each other.
        """
        return cls(backbone, num_classes, config, image_size=image_size, in_channels=in_channels_of(backbone))

    def _make_parts(
        self,
        backbone: nn.Module,
        num_prototypes: int,
        config: ModelConfig,
        *,
        image_size: int | tuple[int, int],
        in_channels: int,
        backend: str,
        activation: Activation | None,
        layer: type[PrototypeLayer] = PrototypeLayer,
    ) -> None:
        """Set backbone, add-on layers and prototype layer; the backbone is run once to find its channels."""
        size = (image_size, image_size) if isinstance(image_size, int) else image_size
        channels, height, width = find_feature_shape(backbone, in_channels, size)
        self.backbone = backbone
        self.add_on_layers = make_add_on_layers(
            channels, config.prototype_dim, config.add_on_layers, salience=config.salience
        )
        self.prototype_layer = layer(
            num_prototypes,
            config.prototype_dim,
            config.prototype_size,
            activation=activation if callable(activation) else config.activation,
            metric=config.metric,
            epsilon=config.epsilon,
            top_k=config.top_k,
            precision=None if config.search_precision == "auto" else config.search_precision,
            backend=backend,
            norm_as_weight=config.salience > 0,
        )
        check_grid((height, width), size, config)
        self._has_bounded_features = config.add_on_layers != "linear"

    def _refuse_flag(self, value: bool) -> None:
        raise AttributeError(
            f"takes_stored_maps: is no attribute of a model any more; got {value}. Say with every call what is given: "
            'model(maps, given="maps").'
        )

    takes_stored_maps = property(fset=_refuse_flag)  # programs of earlier versions set it

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.prototype_layer.device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the model and of its images."""
        return self.prototype_layer.dtype

    @property
    def num_prototypes(self) -> int:
        """P, the current number of prototypes."""
        return self.prototype_layer.num_prototypes

    @property
    def num_classes(self) -> int:
        """K."""
        return self.class_identity.shape[1]

    @property
    def prototype_weight(self) -> Tensor:
        """Weight of every prototype in every class, (K, P): `logits = activations @ prototype_weight.T`.

        Explanations use this. A model whose choices are soft has none, and raises a ValueError; so does one whose
        reasons are a path.
        """
        if self.reasons == "path":
            raise ValueError(
                f"model: must give its reasons as points; a {type(self).__name__} decides along a path. "
                "Use influence(output, k), or decision_path."
            )
        assert isinstance(self.last_layer, nn.Linear)
        return self.last_layer.weight

    @property
    def slots(self) -> Tensor | None:
        """(K, S) int64, the prototype in every slot of every class, -1 where a slot is empty; None: no slots."""
        return None

    @property
    def last_layer_identity(self) -> Tensor:
        """(E, K), which inputs of the last layer belong to which class; the L1 term leaves those weights out."""
        return self.class_identity

    def last_layer_input(self, output: ModelOutput) -> Tensor:
        """The input of the last layer, (B, E): a stage that learns only that layer reads it once."""
        return output.activations

    @property
    def max_distance(self) -> float | None:
        """Upper bound of all distances, as the losses use it; None when distances have none.

        2 for cosine; D * h * w for squared distances between features and prototypes in [0, 1]; None for others.
        """
        layer = self.prototype_layer
        if not isinstance(layer, PrototypeLayer):
            return None
        return METRIC_TABLE[layer.metric].largest(layer.prototypes[0].numel() if self._has_bounded_features else None)

    def features(self, images: Tensor, given: Given = "images") -> Tensor:
        """Feature maps (B, D, H, W).

        Args:
            images: (B, in_channels, Y, X), or what `given` says.
            given: "maps": what the backbone gave for the images, (B, C, H, W), for instance from a
                `protokern.features.FeatureStore`. "features": (B, D, H, W), which come back as they are.
        """
        if given == "features":
            return images
        if given == "maps":
            return apply_to_rows(self.add_on_layers, images)
        features: Tensor = self.add_on_layers(self.backbone(images))
        return features

    def head(self, features: Tensor) -> ModelOutput:
        """From feature maps (B, D, H, W) to the output."""
        raise NotImplementedError(f"{type(self).__name__} must define head")

    def forward(self, images: Tensor, given: Given = "images") -> ModelOutput:
        """The output for images (B, in_channels, Y, X), or for what else `features` takes."""
        return self.head(self.features(images, given))

    def loss(
        self, output: ModelOutput, labels: Labels, coefficients: LossCoefficients, *, label_smoothing: float = 0.0
    ) -> ModelLoss:
        """The loss to train with: its total, and its terms by name for the log."""
        raise NotImplementedError(f"{type(self).__name__} must define loss")

    def scores(self, output: ModelOutput) -> Tensor:
        """What the points of the prototypes add up to, (B, K): here the logits."""
        return output.logits

    def abstains(self, output: ModelOutput) -> Tensor:
        """Whether the answer to an image is "none of these", (B,) bool. Such an answer is never right."""
        return torch.zeros(len(output.logits), dtype=torch.bool, device=output.logits.device)

    @property
    def score_bias(self) -> Tensor | None:
        """(K,), what is added to the points of each class to make its score; None: nothing."""
        return None

    @property
    def smallest_similarity(self) -> float:
        """In evaluation, similarities below this count as 0."""
        return 0.0

    @property
    def can_abstain(self) -> bool:
        """Whether the model may answer "none of these"."""
        return type(self).abstains is not PrototypeModel.abstains

    def describe_sizes(self) -> dict[str, float | int]:
        """Numbers about the sizes of a model without a push, for the log."""
        return {}

    def influence(self, output: ModelOutput, k: int) -> Tensor:
        """How much the score of class k owes to each prototype, (B, P): here its points."""
        return output.activations * self.prototype_weight[k]

    def decision_path(self, output: ModelOutput, image: int) -> tuple[Decision, ...]:
        """The decisions for one image of the batch, from the root on; only where `reasons` is "path"."""
        raise NotImplementedError(f"{type(self).__name__} gives its reasons as points, and has no decision path")

    def end_of_path(self, output: ModelOutput, image: int) -> Leaf:
        """Where the decision path of one image of the batch ends; only where `reasons` is "path"."""
        raise NotImplementedError(f"{type(self).__name__} gives its reasons as points, and has no decision path")

    def nodes(self) -> tuple[Node, ...]:
        """The whole tree, the root first and every node before those below it; only where `reasons` is "path"."""
        raise NotImplementedError(f"{type(self).__name__} gives its reasons as points, and is no tree")

    def leaf_probabilities(self) -> Tensor:
        """(L, K), of the classes in every leaf; only where `reasons` is "path"."""
        raise NotImplementedError(f"{type(self).__name__} gives its reasons as points, and is no tree")

    def stages(self, train: TrainSettings, prune: PruneSettings) -> tuple[Step, ...]:
        """All steps of a training in order; the loop follows them."""
        return plan(train, prune, chooses=self.chooses, prunes_before_push=self.prunes_before_push)

    def learning_rates(self, stage: Stage, train: TrainSettings) -> dict[str, float]:
        """The base learning rate of each part in a stage; a part without a rate is frozen."""
        choices = tuple(part for part in self.parts if part not in PrototypeModel.parts)
        return learning_rates(stage, train, choices=choices)

    def rate_factors(self, step: Step, share: float, train: TrainSettings) -> dict[str, float] | None:
        """The factors of these rates by part within an epoch; None: those of `train.schedule`, for all parts.

        Args:
            step: the epoch.
            share: of it that is done, in [0, 1).
            train: settings of the training.
        """
        return None

    def waiting_layers(self, stage: Stage) -> tuple[str, ...]:
        """Submodules of the backbone that do not learn in a stage in which the backbone learns."""
        return ()

    def set_step(self, step: Step) -> None:
        """Called before the batches of an epoch, also when a training resumes within it."""

    def start_epoch(self, batches: int) -> None:
        """Called before an epoch of `batches` batches. What the model keeps of it is in its state."""

    def after_step(
        self,
        output: ModelOutput,
        labels: Tensor,
        *,
        sum_over_ranks: Callable[[Tensor], Tensor] = lambda total: total,
    ) -> None:
        """Called after every step of the optimizer, for what learns without a gradient.

        Args:
            output: of the whole batch of this process, from before the step.
            labels: (B,) int64, of the images themselves.
            sum_over_ranks: the sum of a tensor over the processes that share the batch.
        """

    def prune_own(self, distance: Tensor | None = None) -> Tensor | None:
        """Prune by the rule of the model itself, in place.

        Args:
            distance: (P,), of every prototype to its nearest patch in the training images; None: unknown.

        Returns:
            The prototypes that are left by their old numbers, (P',) int64; None: the model has no rule of its own.
        """
        return None

    def fit_sizes(self, weights: dict[str, Tensor]) -> None:
        """Drop prototypes until as many are left as in `weights`, the state of a pruned model that is loaded next."""
        prototypes = weights.get("prototype_layer.prototypes")
        if prototypes is not None and prototypes.dim() and 0 < len(prototypes) < self.num_prototypes:
            self.keep_prototypes(torch.arange(len(prototypes)))

    def set_prototypes(self, vectors: Tensor, class_identity: Tensor, weight: Tensor) -> None:
        """Give the model other prototypes, as many as there are vectors, in place; only where people may edit them.

        Args:
            vectors: (P', D) or (P', D, h, w).
            class_identity: (P', K), 1 where a prototype belongs to a class; several may share one.
            weight: (K, P'), of the last layer.
        """
        raise NotImplementedError(
            f"{type(self).__name__} must define set_prototypes, so that its prototypes can be edited"
        )

    def from_patches(self, patches: Tensor) -> Tensor:
        """The prototypes that patches (S, D, ...) become in a push, of the same shape: here the patches themselves."""
        return patches

    def set_progress(self, epochs: float) -> None:
        """Called before every batch with the epochs of training so far, including the share of the current one."""

    def harden(self) -> dict[str, float | int]:
        """Make soft choices final, if they are not. Returns numbers about them for the log."""
        return {}

    @property
    def is_hard(self) -> bool:
        """Whether all choices are final."""
        return True

    def keep_prototypes(self, index: Tensor | Sequence[int]) -> None:
        """Drop all prototypes but those in `index`, in place and in that order.

        Kept prototypes are not changed, so each contributes as before. Parameters are replaced: create new optimizers.

        Args:
            index: (P',), P' >= 1, each of 0 .. P - 1 at most once.

        Raises:
            ValueError: index is empty, repeated or out of range.
        """
        kept = torch.as_tensor(index, dtype=torch.int64, device=self.device)
        count = self.num_prototypes
        is_valid = kept.ndim == 1 and len(kept) > 0 and len(kept.unique()) == len(kept)
        if not is_valid or kept.min() < 0 or kept.max() >= count:
            raise ValueError(
                f"index: must be distinct prototypes of 0 .. {count - 1}, at least one; got {kept.tolist()}. "
                "Give the prototypes to keep."
            )
        self._keep(kept)

    def _keep(self, kept: Tensor) -> None:
        """`keep_prototypes` for a checked index (P',) int64 on the model's device."""
        self.prototype_layer.keep_prototypes(kept)


def vectors_of(model: PrototypeModel) -> nn.Parameter:
    """The vectors of a model's prototypes, (P, D) or (P, D, h, w).

    Raises:
        ValueError: its prototypes are no vectors.
    """
    vectors = model.prototype_layer.vectors
    if vectors is None:
        raise ValueError(
            f"model: must have prototypes that are vectors; those of a {type(model).__name__} are channels of its "
            "features. Leave this step out."
        )
    return vectors
