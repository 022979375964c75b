"""ProtoTree: a soft decision tree whose branches ask whether a prototype is present in the image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from protokern.kernels.similarity import ROOT_OFFSET
from protokern.losses import Labels, LossCoefficients, ModelLoss, mixed_cross_entropy, weigh
from protokern.models.base import Decision, Leaf, ModelOutput, Node, PrototypeModel
from protokern.models.prototree_settings import ProtoTreeConfig
from protokern.models.settings import settings_of
from protokern.nn import DecisionTree, KeptNodes, PrototypeLayer
from protokern.nn.patch_layer import Activation

Routing = Literal["greedy", "most_likely"]


@dataclass(frozen=True)
class ProtoTreeOutput(ModelOutput):
    """The output of a ProtoTree for a batch; `logits` are log probabilities, `activations` those of being present.

    Attributes:
        log_present: (B, P), log probability that the prototype is present.
        log_reach: (B, L), log probability of every leaf.
    """

    log_present: Tensor
    log_reach: Tensor

    @property
    def leaf_probabilities(self) -> Tensor:
        """(B, L), the probability of every leaf; they add up to 1."""
        return self.log_reach.exp()


torch.export.register_dataclass(ProtoTreeOutput, serialized_type_name="protokern.models.prototree.ProtoTreeOutput")


class ProtoTree(PrototypeModel):
    """ProtoTree on any convolutional backbone.

    A complete binary tree of soft decisions. Every branch has one prototype, and the similarity of its nearest patch,
    exp(-distance), is the probability of going to the side "present". Every leaf has a distribution over the classes,
    and the answer is their mixture. The leaves learn by counting, without a gradient, see `DecisionTree.update`; only
    cross entropy trains the rest. After the training, leaves that are certain of no class are cut off, and then every
    prototype becomes a patch of a training image of one of the classes below its branch.

    Args:
        backbone, num_classes, image_size, in_channels, backend, activation: see `PrototypeModel`. `activation` must be
            a name.
        config: a `ProtoTreeConfig`, or its fields by name.

    Attributes:
        last_layer: the `DecisionTree`, which holds the paths and the leaves. It has no parameters.

    Raises:
        TypeError: `config` is not a ProtoTreeConfig, or a setting is not one of its fields.
        ValueError: an argument is out of range, the backbone gives no feature maps, or its grid is smaller than
            `prototype_size`.

    Source: Nauta, van Bree, Seifert 2021, "Neural Prototype Trees for Interpretable Fine-grained Image Recognition".
    """

    Config = ProtoTreeConfig
    reasons: ClassVar[Literal["points", "path"]] = "path"
    prunes_before_push: ClassVar[bool] = True
    prototype_layer: PrototypeLayer
    last_layer: DecisionTree

    def __init__(
        self,
        backbone: nn.Module,
        num_classes: int,
        config: ProtoTreeConfig | None = None,
        *,
        image_size: int | tuple[int, int] = 64,
        in_channels: int = 3,
        backend: str = "auto",
        activation: Activation | None = None,
        **settings: Any,
    ) -> None:
        super().__init__()
        if callable(activation):
            raise ValueError(
                "activation: must be a name, because the tree computes with its logarithm; got a function. "
                'Use "exp_root" or "exp".'
            )
        config = settings_of(ProtoTreeConfig, config, settings, activation)
        self._make_parts(
            backbone,
            2**config.depth - 1,
            config,
            image_size=image_size,
            in_channels=in_channels,
            backend=backend,
            activation=None,
        )
        nn.init.normal_(self.prototype_layer.prototypes, 0.5, 0.1)
        self.last_layer = DecisionTree(config.depth, num_classes)
        self.leaf_threshold = config.leaf_threshold

    @property
    def num_classes(self) -> int:
        """K."""
        return self.last_layer.num_classes

    @property
    def class_identity(self) -> Tensor:  # type: ignore[override]
        """(P, K), 1 where class k is the most probable one of a leaf below prototype p. It changes in training."""
        tree = self.last_layer
        best = F.one_hot(tree.leaf_logits.argmax(dim=1), self.num_classes).to(self.dtype)  # (L, K)
        below = tree.path.abs().to(self.dtype).T @ best  # (P, K)
        return (below > 0).to(self.dtype)

    @property
    def last_layer_identity(self) -> Tensor:
        """(P, K): that of the prototypes; the tree has no weights."""
        return self.class_identity

    def last_layer_input(self, output: ModelOutput) -> Tensor:
        """(B, P), the log probabilities of the prototypes being present."""
        assert isinstance(output, ProtoTreeOutput)
        return output.log_present

    def head(self, features: Tensor) -> ProtoTreeOutput:
        """Log probabilities of classes, leaves and prototypes, distances and patches for features (B, D, H, W)."""
        pool = self.prototype_layer(features)
        distance = pool.min_distance
        is_root = self.prototype_layer.activation == "exp_root"
        log_present = -(distance + ROOT_OFFSET).sqrt() if is_root else -distance
        log_reach = self.last_layer.log_reach(log_present)
        answer = self.last_layer.mix(log_reach)
        return ProtoTreeOutput(answer, distance, pool.activation, pool.patch, log_present, log_reach)

    def loss(
        self, output: ModelOutput, labels: Labels, coefficients: LossCoefficients, *, label_smoothing: float = 0.0
    ) -> ModelLoss:
        """Cross entropy, which is the negative log likelihood of the mixture."""
        return weigh(
            {"cross_entropy": mixed_cross_entropy(output.logits, labels, label_smoothing=label_smoothing)},
            coefficients,
        )

    def start_epoch(self, batches: int) -> None:
        """See `DecisionTree.start_epoch`."""
        self.last_layer.start_epoch(batches)

    def after_step(
        self,
        output: ModelOutput,
        labels: Tensor,
        *,
        sum_over_ranks: Callable[[Tensor], Tensor] = lambda total: total,
    ) -> None:
        """Update the leaves, see `DecisionTree.update`."""
        assert isinstance(output, ProtoTreeOutput)
        self.last_layer.update(output.log_reach.detach(), output.logits.detach(), labels, sum_over_ranks=sum_over_ranks)

    def influence(self, output: ModelOutput, k: int) -> Tensor:
        """How much the log probability of class k owes to each decision, (B, P): less that with the decision reversed.

        Finite, also where the reversed decision leaves the class next to no probability.
        """
        assert isinstance(output, ProtoTreeOutput)
        return self.last_layer.influence(output.log_present.detach(), k).to(output.log_present.dtype)

    def route(self, output: ModelOutput, routing: Routing) -> Tensor:
        """The one leaf that answers for each image, (B,) int64.

        Args:
            output: of this model.
            routing: "greedy": the leaf where one arrives by always taking the more probable side, "absent" on a tie;
                "most_likely": the leaf of the largest probability.

        Raises:
            ValueError: `routing` is unknown.
        """
        assert isinstance(output, ProtoTreeOutput)
        if routing == "greedy":
            return self.last_layer.greedy_leaf(output.log_present)
        if routing == "most_likely":
            return output.log_reach.argmax(dim=1)
        raise ValueError(f"routing: must be greedy or most_likely; got {routing!r}. Check the spelling.")

    def decision_path(self, output: ModelOutput, image: int) -> tuple[Decision, ...]:
        """The decisions from the root to the greedy leaf of one image of the batch."""
        assert isinstance(output, ProtoTreeOutput)
        leaf = int(self.route(output, "greedy")[image])
        path = self.last_layer.path
        passed = path[leaf].nonzero().flatten()
        probability = output.activations[image].detach()
        # A branch nearer to the root is passed on the way to more leaves.
        order = path[:, passed].ne(0).sum(dim=0).argsort(descending=True, stable=True)
        return tuple(
            Decision(prototype=j, is_present=bool(path[leaf, j] > 0), probability=float(probability[j]))
            for j in passed[order].tolist()
        )

    def end_of_path(self, output: ModelOutput, image: int) -> Leaf:
        """The greedy leaf of one image of the batch."""
        assert isinstance(output, ProtoTreeOutput)
        leaf = int(self.route(output, "greedy")[image])
        return Leaf(leaf, self.leaf_probabilities()[leaf], float(output.log_reach[image, leaf].detach().exp()))

    def leaf_probabilities(self) -> Tensor:
        """(L, K) float64, of the classes in every leaf."""
        return self.last_layer.leaf_logits.double().softmax(dim=1)

    def nodes(self) -> tuple[Node, ...]:
        """The whole tree, level by level from the root, "absent" first."""
        found: list[Node] = []
        waiting = [torch.arange(self.last_layer.num_leaves, device=self.device)]  # the leaves below a node
        while len(found) < len(waiting):
            leaves = waiting[len(found)]
            if len(leaves) == 1:
                found.append(Node(leaf=int(leaves)))
                continue
            path = self.last_layer.path[leaves]
            # The branch that all of these leaves are below, and that parts them.
            top = int((path.ne(0).all(dim=0) & path.amin(dim=0).ne(path.amax(dim=0))).int().argmax())
            found.append(Node(prototype=top, absent=len(waiting), present=len(waiting) + 1))
            waiting += [leaves[path[:, top] < 0], leaves[path[:, top] > 0]]
        return tuple(found)

    def prune_leaves(self, threshold: float = 0.01) -> KeptNodes:
        """Cut off the leaves that are certain of no class, in place, and the branches that lead to such leaves alone.

        Args:
            threshold: leaves whose largest probability is at most this are cut off. Two leaves stay in any case.

        Returns:
            The leaves and prototypes that are left, by their old numbers, ascending.
        """
        nodes = self.last_layer.leaves_to_keep(threshold)
        if len(nodes.leaves) < self.last_layer.num_leaves:
            super()._keep(nodes.prototypes)
            self.last_layer.keep(nodes)
        return nodes

    def prune_own(self, distance: Tensor | None = None) -> Tensor:
        """`prune_leaves` with the threshold of the configuration; the prototypes that are left."""
        return self.prune_leaves(self.leaf_threshold).prototypes

    def fit_sizes(self, weights: dict[str, Tensor]) -> None:
        """Take on the sizes of a pruned tree whose `weights` are loaded next."""
        path = weights.get("last_layer.path")
        if path is not None and path.ndim == 2 and path.shape[1] <= self.num_prototypes:
            super()._keep(torch.arange(path.shape[1], device=self.device))
            self.last_layer.fit_sizes(*path.shape)

    def _keep(self, kept: Tensor) -> None:
        nodes = self.last_layer.find_pruning(kept)
        if nodes is None:
            raise ValueError(
                f"index: must be what is left when the least certain leaves are cut off, because a branch without its "
                f"prototype has no side to take; got {kept.tolist()}. Use prune_leaves(threshold)."
            )
        super()._keep(kept)
        self.last_layer.keep(nodes)
