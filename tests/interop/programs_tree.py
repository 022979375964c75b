"""The network of the released ProtoTree program, written anew from its description."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn


class Leaf(nn.Module):
    def __init__(self, index, num_classes, in_logs):
        super().__init__()
        self.index = index
        self._dist_params = nn.Parameter(torch.randn(num_classes))
        self._log_probabilities = in_logs
        self.size = 1

    leaves = property(lambda self: {self})
    branches = property(lambda self: set())
    nodes = property(lambda self: {self})

    def forward(self, xs, **kwargs):
        softmax = F.log_softmax if self._log_probabilities else F.softmax
        answer = softmax(self._dist_params, dim=0).view(1, -1).repeat(len(xs), 1)
        kwargs["attr"][self, "ds"] = answer
        return answer, kwargs["attr"]


class Branch(nn.Module):
    def __init__(self, index, left, right, in_logs):
        super().__init__()
        self.index = index
        self.l, self.r = left, right
        self._log_probabilities = in_logs
        self.size = 1 + left.size + right.size

    leaves = property(lambda self: self.l.leaves | self.r.leaves)
    branches = property(lambda self: {self} | self.l.branches | self.r.branches)
    nodes = property(lambda self: self.leaves | self.branches)

    def forward(self, xs, **kwargs):
        seen = kwargs.setdefault("attr", {})
        # One also in logs, as in the program, whose path probabilities are e times too large there.
        reached = seen.setdefault((self, "pa"), torch.ones(len(xs), device=xs.device))
        present = kwargs["conv_net_output"][kwargs["out_map"][self]].squeeze(dim=1)
        seen[self, "ps"] = present
        if self._log_probabilities:
            distance = present.abs() + 1e-7
            absent = torch.where(
                distance < math.log(2), torch.log(-torch.expm1(-distance)), torch.log1p(-torch.exp(-distance))
            )
            seen[self.l, "pa"], seen[self.r, "pa"] = absent + reached, present + reached
        else:
            absent = 1 - present
            seen[self.l, "pa"], seen[self.r, "pa"] = absent * reached, present * reached
        left, right = self.l(xs, **kwargs)[0], self.r(xs, **kwargs)[0]
        if self._log_probabilities:
            return torch.logsumexp(torch.stack((absent[:, None] + left, present[:, None] + right)), dim=0), seen
        return absent[:, None] * left + present[:, None] * right, seen


class L2Conv2D(nn.Module):
    """Distances, not squared, in the expanded form."""

    def __init__(self, num_prototypes, num_features):
        super().__init__()
        self.prototype_vectors = nn.Parameter(0.5 + 0.1 * torch.randn(num_prototypes, num_features, 1, 1))

    def forward(self, xs):
        ones = torch.ones_like(self.prototype_vectors)
        own = (self.prototype_vectors**2).sum((1, 2, 3)).view(-1, 1, 1)
        squared = F.conv2d(xs**2, ones) + own - 2 * F.conv2d(xs, self.prototype_vectors)
        return torch.sqrt(squared.abs() + 1e-14)


class ProtoTree(nn.Module):
    def __init__(self, num_classes, feature_net, depth, num_features, channels, log_probabilities=False):
        super().__init__()
        self._num_classes = num_classes
        self._root = self.grow(0, depth, num_classes, log_probabilities)
        self.num_features = num_features
        self.num_prototypes = len(self.branches)
        self.prototype_shape = (1, 1, num_features)
        self._net = feature_net
        self._add_on = nn.Sequential(nn.Conv2d(channels, num_features, 1, bias=False), nn.Sigmoid())
        self._log_probabilities = log_probabilities
        # In the order of a set, as in the program: another one in every process.
        self._out_map = {branch: place for place, branch in enumerate(self.branches)}
        self.prototype_layer = L2Conv2D(self.num_prototypes, num_features)

    leaves = property(lambda self: self._root.leaves)
    branches = property(lambda self: self._root.branches)
    nodes = property(lambda self: self._root.nodes)

    def grow(self, index, depth, num_classes, in_logs):
        if depth == 0:
            return Leaf(index, num_classes, in_logs)
        left = self.grow(index + 1, depth - 1, num_classes, in_logs)
        right = self.grow(index + 1 + left.size, depth - 1, num_classes, in_logs)
        return Branch(index, left, right, in_logs)

    def forward(self, xs, sampling_strategy="distributed", **kwargs):
        features = self._add_on(self._net(xs))
        distances = self.prototype_layer(features)
        smallest = -F.max_pool2d(-distances, kernel_size=features.shape[2:]).view(len(xs), self.num_prototypes)
        present = -smallest if self._log_probabilities else torch.exp(-smallest)
        kwargs["conv_net_output"] = present.chunk(self.num_prototypes, dim=1)
        kwargs["out_map"] = dict(self._out_map)
        answer, seen = self._root(xs, **kwargs)
        info: dict[str, object] = {"pa_tensor": {node.index: seen[node, "pa"].unsqueeze(1) for node in self.nodes}}
        info["ps"] = {node.index: seen[node, "ps"].unsqueeze(1) for node in self.branches}
        if sampling_strategy == "distributed":
            return answer, info
        if sampling_strategy == "sample_max":
            leaves = list(self.leaves)
            best = torch.stack([seen[leaf, "pa"] for leaf in leaves]).argmax(dim=0)
            ends = [leaves[place] for place in best.tolist()]
        else:
            ends = [self.follow(seen, image) for image in range(len(xs))]
        info["out_leaf_ix"] = [leaf.index for leaf in ends]
        return torch.stack([seen[leaf, "ds"][0] for leaf in ends]), info

    def follow(self, seen, image):
        node = self._root
        while isinstance(node, Branch):
            likely = seen[node, "ps"][image].item() > (math.log(0.5) if self._log_probabilities else 0.5)
            node = node.r if likely else node.l
        return node

    def forward_partial(self, xs):
        features = self._add_on(self._net(xs))
        return features, self.prototype_layer(features), dict(self._out_map)
