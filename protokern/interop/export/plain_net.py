"""A trained model as one module of plain operations, from images to answers."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from protokern.interop.export.plain_search import PlainSearch, Repair
from protokern.kernels.similarity import ROOT_OFFSET
from protokern.models.base import PrototypeModel
from protokern.models.pipnet import PIPNet
from protokern.models.protopnet import ProtoPNet
from protokern.models.protopool import ProtoPool
from protokern.models.prototree import ProtoTree
from protokern.models.tesnet import TesNet
from protokern.nn.decision_tree import ABSENT, PRESENT

Answers = dict[str, Tensor]

_LOG_2 = 0.6931471805599453
_LARGEST = -1e-7  # log probability that a prototype is there: 1 - p must stay above 0, see `DecisionTree`


class PlainNet(nn.Module):
    """From images (B, C, Y, X) in [0, 1] to named answers, without the ops of this package.

    The answers: `logits` (B, K); `similarity` (B, P), what points are made of; `distance` (B, P) of the nearest patch,
    unless prototypes are channels; `patch` (B, P) int64, its flat index row * W' + column; `grid` (2,) int64, H' and
    W'.

    Args:
        model: in evaluation mode on the CPU, in float32, with final choices.
        repair: see `PlainSearch`.

    Raises:
        ValueError: no such export exists for the model.
    """

    def __init__(self, model: PrototypeModel, repair: Repair = "topk") -> None:
        super().__init__()
        self.backbone, self.add_on_layers = model.backbone, model.add_on_layers
        self.head = plain_head(model, repair)

    def forward(self, image: Tensor) -> Answers:
        features = self.add_on_layers(self.backbone(image))
        answers: Answers = self.head(features)
        return answers


class PlainMaps(nn.Module):
    """From images (B, C, Y, X) and the indices (m,) int64 of some prototypes to maps of similarity (B, m, H', W')."""

    def __init__(self, model: PrototypeModel) -> None:
        super().__init__()
        self.backbone, self.add_on_layers = model.backbone, model.add_on_layers
        self.head = plain_head(model, "topk")

    def forward(self, image: Tensor, prototype: Tensor) -> Answers:
        features = self.add_on_layers(self.backbone(image))
        return {"map": self.head.maps(features, prototype)}


class PlainHead(nn.Module):
    """From features (B, D, H, W) to `Answers`, and to maps of chosen prototypes."""

    def maps(self, features: Tensor, prototype: Tensor) -> Tensor:
        """Similarity (B, m, H', W') of every patch to the prototypes (m,) int64."""
        raise NotImplementedError(f"{type(self).__name__} must define maps")


class _Points(PlainHead):
    """ProtoPNet and TesNet: similarities times weights."""

    weight: Tensor

    def __init__(self, model: PrototypeModel, repair: Repair) -> None:
        super().__init__()
        self.search = PlainSearch(model.prototype_layer, repair)  # type: ignore[arg-type]
        self.register_buffer("weight", model.prototype_weight.detach().float().clone())

    def forward(self, features: Tensor) -> Answers:
        patches = self.search.patches(features)
        similarity, distance, patch = self.search.nearest(patches)
        similarity = self.focal(similarity, patches)
        return {
            "logits": F.linear(similarity, self.weight),
            "similarity": similarity,
            "distance": distance,
            "patch": patch,
            "grid": grid_of(patches.grid),
        }

    def focal(self, similarity: Tensor, patches: object) -> Tensor:
        """What of a similarity (B, P) makes points: here all of it."""
        return similarity

    def maps(self, features: Tensor, prototype: Tensor) -> Tensor:
        return self.search.maps(features, prototype)


class _Pool(_Points):
    """ProtoPool with final choices: focal similarities times the weights of their slots."""

    def __init__(self, model: ProtoPool, repair: Repair) -> None:
        super().__init__(model, repair)
        # A similarity that is linear in the distance has the same mean both ways.
        is_linear = self.search.activation in ("linear", "cosine")
        self.takes_mean_similarity = model.focal == "similarity" and not is_linear

    def focal(self, similarity: Tensor, patches: object) -> Tensor:
        search = self.search
        if self.takes_mean_similarity:
            return similarity - search.mean_similarity(patches)  # type: ignore[arg-type]
        return similarity - search.activate(search.mean_distance(patches))  # type: ignore[arg-type]


class _Tree(PlainHead):
    """ProtoTree: the paths as two products of matrices with logarithms, and the mixture of the leaves."""

    right: Tensor
    left: Tensor
    log_leaf: Tensor

    def __init__(self, model: ProtoTree, repair: Repair) -> None:
        super().__init__()
        self.search = PlainSearch(model.prototype_layer, repair)
        self.is_root = model.prototype_layer.activation == "exp_root"
        tree = model.last_layer
        self.register_buffer("right", (tree.path == PRESENT).float().T.contiguous())  # (P, L)
        self.register_buffer("left", (tree.path == ABSENT).float().T.contiguous())
        self.register_buffer("log_leaf", tree.leaf_logits.double().log_softmax(dim=1).float())  # (L, K)

    def forward(self, features: Tensor) -> Answers:
        patches = self.search.patches(features)
        similarity, distance, patch = self.search.nearest(patches)
        log_present = -(distance + ROOT_OFFSET).sqrt() if self.is_root else -distance
        log_present = log_present.clamp(max=_LARGEST)
        log_reach = log_present @ self.right + _log_of_rest(log_present) @ self.left  # (B, L)
        return {
            "logits": (log_reach[:, :, None] + self.log_leaf).logsumexp(dim=1),
            "similarity": similarity,
            "distance": distance,
            "patch": patch,
            "grid": grid_of(patches.grid),
        }

    def maps(self, features: Tensor, prototype: Tensor) -> Tensor:
        return self.search.maps(features, prototype)


class _Channels(PlainHead):
    """PIP-Net: the largest share of each channel, and a sheet of scores. There is no distance."""

    channels: Tensor
    weight: Tensor
    bias: Tensor | None

    def __init__(self, model: PIPNet, repair: Repair) -> None:
        super().__init__()
        self.power, self.smallest = model.config.power, model.smallest_similarity
        self.register_buffer("channels", model.prototype_layer.channels.clone())
        self.register_buffer("weight", model.prototype_weight.detach().float().clone())
        bias = model.score_bias
        self.register_buffer("bias", None if bias is None else bias.detach().float().clone())

    def forward(self, features: Tensor) -> Answers:
        share = features.softmax(dim=1).flatten(2)[:, self.channels]  # (B, P, N)
        presence = share.amax(dim=2)
        presence = torch.where(presence < self.smallest, 0.0, presence)
        scores = F.linear(presence, self.weight, self.bias)
        return {
            "logits": torch.log1p(scores**self.power),
            "similarity": presence,
            "patch": share.argmax(dim=2),
            "grid": grid_of((features.shape[2], features.shape[3])),
        }

    def maps(self, features: Tensor, prototype: Tensor) -> Tensor:
        return features.softmax(dim=1).index_select(1, self.channels.index_select(0, prototype))


_HEADS: dict[type[PrototypeModel], Any] = {
    ProtoPNet: _Points,
    TesNet: _Points,
    ProtoPool: _Pool,
    ProtoTree: _Tree,
    PIPNet: _Channels,
}


def plain_head(model: PrototypeModel, repair: Repair) -> PlainHead:
    """The head of a model in plain operations, from features (B, D, H, W) to `Answers`.

    Raises:
        ValueError: no such export exists for the model.
    """
    head = _HEADS.get(type(model))
    if head is None:
        names = ", ".join(kind.__name__ for kind in _HEADS)
        raise ValueError(
            f"model: must be one of {names} to be exported; got a {type(model).__name__}. "
            "Export the layer with torch.export, see docs/torch.md."
        )
    return head(model, repair)


def grid_of(grid: tuple[int, int]) -> Tensor:
    """Rows and columns as a tensor (2,) int64, also while a program is traced."""
    return torch.stack([torch.scalar_tensor(side, dtype=torch.int64) for side in grid])


def _log_of_rest(log_present: Tensor) -> Tensor:
    """log(1 - p) from log p < 0, accurate near both ends, by functions that every runtime has.

    1 - exp(x) is -2 sinh(x / 2) exp(x / 2), which does not cancel near 0 as the difference does.
    """
    is_near_one = log_present > -_LOG_2
    half = torch.where(is_near_one, log_present, -1.0) / 2
    far = torch.where(is_near_one, -1.0, log_present)
    return torch.where(is_near_one, (-2 * half.sinh() * half.exp()).log(), torch.log1p(-far.exp()))
