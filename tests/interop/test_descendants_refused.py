"""Networks of ProtoPNet's descendants that cannot be accelerated, and what is said of them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from protokern.interop import accelerate

from .networks import NETWORKS, backbone, images, make_pair
from .programs_projections import CroppedSTProtoPNet, EveryStage, FullSTProtoPNet, OursNet, TESNet
from .programs_tokens import ProtoPFormer, ProtoViT
from .programs_tree import L2Conv2D, ProtoTree


class ScaledTesNet(TESNet):
    def forward(self, x):
        logits, smallest = super().forward(x)
        return 2 * logits, smallest


class RawTesNet(TESNet):
    """Projects onto the prototypes as they are."""

    def _project2basis(self, x):
        return torch.conv2d(x, self.prototype_vectors)


class DoubledTesNet(TESNet):
    def prototype_distances(self, x):
        projections, cosines = super().prototype_distances(x)
        return 2 * projections, cosines


class ThreeOutputs(OursNet):
    def forward(self, x):
        logits, others = super().forward(x)
        return logits, others[:3]


class MeanTree(ProtoTree):
    def forward(self, xs, sampling_strategy="distributed", **kwargs):
        answer, info = super().forward(xs, sampling_strategy, **kwargs)
        return (answer.mean(0, keepdim=True).expand_as(answer) if sampling_strategy == "greedy" else answer), info


class SquaredLayer(L2Conv2D):
    def forward(self, xs):
        return super().forward(xs) ** 2


class SquaredTree(ProtoTree):
    def __init__(self, *args):
        super().__init__(*args)
        self.prototype_layer = SquaredLayer(self.num_prototypes, self.num_features)


class SignedST(FullSTProtoPNet):
    """Without the relu."""

    def prototype_distances(self, x):
        features = self.conv_features(x)
        vectors = self.prototype_vectors_trivial, self.prototype_vectors_support
        return tuple(self._cosine_convolution(*one) for one in zip(vectors, features, strict=True))


class SummedST(CroppedSTProtoPNet):
    def forward(self, x):
        logits, cosines, maps = super().forward(x)
        return (logits[0] + logits[1], logits[1]), cosines, maps


class MeanFormer(ProtoPFormer):
    def get_activations(self, tokens, prototype_vectors):
        _, maps = super().get_activations(tokens, prototype_vectors)
        return maps[1].mean((2, 3)), maps


class RootFormer(ProtoPFormer):
    def _l2_convolution_single(self, x, prototype_vectors):
        return super()._l2_convolution_single(x, prototype_vectors).sqrt()


class RawViT(ProtoViT):
    """Products with the patches as they are."""

    def subpatch_dist(self, x):
        features, cosines = super().subpatch_dist(x)
        return features, cosines * features.norm(dim=1).flatten(1)[:, None, :, None]


class AnywhereViT(ProtoViT):
    """Does not ask for neighbours."""

    def neigboring_mask(self, center_indices):
        return torch.ones_like(super().neigboring_mask(center_indices))


@pytest.mark.parametrize(
    ("made", "method"),
    [
        (lambda: ScaledTesNet(backbone(), (8, 5, 1, 1), 2, 6), "forward"),
        (lambda: RawTesNet(backbone(), (8, 5, 1, 1), 2, 6), "prototype_distances"),
        (lambda: DoubledTesNet(backbone(), (8, 5, 1, 1), 2, 6), "prototype_distances"),
        (lambda: ThreeOutputs(EveryStage(6), (8, 5, 1, 1), 2, 6), "forward"),
        (lambda: MeanTree(4, backbone(), 3, 5, 6), "forward"),
        (lambda: SquaredTree(4, backbone(), 3, 5, 6), "forward_partial"),
        (lambda: SignedST(backbone(), (8, 5, 1, 1), 2, 6), "prototype_distances"),
        (lambda: SummedST(backbone(), (8, 5, 1, 1), 2, 6), "forward"),
        (lambda: MeanFormer((8, 5, 1, 1), 2, 6, 9), "get_activations"),
        (lambda: RootFormer((8, 5, 1, 1), 2, 6, 9), "_l2_convolution_single"),
        (lambda: RawViT((6, 5, 4), 2), "subpatch_dist"),
        (lambda: AnywhereViT((6, 5, 4), 2), "greedy_distance"),
    ],
)
def test_networks_that_compute_something_else_are_refused_and_left_alone(
    made: Callable[[], nn.Module], method: str
) -> None:
    torch.manual_seed(3)
    network = made()
    kind, before, modules = type(network), dict(vars(network)), dict(network._modules)
    with pytest.raises(ValueError, match=rf"^model\.{method}: must return .* Put protokern\.nn\.PrototypeLayer into"):
        accelerate(network)
    assert type(network) is kind
    assert vars(network) == before
    assert network._modules == modules


@pytest.mark.parametrize(
    ("kind", "attribute", "message"),
    [
        ("tesnet", "last_layer", r"attributes of TesNet: last_layer\.$"),
        ("evalprotopnet", "activation_weight", r"attributes of EvalProtoPNet: activation_weight\.$"),
        ("prototree", "_root", r"attributes of ProtoTree: _root, nodes, branches, leaves\.$"),
        ("st-cropped", "last_layer_support", r"of ST-ProtoPNet for cropped images: last_layer_support\.$"),
        ("st-full", "prototype_vectors_support", r"of ST-ProtoPNet for whole images: prototype_vectors_support\.$"),
        ("protopformer", "last_layer_global", r"attributes of ProtoPFormer: last_layer_global\.$"),
        ("protovit", "patch_select", r"attributes of ProtoViT: patch_select\.$"),
    ],
)
def test_a_network_that_lacks_something_is_told_what(kind: str, attribute: str, message: str) -> None:
    network = NETWORKS[kind]()
    delattr(network, attribute)
    with pytest.raises(ValueError, match=message):
        accelerate(network)


def test_prototypes_of_another_shape_are_refused() -> None:
    network = NETWORKS["protovit"]()
    network.prototype_vectors = nn.Parameter(torch.rand(6, 5))
    message = r"^model\.prototype_vectors: must be a tensor \(P, D, S\) with values; got \(6, 5\) on cpu\.$"
    with pytest.raises(ValueError, match=message):
        accelerate(network)
    tree = NETWORKS["prototree"]()
    tree.prototype_layer.prototype_vectors = nn.Parameter(torch.rand(7, 5))
    with pytest.raises(
        ValueError, match=r"^model\.prototype_layer\.prototype_vectors: must be a tensor \(P, D, h, w\)"
    ):
        accelerate(tree)


def test_a_radius_that_may_leave_no_free_patch_is_refused() -> None:
    message = r"^radius: must leave a free patch for each of 5 sub-patches; got 1 on a grid of 14 x 14\. Raise it\.$"
    with pytest.raises(ValueError, match=message):
        accelerate(ProtoViT((6, 5, 5), 2))


def test_a_tree_reports_nan_and_unknown_strategies() -> None:
    tree = make_pair("prototree")[1]
    with pytest.raises(ValueError, match=r"^sampling_strategy: must be one of distributed, .*; got 'random'\."):
        tree(images(1), sampling_strategy="random")
    with pytest.raises(ValueError, match=r"^xs: must have features without NaN; got NaN\."):
        tree(images(1) * torch.nan)
