"""A soft decision tree over prototypes, as one matrix of paths, with leaves that learn without a gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from protokern.kernels.geometry import compute_dtype

ABSENT, PRESENT = -1, 1
# Of log probabilities that a prototype is there: a copy of it has one of almost 0, and 1 - p must stay above 0.
_LARGEST = -1e-7
_LOG_2 = 0.6931471805599453


class KeptNodes(NamedTuple):
    """Which leaves and which prototypes are left after a pruning, int64 on the tree's device, ascending."""

    leaves: Tensor
    prototypes: Tensor


class DecisionTree(nn.Module):
    """From the probabilities that prototypes are present to the mixture of the distributions in the leaves.

    A complete binary tree of `depth` has 2 ** depth - 1 branches, one prototype each, and 2 ** depth leaves, one
    distribution over the classes each. Branches are numbered level by level: of branch b, 2 b + 1 is the one below on
    the side "absent", 2 b + 2 on the side "present". Leaves are numbered from "always absent" to "always present". The
    probability of a leaf is the product over its path of p where the path says present, and of 1 - p where it says
    absent. Everything is computed with logarithms, so nothing underflows.

    Args:
        depth: h, number of branches on a path, >= 1.
        num_classes: K, >= 1.

    Attributes:
        path: (L, P) int8, 1 where the prototype has to be present on the way to the leaf, -1 where absent, 0 where the
            way does not pass it.
        leaf_logits: (L, K); the distribution of a leaf is their softmax. No parameter: `update` moves them.
        at_start: (L, K), the leaf logits at the start of the epoch.
        batches: int64, number of batches of the epoch.

    Raises:
        ValueError: an argument is out of range.

    Source: Nauta, van Bree, Seifert 2021 (ProtoTree), sections 3.1 to 3.3.
    """

    path: Tensor
    leaf_logits: Tensor
    at_start: Tensor
    batches: Tensor

    def __init__(self, depth: int, num_classes: int) -> None:
        super().__init__()
        for name, value in (("depth", depth), ("num_classes", num_classes)):
            if value < 1:
                raise ValueError(f"{name}: must be at least 1; got {value}. Give a positive number.")
        path = _complete(depth)
        logits = torch.zeros(len(path), num_classes)
        self.register_buffer("path", path)
        self.register_buffer("leaf_logits", logits)
        self.register_buffer("at_start", logits.clone())
        self.register_buffer("batches", torch.ones((), dtype=torch.int64))

    @property
    def num_leaves(self) -> int:
        """L."""
        return self.path.shape[0]

    @property
    def num_classes(self) -> int:
        """K."""
        return self.leaf_logits.shape[1]

    def forward(self, log_present: Tensor) -> Tensor:
        """The log probabilities of the classes, (B, K), from those of the prototypes being present, (B, P) <= 0."""
        return self.mix(self.log_reach(log_present))

    def log_reach(self, log_present: Tensor) -> Tensor:
        """The log probability of every leaf, (B, L), from log probabilities (B, P) <= 0."""
        log_present = log_present.clamp(max=_LARGEST)
        right, left = ((self.path == side).to(log_present.dtype).T for side in (PRESENT, ABSENT))  # (P, L)
        return log_present @ right + _log_of_rest(log_present) @ left

    def mix(self, log_reach: Tensor) -> Tensor:
        """The log probabilities of the classes, (B, K), from those of the leaves, (B, L).

        A sum of exponentials over the leaves is a matrix product, in float64, once the largest exponent of each image
        and of each class is taken out.
        """
        log_leaf = self.leaf_logits.to(torch.float64).log_softmax(dim=1)  # (L, K)
        wide = log_reach.to(torch.float64)
        of_image = wide.detach().amax(dim=1, keepdim=True)  # (B, 1)
        of_class = log_leaf.amax(dim=0, keepdim=True)  # (1, K)
        shares = (wide - of_image).exp() @ (log_leaf - of_class).exp()  # (B, K)
        mixture = shares.clamp_min(torch.finfo(torch.float64).tiny).log() + of_image + of_class
        return mixture.to(log_reach.dtype)

    def influence(self, log_present: Tensor, k: int) -> Tensor:
        """What the log probability of class k would lose if a decision were reversed, 1 - p in place of p; (B, P).

        Each leaf's part of the probability is multiplied by (1 - p) / p below the side "present", by p / (1 - p) below
        the side "absent", and stays elsewhere. All parts are positive, so nothing cancels.
        """
        log_present = log_present.to(torch.float64).clamp(max=_LARGEST)
        exponent = self.log_reach(log_present) + self.leaf_logits.to(torch.float64).log_softmax(dim=1)[:, k]  # (B, L)
        part = (exponent - exponent.amax(dim=1, keepdim=True)).exp()
        right, left, beside = (part @ (self.path == side).to(part.dtype) for side in (PRESENT, ABSENT, 0))  # (B, P)
        odds = (_log_of_rest(log_present) - log_present).exp()  # (1 - p) / p
        turned = (beside + right * odds + left / odds).clamp_min(torch.finfo(torch.float64).tiny)
        return part.sum(dim=1, keepdim=True).log() - turned.log()

    def greedy_leaf(self, log_present: Tensor) -> Tensor:
        """The leaf where one arrives by going to "present" where p > 0.5, else to "absent"; (B,) int64."""
        is_present = log_present.exp() > 0.5  # (B, P)
        wanted = torch.where(is_present, PRESENT, ABSENT).to(log_present.dtype)
        agreeing = wanted @ self.path.T.to(log_present.dtype)  # (B, L): steps that agree, less those that do not
        return (agreeing - self.path.abs().sum(dim=1)).argmax(dim=1)  # 0 for the one leaf whose steps all agree

    def start_epoch(self, batches: int) -> None:
        """Call before the first batch of an epoch of `batches` batches."""
        self.at_start.copy_(self.leaf_logits)
        self.batches.fill_(batches)

    @torch.no_grad()
    def update(
        self,
        log_reach: Tensor,
        log_answer: Tensor,
        labels: Tensor,
        *,
        sum_over_ranks: Callable[[Tensor], Tensor] = lambda total: total,
    ) -> None:
        """The update of the leaves after a batch, without a gradient.

        The logits of a leaf are a running count, over about one epoch, of the images of each class that end in it:
        relu(c - c_start / M) + sum over the images of the share of the leaf in the probability of the right class.

        Args:
            log_reach: (B, L), as the forward pass before the step gave it.
            log_answer: (B, K), the log probabilities of that pass.
            labels: (B,) int64.
            sum_over_ranks: the sum of a tensor over the processes that share the batch.

        Source: Nauta, van Bree, Seifert 2021 (ProtoTree), section 3.3, algorithm 1.
        """
        dtype = compute_dtype(log_reach.dtype)
        log_leaf = self.leaf_logits.to(dtype).log_softmax(dim=1)  # (L, K)
        of_label = log_answer.to(dtype).gather(1, labels[:, None])  # (B, 1)
        share = (log_reach.to(dtype) + log_leaf.T[labels] - of_label).exp()  # (B, L)
        added = torch.zeros_like(self.leaf_logits.T, dtype=dtype).index_add_(0, labels, share).T  # (L, K)
        added = sum_over_ranks(added.contiguous())
        kept = (self.leaf_logits - self.at_start / self.batches).clamp(min=0)
        self.leaf_logits.copy_(kept + added)

    def leaves_to_keep(self, threshold: float) -> KeptNodes:
        """What is left if the leaves go that are certain of no class: their largest probability is <= `threshold`.

        The two most certain leaves always stay, so that the tree still asks for one prototype. A prototype stays where
        both sides of its branch still have a leaf.
        """
        certainty = self.leaf_logits.double().softmax(dim=1).amax(dim=1)  # (L,)
        is_kept = certainty > threshold
        is_kept[certainty.argsort(descending=True, stable=True)[:2]] = True
        leaves = is_kept.nonzero().flatten()
        return KeptNodes(leaves, self._needed_by(leaves))

    def keep(self, nodes: KeptNodes) -> None:
        """Drop all leaves and prototypes but those of `nodes`, in its order."""
        self.path = self.path[nodes.leaves][:, nodes.prototypes].clone()
        self.leaf_logits = self.leaf_logits[nodes.leaves].clone()
        self.at_start = self.at_start[nodes.leaves].clone()

    def find_pruning(self, prototypes: Tensor) -> KeptNodes | None:
        """The pruning by some threshold that leaves exactly `prototypes` (P',), in that order; None: there is none."""
        wanted = prototypes.sort().values
        certainty = self.leaf_logits.double().softmax(dim=1).amax(dim=1)
        for threshold in [-1.0, *certainty.unique().tolist()]:
            found = self.leaves_to_keep(threshold)
            if torch.equal(found.prototypes, wanted):
                return KeptNodes(found.leaves, prototypes)
        return None

    def fit_sizes(self, num_leaves: int, num_prototypes: int) -> None:
        """Take on the sizes of a pruned tree, whose state is loaded next."""
        self.path = self.path.new_zeros(num_leaves, num_prototypes)
        self.leaf_logits = self.leaf_logits.new_zeros(num_leaves, self.num_classes)
        self.at_start = torch.zeros_like(self.leaf_logits)

    def _needed_by(self, leaves: Tensor) -> Tensor:
        path = self.path[leaves]
        return ((path == PRESENT).any(dim=0) & (path == ABSENT).any(dim=0)).nonzero().flatten()


def _complete(depth: int) -> Tensor:
    """The paths of a complete tree, (2 ** depth, 2 ** depth - 1) int8."""
    path = torch.zeros(2**depth, 2**depth - 1, dtype=torch.int8)
    leaf = torch.arange(2**depth)
    for level in range(depth):
        branch = 2**level - 1 + (leaf >> (depth - level))
        turn = (leaf >> (depth - level - 1)) & 1
        path[leaf, branch] = torch.where(turn == 1, PRESENT, ABSENT).to(torch.int8)
    return path


def _log_of_rest(log_present: Tensor) -> Tensor:
    """log(1 - p) from log p < 0, accurate near both ends; each branch sees only arguments that it can take."""
    is_near_one = log_present > -_LOG_2
    near = torch.where(is_near_one, log_present, -1.0)
    far = torch.where(is_near_one, -1.0, log_present)
    return torch.where(is_near_one, (-torch.expm1(near)).log(), torch.log1p(-far.exp()))
