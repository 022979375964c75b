"""The networks of CaBRNet, written anew from their descriptions: names of tensors, formulas, the state of a tree."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Extractor(nn.Module):
    """CaBRNet's extractor with one pipeline."""

    def __init__(self, convnet, add_on):
        super().__init__()
        self.convnet = convnet
        self.add_on = add_on

    def forward(self, x):
        features = self.convnet(x)
        return features if self.add_on is None else self.add_on(features)


class CaBRNet(nn.Module):
    def __init__(self, extractor, classifier):
        super().__init__()
        self.extractor, self.classifier = extractor, classifier

    def forward(self, x):
        return self.classifier(self.extractor(x))


class OwnChannels(CaBRNet):
    """A PIP-Net, whose prototypes are the channels of the backbone."""


class TreeModel(CaBRNet):
    """CaBRNet's ProtoTree describes its tree in the state dict."""

    def __init__(self, extractor, classifier):
        super().__init__(extractor, classifier)
        self.register_buffer("_eye", torch.eye(classifier.num_classes))

    def get_extra_state(self):
        return self.classifier.tree.describe()

    def set_extra_state(self, state):
        pass


def nearest_distances(features: Tensor, prototypes: Tensor) -> Tensor:
    rows = features.flatten(2).transpose(1, 2)
    return (torch.cdist(rows, prototypes.flatten(1)) ** 2).transpose(1, 2)  # (B, P, N)


class ProtoPNetClassifier(nn.Module):
    def __init__(self, num_classes, depth, per_class, cosine=False):
        super().__init__()
        count = num_classes * per_class
        self.cosine = cosine
        self.prototypes = nn.Parameter(torch.rand(count, depth, 1, 1))
        identity = F.one_hot(torch.arange(count) // per_class, num_classes).float()
        self.register_buffer("proto_class_map", identity)
        self.last_layer = nn.Linear(count, num_classes, bias=False)
        self.last_layer.weight.data.copy_(1.5 * identity.T - 0.5 + 0.1 * torch.rand(num_classes, count))

    def forward(self, features):
        if self.cosine:
            products = F.conv2d(features, self.prototypes)
            lengths = features.norm(dim=1, keepdim=True) * self.prototypes.norm(dim=1).view(1, -1, 1, 1)
            return self.last_layer((products / (lengths + 1e-8)).flatten(2).amax(2))
        nearest = nearest_distances(features, self.prototypes).amin(2)
        return self.last_layer(torch.log((nearest + 1) / (nearest + 1e-4)))

    def prune(self, removed):
        self.proto_class_map[removed] = 0
        self.last_layer.weight.data[:, removed] = 0


class ProtoPoolClassifier(nn.Module):
    def __init__(self, num_classes, depth, count, slots):
        super().__init__()
        self.prototypes = nn.Parameter(torch.rand(count, depth, 1, 1))
        chosen = torch.randint(count, (num_classes, slots))
        self.proto_slot_map = nn.Parameter(F.one_hot(chosen, count).transpose(1, 2).float())
        own = torch.arange(num_classes * slots) // slots
        self.register_buffer("slot_class_map", F.one_hot(own, num_classes).float())
        self.last_layer = nn.Linear(num_classes * slots, num_classes, bias=False)
        self.last_layer.weight.data.copy_(self.slot_class_map.T + 0.1 * torch.rand(num_classes, len(own)))

    def forward(self, features):
        distances = nearest_distances(features, self.prototypes)
        similar = []
        for values in (distances.amin(2), distances.mean(2)):
            mixed = torch.einsum("bp,cpn->bcn", values, self.proto_slot_map)
            similar.append(torch.log((mixed + 1) / (mixed + 1e-4)))
        return self.last_layer((similar[0] - similar[1]).flatten(1))


class LeafNode(nn.Module):
    def __init__(self, node_id, num_classes):
        super().__init__()
        self.node_id = node_id
        self._relative_distribution = nn.Parameter(torch.randn(1, num_classes) * 3)

    def describe(self):
        count = self._relative_distribution.shape[1]
        return {"module": "LeafNode", "node_id": self.node_id, "num_classes": count, "log_probabilities": False}

    def forward(self, present):
        return self._relative_distribution.softmax(1).expand(len(present), -1)


class BinaryNode(nn.Module):
    def __init__(self, node_id, absent, present, prototype):
        super().__init__()
        self.node_id, self.proto_idxs = node_id, [prototype]
        self.add_module(f"{node_id}_child_nsim", absent)
        self.add_module(f"{node_id}_child_sim", present)

    def describe(self):
        return {
            "module": "BinaryNode",
            "node_id": self.node_id,
            "proto_idxs": self.proto_idxs,
            "log_probabilities": False,
            "children": [child.describe() for child in self.children()],
        }

    def forward(self, present):
        absent_child, present_child = self.children()
        p = present[:, self.proto_idxs]
        return (1 - p) * absent_child(present) + p * present_child(present)


class ProtoTreeClassifier(nn.Module):
    def __init__(self, num_classes, features, depth):
        super().__init__()
        self.num_classes = num_classes
        self.prototypes = nn.Parameter(torch.rand(2**depth - 1, features, 1, 1))
        self.register_buffer("_root_prob", torch.ones(1))
        self.register_buffer("_root_greedy_path", torch.ones(1))
        self.tree, _, _ = self._grow(0, 0, depth)

    def _grow(self, node, prototype, depth):
        if depth == 0:
            return LeafNode(f"leaf_{node}", self.num_classes), node + 1, prototype
        absent, following, next_prototype = self._grow(node + 1, prototype + 1, depth - 1)
        present, following, next_prototype = self._grow(following, next_prototype, depth - 1)
        return BinaryNode(f"branch_{node}", absent, present, prototype), following, next_prototype

    def forward(self, features):
        nearest = nearest_distances(features, self.prototypes).amin(2)
        return self.tree(torch.exp(-torch.sqrt(torch.abs(nearest) + 1e-14)))


class PIPNetClassifier(nn.Module):
    def __init__(self, num_classes, features):
        super().__init__()
        self.prototypes = nn.Parameter(torch.empty(0))
        self.last_layer = nn.Linear(features, num_classes, bias=False)
        self.normalization_multiplier = nn.Parameter(torch.full((1,), 2.0))

    def forward(self, features):
        presence = F.adaptive_max_pool2d(features.softmax(1), (1, 1)).flatten(1)
        return F.linear(presence, self.last_layer.weight.relu())
